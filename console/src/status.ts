// Shows the state of connections, where the document is stored, and the server's reasons.

import type { Connection, Line } from './providers'
import type { Saved } from './saved'

const SAVED_LABELS: Record<Saved, string> = {
  memory: 'Only in this tab',
  browser: 'Kept in this browser, not confirmed by the server',
  saving: 'Saving…',
  saved: 'Everything is on the server’s disk',
}

const CONNECTION_LABELS: Record<Connection, string> = {
  offline: 'Offline',
  connecting: 'Connecting…',
  connected: 'Connected',
  refused: 'Refused',
}

/** Shows the state of a connection in `lamp`, and the server's reason for ending or refusing a session in `reason`. */
export function showLine(lamp: HTMLElement, reason: HTMLElement, line: Line) {
  setLamp(lamp, line.state, CONNECTION_LABELS[line.state])
  const verb = line.state === 'refused' ? 'The server refuses this session' : 'The server ended the last session'
  const text = line.reason === undefined ? '' : `${verb}: ${line.reason}`
  if (reason.textContent !== text) reason.textContent = text
  reason.dataset['state'] = line.state
  reason.hidden = text === ''
}

export function showSaved(lamp: HTMLElement, saved: Saved) {
  setLamp(lamp, saved, SAVED_LABELS[saved])
}

/** Changes the page only when the value changes, so that a screen reader does not repeat it. */
function setLamp(element: HTMLElement, state: string, label: string) {
  if (element.dataset['state'] !== state) element.dataset['state'] = state
  if (element.textContent !== label) element.textContent = label
}
