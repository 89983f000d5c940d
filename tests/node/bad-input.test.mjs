// Invalid input. Each message is ignored, or its document (Hocuspocus) or session is refused with a reason; nothing else is
// affected. See protocol/SPEC.md, Refusals.

import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { after, before, beforeEach, describe, test } from 'node:test'
import * as Y from 'yjs'
import { awarenessBombs, bombsInPieces, stateVectorBombs, updateBombs } from './support/bombs.mjs'
import { makers, rawClient, until, untilSaved, untilSynced, yWebsocketClient } from './support/clients.mjs'
import { allEqual, assertAllEqual } from './support/documents.mjs'
import { generator, seededRandom } from './support/random.mjs'
import { startServer } from './support/server.mjs'
import { buffer, bytes, hocuspocus, readHocuspocus, readYWebsocket, text, yWebsocket } from './support/wire.mjs'

const BAD_MESSAGE = 4400
const BAD_NAME = 4404
const TOO_LARGE = 4413
const MESSAGE_LIMIT = 65_536
const ROUND_TRIP_LIMIT_MS = 2_000
/** In addition to the hostile message, which must be received before it can be refused. */
const MEMORY_LIMIT_BYTES = 8 * 1024 * 1024
/** For all pieces of a bomb sent in pieces. */
const PIECES_LIMIT_MS = 60_000
const EMPTY_VECTOR = Y.encodeStateVector(new Y.Doc())
/** The document all sessions share. A name of one byte would select another dialect. */
const NAME = 'shared'

let server
/** First client id of the updates from `someUpdate`, which are valid unless too large. */
const LARGE_CLIENTS = 1_000
let largeUpdates = 0
/** Client ids of the updates that the server accepted. */
const accepted = new Set()

/** Two clients of each dialect that must stay unaffected. */
let healthy

