// Caches the page so that it opens while the server is unreachable. The build puts VERSION and FILES in front of this file.
//
// The server has precedence: the page is requested each time, and the cached copy is used only when the server does not
// answer. The names of assets contain a hash of their content, so a cached asset is never stale. Each build is a version with
// its own cache; the newest removes the others.

/** Hash of everything in FILES. */
declare const VERSION: string
/** The files of the page, relative to it; the first is the page itself. */
declare const FILES: [page: string, ...assets: string[]]

const worker = globalThis as unknown as ServiceWorkerGlobalScope

/** How long the server may take to answer before the cached page is shown. */
const ANSWER_LIMIT_MS = 5000

const scope = worker.registration.scope
// Caches belong to the origin, which may have other pages, including this page under another path.
const prefix = `syncline-page ${new URL(scope).pathname} `
const cacheName = prefix + VERSION
const page = new URL(FILES[0], scope).href
const assets = new Set(FILES.slice(1).map((file) => new URL(file, scope).href))

worker.addEventListener('install', (event) => {
  const requests = [page, ...assets].map((url) => new Request(url, { cache: 'no-cache' }))
  event.waitUntil(
    caches
      .open(cacheName)
      .then((cache) => cache.addAll(requests))
      .then(() => worker.skipWaiting()),
  )
})

worker.addEventListener('activate', (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => names.filter((name) => name.startsWith(prefix) && name !== cacheName))
      .then((others) => Promise.all(others.map((name) => caches.delete(name))))
      .then(() => worker.clients.claim()),
  )
})

worker.addEventListener('fetch', (event) => {
  const { request } = event
  const url = new URL(request.url)
  url.hash = ''
  if (request.method !== 'GET') return
  if (request.mode === 'navigate' && url.origin + url.pathname === page) event.respondWith(newestPage(request))
  else if (assets.has(url.href)) event.respondWith(kept(url.href).then((response) => response ?? fetch(request)))
})

async function newestPage(request: Request): Promise<Response> {
  let answer: Response | undefined
  try {
    answer = await fetch(request, { signal: AbortSignal.timeout(ANSWER_LIMIT_MS) })
    // A status of 500 or more comes from a proxy whose server is unreachable.
    if (answer.status < 500) return answer
  } catch {
    // The server did not answer.
  }
  return (await kept(page)) ?? answer ?? Response.error()
}

async function kept(url: string): Promise<Response | undefined> {
  return (await caches.open(cacheName)).match(url)
}
