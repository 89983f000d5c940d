// Registers the service worker, which opens the page without its server, and shows what is kept across a reload.

const WORKS = 'Edits made offline stay in this browser, also across a reload: this page opens without the server, too.'
const NEEDS_SERVER = 'Edits made offline stay in this browser, but this page needs the server to open again.'
const KEEPS_NOTHING = 'This browser does not let the page store anything: edits made offline are lost when this tab closes.'

let opensWithoutServer = false

/** Registers the service worker and calls `onChange` once the page is cached. Works only on https and on localhost. */
export async function keepPage(onChange: () => void) {
  if (!import.meta.env.PROD || !('serviceWorker' in navigator)) return
  try {
    await navigator.serviceWorker.register('./service-worker.js', { updateViaCache: 'none' })
    // The service worker is active once all files of the page are in its cache.
    await navigator.serviceWorker.ready
    opensWithoutServer = true
    onChange()
  } catch {
    // Not allowed (private mode, a policy), or the server is unreachable: the note already states that the server is needed.
  }
}

export function showNote(element: HTMLElement, isKept: boolean) {
  const text = !isKept ? KEEPS_NOTHING : opensWithoutServer ? WORKS : NEEDS_SERVER
  if (element.textContent !== text) element.textContent = text
}
