const VERSION = "1de4eb4697137bd6";
const FILES = ["./","assets/app-C5AaKLMm.css","assets/app-CwoE2DgT.js"];
const worker = globalThis;
/** How long the server may take to answer before the cached page is shown. */
const ANSWER_LIMIT_MS = 5e3;
const scope = worker.registration.scope;
// Caches belong to the origin, which may have other pages, including this page under another path.
const prefix = `syncline-page ${new URL(scope).pathname} `;
const cacheName = prefix + VERSION;
const page = new URL(FILES[0], scope).href;
const assets = new Set(FILES.slice(1).map((file) => new URL(file, scope).href));
worker.addEventListener("install", (event) => {
	const requests = [page, ...assets].map((url) => new Request(url, { cache: "no-cache" }));
	event.waitUntil(caches.open(cacheName).then((cache) => cache.addAll(requests)).then(() => worker.skipWaiting()));
});
worker.addEventListener("activate", (event) => {
	event.waitUntil(caches.keys().then((names) => names.filter((name) => name.startsWith(prefix) && name !== cacheName)).then((others) => Promise.all(others.map((name) => caches.delete(name)))).then(() => worker.clients.claim()));
});
worker.addEventListener("fetch", (event) => {
	const { request } = event;
	const url = new URL(request.url);
	url.hash = "";
	if (request.method !== "GET") return;
	if (request.mode === "navigate" && url.origin + url.pathname === page) event.respondWith(newestPage(request));
	else if (assets.has(url.href)) event.respondWith(kept(url.href).then((response) => response ?? fetch(request)));
});
async function newestPage(request) {
	let answer;
	try {
		answer = await fetch(request, { signal: AbortSignal.timeout(ANSWER_LIMIT_MS) });
		// A status of 500 or more comes from a proxy whose server is unreachable.
		if (answer.status < 500) return answer;
	} catch {}
	return await kept(page) ?? answer ?? Response.error();
}
async function kept(url) {
	return (await caches.open(cacheName)).match(url);
}
