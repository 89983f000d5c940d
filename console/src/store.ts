// Stores a replica's Y.Doc in IndexedDB, and tracks whether writes succeed.

import { IndexeddbPersistence } from 'y-indexeddb'
import { Awareness } from 'y-protocols/awareness'
import * as Y from 'yjs'

/** How long a local store may take to open before the page continues without it. */
const OPEN_LIMIT_MS = 3000

// y-indexeddb does not report a failed write (full disk, cleared store): the promise is rejected unhandled, with a
// DOMException or an Error whose message is one.
let hasFailed = false
const listeners = new Set<() => void>()
window.addEventListener('unhandledrejection', ({ reason }) => {
  const isOfStore = reason instanceof DOMException || (reason instanceof Error && /^\w+Error: /.test(reason.message))
  if (!isOfStore) return
  hasFailed = true
  for (const onChange of listeners) onChange()
})

/** Whether this browser's store has every edit of a replica. */
export type Kept = 'yes' | 'writing' | 'no'

/** Opens a document with the content that this browser has stored, before any provider exists, so that none of it counts as new. */
export async function openStore(name: string, onChange: () => void) {
  const doc = new Y.Doc()
  const store = new IndexeddbPersistence(name, doc)
  let writes = 0
  listeners.add(onChange)
  store.on('synced', onChange)
  doc.on('destroy', () => listeners.delete(onChange))
  // The store's own listener, which writes the update, was registered first. Transactions of one store run in order: when a
  // transaction started after the write has ended, the write has ended. A page that is closed before that loses the update.
  doc.on('update', (_update: Uint8Array, origin: unknown) => {
    if (origin === store || store.db === null || hasFailed) return
    writes++
    const following = store.db.transaction('updates', 'readonly')
    following.oncomplete = following.onabort = () => {
      writes--
      onChange()
    }
  })
  await Promise.race([store.whenSynced, new Promise((resolve) => setTimeout(resolve, OPEN_LIMIT_MS))])
  const kept = (): Kept => (!store.synced || hasFailed ? 'no' : writes > 0 ? 'writing' : 'yes')
  return { doc, text: doc.getText('text'), awareness: new Awareness(doc), store, kept }
}
