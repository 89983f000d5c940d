// Creates clients: the two unmodified npm providers, and a raw socket. Each is destroyed at the end of its test.

import { HocuspocusProvider, HocuspocusProviderWebsocket } from '@hocuspocus/provider'
import { Socket } from 'node:net'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'
import { readYWebsocket, syncSentBy } from './wire.mjs'

const UNTIL_LIMIT_MS = 15_000

// Every y-websocket provider adds a listener for the exit of the process.
process.setMaxListeners(0)

/** Functions that create a client of each dialect: `makers[dialect](t, server, name, options)`. */
export const makers = { ywebsocket: yWebsocketClient, hocuspocus: hocuspocusClient }

/**
 * Waits for a condition, not for a fixed time: the timeout only ends a failed test. `what` describes the condition; a
 * function is called when the timeout is reached.
 */
export async function until(condition, { what, timeout = UNTIL_LIMIT_MS }) {
  const end = performance.now() + timeout
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() > end) {
      throw new Error(`timed out after ${timeout} ms: ${typeof what === 'function' ? what() : what}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/**
 * The network between one client and the server: counts messages and bytes, and can be cut. A cut terminates the sockets
 * without a close frame; new ones fail until `mend`.
 */
export class Line {
  sent = { bytes: 0, messages: 0 }
  received = { bytes: 0, messages: 0 }
  /** Number of sockets opened, and the time the newest was opened (performance.now()). */
  opened = 0
  openedAt = 0
  isCut = false
  /** Called with each whole frame. */
  onSent = []
  onReceived = []
  #sockets = new Set()

  constructor() {
    const line = this
    /** For a provider's `WebSocketPolyfill`. */
    this.WebSocket = class extends WebSocket {
      constructor(url, protocols) {
        super(url, protocols, line.isCut ? { createConnection: deadSocket } : {})
        line.#sockets.add(this)
        this.on('open', () => {
          line.opened++
          line.openedAt = performance.now()
        })
        this.on('message', (data) => {
          const frame = new Uint8Array(data)
          line.received.bytes += frame.length
          line.received.messages++
          for (const listener of line.onReceived) listener(frame)
        })
        this.on('close', () => line.#sockets.delete(this))
        // The providers handle errors too, but not while they are being destroyed.
        this.on('error', () => {})
      }

      send(data, ...rest) {
        const frame = new Uint8Array(data)
        line.sent.bytes += frame.length
        line.sent.messages++
        for (const listener of line.onSent) listener(frame)
        super.send(data, ...rest)
      }
    }
  }

  /** True when no socket is open or opening. */
  get isDead() {
    return this.#sockets.size === 0
  }

  cut() {
    this.isCut = true
    for (const socket of this.#sockets) socket.terminate()
  }

  mend() {
    this.isCut = false
  }

  resetCounters() {
    this.sent = { bytes: 0, messages: 0 }
    this.received = { bytes: 0, messages: 0 }
  }
}

function deadSocket() {
  const socket = new Socket()
  process.nextTick(() => socket.destroy(new Error('the connection is cut')))
  return socket
}

/** A y-websocket client. `options` are passed to the provider. */
export function yWebsocketClient(t, server, name, { doc = new Y.Doc(), ...options } = {}) {
  const line = new Line()
  const echoed = watchEchoes(line, doc)
  const provider = new WebsocketProvider(server.url, name, doc, {
    disableBc: true,
    WebSocketPolyfill: line.WebSocket,
    maxBackoffTime: 300,
    ...options,
  })
  return destroyedAfter(t, {
    dialect: 'ywebsocket',
    doc,
    line,
    provider,
    awareness: provider.awareness,
    get isSynced() {
      return provider.synced
    },
    /** The server has echoed the newest local insertion, so it is on disk. */
    get isSaved() {
      return echoed.clock >= Y.getState(doc.store, doc.clientID)
    },
    cut: () => line.cut(),
    mend() {
      line.mend()
      provider.connect()
    },
    destroy() {
      provider.destroy()
      provider.awareness.destroy()
      line.cut()
    },
  })
}

function watchEchoes(line, doc) {
  const echoed = { clock: 0 }
  line.onReceived.push((frame) => {
    const { kind, payload } = readYWebsocket(frame)
    if (kind === 'update') {
      echoed.clock = Math.max(echoed.clock, Y.parseUpdateMeta(payload).to.get(doc.clientID) ?? 0)
    }
  })
  return echoed
}

/**
 * A Hocuspocus client. With `socket` (see `hocuspocusSocket`) it shares that connection, otherwise it opens its own.
 * `options` are passed to the provider.
 */
export function hocuspocusClient(t, server, name, { doc = new Y.Doc(), socket, prepare, ...options } = {}) {
  const own = socket === undefined
  socket ??= hocuspocusSocket(t, server)
  const { line } = socket
  const provider = new HocuspocusProvider({ name, document: doc, websocketProvider: socket.provider, ...options })
  prepare?.(provider)
  provider.attach()
  return destroyedAfter(t, {
    dialect: 'hocuspocus',
    doc,
    line,
    provider,
    awareness: provider.awareness,
    get isSynced() {
      return provider.synced
    },
    /** Every change was acknowledged with SyncStatus(1), so it is on disk. */
    get isSaved() {
      return provider.unsyncedChanges === 0
    },
    cut: () => line.cut(),
    mend: () => line.mend(),
    destroy() {
      provider.destroy()
      if (own) socket.destroy()
    },
  })
}

/** One connection for any number of Hocuspocus clients; retries quickly, for tests that cut it. */
export function hocuspocusSocket(t, server) {
  const line = new Line()
  const provider = new HocuspocusProviderWebsocket({
    url: server.url,
    WebSocketPolyfill: line.WebSocket,
    delay: 50,
    minDelay: 50,
    maxDelay: 300,
  })
  return destroyedAfter(t, {
    line,
    provider,
    destroy() {
      provider.destroy()
      line.cut()
    },
  })
}

/** Records every sync message the client sends from now on: `[{kind, payload}]`. */
export function recordSync(client) {
  const recorded = []
  client.line.onSent.push((frame) => {
    const sync = syncSentBy(client.dialect, frame)
    if (sync) recorded.push(sync)
  })
  return recorded
}

/** A raw socket that records every frame it receives. */
export function rawClient(t, server, path = '', options = {}) {
  const socket = new WebSocket(`${server.url}/${path}`, options)
  const frames = []
  socket.on('message', (data, isBinary) => frames.push(isBinary ? new Uint8Array(data) : String(data)))
  socket.on('error', () => {})
  const closed = new Promise((resolve) =>
    socket.on('close', (code, reason) => resolve({ code, reason: String(reason) })),
  )
  const opened = new Promise((resolve, reject) => {
    socket.once('open', resolve)
    socket.once('close', (code) => reject(new Error(`closed with ${code} before it was open`)))
    socket.once('error', reject)
  })
  opened.catch(() => {})
  return destroyedAfter(t, {
    socket,
    frames,
    opened,
    /** Resolves to `{code, reason}`. */
    closed: (timeout = UNTIL_LIMIT_MS) => withLimit(closed, timeout, 'the server closes the connection'),
    async send(...messages) {
      await opened
      for (const message of messages) socket.send(message)
    },
    /** Waits for the first received frame that, decoded by `read`, satisfies `matches`. */
    frame(read, matches, what) {
      return until(() => frames.map(read).find(matches), {
        what: () => `${what}; ${frames.length} frames received: ${frames.map((frame) => read(frame).kind)}`,
      })
    },
    destroy: () => socket.terminate(),
  })
}

function withLimit(promise, timeout, what) {
  let timer
  const timedOut = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out after ${timeout} ms: ${what}`)), timeout)
  })
  return Promise.race([promise, timedOut]).finally(() => clearTimeout(timer))
}

function destroyedAfter(t, client) {
  const { destroy } = client
  let isDestroyed = false
  client.destroy = () => {
    if (!isDestroyed) destroy()
    isDestroyed = true
  }
  t.after(client.destroy)
  return client
}

/** Waits until each client has received its first step 2 from the server. */
export function untilSynced(...clients) {
  return until(() => clients.every((client) => client.isSynced), {
    what: () => `synced: ${clients.map((client) => `${client.dialect} ${client.isSynced}`)}`,
  })
}

/** Waits until everything each client wrote is on the server's disk. */
export function untilSaved(...clients) {
  return until(() => clients.every((client) => client.isSaved), {
    what: () => `saved: ${clients.map((client) => `${client.dialect} ${client.isSaved}`)}`,
  })
}