describe('a frame', () => {
  withServer({})

  const frames = {
    'that ends after its type': bytes(0),
    'that claims more bytes than it has': bytes(0, 2, 100, new Uint8Array([0, 0])),
    'that claims 4 GB': bytes(0, 2, 2 ** 32 - 1, new Uint8Array([0, 0])),
    'whose length never ends': bytes(0, 2, new Uint8Array(20).fill(0xff)),
    'with an update cut short': yWebsocket.update(someUpdate().slice(0, -3)),
    'with an update followed by extra bytes': yWebsocket.update(bytes(someUpdate(), 0)),
    'with an update of noise': yWebsocket.update(noise(200)),
    'with a state vector of noise': yWebsocket.step1(noise(200)),
  }
  const ignored = {
    'that is empty': new Uint8Array(),
    'of an unknown y-websocket sync type': bytes(0, 7, buffer([0, 0])),
    'with a second message': bytes(yWebsocket.step1(EMPTY_VECTOR), yWebsocket.step1(EMPTY_VECTOR)),
    'with noise after its message': bytes(yWebsocket.step1(EMPTY_VECTOR), noise(50)),
    'with an awareness update of noise': yWebsocket.awareness(noise(200)),
    'of an application': bytes(101, text('hello')),
    'of text': '{"hello":"there"}',
  }
  for (const [what, frame] of Object.entries(ignored)) {
    test(`${what} changes nothing for its session`, async (t) => {
      const client = rawClient(t, server, NAME)
      await client.send(yWebsocket.step1(EMPTY_VECTOR), frame)
      const update = someUpdate()
      accepted.add(LARGE_CLIENTS + largeUpdates - 1)
      await client.send(yWebsocket.update(update))
      const echo = ({ kind, payload }) => kind === 'update' && Buffer.compare(payload, update) === 0
      await client.frame(readYWebsocket, echo, 'the echo of an edit')
    })
  }

  for (const [what, frame] of Object.entries({
    'whose name is not UTF-8': bytes(buffer([0xc3, 0x28, 0xff, 0xfe, 0xfd]), 2, 0, text(''), text('4.8.0')),
    'whose name is longer than the frame': bytes(100, new Uint8Array([97, 98])),
    'of an application': bytes(101, text('hello')),
  })) {
    test(`${what} does not decide the dialect when it is the first frame`, async (t) => {
      const client = rawClient(t, server, NAME)
      await client.send(frame, yWebsocket.step1(EMPTY_VECTOR))
      await client.frame(readYWebsocket, ({ kind }) => kind === 'step2', 'step 2')
    })
  }

  test('of an unknown Hocuspocus type changes nothing for its session', async (t) => {
    const client = rawClient(t, server)
    await client.send(hocuspocus.auth(NAME), bytes(text(NAME), 77, text('hello')))
    await client.send(hocuspocus.step1(NAME, EMPTY_VECTOR))
    await client.frame(readHocuspocus, ({ kind }) => kind === 'step2', 'step 2')
  })

  for (const [what, frame] of Object.entries(frames)) {
    test(`${what} closes its session with ${BAD_MESSAGE}`, async (t) => {
      const first = rawClient(t, server, NAME)
      await first.send(frame)
      assertClosed(await first.closed(), BAD_MESSAGE)
    })
  }

  for (const [what, frame] of Object.entries(frames).filter(([, frame]) => frame[0] === 0)) {
    test(`${what} closes an established session too`, async (t) => {
      const client = rawClient(t, server, NAME)
      await client.send(yWebsocket.step1(EMPTY_VECTOR))
      await client.frame(readYWebsocket, ({ kind }) => kind === 'step2', 'step 2')
      await client.send(frame)
      assertClosed(await client.closed(), BAD_MESSAGE)
    })
  }

  test('with a bad update denies its document in a Hocuspocus session, which stays open', async (t) => {
    const client = rawClient(t, server)
    await client.send(hocuspocus.auth(NAME), hocuspocus.update(NAME, noise(100)))
    await untilDenied(client, /./)
    await untilAnswered(client)
  })

  test('of random bytes, sent 300 times, affects at most its own session', async (t) => {
    const random = seededRandom(t)
    const opening = [yWebsocket.step1(EMPTY_VECTOR), hocuspocus.auth(NAME), null]
    let refused = 0
    for (let i = 0; i < 300; i += 30) {
      const clients = await Promise.all(
        Array.from({ length: 30 }, async () => {
          const client = rawClient(t, server, NAME)
          const start = random.pick(opening)
          const frame = Uint8Array.from({ length: random.below(60) }, () => random.below(256))
          // Half of the frames begin like a valid message.
          if (random() < 0.5) frame.set(start?.slice(0, Math.min(start.length, frame.length, 8)) ?? [])
          await client.send(...(start ? [start, frame] : [frame]))
          return client
        }),
      )
      await timeRoundTrip()
      for (const client of clients) {
        // Most frames have an unknown type and are ignored, some are valid by chance: those sessions stay open.
        if (client.socket.readyState === client.socket.OPEN) {
          client.destroy()
        } else {
          const { code } = await client.closed()
          assert([BAD_MESSAGE, BAD_NAME].includes(code), `code ${code}`)
          refused++
        }
      }
    }
    assert(refused > 0)
  })

  test('that violates the WebSocket protocol ends only its own session', async (t) => {
    const client = rawClient(t, server, NAME)
    await client.send(yWebsocket.step1(EMPTY_VECTOR))
    // A reserved opcode, masked as clients must.
    client.socket._socket.write(Buffer.from([0x8b, 0x80, 1, 2, 3, 4]))
    const { code } = await client.closed()
    assert.equal(code, 1002)
  })
})

