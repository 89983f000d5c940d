// Released versions of the stock providers: each edits a document, receives the edits of the newest client, reconnects after
// a server restart, and accepts the server's heartbeat. docs/clients.md lists them.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import WebSocket from 'ws'
import * as Y from 'yjs'
import { until, yWebsocketClient } from './support/clients.mjs'
import { startServer } from './support/server.mjs'

/** As in a browser, an error without a listener does not throw. */
class BrowserWebSocket extends WebSocket {
  constructor(...args) {
    super(...args)
    this.on('error', () => {})
  }
}
// Providers of Hocuspocus 2 use only the global WebSocket.
globalThis.WebSocket = BrowserWebSocket

/** Providers up to 2.13.0 also count queued changes: `unsyncedChanges` stays above 0 until the next connection. */
const COUNTS_THE_QUEUE = new Set(['hocuspocus-2.9'])

const HOCUSPOCUS = ['hocuspocus-2.9', 'hocuspocus-2.15', 'hocuspocus-3.4', 'hocuspocus-4.0', '@hocuspocus/provider']
const Y_WEBSOCKET = ['y-websocket-1.3', 'y-websocket-1.5', 'y-websocket-2.1', 'y-websocket']

/** Opens `name` with a Hocuspocus provider. Without a token, providers 2.x send no Auth message. */
async function openHocuspocus(t, library, server, name, token) {
  const { HocuspocusProvider } = await import(library)
  const document = new Y.Doc()
  const provider = new HocuspocusProvider({ url: server.url, name, document, token })
  t.after(() => provider.destroy())
  const isCounted = COUNTS_THE_QUEUE.has(library)
  return { doc: document, provider, isSaved: () => provider.synced && (isCounted || provider.unsyncedChanges === 0) }
}

async function openYWebsocket(t, library, server, name) {
  const { WebsocketProvider } = await import(library)
  const doc = new Y.Doc()
  const options = { WebSocketPolyfill: BrowserWebSocket, disableBc: true }
  const provider = new WebsocketProvider(server.url, name, doc, options)
  t.after(() => provider.destroy())
  return { doc, provider, isSaved: () => provider.synced }
}

/** The old and the newest client type before and after a server restart; both end with all edits. */
async function editTogether(t, server, old, newest) {
  const texts = [old.doc, newest.doc].map((doc) => doc.getText('text'))
  const both = (part) => until(() => texts.every((text) => text.toString().includes(part)), { what: `both have ${part}` })
  texts[0].insert(0, '[old]')
  texts[1].insert(0, '[new]')
  await both('[old]')
  await both('[new]')
  await until(old.isSaved, { what: 'the old client reports its edit as saved' })
  await server.restart()
  texts[0].insert(0, '[offline]')
  await both('[offline]')
  await until(old.isSaved, { what: 'the old client reports its offline edit as saved' })
  assert.equal(texts[0].toString(), texts[1].toString())
}

describe('versions of stock providers', { concurrency: 3 }, () => {
  for (const library of HOCUSPOCUS) {
    for (const token of [undefined, 'secret']) {
      // A name of two characters begins with the same byte as a y-websocket message.
      for (const name of ['a document', 'd2']) {
        test(`${library}, ${token ? 'a' : 'no'} token, document "${name}"`, async (t) => {
          const server = await startServer()
          t.after(() => server.stop())
          const old = await openHocuspocus(t, library, server, name, token)
          await editTogether(t, server, old, yWebsocketClient(t, server, name))
        })
      }
    }
    test(`${library} leaves documents and returns on the same socket`, async (t) => {
      const server = await startServer({ args: ['--max-documents-per-connection', '2'] })
      t.after(() => server.stop())
      const { HocuspocusProvider, HocuspocusProviderWebsocket } = await import(library)
      const websocketProvider = new HocuspocusProviderWebsocket({ url: server.url })
      t.after(() => websocketProvider.destroy())
      const open = async (name, document) => {
        const provider = new HocuspocusProvider({ websocketProvider, name, document, token: 'secret' })
        // Providers 2.x attach themselves.
        provider.attach?.()
        await until(() => provider.synced, { what: `${name} is synced` })
        return provider
      }
      for (const name of ['a', 'b', 'c', 'd']) (await open(name, new Y.Doc())).destroy()

      const doc = new Y.Doc()
      ;(await open('doc', doc)).destroy()
      ;(await open('other', new Y.Doc())).destroy()
      doc.getText('text').insert(0, '[written while left]')
      const second = await open('doc', doc)
      await until(() => second.unsyncedChanges === 0, { what: 'the edit is reported as saved' })
      const reader = yWebsocketClient(t, server, 'doc')
      await until(() => reader.doc.getText('text').toString() === '[written while left]', { what: 'the edit is at the server' })
      second.destroy()
    })
    test(`${library} reads the heartbeat of the server`, async (t) => {
      const server = await startServer()
      t.after(() => server.stop())
      const { provider } = await openHocuspocus(t, library, server, 'beat', 'secret')
      await until(() => provider.synced, { what: 'the provider is synced' })
      const socket = provider.configuration.websocketProvider
      socket.lastMessageReceived = 1
      // `HEARTBEAT_FRAME` of protocol/src/hocuspocus.rs: an awareness update of no client for an empty name.
      socket.onMessage({ data: Uint8Array.of(0, 1, 1, 0).buffer })
      assert(socket.lastMessageReceived > 1, 'the heartbeat counts as a message')
    })
  }
  for (const library of Y_WEBSOCKET) {
    test(library, async (t) => {
      const server = await startServer()
      t.after(() => server.stop())
      const old = await openYWebsocket(t, library, server, 'doc')
      await editTogether(t, server, old, yWebsocketClient(t, server, 'doc'))
    })
  }
})
