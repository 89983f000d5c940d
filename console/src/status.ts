// What the page shows of connections, of the disk and of the server's reasons.

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

/** Shows a connection in `lamp`, and in `reason` why the server ended or refused a session. */
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

/** Touches the page only on a change, so that a screen reader speaks only then. */
function setLamp(element: HTMLElement, state: string, label: string) {
  if (element.dataset['state'] !== state) element.dataset['state'] = state
  if (element.textContent !== label) element.textContent = label
}
