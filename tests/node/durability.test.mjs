// Acknowledged updates survive kill -9. Verified by clients that never saw the edits before.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import * as Y from 'yjs'
import { hocuspocusClient, rawClient, until, untilSaved, untilSynced, yWebsocketClient } from './support/clients.mjs'
import { assertAllEqual, missingFrom } from './support/documents.mjs'
import { generator, seededRandom } from './support/random.mjs'
import { startServer } from './support/server.mjs'
import { readHocuspocus, readYWebsocket, syncSentBy, yWebsocket } from './support/wire.mjs'

const ROUNDS = 30
const WRITERS = 20
/** More clients than any document has in normal use. */
const MANY_CLIENTS = 25_000
/** Nested deeper than servers that build a tree accept. */
const NESTED_LEVELS = 600
/** Each writer's pause between two edits. */
const PAUSE_MS = { least: 5, spread: 30 }
/** Time from the start of the last writer to the kill of the server. */
const KILL_AFTER_MS = { least: 50, spread: 500 }

let server

before(async () => (server = await startServer()))
after(() => server?.stop())

test('no acknowledged update is lost by kill -9 while 20 writers type, 30 times', async (t) => {
  const random = seededRandom(t)
  const totals = { sent: 0, acked: 0 }
  for (let round = 0; round < ROUNDS; round++) {
    // Alternate between one document for all writers and several documents that share a commit.
    const documents = round % 2 === 0 ? 1 : 5
    const writers = Array.from({ length: WRITERS }, (_, i) => {
      return startWriter(t, `round-${round}-${i % documents}`, `${round}.${i}`)
    })
    await untilSynced(...writers.map(({ client }) => client))
    for (const writer of writers) writer.type(random)
    await new Promise((resolve) => setTimeout(resolve, KILL_AFTER_MS.least + random.below(KILL_AFTER_MS.spread)))

    const killed = server.kill()
    await killed
    for (const writer of writers) writer.stop()
    // Frames sent before the kill arrive before the sockets close.
    await until(() => writers.every(({ client }) => client.line.isDead), { what: 'all sockets are closed' })
    for (const { client } of writers) client.destroy()
    await server.restart()

    for (let document = 0; document < documents; document++) {
      const name = `round-${round}-${document}`
      const fresh = hocuspocusClient(t, server, name)
      await untilSynced(fresh)
      const lines = new Set(fresh.doc.getText('text').toString().split('\n'))
      const deleted = new Set(fresh.doc.getArray('deleted').toArray())
      for (const { ledger } of writers.filter(({ room }) => room === name)) {
        for (const { marker, update } of ledger.acked) {
          const missing = missingFrom(fresh.doc, update)
          assert.equal(missing, null, `round ${round}: "${marker}" was acknowledged, but the document lacks ${missing}`)
          assert(!marker || lines.has(marker) || deleted.has(marker), `round ${round}: "${marker}" is not in the text`)
        }
      }
      fresh.destroy()
    }
    totals.acked += writers.reduce((sum, { ledger }) => sum + ledger.acked.length, 0)
    totals.sent += writers.reduce((sum, { ledger }) => sum + ledger.acked.length + ledger.pending.length, 0)
  }
  t.diagnostic(`${totals.acked} of ${totals.sent} updates were acknowledged; none is lost`)
  assert(totals.acked > ROUNDS * WRITERS * 3, 'enough updates were acknowledged for a meaningful result')
  assert(totals.sent > totals.acked, 'the server was killed while updates were in flight')
})

test('unsyncedChanges falls to 0, and a server killed at that moment has everything', async (t) => {
  for (let round = 0; round < 10; round++) {
    const name = `zero-${round}`
    const writer = hocuspocusClient(t, server, name)
    await untilSynced(writer)
    await untilSaved(writer)
    let killed
    const seen = []
    writer.provider.on('unsyncedChanges', ({ number }) => {
      seen.push(number)
      if (number === 0) killed ??= server.kill()
    })
    for (let i = 0; i < 100; i++) writer.doc.getArray('list').push([`${round}-${i}`])
    assert.equal(seen.at(-1), 100)
    await until(() => killed, { what: () => `unsyncedChanges is 0, not ${writer.provider.unsyncedChanges}` })
    await killed
    const expected = writer.doc.getArray('list').toArray()
    writer.destroy()
    await server.restart()
    const fresh = hocuspocusClient(t, server, name)
    await untilSynced(fresh)
    assert.deepEqual(fresh.doc.getArray('list').toArray(), expected)
    fresh.destroy()
  }
})

test('edits made offline are acknowledged after the reconnect and survive kill -9', async (t) => {
  const writer = hocuspocusClient(t, server, 'offline')
  await untilSynced(writer)
  writer.cut()
  for (let i = 0; i < 50; i++) writer.doc.getArray('list').push([i])
  assert(writer.provider.unsyncedChanges > 0)
  writer.mend()
  await untilSynced(writer)
  await untilSaved(writer)
  // The provider keeps its count across a reconnect; once everything is answered, the count must be right.
  const other = hocuspocusClient(t, server, 'offline')
  await until(() => other.doc.getArray('list').length === 50, { what: 'another client has the edits' })
  await server.kill()
  for (const client of [writer, other]) client.destroy()
  await server.restart()
  const fresh = yWebsocketClient(t, server, 'offline')
  await untilSynced(fresh)
  assert.equal(fresh.doc.getArray('list').length, 50)
})

