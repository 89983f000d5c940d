// Records the bytes that the npm clients send and compares them with tests/fixtures/wire/golden.json, which the Rust
// decoders are tested against. Detects a package version that changes the wire format.
//
// To update the recording, after reviewing the difference: SYNCLINE_RECORD=1 node --test golden.test.mjs

import { HocuspocusProvider, HocuspocusProviderWebsocket } from '@hocuspocus/provider'
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import WebSocket, { WebSocketServer } from 'ws'
import { WebsocketProvider } from 'y-websocket'
import { Awareness, encodeAwarenessUpdate } from 'y-protocols/awareness'
import * as Y from 'yjs'
import { until } from './support/clients.mjs'
import { buffer, bytes, text, yWebsocket } from './support/wire.mjs'

const FILE = new URL('../fixtures/wire/golden.json', import.meta.url)
const PACKAGES = ['yjs', 'y-protocols', 'lib0', 'y-websocket', '@hocuspocus/provider']
const CLIENT_ID = 1_234_567_890
/** Yjs 14 draws ids of up to 53 bits; the messages of such a client have the same form. */
const LARGE_CLIENT_ID = 4_037_842_138_759_076
const EMPTY_VECTOR = Y.encodeStateVector(new Y.Doc())
const EMPTY_UPDATE = new Uint8Array([0, 0])

const FORMAT = [
  'A list of WebSocket messages as the npm packages named in "packages" send them, recorded from their unmodified code.',
  '"frames": in the order in which each client sent them. "dialect" is "y-websocket" or "hocuspocus"; "session" groups',
  'the frames of one connection; "on" names what made the client send it; "message" is what it is, in the words of',
  'protocol/SPEC.md; "hex" is the whole message. Hocuspocus frames also say their "address" ("\\u0000" separates name',
  'and session id). The last entry of a session is the close code of its socket instead of a message ("closeCode").',
  'Client ids, names and contents are fixed, so the bytes are the same on every run.',
].join(' ')

test('the npm clients send exactly the recorded bytes', async (t) => {
  const frames = [
    ...(await recordYWebsocket(t, { session: 'y-websocket', clientID: CLIENT_ID })),
    ...(await recordYWebsocket(t, { session: 'y-websocket, 53-bit client id', clientID: LARGE_CLIENT_ID })),
    ...(await recordHocuspocus(t, { session: 'hocuspocus', name: 'notes' })),
    ...(await recordHocuspocus(t, { session: 'hocuspocus, a name of one byte', name: 'n' })),
    ...(await recordHocuspocus(t, { session: 'hocuspocus, a name that is not ASCII', name: 'größe/日本' })),
    ...(await recordHocuspocus(t, { session: 'hocuspocus, sessionAwareness', name: 'notes', sessionId: 'k3v9x1' })),
  ]
  const recorded = { format: FORMAT, packages: versions(), frames }
  if (process.env.SYNCLINE_RECORD) writeFileSync(FILE, `${JSON.stringify(recorded, null, 2)}\n`)
  assert.deepEqual(recorded, JSON.parse(readFileSync(FILE, 'utf8')))
})

/** A y-websocket client from its first frame to its last. */
async function recordYWebsocket(t, { session, clientID }) {
  const server = await startRecorder(t)
  const doc = documentOf(clientID)
  const provider = new WebsocketProvider(server.url, 'notes', doc, { disableBc: true, WebSocketPolyfill: WebSocket })
  t.after(() => provider.destroy())
  const frames = []
  const expect = async (on, ...expected) => {
    for (const [i, hex] of (await server.take(expected.length)).entries()) {
      frames.push({ dialect: 'y-websocket', session, on, message: expected[i], hex })
    }
  }
  await expect('open', 'sync step 1', 'awareness')
  server.send(yWebsocket.step1(EMPTY_VECTOR))
  await expect('a step 1 from the server', 'sync step 2')
  server.send(yWebsocket.step2(EMPTY_UPDATE))
  await until(() => provider.synced, { what: 'the provider is synced' })
  doc.getText('text').insert(5, ' world')
  await expect('an insertion', 'sync update')
  doc.getText('text').delete(0, 1)
  await expect('a deletion', 'sync update')
  doc.getText('text').format(0, 4, { bold: true })
  await expect('formatting', 'sync update')
  provider.awareness.setLocalStateField('user', { name: 'Ann', color: '#ff8800' })
  await expect('a change of presence', 'awareness')
  server.send(yWebsocket.awareness(otherClientAwareness()))
  await expect("someone else's presence: it is sent back", 'awareness')
  server.send(yWebsocket.queryAwareness())
  await expect('a query for presence', 'awareness')
  provider.disconnect()
  await expect('disconnect', 'awareness')
  const closed = await server.closed()
  frames.push({ dialect: 'y-websocket', session, on: 'disconnect', message: 'WebSocket close', closeCode: closed })
  doc.destroy()
  return frames
}

