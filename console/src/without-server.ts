// Opening the page without its server: registers the service worker, and says truthfully what survives a reload.

const WORKS = 'Edits made offline stay in this browser, also across a reload: this page opens without the server, too.'
const NEEDS_SERVER = 'Edits made offline stay in this browser, but this page needs the server to open again.'
const KEEPS_NOTHING = 'This browser does not let the page keep anything: edits made offline are lost when this tab closes.'

let opensWithoutServer = false

/** Browsers have service workers on https and on this machine only. Calls `onChange` when the page is kept. */
export async function keepPage(onChange: () => void) {
  if (!import.meta.env.PROD || !('serviceWorker' in navigator)) return
  try {
    await navigator.serviceWorker.register('./service-worker.js', { updateViaCache: 'none' })
    // It is active when all of the page is in its cache.
    await navigator.serviceWorker.ready
    opensWithoutServer = true
    onChange()
  } catch {
    // Not allowed here (private mode, a policy), or the server has just gone: the note already says that it is needed.
  }
}

export function showNote(element: HTMLElement, isKept: boolean) {
  const text = !isKept ? KEEPS_NOTHING : opensWithoutServer ? WORKS : NEEDS_SERVER
  if (element.textContent !== text) element.textContent = text
}
