// What this browser keeps of a replica: its Y.Doc in IndexedDB, and whether that store takes edits.

import { IndexeddbPersistence } from 'y-indexeddb'
import { Awareness } from 'y-protocols/awareness'
import * as Y from 'yjs'

/** How long a local store may take to open before the page goes on without it. */
const OPEN_LIMIT_MS = 3000

// y-indexeddb does not report a write that failed (a full disk, a store that was cleared): its promise is rejected with nobody
// waiting for it, as an Error whose message is a DOMException.
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

/** A document with what this browser has of it, loaded before any provider exists, so that nothing of it counts as new. */
export async function openStore(name: string, onChange: () => void) {
  const doc = new Y.Doc()
  const store = new IndexeddbPersistence(name, doc)
  let writes = 0
  listeners.add(onChange)
  store.on('synced', onChange)
  doc.on('destroy', () => listeners.delete(onChange))
  // The store's own listener, which writes, was there first. Transactions of one store run in turn: when one that follows the
  // write has ended, the write has ended. A page that is closed before that loses it.
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
