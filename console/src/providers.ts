// The two replicas of a document: each is a Y.Doc, stored in IndexedDB and connected by an unmodified stock provider.

import { HocuspocusProvider, HocuspocusProviderWebsocket, WebSocketStatus } from '@hocuspocus/provider'
import type { IndexeddbPersistence } from 'y-indexeddb'
import type { Awareness } from 'y-protocols/awareness'
import { WebsocketProvider } from 'y-websocket'
import type * as Y from 'yjs'
import { openStore, type Kept } from './store'

/** A v1 update without structs and deletions. The server acknowledges it once everything before it is durable. */
const EMPTY_UPDATE = Uint8Array.of(0, 0)
/** Close codes without a reason from the server: normal, going away, no code, abnormal. */
const CODES_WITHOUT_REASON = [1000, 1001, 1005, 1006]

/** `offline`: switched off. `connecting`: retries until it succeeds. `refused`: the server closed the session for good. */
export type Connection = 'offline' | 'connecting' | 'connected' | 'refused'

/** State of a connection. */
export interface Line {
  state: Connection
  /** The server's reason for the end of the last session. Cleared by the next successful sync. */
  reason?: string
}

export interface Replica {
  readonly doc: Y.Doc
  readonly text: Y.Text
  readonly awareness: Awareness
  /** State of the connection. */
  line(): Line
  /** Whether this browser's store has every edit. */
  kept(): Kept
  /** Connects or disconnects. A new replica is disconnected. */
  setOnline(online: boolean): void
  close(): Promise<void>
}

/** A replica whose edits the server acknowledges once they are on its disk. */
export interface AcknowledgedReplica extends Replica {
  /** Whether it is in sync and the server has acknowledged every frame sent on this connection. */
  isAcknowledged(): boolean
  /** Sends an empty update. It is acknowledged once everything that the server had received before it is on its disk. */
  sendFence(): void
}

export async function openYWebsocket(
  serverUrl: string,
  room: string,
  onChange: () => void,
): Promise<Replica> {
  const { doc, text, awareness, store, kept } = await openStore(`syncline:y-websocket:${room}`, onChange)
  // Without the BroadcastChannel, edits reach other tabs only through the server.
  const provider = new WebsocketProvider(serverUrl, room, doc, { awareness, connect: false, disableBc: true })
  let online = false
  let reason: string | undefined

  provider.on('status', onChange)
  provider.on('sync', (synced) => {
    if (synced) reason = undefined
    onChange()
  })
  provider.on('connection-close', (event) => {
    reason = (event && reasonOf(event)) ?? reason
    onChange()
  })
  provider.on('closed', onChange)

  return {
    doc,
    text,
    awareness,
    kept,
    line() {
      if (provider.wsconnected) return { state: 'connected', ...because(reason) }
      if (provider.shouldConnect) return { state: 'connecting', ...because(reason) }
      return { state: online ? 'refused' : 'offline', ...because(reason) }
    },
    setOnline(next) {
      online = next
      reason = undefined
      if (online) provider.connect()
      else provider.disconnect()
      onChange()
    },
    close: () => end(doc, store, () => provider.destroy()),
  }
}

export async function openHocuspocus(
  serverUrl: string,
  room: string,
  onChange: () => void,
): Promise<AcknowledgedReplica> {
  const { doc, text, awareness, store, kept } = await openStore(`syncline:hocuspocus:${room}`, onChange)
  let online = false
  let isRefused = false
  let reason: string | undefined

  const socket = new HocuspocusProviderWebsocket({ url: serverUrl, autoConnect: false })
  const provider = new HocuspocusProvider({ name: room, document: doc, awareness, websocketProvider: socket })

  const isConnected = () => socket.status === WebSocketStatus.Connected
  socket.on('status', onChange)
  socket.on('disconnect', () => {
    // When switched on again before the old socket has closed, `connect()` does nothing; repeat it here.
    if (online && !socket.shouldConnect) void socket.connect()
  })
  provider.on('close', ({ event }: { event: { code: number; reason: string } }) => {
    reason = reasonOf(event) ?? reason
    // The server closed this document but not the socket: the provider does not open the document again.
    if (isConnected()) isRefused = true
    onChange()
  })
  provider.on('unsyncedChanges', onChange)
  provider.on('synced', () => {
    reason = undefined
    onChange()
  })
  provider.on('authenticated', () => {
    isRefused = false
    onChange()
  })
  provider.on('authenticationFailed', (denied: { reason: string }) => {
    isRefused = true
    reason = denied.reason
    onChange()
  })
  provider.attach()

  return {
    doc,
    text,
    awareness,
    kept,
    line() {
      if (!online) return { state: 'offline', ...because(reason) }
      if (isRefused) return { state: 'refused', ...because(reason) }
      return { state: isConnected() ? 'connected' : 'connecting', ...because(reason) }
    },
    // `unsyncedChanges` is lowered only for what is on the disk of this server, also after a reconnect.
    isAcknowledged: () => isConnected() && !isRefused && provider.isSynced && provider.unsyncedChanges === 0,
    sendFence: () => provider.documentUpdateHandler(EMPTY_UPDATE, 'fence'),
    setOnline(next) {
      online = next
      isRefused = false
      reason = undefined
      if (online) void socket.connect()
      else socket.disconnect()
      onChange()
    },
    close: () => {
      online = false
      return end(doc, store, () => {
        provider.destroy()
        socket.destroy()
      })
    },
  }
}

async function end(doc: Y.Doc, store: IndexeddbPersistence, disconnect: () => void) {
  disconnect()
  await store.destroy().catch(() => {}) // Fails if the store never opened.
  doc.destroy()
}

function reasonOf({ code, reason }: { code: number; reason: string }): string | undefined {
  if (reason) return reason
  return CODES_WITHOUT_REASON.includes(code) ? undefined : `close code ${code}`
}

function because(reason: string | undefined): { reason?: string } {
  return reason === undefined ? {} : { reason }
}