describe('a document name', () => {
  withServer({})

  test(`that is empty closes a y-websocket session with ${BAD_NAME}`, async (t) => {
    const client = rawClient(t, server, '')
    await client.send(yWebsocket.step1(EMPTY_VECTOR))
    assertClosed(await client.closed(), BAD_NAME)
  })

  test(`of 512 characters is accepted, of 513 closes a y-websocket session with ${BAD_NAME}`, async (t) => {
    const longest = rawClient(t, server, 'x'.repeat(512))
    await longest.send(yWebsocket.step1(EMPTY_VECTOR))
    await longest.frame(readYWebsocket, ({ kind }) => kind === 'step2', 'step 2')
    const longer = rawClient(t, server, 'x'.repeat(513))
    await longer.send(yWebsocket.step1(EMPTY_VECTOR))
    assertClosed(await longer.closed(), BAD_NAME)
  })

  const names = {
    'of 513 characters': '会'.repeat(513),
    'with a line break': 'two\nlines',
    'with a control character': 'bell\x07',
    'with a control character of Latin-1': 'next\u0085',
    'that is blank': '  ',
    'that is empty': '',
  }
  for (const [what, name] of Object.entries(names)) {
    test(`${what} is denied in a Hocuspocus session, which stays open`, async (t) => {
      const client = rawClient(t, server)
      await client.send(hocuspocus.auth(name), hocuspocus.step1(name, EMPTY_VECTOR))
      await untilDenied(client, /document name/)
      await untilAnswered(client)
    })
  }

  test('sent as raw non-ASCII bytes in the path is refused with an HTTP error', async (t) => {
    const { hostname, port } = new URL(server.httpUrl)
    const socket = connect(Number(port), hostname)
    t.after(() => socket.destroy())
    const key = Buffer.alloc(16).toString('base64')
    const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n'
    const head = `Host: x\r\n${upgrade}Sec-WebSocket-Key: ${key}\r\n\r\n`
    socket.write(Buffer.concat([Buffer.from('GET /'), Buffer.from([0xff, 0xfe]), Buffer.from(` HTTP/1.1\r\n${head}`)]))
    let answer = ''
    socket.on('data', (data) => (answer += data))
    await until(() => answer.includes('\r\n'), { what: 'an answer' })
    assert.match(answer, /^HTTP\/1\.1 400 /)
  })
})

describe('a message above the limit', () => {
  withServer({ env: { SYNCLINE_MESSAGE_BYTES: String(MESSAGE_LIMIT) } })

  for (const [dialect, wrap] of [
    ['y-websocket', (update) => yWebsocket.update(update)],
    ['Hocuspocus', (update) => hocuspocus.update(NAME, update)],
  ]) {
    test(`is refused in ${dialect}, and one below the limit is not`, async (t) => {
      const client = rawClient(t, server, NAME)
      accepted.add(LARGE_CLIENTS + largeUpdates)
      const open = dialect === 'Hocuspocus' ? hocuspocus.auth(NAME) : yWebsocket.step1(EMPTY_VECTOR)
      await client.send(open, wrap(someUpdate(MESSAGE_LIMIT - 200)))
      const there = () =>
        healthy[0].doc
          .getText('text')
          .toString()
          .includes('z'.repeat(MESSAGE_LIMIT - 200))
      await until(there, { what: 'the large message below the limit arrives' })
      await client.send(wrap(someUpdate(MESSAGE_LIMIT + 1)))
      if (dialect === 'Hocuspocus') {
        await untilDenied(client, new RegExp(`\\b${MESSAGE_LIMIT}\\b`))
        await untilAnswered(client)
      } else {
        const closed = await client.closed()
        assertClosed(closed, TOO_LARGE)
        assert.match(closed.reason, new RegExp(`\\b${MESSAGE_LIMIT}\\b`))
      }
      const { doc } = healthy[0]
      doc.getText('text').delete(0, doc.getText('text').length)
      await untilSaved(healthy[0])
    })
  }

  test(`sent in fragments closes its session with ${TOO_LARGE}`, async (t) => {
    const client = rawClient(t, server, NAME)
    await client.send(yWebsocket.step1(EMPTY_VECTOR))
    const message = yWebsocket.update(someUpdate(MESSAGE_LIMIT * 2))
    for (let at = 0; at < message.length; at += 10_000) {
      client.socket.send(message.slice(at, at + 10_000), { fin: at + 10_000 >= message.length })
    }
    assertClosed(await client.closed(), TOO_LARGE)
  })
})

