// Creates, reads and watches awareness states as clients have them.

import { Awareness, applyAwarenessUpdate, encodeAwarenessUpdate } from 'y-protocols/awareness'
import * as Y from 'yjs'

/** The awareness of a client without a provider. Its timer is cleared, as it would keep the process alive. */
export function presence(clientID, state) {
  const doc = new Y.Doc()
  doc.clientID = clientID
  const awareness = new Awareness(doc)
  awareness.setLocalState(state)
  clearInterval(awareness._checkInterval)
  return { awareness, update: () => encodeAwarenessUpdate(awareness, [clientID]) }
}

/** The states in an awareness message: client id -> state. */
export function statesIn({ payload }) {
  const doc = new Y.Doc()
  const awareness = new Awareness(doc)
  applyAwarenessUpdate(awareness, payload, null)
  clearInterval(awareness._checkInterval)
  return awareness.getStates()
}

/** Tracks whether `observer` sees the client, and since when. */
export function watchPresence({ awareness }, clientID) {
  const seen = { here: awareness.getStates().has(clientID), changedAt: 0 }
  awareness.on('change', () => {
    const here = awareness.getStates().has(clientID)
    if (here !== seen.here) Object.assign(seen, { here, changedAt: performance.now() })
  })
  return seen
}