/** A Hocuspocus client from its first frame to its last. */
async function recordHocuspocus(t, { session, name, sessionId }) {
  const server = await startRecorder(t)
  const doc = documentOf(CLIENT_ID)
  const socket = new HocuspocusProviderWebsocket({ url: server.url, WebSocketPolyfill: WebSocket })
  const provider = new HocuspocusProvider({
    name,
    document: doc,
    token: 'secret',
    websocketProvider: socket,
    sessionAwareness: sessionId !== undefined,
  })
  if (sessionId) provider.sessionId = sessionId
  provider.attach()
  t.after(() => {
    provider.destroy()
    socket.destroy()
  })
  const address = sessionId ? `${name}\0${sessionId}` : name
  const frames = []
  const expect = async (on, ...messages) => {
    for (const [i, hex] of (await server.take(messages.length)).entries()) {
      frames.push({ dialect: 'hocuspocus', session, address, on, message: messages[i], hex })
    }
  }
  const sendToClient = (...parts) => server.send(bytes(text(address), ...parts))
  await expect('open', 'auth token', 'sync step 1', 'awareness')
  sendToClient(2, 2, text('read-write'))
  await until(() => provider.isAuthenticated, { what: 'the provider is authenticated' })
  sendToClient(0, 0, buffer(EMPTY_VECTOR))
  await expect('a step 1 from the server', 'sync step 2')
  sendToClient(0, 1, buffer(EMPTY_UPDATE))
  await until(() => provider.synced, { what: 'the provider is synced' })
  doc.getText('text').insert(5, ' world')
  await expect('an insertion', 'sync update')
  doc.getText('text').delete(0, 1)
  await expect('a deletion', 'sync update')
  provider.setAwarenessField('user', { name: 'Ann', color: '#ff8800' })
  await expect('a change of presence', 'awareness')
  sendToClient(3)
  await expect('a query for presence', 'awareness')
  provider.sendStateless('{"saved":true}')
  await expect('sendStateless', 'stateless')
  server.send(new Uint8Array([9]))
  await expect('a ping', 'pong')
  sendToClient(2, 0)
  await expect('a question for the token', 'auth token')
  provider.forceSync()
  await expect('forceSync', 'sync step 1')
  provider.detach()
  await expect('detach', 'close')
  provider.attach()
  await expect('attach', 'auth token', 'sync step 1', 'awareness')
  provider.destroy()
  await expect('destroy', 'awareness', 'close')
  socket.destroy()
  const closed = await server.closed()
  frames.push({
    dialect: 'hocuspocus',
    session,
    on: 'destroy of the socket',
    message: 'WebSocket close',
    closeCode: closed,
  })
  doc.destroy()
  return frames
}

/** A server that sends only what the test sends and records the frames of its one client. */
async function startRecorder(t) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  t.after(() => {
    for (const client of server.clients) client.terminate()
    server.close()
  })
  await new Promise((resolve) => server.once('listening', resolve))
  const frames = []
  let peer
  let closeCode
  server.on('connection', (socket) => {
    peer = socket
    socket.on('message', (data) => frames.push(data.toString('hex')))
    socket.on('close', (code) => (closeCode = code))
  })
  return {
    url: `ws://127.0.0.1:${server.address().port}`,
    send: (frame) => peer.send(frame),
    closed: () => until(() => closeCode, { what: 'the client closes the socket' }),
    async take(count) {
      await until(() => frames.length >= count, { what: () => `${count} frames, not ${frames.length}: ${frames}` })
      // Wait briefly: an extra frame is an error too.
      await new Promise((resolve) => setTimeout(resolve, 20))
      assert.equal(frames.length, count, `${frames}`)
      return frames.splice(0)
    },
  }
}

/** A fixed document with content of several types. */
function documentOf(clientID) {
  const doc = new Y.Doc()
  doc.clientID = clientID
  doc.transact(() => {
    doc.getText('text').insert(0, 'Hello')
    doc.getMap('map').set('list', [1, -2.5, null, true, 'é😀'])
    doc.getArray('array').push([new Uint8Array([0, 127, 255])])
    doc.getXmlFragment('xml').insert(0, [new Y.XmlElement('p')])
  })
  return doc
}

function otherClientAwareness() {
  const doc = new Y.Doc()
  doc.clientID = 77
  const awareness = new Awareness(doc)
  clearInterval(awareness._checkInterval)
  awareness.setLocalState({ name: 'Ben' })
  return encodeAwarenessUpdate(awareness, [77])
}

function versions() {
  const lock = JSON.parse(readFileSync(new URL('package-lock.json', import.meta.url), 'utf8'))
  return Object.fromEntries(PACKAGES.map((name) => [name, lock.packages[`node_modules/${name}`].version]))
}
