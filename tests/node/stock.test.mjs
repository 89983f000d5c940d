// Behaviour that stock clients rely on, one test each.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import * as Y from 'yjs'
import {
  hocuspocusClient,
  hocuspocusSocket,
  makers,
  rawClient,
  until,
  untilSaved,
  untilSynced,
  yWebsocketClient,
} from './support/clients.mjs'
import { allEqual, assertAllEqual } from './support/documents.mjs'
import { watchPresence } from './support/presence.mjs'
import { startServer } from './support/server.mjs'
import { buffer, bytes, hocuspocus, readHocuspocus, readYWebsocket, text, yWebsocket } from './support/wire.mjs'

const DIALECTS = Object.keys(makers)
/** Both providers disconnect after 30 s without a message; they check every 3 s. */
const SILENCE_MS = 35_000
const EMPTY_VECTOR = Y.encodeStateVector(new Y.Doc())

let server
let silence

before(async () => {
  server = await startServer()
})
after(() => server?.stop())

describe('silence', { concurrency: true }, () => {
  const silent = {
    'a y-websocket client': (t) => yWebsocketClient(t, server, 'silent-1'),
    'a y-websocket client without awareness': (t) => {
      const client = yWebsocketClient(t, server, 'silent-2')
      client.awareness.setLocalState(null)
      return client
    },
    'a Hocuspocus client': (t) => hocuspocusClient(t, server, 'silent-3'),
    'a Hocuspocus client without awareness': (t) => hocuspocusClient(t, server, 'silent-4', { awareness: null }),
  }
  for (const [kind, make] of Object.entries(silent)) {
    test(`${kind} stays connected while no client sends anything for ${SILENCE_MS / 1000} s`, async (t) => {
      const client = make(t)
      await untilSynced(client)
      silence ??= new Promise((resolve) => setTimeout(resolve, SILENCE_MS))
      await silence
      assert.equal(client.line.opened, 1, 'the client never reconnected')
      assert(!client.line.isDead)
      // The session still works and is not merely open.
      const other = makers[client.dialect](t, server, client.provider.roomname ?? client.provider.configuration.name)
      client.doc.getText('text').insert(0, 'still here')
      await until(() => other.doc.getText('text').length === 10, { what: 'the edit arrives' })
    })
  }
})

describe('acknowledgements', () => {
  test('a y-websocket author gets each copy of its update echoed, but not its step 2', async (t) => {
    const author = rawClient(t, server, 'echo')
    const [first, second] = twoUpdates()
    // The format of its awareness marks it as Yjs 13: clients of Yjs 14 get their step 2 echoed.
    const awareness = bytes(1, buffer(bytes(1, 7, 1, text('{}'))))
    await author.send(yWebsocket.step1(EMPTY_VECTOR), awareness, yWebsocket.step2(first), yWebsocket.update(second))
    const isSecond = ({ kind, payload }) => kind === 'update' && same(payload, second)
    await author.frame(readYWebsocket, isSecond, 'the update')
    await author.send(yWebsocket.update(second))
    await until(() => author.frames.map(readYWebsocket).filter(isSecond).length === 2, { what: 'the echo of the known update' })
    const others = author.frames.map(readYWebsocket).filter((m) => m.kind === 'update' && !isSecond(m))
    assert.deepEqual(others, [], 'nothing else is echoed')
  })

  test('a Hocuspocus client gets a SyncStatus for each update and step 2, and no echo', async (t) => {
    const author = rawClient(t, server)
    const [first, second] = twoUpdates()
    const name = 'status'
    await author.send(
      hocuspocus.auth(name),
      hocuspocus.step1(name, EMPTY_VECTOR),
      hocuspocus.step2(name, first),
      hocuspocus.update(name, second),
      hocuspocus.update(name, second),
      hocuspocus.update(name, new Uint8Array([0, 0])),
    )
    const statuses = () => author.frames.map(readHocuspocus).filter(({ kind }) => kind === 'status')
    await until(() => statuses().length === 4, { what: () => `4 statuses, not ${statuses().length}` })
    // Messages are answered in order: after the pong, every earlier answer has arrived.
    await author.send(hocuspocus.ping())
    await author.frame(readHocuspocus, ({ kind }) => kind === 'pong', 'the pong')
    assert.deepEqual(statuses(), Array(4).fill({ address: name, kind: 'status', saved: true }))
    assert.deepEqual(
      author.frames.map(readHocuspocus).filter(({ kind }) => kind === 'update'),
      [],
    )
  })

  test('a provider that batches with flushDelay gets an acknowledgement for all edits', async (t) => {
    const writer = hocuspocusClient(t, server, 'batches', { flushDelay: 30 })
    const reader = yWebsocketClient(t, server, 'batches')
    await untilSynced(writer, reader)
    await untilSaved(writer)
    const messages = writer.line.sent.messages
    for (let burst = 0; burst < 3; burst++) {
      for (let i = 0; i < 100; i++) writer.doc.getText('text').insert(0, `${i} `)
      assert.equal(writer.provider.unsyncedChanges, 1)
      await untilSaved(writer)
    }
    assert(writer.line.sent.messages - messages < 10, 'the edits were sent in batches')
    await until(() => allEqual([writer.doc, reader.doc]), { what: 'the reader has the edits' })
  })
})

