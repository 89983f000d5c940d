// Determines where the document is stored: one state for everything that both editors show.
//
// The left provider (y-websocket) has no acknowledgements. When both replicas are equal, the server has processed everything
// that they hold; an empty update (the fence) sent then through the right provider is acknowledged once all of it is durable.
// A change of either replica or a lost connection starts over.

import { equalSnapshots, snapshot, type Doc } from 'yjs'
import type { AcknowledgedReplica, Replica } from './providers'

/** How long both replicas must be unchanged before they are compared; comparing a large document takes time. */
const SETTLE_MS = 300

/** `memory`: only in this tab. `browser`: in this browser's store. `saving`: on its way. `saved`: on the server's disk. */
export type Saved = 'memory' | 'browser' | 'saving' | 'saved'

export class SavedWatch {
  readonly #left: Replica
  readonly #right: AcknowledgedReplica
  readonly #onChange: (saved: Saved) => void
  #timer: ReturnType<typeof setTimeout> | undefined
  /** Counts changes of either document. */
  #version = 0
  /** The version that the unacknowledged fence covers. */
  #fenced: number | undefined
  /** The newest version known to be on the server's disk. */
  #durable: number | undefined
  /** Result of the last comparison; false after a change. */
  #isEqual = false
  #last: Saved | undefined

  constructor(left: Replica, right: AcknowledgedReplica, onChange: (saved: Saved) => void) {
    this.#left = left
    this.#right = right
    this.#onChange = onChange
    for (const { doc } of [left, right]) doc.on('update', this.#onUpdate)
    this.update()
  }

  get saved(): Saved {
    if (this.#durable === this.#version) return 'saved'
    const isOnItsWay = this.#right.line().state === 'connected' && (this.#isEqual || this.#left.line().state === 'connected')
    const kept = [this.#left.kept(), this.#right.kept()]
    if (isOnItsWay || kept.includes('writing')) return 'saving'
    return kept.includes('no') ? 'memory' : 'browser'
  }

  /** Must be called when a connection or an acknowledgement has changed. */
  update() {
    if (this.#right.line().state !== 'connected') {
      // The server may have another history on the next connection.
      this.#fenced = undefined
      this.#durable = undefined
    } else if (this.#right.isAcknowledged()) {
      if (this.#fenced === this.#version) this.#durable = this.#version
      else if (this.#durable !== this.#version) this.#settle()
    }
    this.#report()
  }

  stop() {
    clearTimeout(this.#timer)
    for (const { doc } of [this.#left, this.#right]) doc.off('update', this.#onUpdate)
  }

  #onUpdate = () => {
    this.#version++
    this.#isEqual = false
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#settle()
    this.#report()
  }

  #settle() {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#isEqual = areEqual(this.#left.doc, this.#right.doc)
      if (this.#isEqual && this.#right.isAcknowledged() && this.#durable !== this.#version) {
        this.#fenced = this.#version
        this.#right.sendFence()
      }
      this.#report()
    }, SETTLE_MS)
  }

  #report() {
    const saved = this.saved
    if (saved === this.#last) return
    this.#last = saved
    this.#onChange(saved)
  }
}

function areEqual(left: Doc, right: Doc): boolean {
  const isComplete = ({ store }: Doc) => store.pendingStructs === null && store.pendingDs === null
  return isComplete(left) && isComplete(right) && equalSnapshots(snapshot(left), snapshot(right))
}
