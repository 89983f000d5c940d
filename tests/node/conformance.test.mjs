// The updates of every test vector, sent through the server in random order and grouping, end in the expected state.
//
// The sender is a client that holds all updates: it sends them shuffled and grouped, and answers the server's step 1
// like any Yjs client. Then a client without any state reads the document from the server.
// SYNCLINE_SEED=<n> replays an order.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, test } from 'node:test'
import { gunzipSync } from 'node:zlib'

import * as decoding from 'lib0/decoding'
import * as encoding from 'lib0/encoding'
import WebSocket from 'ws'
import * as Y from 'yjs'

import { startServer } from './support/server.mjs'

const FIXTURES = new URL('../fixtures/', import.meta.url)
const SEED = Number(process.env.SYNCLINE_SEED ?? Math.floor(Math.random() * 2 ** 31))
/** Documents tested at the same time. */
const CONCURRENCY = 8

let server
before(async () => {
  server = await startServer()
})
after(() => server.stop())

test(`the hundred documents made with Yjs end in the expected state (seed ${SEED})`, async () => {
  const lines = gunzipSync(readFileSync(new URL('yjs-vectors/seeds-1-100.jsonl.gz', FIXTURES))).toString().trim()
  const vectors = lines.split('\n').map((line) => JSON.parse(line))
  assert.equal(vectors.length, 100)
  await forEachConcurrently(vectors, async (vector) => {
    const name = `yjs-${vector.seed}`
    await send(name, vector.updates.map(bytes), random(SEED + vector.seed))
    const doc = new Y.Doc({ gc: !vector.tags.includes('nogc') })
    for (const root in vector.roots) doc[`get${vector.roots[root]}`](root)
    Y.applyUpdate(doc, await read(name))
    const where = `${name}, SYNCLINE_SEED=${SEED}`
    assert.equal(doc.store.pendingStructs, null, `${where}: no struct may be pending`)
    assert.equal(doc.store.pendingDs, null, `${where}: no deletion may be pending`)
    assert.deepEqual(stateVector(doc), vector.stateVectorMap, where)
    assert.deepEqual(view(doc), vector.expect, where)
  })
})

test(`the 5,320 documents of y-crdt end in the expected state (seed ${SEED})`, async () => {
  const decoder = decoding.createDecoder(readFileSync(new URL('yjs-public/ycrdt-small-test-dataset.bin', FIXTURES)))
  const documents = Array.from({ length: decoding.readVarUint(decoder) }, (_, number) => {
    const updates = Array.from({ length: decoding.readVarUint(decoder) }, () => decoding.readVarUint8Array(decoder))
    const text = decoding.readVarString(decoder)
    return { number, updates, expect: { text, map: decoding.readAny(decoder), array: decoding.readAny(decoder) } }
  })
  assert.equal(documents.length, 5320)
  await forEachConcurrently(documents, async ({ number, updates, expect }) => {
    const name = `ycrdt-${number}`
    await send(name, updates, random(SEED + number))
    const doc = new Y.Doc()
    Y.applyUpdate(doc, await read(name))
    const found = {
      text: doc.getText('text').toString(),
      map: doc.getMap('map').toJSON(),
      array: doc.getArray('array').toJSON(),
    }
    assert.deepEqual(found, expect, `${name}, SYNCLINE_SEED=${SEED}`)
  })
})

test('the documents of Yjs 13.2 end in the expected state', async () => {
  const documents = JSON.parse(readFileSync(new URL('yjs-public/yjs-13-compat.json', FIXTURES)))
  assert.equal(documents.length, 3)
  for (const { name, update } of documents) {
    await send(`compat-${encodeURIComponent(name)}`, [bytes(update)], random(SEED))
    const [original, received] = [new Y.Doc(), new Y.Doc()]
    Y.applyUpdate(original, bytes(update))
    Y.applyUpdate(received, await read(`compat-${encodeURIComponent(name)}`))
    assert.deepEqual(Y.encodeStateAsUpdate(received), Y.encodeStateAsUpdate(original), name)
  }
})

/** Sends `updates` shuffled and grouped, answers each step 1 of the server, and returns when the server has applied all. */
async function send(name, updates, next) {
  const everything = Y.mergeUpdates(updates)
  const socket = await Socket.open(name)
  for (const group of groups(shuffled(updates, next), next)) socket.send(2, group)
  // The server handles messages in order, so its answer to this step 1 comes after all updates. If it sent a step 1
  // of its own meanwhile, that was answered, and this loop asks again.
  for (let answered = -1; answered !== socket.answers; ) {
    answered = socket.answers
    socket.send(0, Uint8Array.of(0))
    await socket.until(1, () => everything)
  }
  socket.close()
}

