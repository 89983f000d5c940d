// The lamps: the state of a connection, and whether the newest edit is on the server's disk.

import type { Line, Saved } from './providers'

/** How long everything must have stayed saved before the light says so: bad news at once, good news after quiet. */
const SAVED_AFTER_MS = 400

const SAVED_LABELS: Record<Saved, string> = {
  offline: 'Kept in this browser',
  saving: 'Saving…',
  saved: 'Saved on disk',
}

const LINE_LABELS: Record<Line['state'], string> = {
  connecting: 'Connecting…',
  connected: 'Connected',
  disconnected: 'Offline',
}

export function showLine(element: HTMLElement, { state, refusal }: Line) {
  setLamp(element, state, refusal === undefined ? LINE_LABELS[state] : `Refused: ${refusal}`)
}

/** Shows `saved` only while it is true, and does not blink while someone types. */
export class SavedLight {
  readonly #element: HTMLElement
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(element: HTMLElement) {
    this.#element = element
    this.#show('offline')
  }

  update(saved: Saved) {
    if (saved === 'saved' && this.#element.dataset['state'] === 'saved') return
    this.stop()
    if (saved === 'saved') this.#timer = setTimeout(() => this.#show('saved'), SAVED_AFTER_MS)
    else this.#show(saved)
  }

  stop() {
    clearTimeout(this.#timer)
  }

  #show(saved: Saved) {
    setLamp(this.#element, saved, SAVED_LABELS[saved])
  }
}

/** Touches the page only on a change, so that a screen reader speaks only then. */
function setLamp(element: HTMLElement, state: string, label: string) {
  if (element.dataset['state'] !== state) element.dataset['state'] = state
  if (element.textContent !== label) element.textContent = label
}
