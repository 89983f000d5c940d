// The two replicas of a document: a Y.Doc each, kept in IndexedDB, connected by an unmodified stock provider.

import { HocuspocusProvider, HocuspocusProviderWebsocket, WebSocketStatus } from '@hocuspocus/provider'
import { IndexeddbPersistence } from 'y-indexeddb'
import { Awareness } from 'y-protocols/awareness'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'
import { countingWebSocket } from './acknowledged'

/** How long a local store may take to open before the page goes on without it. */
const STORE_OPEN_LIMIT_MS = 3000

/** A connection as a person sees it: `disconnected` is for good, until the switch or the server changes its mind. */
export interface Line {
  state: 'connecting' | 'connected' | 'disconnected'
  /** Why the server refused, in its own words. */
  refusal?: string
}

/** Where the newest edit of this replica is. */
export type Saved = 'offline' | 'saving' | 'saved'

export interface Replica {
  readonly text: Y.Text
  readonly awareness: Awareness
  /** Connects or disconnects. A new replica is disconnected. */
  setOnline(online: boolean): void
  /** Whether closing the tab now could lose an edit: no local store, and the server has not confirmed everything. */
  wouldLoseEdits(): boolean
  close(): Promise<void>
}

export async function openYWebsocket(
  serverUrl: string,
  room: string,
  storeKey: string,
  onChange: (line: Line) => void,
): Promise<Replica> {
  const { doc, awareness, store } = await openDoc(`syncline:y-websocket:${storeKey}`)
  // Without the BroadcastChannel everything that another tab shows has been through the server.
  const provider = new WebsocketProvider(serverUrl, room, doc, { awareness, connect: false, disableBc: true })
  let refusal: string | undefined

  const report = () => {
    if (provider.wsconnected) onChange({ state: 'connected' })
    else if (provider.shouldConnect) onChange({ state: 'connecting' })
    else onChange({ state: 'disconnected', ...(refusal && { refusal }) })
  }
  provider.on('status', report)
  provider.on('closed', ({ code, reason }) => {
    refusal = reason || `code ${code}`
    report()
  })

  return {
    text: doc.getText('text'),
    awareness,
    setOnline(online) {
      refusal = undefined
      if (online) provider.connect()
      else provider.disconnect()
      report()
    },
    // y-websocket 3 is never told that an edit was saved: only being connected speaks for it.
    wouldLoseEdits: () => !store.synced && !provider.synced,
    async close() {
      provider.destroy()
      await store.destroy()
      doc.destroy()
    },
  }
}

export async function openHocuspocus(
  serverUrl: string,
  room: string,
  storeKey: string,
  onChange: (line: Line, saved: Saved) => void,
): Promise<Replica> {
  const { doc, awareness, store } = await openDoc(`syncline:hocuspocus:${storeKey}`)
  let owed = 0
  let online = false
  let refusal: string | undefined

  const socket = new HocuspocusProviderWebsocket({
    url: serverUrl,
    autoConnect: false,
    WebSocketPolyfill: countingWebSocket((count) => {
      owed = count
      report()
    }),
  })
  const provider = new HocuspocusProvider({ name: room, document: doc, awareness, websocketProvider: socket })

  const connected = () => socket.status === WebSocketStatus.Connected && refusal === undefined
  const confirmed = () => provider.isSynced && provider.unsyncedChanges === 0 && owed === 0
  const report = () => {
    if (connected()) onChange({ state: 'connected' }, confirmed() ? 'saved' : 'saving')
    else if (online && refusal === undefined) onChange({ state: 'connecting' }, 'offline')
    else onChange({ state: 'disconnected', ...(refusal && { refusal }) }, 'offline')
  }
  socket.on('status', report)
  socket.on('disconnect', () => {
    // Switched on again before the old socket had closed: `connect()` then did nothing.
    if (online && !socket.shouldConnect) void socket.connect()
  })
  provider.on('unsyncedChanges', report)
  provider.on('synced', report)
  provider.on('authenticated', () => {
    refusal = undefined
    report()
  })
  provider.on('authenticationFailed', ({ reason }: { reason: string }) => {
    refusal = reason
    report()
  })
  provider.attach()

  return {
    text: doc.getText('text'),
    awareness,
    setOnline(next) {
      online = next
      refusal = undefined
      if (online) void socket.connect()
      else socket.disconnect()
      report()
    },
    wouldLoseEdits: () => !store.synced && !confirmed(),
    async close() {
      online = false
      provider.destroy()
      socket.destroy()
      await store.destroy()
      doc.destroy()
    },
  }
}

/** A document with what this browser kept of it. Loaded before any provider exists, so that nothing of it counts as a new edit. */
async function openDoc(storeName: string) {
  const doc = new Y.Doc()
  const store = new IndexeddbPersistence(storeName, doc)
  await Promise.race([store.whenSynced, new Promise((resolve) => setTimeout(resolve, STORE_OPEN_LIMIT_MS))])
  return { doc, store, awareness: new Awareness(doc) }
}