test('an update echoed to its y-websocket author survives a kill -9 at that moment', async (t) => {
  for (let round = 0; round < 10; round++) {
    const name = `echo-${round}`
    const doc = new Y.Doc()
    doc.getText('text').insert(0, `echo ${round} `.repeat(round * 500 + 1))
    const frame = yWebsocket.update(Y.encodeStateAsUpdate(doc))
    const author = rawClient(t, server, name)
    let killed
    author.socket.on('message', (bytes) => {
      if (Buffer.compare(bytes, frame) === 0) killed ??= server.kill()
    })
    await author.send(yWebsocket.step1(Y.encodeStateVector(new Y.Doc())), frame)
    await until(() => killed, {
      what: () => `the echo arrives; received: ${author.frames.map((f) => readYWebsocket(f).kind)}`,
    })
    await killed
    await server.restart()
    const fresh = yWebsocketClient(t, server, name)
    await untilSynced(fresh)
    assert.equal(fresh.doc.getText('text').toString(), doc.getText('text').toString())
    fresh.destroy()
  }
})

test('a document with more clients than one message may name survives a restart', async (t) => {
  // Every browser tab is a client of its own, so a busy document collects client ids over the years.
  const random = generator(1)
  const name = 'much-used'
  const author = rawClient(t, server, name)
  await author.send(yWebsocket.step1(Y.encodeStateVector(new Y.Doc())))
  const written = new Y.Doc()
  for (let i = 0; i < MANY_CLIENTS / 1000; i++) {
    const clients = Array.from({ length: 1000 }, () => random.below(2 ** 32))
    const update = Y.mergeUpdates(clients.map(oneEdit))
    Y.applyUpdate(written, update)
    await author.send(yWebsocket.update(update))
    const isEcho = (frame) => Buffer.compare(frame, yWebsocket.update(update)) === 0
    await until(() => author.frames.some(isEcho), { what: `the server saves ${i + 1} thousand clients` })
  }
  author.destroy()
  await server.kill()
  await server.restart()

  const fresh = yWebsocketClient(t, server, name)
  await untilSynced(fresh)
  assert.equal(fresh.doc.store.clients.size, MANY_CLIENTS)
  assertAllEqual([written, fresh.doc])
  // Reconnect with a state vector that names all the clients.
  let refused
  fresh.provider.on('closed', (close) => (refused = close))
  fresh.cut()
  await until(() => fresh.line.isDead, { what: 'the connection is closed' })
  fresh.doc.getMap('edits').set('offline', 1)
  fresh.mend()
  const other = hocuspocusClient(t, server, name)
  const arrived = () => refused || other.doc.getMap('edits').has('offline')
  await until(arrived, { what: 'the offline edit arrives' })
  assert.equal(refused, undefined, 'the client is not rejected permanently')
})

test('a too deeply nested document survives a restart or is not acknowledged', async (t) => {
  const author = hocuspocusClient(t, server, 'deep')
  await untilSynced(author)
  await untilSaved(author)
  let refused = false
  author.provider.on('close', () => (refused = true))
  let inner = author.doc.getArray('list')
  for (let level = 0; level < NESTED_LEVELS && !refused; level++) {
    const next = new Y.Array()
    inner.insert(0, [next])
    inner = next
  }
  await until(() => author.isSaved || refused, { what: 'the document is saved or refused' })
  const accepted = !refused
  author.destroy()
  await server.restart()
  const fresh = yWebsocketClient(t, server, 'deep')
  await untilSynced(fresh)
  if (accepted) assertAllEqual([author.doc, fresh.doc])
})

function oneEdit(clientID) {
  const doc = new Y.Doc()
  doc.clientID = clientID
  doc.getMap('edits').set(`by ${clientID}`, 1)
  return Y.encodeStateAsUpdate(doc)
}

/**
 * A Hocuspocus client that types lines. The server answers updates and step 2s in the order they were sent, so the
 * ledger records exactly which ones are acknowledged.
 */
function startWriter(t, room, id) {
  const client = hocuspocusClient(t, server, room)
  const ledger = { pending: [], acked: [] }
  let marker = null
  let timer
  client.line.onSent.push((frame) => {
    const sync = syncSentBy('hocuspocus', frame)
    if (sync && sync.kind !== 'step1') ledger.pending.push({ marker, update: sync.payload })
  })
  client.line.onReceived.push((frame) => {
    const message = readHocuspocus(frame)
    if (message.kind !== 'status') return
    assert(message.saved, 'nothing is refused here')
    assert(ledger.pending.length > 0, 'more acknowledgements than updates')
    ledger.acked.push(ledger.pending.shift())
  })
  return {
    client,
    room,
    ledger,
    type(random) {
      let count = 0
      const typeLine = () => {
        marker = `${id}-${count++}`
        const text = client.doc.getText('text')
        client.doc.transact(() => {
          text.insert(random() < 0.5 ? 0 : text.length, `${marker}\n`)
          // Sometimes delete the oldest line: deletions are acknowledged too.
          if (random() < 0.1) {
            const [oldest] = text.toString().split('\n', 1)
            text.delete(0, oldest.length + 1)
            client.doc.getArray('deleted').push([oldest])
          }
        })
        timer = setTimeout(typeLine, PAUSE_MS.least + random.below(PAUSE_MS.spread))
      }
      timer = setTimeout(typeLine, random.below(PAUSE_MS.spread))
    },
    stop() {
      clearTimeout(timer)
      client.line.isCut = true
    },
  }
}
