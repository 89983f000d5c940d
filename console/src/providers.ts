// The two replicas of a document: a Y.Doc each, kept in IndexedDB, connected by an unmodified stock provider.

import { HocuspocusProvider, HocuspocusProviderWebsocket, WebSocketStatus } from '@hocuspocus/provider'
import type { IndexeddbPersistence } from 'y-indexeddb'
import type { Awareness } from 'y-protocols/awareness'
import { WebsocketProvider } from 'y-websocket'
import type * as Y from 'yjs'
import { openStore, type Kept } from './store'

/** A v1 update without structs and deletions: the server acknowledges it when everything before it is durable. */
const EMPTY_UPDATE = Uint8Array.of(0, 0)
/** Close codes that carry no reason of the server: normal, going away, no code, abnormal. */
const CODES_WITHOUT_REASON = [1000, 1001, 1005, 1006]

/** `offline`: by the switch. `refused`: the server does not want this client back; `connecting` is tried until it succeeds. */
export type Connection = 'offline' | 'connecting' | 'connected' | 'refused'

/** A connection, and why the server ended the last session, in its own words. Cleared by the next successful sync. */
export interface Line {
  state: Connection
  reason?: string
}

export interface Replica {
  readonly doc: Y.Doc
  readonly text: Y.Text
  readonly awareness: Awareness
  /** The connection now. */
  line(): Line
  /** Whether this browser's store has every edit. */
  kept(): Kept
  /** Connects or disconnects. A new replica is disconnected. */
  setOnline(online: boolean): void
  close(): Promise<void>
}

/** A replica whose server acknowledges what is on its disk. */
export interface AcknowledgedReplica extends Replica {
  /** Whether it is in sync and every frame sent on this connection has been acknowledged. */
  isAcknowledged(): boolean
  /** Sends an update without content, which is acknowledged when everything that the server has by then is on its disk. */
  sendFence(): void
}

export async function openYWebsocket(
  serverUrl: string,
  room: string,
  onChange: () => void,
): Promise<Replica> {
  const { doc, text, awareness, store, kept } = await openStore(`syncline:y-websocket:${room}`, onChange)
  // Without the BroadcastChannel everything that another tab shows has been through the server.
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
    // Switched on again before the old socket had closed: `connect()` then did nothing.
    if (online && !socket.shouldConnect) void socket.connect()
  })
  provider.on('close', ({ event }: { event: { code: number; reason: string } }) => {
    reason = reasonOf(event) ?? reason
    // The server closed this document and left the socket open: the provider does not open it again.
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
    // This server lowers the provider's number for what is on its disk only, also after a reconnect.
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
  await store.destroy().catch(() => {}) // It never opened.
  doc.destroy()
}

function reasonOf({ code, reason }: { code: number; reason: string }): string | undefined {
  if (reason) return reason
  return CODES_WITHOUT_REASON.includes(code) ? undefined : `close code ${code}`
}

function because(reason: string | undefined): { reason?: string } {
  return reason === undefined ? {} : { reason }
}