/** The whole document, as the server sends it to a client without state. */
async function read(name) {
  const socket = await Socket.open(name)
  socket.send(0, Uint8Array.of(0))
  const update = await socket.until(1, () => Uint8Array.of(0, 0))
  socket.close()
  return update
}

class Socket {
  #ws
  #received = []
  #wake = () => {}
  /** Number of step 1 messages of the server that were answered. */
  answers = 0

  static open(name) {
    return new Promise((resolve, reject) => {
      const socket = new Socket()
      socket.#ws = new WebSocket(`${server.url}/${name}`)
      socket.#ws.binaryType = 'arraybuffer'
      socket.#ws.on('open', () => resolve(socket))
      socket.#ws.on('error', reject)
      socket.#ws.on('message', (data) => {
        socket.#received.push(new Uint8Array(data))
        socket.#wake()
      })
      socket.#ws.on('close', (code, reason) => {
        socket.#received.push({ code, reason: reason.toString() })
        socket.#wake()
      })
    })
  }

  send(type, payload) {
    const encoder = encoding.createEncoder()
    encoding.writeVarUint(encoder, 0)
    encoding.writeVarUint(encoder, type)
    encoding.writeVarUint8Array(encoder, payload)
    this.#ws.send(encoding.toUint8Array(encoder))
  }

  /** The payload of the next sync message of `type`. A step 1 on the way is answered with `everything()`. */
  async until(type, everything) {
    for (;;) {
      while (this.#received.length === 0) await new Promise((resolve) => (this.#wake = resolve))
      const frame = this.#received.shift()
      if (!(frame instanceof Uint8Array)) throw new Error(`closed: ${JSON.stringify(frame)}`)
      const decoder = decoding.createDecoder(frame)
      if (decoding.readVarUint(decoder) !== 0) continue
      const found = decoding.readVarUint(decoder)
      const payload = decoding.readVarUint8Array(decoder)
      if (found === type) return payload
      if (found === 0) {
        this.send(1, everything())
        this.answers += 1
      }
    }
  }

  close() {
    this.#ws.removeAllListeners('close')
    this.#ws.close()
  }
}

async function forEachConcurrently(items, action) {
  const queue = items.values()
  await Promise.all(Array.from({ length: CONCURRENCY }, async () => {
    for (const item of queue) await action(item)
  }))
}

/** mulberry32: the same seed gives the same order. */
function random(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

function shuffled(items, next) {
  const all = items.slice()
  for (let last = all.length - 1; last > 0; last -= 1) {
    const other = Math.floor(next() * (last + 1))
    ;[all[last], all[other]] = [all[other], all[last]]
  }
  return all
}

/** Splits into groups of one to five updates, each merged into one update. */
function groups(updates, next) {
  const all = []
  for (let from = 0; from < updates.length; ) {
    const size = 1 + Math.floor(next() * 5)
    all.push(Y.mergeUpdates(updates.slice(from, from + size)))
    from += size
  }
  return all
}

function bytes(base64) {
  return new Uint8Array(Buffer.from(base64, 'base64'))
}

function stateVector(doc) {
  const entries = [...Y.decodeStateVector(Y.encodeStateVector(doc))].map(([client, clock]) => [String(client), clock])
  return Object.fromEntries(entries)
}

/** The content in the notation of the test vectors (tests/fixtures/README.md). */
function view(doc) {
  const delta = doc.getText('rich').toDelta().map(({ insert, attributes }) => ({
    insert: show(insert),
    ...(attributes ? { attributes } : {}),
  }))
  return {
    text: doc.getText('text').toString(),
    rich: doc.getText('rich').toString(),
    richDelta: delta,
    map: show(doc.getMap('map')),
    array: show(doc.getArray('array')),
    xml: doc.getXmlFragment('xml').toString(),
  }
}

function show(value) {
  if (value instanceof Y.Doc) return { $doc: value.guid }
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString('base64') }
  if (value === undefined) return { $undefined: true }
  if (value instanceof Y.Text) return value.toString()
  if (value instanceof Y.Map) return Object.fromEntries([...value.entries()].map(([key, item]) => [key, show(item)]))
  if (value instanceof Y.Array) return value.toArray().map(show)
  if (Array.isArray(value)) return value.map(show)
  if (value && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, show(item)]))
  }
  return value
}