describe('the first sync', () => {
  test('is never answered before a large document is loaded', async (t) => {
    const own = await startServer({})
    t.after(() => own.stop())
    const writer = hocuspocusClient(t, own, 'large')
    await untilSynced(writer)
    for (let i = 0; i < 3000; i++) {
      writer.doc.getMap('map').set(`key ${i % 700}`, 'x'.repeat(700))
      writer.doc.getText('text').insert(0, `line ${i}\n`)
    }
    await untilSaved(writer)
    const expected = writer.doc
    writer.destroy()
    for (const how of ['SIGTERM', 'SIGKILL']) {
      if (how === 'SIGKILL') await own.kill()
      await own.restart()
      // Connect all at the same time, so that most ask while the document is being loaded.
      const raw = rawClient(t, own, 'large')
      await raw.opened
      const clients = Array.from({ length: 8 }, (_, i) => {
        const client = makers[DIALECTS[i % 2]](t, own, 'large')
        client.provider.on('synced', () => (client.atSync ??= client.doc.getText('text').length))
        return client
      })
      await raw.send(yWebsocket.step1(EMPTY_VECTOR))
      const { payload } = await raw.frame(readYWebsocket, ({ kind }) => kind === 'step2', 'the first step 2')
      const doc = new Y.Doc()
      Y.applyUpdate(doc, payload)
      assertAllEqual([expected, doc])
      await untilSynced(...clients)
      for (const { atSync } of clients) assert.equal(atSync, expected.getText('text').length)
      await until(() => allEqual([expected, ...clients.map(({ doc }) => doc)]), { what: 'all have the whole document' })
      for (const client of clients) client.destroy()
    }
  })

  test('of a Hocuspocus client is Authenticated, then step 1 and step 2 of the server', async (t) => {
    const client = rawClient(t, server)
    const name = 'order'
    await client.send(hocuspocus.auth(name), hocuspocus.step1(name, EMPTY_VECTOR))
    await client.frame(readHocuspocus, ({ kind }) => kind === 'step2', 'step 2')
    const kinds = client.frames.map(readHocuspocus).map(({ kind }) => kind)
    assert.deepEqual(kinds, ['authenticated', 'step1', 'step2'])
    assert.equal(readHocuspocus(client.frames[0]).scope, 'read-write')
  })

  test('works for a Hocuspocus client that sends an update before its token', async (t) => {
    const client = rawClient(t, server)
    const name = 'early'
    const [update] = twoUpdates()
    await client.send(hocuspocus.update(name, update), hocuspocus.ping())
    await client.frame(readHocuspocus, ({ kind }) => kind === 'pong', 'the pong')
    assert.deepEqual(client.frames.map(readHocuspocus), [{ kind: 'pong' }], 'nothing is answered before the token')
    // Without access control, a step 1 opens the document, as for a provider 2.x without a token.
    await client.send(hocuspocus.step1(name, EMPTY_VECTOR), hocuspocus.step2(name, new Uint8Array([0, 0])))
    await client.frame(
      readHocuspocus,
      ({ kind, saved }) => kind === 'status' && saved,
      'the status of the step 2 and of the update before it',
    )
    await client.frame(readHocuspocus, ({ kind }) => kind === 'step2', 'the answer to the step 1')
    await client.send(hocuspocus.auth(name))
    await client.frame(readHocuspocus, ({ kind }) => kind === 'authenticated', 'the answer to the token')
    const other = yWebsocketClient(t, server, name)
    await untilSynced(other)
    assert.equal(other.doc.getText('text').toString(), 'first')
  })
})

describe('one Hocuspocus socket', () => {
  test('carries several documents and stays open when one is closed', async (t) => {
    const socket = hocuspocusSocket(t, server)
    const [one, two, three] = ['many-1', 'many-2', 'many-3'].map((name) =>
      hocuspocusClient(t, server, name, { socket }),
    )
    const others = ['many-1', 'many-2', 'many-3'].map((name) => yWebsocketClient(t, server, name))
    await untilSynced(one, two, three, ...others)
    // The default state has clock 0, which y-protocols treats as known and never applies.
    two.awareness.setLocalState({ name: 'Ann' })
    const closing = watchPresence(others[1], two.doc.clientID)
    await until(() => closing.here, { what: 'the awareness of the second is seen' })
    two.provider.detach()
    await until(() => !closing.here, { what: 'the awareness of the closed one is gone' })

    one.doc.getText('text').insert(0, 'one')
    others[1].doc.getText('text').insert(0, 'while detached')
    others[2].doc.getText('text').insert(0, 'three')
    await until(() => others[0].doc.getText('text').toString() === 'one', { what: 'the first still sends' })
    await until(() => three.doc.getText('text').toString() === 'three', { what: 'the third still receives' })
    assert.equal(two.doc.getText('text').toString(), '')
    assert.equal(socket.line.opened, 1)

    two.provider.attach()
    await until(() => two.doc.getText('text').toString() === 'while detached', { what: 'the second has caught up' })
    assert.equal(socket.line.opened, 1)
  })

  test('carries the same document twice with sessionAwareness', async (t) => {
    const socket = hocuspocusSocket(t, server)
    const both = [1, 2].map(() => hocuspocusClient(t, server, 'twice', { socket, sessionAwareness: true }))
    const other = yWebsocketClient(t, server, 'twice')
    await untilSynced(...both, other)
    const docs = [...both, other].map(({ doc }) => doc)
    docs.forEach((doc, i) => doc.getText('text').insert(0, `${i}`))
    await until(() => allEqual(docs), { what: 'all three agree' })
    assert.equal(other.doc.getText('text').length, 3)
    await untilSaved(...both)
    both[0].destroy()
    other.doc.getText('text').insert(0, 'more')
    await until(() => both[1].doc.getText('text').length === 7, { what: 'the second session still receives' })
    assert.equal(both[0].doc.getText('text').length, 3)
  })

  test('gets a pong for its ping', async (t) => {
    const client = rawClient(t, server)
    await client.send(hocuspocus.auth('ping'), new Uint8Array([9]))
    await client.frame(readHocuspocus, ({ kind }) => kind === 'pong', 'the pong')
  })
})