describe('a bomb', () => {
  withServer({})

  const bombs = [
    ...Object.entries(updateBombs()).map(([what, update]) => [
      what,
      (name) => hocuspocus.update(name, update),
      yWebsocket.update(update),
    ]),
    ...Object.entries(stateVectorBombs()).map(([what, vector]) => [
      what,
      (name) => hocuspocus.step1(name, vector),
      yWebsocket.step1(vector),
    ]),
    ...Object.entries(awarenessBombs()).map(([what, update]) => [
      what,
      (name) => hocuspocus.awareness(name, update),
      yWebsocket.awareness(update),
    ]),
  ]
  const awareness = new Set(Object.keys(awarenessBombs()))
  for (const [what, inHocuspocus, inYWebsocket] of bombs) {
    test(`(${what}) is refused, uses no extra memory and delays no other client`, async (t) => {
      const isAwareness = awareness.has(what)
      const step2 = ({ kind }) => kind === 'step2'
      const attackers = [
        {
          client: rawClient(t, server, NAME),
          messages: [yWebsocket.step1(EMPTY_VECTOR), inYWebsocket],
          async isRefused(client) {
            if (!isAwareness) return assertClosed(await client.closed(), BAD_MESSAGE)
            await client.send(yWebsocket.step1(EMPTY_VECTOR))
            await client.frame(readYWebsocket, step2, 'step 2')
          },
        },
        {
          client: rawClient(t, server),
          messages: [hocuspocus.auth(NAME), inHocuspocus(NAME)],
          async isRefused(client) {
            if (!isAwareness) await untilDenied(client, /./)
            await untilAnswered(client)
          },
        },
      ]
      for (const { client, messages, isRefused } of attackers) {
        const before = server.resetPeakMemory()
        await client.send(...messages)
        const roundTrip = timeRoundTrip()
        await isRefused(client)
        const ms = await roundTrip
        assert(ms < ROUND_TRIP_LIMIT_MS, `an edit took ${Math.round(ms)} ms to arrive`)
        const grown = server.peakMemory() - before
        const limit = MEMORY_LIMIT_BYTES + 2 * messages.at(-1).length
        t.diagnostic(`memory grew by ${Math.round(grown / 1024)} KiB, an edit took ${Math.round(ms)} ms`)
        assert(grown < limit, `memory grew by ${grown} bytes for a message of ${messages.at(-1).length}`)
      }
    })
  }
})

describe('a document that is costly for a tree', () => {
  for (const [what, updates] of Object.entries(bombsInPieces())) {
    test(`(${what}) neither ends the process nor delays other documents`, async (t) => {
      const own = await startServer()
      t.after(() => own.stop())
      const others = Object.keys(makers).map((dialect) => makers[dialect](t, own, 'another'))
      await untilSynced(...others)
      const attacker = rawClient(t, own, NAME)
      await attacker.send(yWebsocket.step1(EMPTY_VECTOR), ...updates.map(yWebsocket.update))
      let isOver = false
      attacker.closed(PIECES_LIMIT_MS).then(
        ({ code, reason }) => {
          t.diagnostic(`the session was closed: ${code} ${reason}`)
          isOver = true
        },
        () => {},
      )
      const newest = updates.at(-1)
      attacker.socket.on('message', (frame) => (isOver ||= Buffer.compare(frame, yWebsocket.update(newest)) === 0))
      const start = performance.now()
      for (let i = 0; !isOver; i++) {
        assert(performance.now() - start < PIECES_LIMIT_MS, 'the document handles all pieces in time')
        const sent = performance.now()
        others[0].doc.getMap('trips').set('newest', i)
        const arrived = () => others[1].doc.getMap('trips').get('newest') === i || !own.isRunning
        await until(arrived, { what: 'an edit of another document arrives' })
        if (!own.isRunning) break
        const ms = performance.now() - sent
        assert(ms < ROUND_TRIP_LIMIT_MS, `an edit of another document took ${Math.round(ms)} ms to arrive`)
      }
      t.diagnostic(`all pieces were handled after ${Math.round(performance.now() - start)} ms`)
      assert(own.isRunning, `the server exited: ${own.output()}`)
      await own.restart()
      const fresh = yWebsocketClient(t, own, 'another')
      await untilSynced(fresh)
    })
  }
})

