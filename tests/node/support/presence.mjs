// Presence as clients keep it: made, read and watched by tests.

import { Awareness, applyAwarenessUpdate, encodeAwarenessUpdate } from 'y-protocols/awareness'
import * as Y from 'yjs'

/** Someone's presence, as a client without a provider keeps it. Its timer goes, or the process would stay for it. */
export function presence(clientID, state) {
  const doc = new Y.Doc()
  doc.clientID = clientID
  const awareness = new Awareness(doc)
  awareness.setLocalState(state)
  clearInterval(awareness._checkInterval)
  return { awareness, update: () => encodeAwarenessUpdate(awareness, [clientID]) }
}

/** client id -> state, of an awareness message. */
export function statesIn({ payload }) {
  const doc = new Y.Doc()
  const awareness = new Awareness(doc)
  applyAwarenessUpdate(awareness, payload, null)
  clearInterval(awareness._checkInterval)
  return awareness.getStates()
}

/** Whether `observer` sees the client, and since when. */
export function watchPresence({ awareness }, clientID) {
  const seen = { here: awareness.getStates().has(clientID), changedAt: 0 }
  awareness.on('change', () => {
    const here = awareness.getStates().has(clientID)
    if (here !== seen.here) Object.assign(seen, { here, changedAt: performance.now() })
  })
  return seen
}