describe('names', () => {
  const ROOMS = [
    'a%2Fb',
    'a/b',
    'with space',
    'ünï',
    'a%20c',
    'a&b=c;d',
    'a%26b',
    'a//b',
    'A/B',
    'a/b/',
    'x',
    'ab',
    'abc',
  ]

  test('are shared by both dialects, plain or URL-encoded', async (t) => {
    for (const room of ROOMS) {
      const encoded = new URL(`ws://host/${room}`).pathname.slice(1)
      const clients = [
        yWebsocketClient(t, server, room),
        yWebsocketClient(t, server, room, { params: { token: 'not part of the name' } }),
        hocuspocusClient(t, server, encoded),
      ]
      await untilSynced(...clients)
      clients.forEach(({ doc }, i) => doc.getArray('rooms').push([`${room} ${i}`]))
      await until(() => clients.every(({ doc }) => doc.getArray('rooms').length >= 3), {
        what: `three agree on ${room}`,
      })
      for (const { doc } of clients) {
        assert.deepEqual(
          doc.getArray('rooms').toArray().sort(),
          [0, 1, 2].map((i) => `${room} ${i}`),
          'no other client is in the document',
        )
      }
      for (const client of clients) client.destroy()
    }
  })

  test('of Hocuspocus clients need no encoding', async (t) => {
    const plain = hocuspocusClient(t, server, 'with space')
    await untilSynced(plain)
    assert.equal(plain.doc.getArray('rooms').length, 3, 'the document that y-websocket names with%20space')
  })
})

describe('leaving', () => {
  for (const [dialect, frame] of [
    ['y-websocket', yWebsocket.step1(EMPTY_VECTOR)],
    ['Hocuspocus', hocuspocus.auth('leaving')],
  ]) {
    test(`a ${dialect} client that closes its socket gets a clean close`, async (t) => {
      const client = rawClient(t, server, 'leaving')
      await client.send(frame)
      await until(() => client.frames.length > 0, { what: 'the session has begun' })
      client.socket.close(1000, 'done')
      assert.equal((await client.closed()).code, 1000)
    })
  }
})

describe('frames', () => {
  test('hold exactly one message each under load', async (t) => {
    const clients = DIALECTS.flatMap((dialect) => [1, 2].map(() => makers[dialect](t, server, 'busy')))
    const messages = []
    for (const { dialect, line } of clients) {
      const read = dialect === 'hocuspocus' ? readHocuspocus : readYWebsocket
      // A throw here would end the process, so errors are recorded for the assertion.
      line.onReceived.push((frame) => {
        try {
          messages.push(read(frame))
        } catch (error) {
          messages.push(error)
        }
      })
    }
    await untilSynced(...clients)
    for (let i = 0; i < 200; i++) {
      for (const { doc, awareness } of clients) {
        doc.getText('text').insert(0, 'x')
        awareness.setLocalStateField('cursor', i)
      }
      if (i % 20 === 0) await new Promise((resolve) => setTimeout(resolve, 1))
    }
    const docs = clients.map(({ doc }) => doc)
    await until(() => allEqual(docs) && docs[0].getText('text').length === 800, { what: 'all have all 800 characters' })
    assert(messages.length > 200, `${messages.length} messages`)
    assert.deepEqual(
      messages.filter((message) => message instanceof Error),
      [],
    )
    for (const kind of ['step1', 'step2', 'update', 'awareness', 'status']) {
      assert(
        messages.some((message) => message.kind === kind),
        `a ${kind} message was received`,
      )
    }
  })
})

/** Two updates of one document: "first", and "second" appended. */
function twoUpdates() {
  const doc = new Y.Doc()
  const updates = []
  doc.on('update', (update) => updates.push(update))
  doc.getText('text').insert(0, 'first')
  doc.getText('text').insert(5, 'second')
  return updates
}

function same(a, b) {
  return Buffer.compare(a, b) === 0
}
