// Makers of clients: the two npm providers as they come, and a bare socket. All are ended with the test that made them.

import { HocuspocusProvider, HocuspocusProviderWebsocket } from '@hocuspocus/provider'
import { Socket } from 'node:net'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'
import { readYWebsocket, syncSentBy } from './wire.mjs'

const UNTIL_LIMIT_MS = 15_000

// Every y-websocket provider listens for the end of the process.
process.setMaxListeners(0)

/** Both dialects: `makers[dialect](t, server, name, options)`. */
export const makers = { ywebsocket: yWebsocketClient, hocuspocus: hocuspocusClient }

/**
 * Waits for a condition, never for a time: the limit only ends a test that has failed. `what` says what was waited
 * for; it may be a function, asked at the end.
 */
export async function until(condition, { what, timeout = UNTIL_LIMIT_MS }) {
  const end = performance.now() + timeout
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() > end) {
      throw new Error(`gave up after ${timeout} ms: ${typeof what === 'function' ? what() : what}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/**
 * The network between one client and the server: counts what passes, and can be cut. Cut, the socket ends without a
 * goodbye and new ones fail until `mend`.
 */
export class Line {
  sent = { bytes: 0, messages: 0 }
  received = { bytes: 0, messages: 0 }
  /** How many sockets were opened, and when the newest was (performance.now()). */
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
          for (const hear of line.onReceived) hear(frame)
        })
        this.on('close', () => line.#sockets.delete(this))
        // The providers listen too, but not while they are being destroyed.
        this.on('error', () => {})
      }

      send(data, ...rest) {
        const frame = new Uint8Array(data)
        line.sent.bytes += frame.length
        line.sent.messages++
        for (const hear of line.onSent) hear(frame)
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
  process.nextTick(() => socket.destroy(new Error('the line is cut')))
  return socket
}

/** A y-websocket client. `options` go to the provider. */
export function yWebsocketClient(t, server, name, { doc = new Y.Doc(), ...options } = {}) {
  const line = new Line()
  const echoed = watchEchoes(line, doc)
  const provider = new WebsocketProvider(server.url, name, doc, {
    disableBc: true,
    WebSocketPolyfill: line.WebSocket,
    maxBackoffTime: 300,
    ...options,
  })
  return ending(t, {
    dialect: 'ywebsocket',
    doc,
    line,
    provider,
    awareness: provider.awareness,
    get isSynced() {
      return provider.synced
    },
    /** The server has returned the newest of what was inserted here: it is on disk. */
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
 * A Hocuspocus client. With `socket` (see `hocuspocusSocket`) it shares that connection, else it has its own.
 * `options` go to the provider.
 */
export function hocuspocusClient(t, server, name, { doc = new Y.Doc(), socket, prepare, ...options } = {}) {
  const own = socket === undefined
  socket ??= hocuspocusSocket(t, server)
  const { line } = socket
  const provider = new HocuspocusProvider({ name, document: doc, websocketProvider: socket.provider, ...options })
  prepare?.(provider)
  provider.attach()
  return ending(t, {
    dialect: 'hocuspocus',
    doc,
    line,
    provider,
    awareness: provider.awareness,
    get isSynced() {
      return provider.synced
    },
    /** Every change was answered with SyncStatus(1): it is on disk. */
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
  return ending(t, {
    line,
    provider,
    destroy() {
      provider.destroy()
      line.cut()
    },
  })
}

/** Keeps every sync message the client sends from now on: `[{kind, payload}]`. */
export function recordSync(client) {
  const recorded = []
  client.line.onSent.push((frame) => {
    const sync = syncSentBy(client.dialect, frame)
    if (sync) recorded.push(sync)
  })
  return recorded
}

/** A bare socket that keeps every frame it gets. */
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
  return ending(t, {
    socket,
    frames,
    opened,
    /** Resolves to `{code, reason}`. */
    closed: (timeout = UNTIL_LIMIT_MS) => withLimit(closed, timeout, 'the server closes the connection'),
    async send(...messages) {
      await opened
      for (const message of messages) socket.send(message)
    },
    /** The first frame, of those `read` understands, that fits; waits for it. */
    frame(read, fits, what) {
      return until(() => frames.map(read).find(fits), {
        what: () => `${what}; ${frames.length} frames came: ${frames.map((frame) => read(frame).kind)}`,
      })
    },
    destroy: () => socket.terminate(),
  })
}

function withLimit(promise, timeout, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`gave up after ${timeout} ms: ${what}`)), timeout)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

function ending(t, client) {
  const { destroy } = client
  let over = false
  client.destroy = () => {
    if (!over) destroy()
    over = true
  }
  t.after(client.destroy)
  return client
}

/** Waits until each has had its first answer from the server. */
export function untilSynced(...clients) {
  return until(() => clients.every((client) => client.isSynced), {
    what: () => `synced: ${clients.map((client) => `${client.dialect} ${client.isSynced}`)}`,
  })
}

/** Waits until everything each of them wrote is on the server's disk. */
export function untilSaved(...clients) {
  return until(() => clients.every((client) => client.isSaved), {
    what: () => `saved: ${clients.map((client) => `${client.dialect} ${client.isSaved}`)}`,
  })
}