/** A server for a suite, with healthy clients whose edits must arrive before each test, and nothing else stored. */
function withServer(options) {
  const cleanups = []
  const suite = { after: (cleanup) => cleanups.push(cleanup) }
  before(async () => {
    server = await startServer(options)
    healthy = Object.keys(makers).flatMap((dialect) => [1, 2].map(() => makers[dialect](suite, server, NAME)))
    await untilSynced(...healthy)
  })
  beforeEach(timeRoundTrip)
  after(async () => {
    assert(server.isRunning, `the server is still running\n${server.output()}`)
    await timeRoundTrip()
    for (const { line } of healthy) assert.equal(line.opened, 1, 'no healthy client was ever disconnected')
    await untilSaved(...healthy)
    const docs = healthy.map(({ doc }) => doc)
    await until(() => allEqual(docs), { what: 'the healthy clients agree' })
    await server.restart()
    const fresh = yWebsocketClient(suite, server, NAME)
    await untilSynced(fresh)
    assertAllEqual([docs[0], fresh.doc])
    const known = [...docs.map(({ clientID }) => clientID), ...accepted]
    const strangers = [...fresh.doc.store.clients.keys()].filter((client) => !known.includes(client))
    assert.deepEqual(strangers, [], 'no update of a bad session was stored')
    assert.doesNotMatch(server.output(), /panicked/)
  })
  after(async () => {
    for (const cleanup of cleanups) cleanup()
    await server?.stop()
  })
}

let roundTrips = 0

/** The time an edit of one healthy client takes to reach all the others, in ms. */
async function timeRoundTrip() {
  const id = `round trip ${++roundTrips}`
  const start = performance.now()
  healthy[roundTrips % healthy.length].doc.getMap('trips').set('newest', id)
  const arrived = () => healthy.every(({ doc }) => doc.getMap('trips').get('newest') === id)
  await until(arrived, { what: `${id} of the healthy clients; the server ${server.isRunning ? 'runs' : 'has exited'}` })
  return performance.now() - start
}

async function untilDenied(client, reason) {
  const denied = await client.frame(readHocuspocus, ({ kind }) => kind === 'denied', 'PermissionDenied')
  assert.match(denied.reason, reason)
}

/** Waits until the session has served another document. */
async function untilAnswered(client) {
  await client.send(hocuspocus.auth('another'), hocuspocus.step1('another', EMPTY_VECTOR))
  await client.frame(readHocuspocus, ({ kind, address }) => kind === 'step2' && address === 'another', 'step 2')
}

function someUpdate(length = 100) {
  const doc = new Y.Doc()
  doc.clientID = LARGE_CLIENTS + largeUpdates++
  doc.getText('text').insert(0, 'z'.repeat(length))
  return Y.encodeStateAsUpdate(doc)
}

function noise(length) {
  const random = generator(length)
  return Uint8Array.from({ length }, () => random.below(256))
}

function assertClosed({ code, reason }, expected) {
  assert.equal(code, expected, reason)
  assert(reason.length > 8, `the reason is readable: "${reason}"`)
}
