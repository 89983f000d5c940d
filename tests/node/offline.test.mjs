// Reconnecting after offline work transfers only what each side missed, deletions included, and duplicates nothing.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import * as Y from 'yjs'
import { makers, recordSync, until, untilSaved, untilSynced } from './support/clients.mjs'
import { allEqual, assertAllEqual } from './support/documents.mjs'
import { seededRandom } from './support/random.mjs'
import { startServer } from './support/server.mjs'
import { syncSentBy } from './support/wire.mjs'

/** Large enough that sending the document again would clearly exceed the limit. */
const BASE_LINES = 4_000
const EDITS = 500
const WIRE_FACTOR = 3

let server

before(async () => (server = await startServer()))
after(() => server?.stop())

for (const dialect of Object.keys(makers)) {
  describe(`a ${dialect} client`, () => {
    test('that made 500 offline edits sends only those and receives only what it missed', async (t) => {
      const random = seededRandom(t)
      const { a, b } = await twoClients(t, dialect, `edits-${dialect}`)
      const beforeCut = Y.encodeStateVector(a.doc)

      a.cut()
      await until(() => a.line.isDead, { what: 'the connection is closed' })
      const wire = watchWire(a)
      const typed = []
      a.doc.on('update', (update, origin) => origin !== a.provider && typed.push(update))
      for (let i = 0; i < EDITS; i++) {
        a.doc.transact(() => edit(a.doc, random, `A${i}`))
        b.doc.transact(() => edit(b.doc, random, `B${i}`))
      }
      await untilSaved(b)
      const own = Y.encodeStateAsUpdate(a.doc, beforeCut)
      const missed = Y.encodeStateAsUpdate(b.doc, beforeCut)
      assert(
        own.length < Y.encodeStateAsUpdate(a.doc).length / (2 * WIRE_FACTOR),
        'the limit detects a transfer of the whole document',
      )
      assert.deepEqual(wire.sent, [], 'nothing is sent while the connection is cut')

      a.mend()
      await until(() => allEqual([a.doc, b.doc]), { what: 'both hold the same state' })
      await untilConfirmed(a, b)

      const before = Y.decodeStateVector(beforeCut)
      for (const { client, clock } of structsIn(wire.sent)) {
        assert.equal(client, a.doc.clientID, 'only structs of this client are sent')
        assert(clock >= (before.get(client) ?? 0), 'only new structs are sent')
      }
      for (const { client, clock } of structsIn(wire.received)) {
        assert(client !== a.doc.clientID || dialect === 'ywebsocket', 'no struct of this client is returned')
        assert(clock >= (before.get(client) ?? 0), 'only new structs are received')
      }
      // The Hocuspocus provider also queues each update, sends them all on reconnect, and gets an acknowledgement for each.
      const queued = dialect === 'hocuspocus' ? typed : []
      const toSend = own.length + totalBytes(queued)
      const { sent, received } = a.line
      t.diagnostic(`sent ${sent.bytes} bytes for ${toSend}, received ${received.bytes} for ${missed.length}`)
      assert.equal(typed.length, EDITS)
      assert(sent.bytes < WIRE_FACTOR * toSend, `sent ${sent.bytes} bytes for ${toSend}`)
      assert(received.bytes < WIRE_FACTOR * missed.length, `received ${received.bytes} bytes for ${missed.length}`)

      const fresh = makers[dialect](t, server, `edits-${dialect}`)
      await untilSynced(fresh)
      assertAllEqual([a.doc, b.doc, fresh.doc])
      const lines = fresh.doc.getText('text').toString().split('\n')
      const expected = Array.from({ length: EDITS }, (_, i) => [`A${i}`, `B${i}`]).flat()
      assert.deepEqual(lines.filter((line) => /^[AB]/.test(line)).sort(), expected.sort(), 'each edit is there exactly once')
    })

    test('that only deleted while offline, as others did, ends with all deletions', async (t) => {
      const name = `deletions-${dialect}`
      const { a, b } = await twoClients(t, dialect, name)
      a.cut()
      await until(() => a.line.isDead, { what: 'the connection is closed' })
      const vector = Y.encodeStateVector(a.doc)
      for (const line of ['w10', 'w20', 'w21', 'w3000']) deleteLine(a.doc, line)
      for (const line of ['w21', 'w40', 'w3999']) deleteLine(b.doc, line)
      await untilSaved(b)
      assert.deepEqual(Y.encodeStateVector(a.doc), vector)
      assert.deepEqual(Y.encodeStateVector(b.doc), vector)

      a.mend()
      await until(() => allEqual([a.doc, b.doc]), { what: 'both lack what either deleted' })
      await untilConfirmed(a, b)
      const fresh = makers[dialect](t, server, name)
      await untilSynced(fresh)
      assertAllEqual([a.doc, b.doc, fresh.doc])
      const lines = new Set(fresh.doc.getText('text').toString().split('\n'))
      for (const gone of ['w10', 'w20', 'w21', 'w40', 'w3000', 'w3999']) assert(!lines.has(gone), gone)
      assert(lines.has('w11'))
    })
  })
}

/** Two clients of a large document that already has deletions. */
async function twoClients(t, dialect, name) {
  const a = makers[dialect](t, server, name)
  const b = makers[dialect](t, server, name)
  await untilSynced(a, b)
  const base = Array.from({ length: BASE_LINES }, (_, i) => `w${i}\nsome words to fill it`).join('\n')
  b.doc.getText('text').insert(0, base + '\n')
  for (let i = 0; i < 50; i++) deleteLine(b.doc, `w${i * 7 + 1}`)
  await until(() => allEqual([a.doc, b.doc]), { what: 'both hold the base' })
  await untilSaved(a, b)
  return { a, b }
}

/** Waits for the Hocuspocus clients only: a y-websocket client gets no acknowledgement of its step 2. */
function untilConfirmed(...clients) {
  return untilSaved(...clients.filter(({ dialect }) => dialect === 'hocuspocus'))
}

/** Inserts a line with its id at a random place between lines; every fifth call also deletes an old line. */
function edit(doc, random, id) {
  const text = doc.getText('text')
  const content = text.toString()
  const at = content.indexOf('\n', random.below(content.length - 1)) + 1
  text.insert(at, `${id}\n`)
  if (random() < 0.2) deleteLine(doc, `w${random.below(BASE_LINES)}`)
}

/** Deletes the text of a line but keeps the line break, so that no id is split. */
function deleteLine(doc, line) {
  const text = doc.getText('text')
  const at = `\n${text}`.indexOf(`\n${line}\n`)
  if (at >= 0) text.delete(at, line.length)
}

/** Records sync messages in both directions from now on, and resets the counters. */
function watchWire(client) {
  const sent = recordSync(client)
  const received = []
  client.line.onReceived.push((frame) => {
    const sync = syncSentBy(client.dialect, frame)
    if (sync) received.push(sync)
  })
  client.line.resetCounters()
  return { sent, received }
}

function structsIn(messages) {
  return messages
    .filter(({ kind }) => kind !== 'step1')
    .flatMap(({ payload }) => Y.decodeUpdate(payload).structs.map(({ id }) => id))
}

function totalBytes(updates) {
  return updates.reduce((sum, { length }) => sum + length, 0)
}
