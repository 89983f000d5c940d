// The offline data types implemented with npm yjs alone, as protocol/SPEC.md describes them: reads the documents that our
// client wrote, and writes those that client/tests/types_fixtures.rs reads.

import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'

import * as Y from 'yjs'

const FIXTURES = new URL('../fixtures/types/', import.meta.url)
const NOW = 1_790_000_000_000
const TICKS_PER_MS = 3000
const expected = JSON.parse(readFileSync(new URL('expected.json', FIXTURES), 'utf8'))

/** Loads a document from the update in a fixture file. */
function load(name) {
  const doc = new Y.Doc()
  Y.applyUpdate(doc, readFileSync(new URL(name, FIXTURES)))
  return doc
}

/** Merges concurrent edits: each is made on its own replica. */
function together(...edits) {
  const merged = new Y.Doc()
  edits.forEach((edit, index) => {
    const doc = new Y.Doc()
    doc.clientID = 101 + index
    edit(doc)
    Y.applyUpdate(merged, Y.encodeStateAsUpdate(doc))
  })
  return merged
}

/** The value with bytes as `Value::to_json` represents them. */
function plain(value) {
  return value instanceof Uint8Array ? { $bytes: Buffer.from(value).toString('base64') } : value
}

// --- readers, one for each type ---

function lwwMap(doc) {
  const winners = {}
  const beats = (one, other) =>
    one.Timestamp !== other.Timestamp ? one.Timestamp > other.Timestamp : (one.Device ?? '') > (other.Device ?? '')
  for (const raw of doc.getArray('settings').toArray()) {
    const entry = raw instanceof Y.Map ? raw.toJSON() : raw
    if (winners[entry.Key] === undefined || beats(entry, winners[entry.Key])) winners[entry.Key] = entry
  }
  const shown = Object.entries(winners).map(([key, entry]) => {
    const value = 'Value' in entry ? { value: plain(entry.Value) } : {}
    return [key, { ...value, stamp: entry.Timestamp, device: entry.Device ?? '' }]
  })
  return Object.fromEntries(shown)
}

function counter(doc) {
  const sum = (root, name) => {
    const own = [...doc.getMap(root)].filter(([key]) => key.startsWith(`counter:${name}:`))
    return own.filter(([key]) => /^(0|[1-9]\d*)$/.test(key.slice(`counter:${name}:`.length))).reduce((all, [, n]) => all + n, 0)
  }
  return { likes: sum('likes', ''), 'post/views': sum('post', 'views') }
}

function choice(doc) {
  const writes = [...doc.getMap('title')].sort(([one], [other]) => (one < other ? -1 : 1))
  const replaced = new Set(writes.flatMap(([, write]) => write.over))
  const current = writes.filter(([id]) => !replaced.has(id))
  return current.map(([id, { v, by, at }]) => ({ id, author: by, at, value: plain(v) }))
}

function register(doc) {
  const states = [...doc.getMap('syncline:registers')]
  const shown = states.map(([name, { v, n, id, by, at, ids }]) => [name, { value: plain(v), version: n, id, author: by, at, ids }])
  return Object.fromEntries(shown)
}

const READERS = { 'lww-map': lwwMap, counter, choice, register }

for (const [name, read] of Object.entries(READERS)) {
  test(`${name}: npm yjs reads a document of our client`, () => {
    assert.deepEqual(read(load(`${name}.bin`)), expected[name])
  })
}

// --- writers ---

const ulid = (number) => `01JZ0000000000000000${String(number).padStart(6, '0')}`

const WRITTEN = {
  'lww-map': () =>
    together(
      (doc) =>
        doc.getArray('settings').push([
          { Key: 'theme', Value: 'dark', Timestamp: NOW * TICKS_PER_MS + 1, Device: 'js-a' },
          { Key: 'tie', Value: 'a', Timestamp: NOW * TICKS_PER_MS, Device: 'js-a' },
          { Key: 'list', Value: [1, { two: null }], Timestamp: NOW * TICKS_PER_MS, Device: 'js-a' },
          { Key: 'plain', Value: 2 ** 40, Timestamp: NOW * TICKS_PER_MS },
        ]),
      (doc) =>
        doc.getArray('settings').push([
          { Key: 'theme', Value: 'light', Timestamp: NOW * TICKS_PER_MS, Device: 'js-b' },
          { Key: 'tie', Value: 'b', Timestamp: NOW * TICKS_PER_MS, Device: 'js-b' },
          { Key: 'gone', Timestamp: NOW * TICKS_PER_MS, Device: 'js-b' },
          { Key: 'plain', Value: 'ties go to who names a device', Timestamp: NOW * TICKS_PER_MS, Device: 'js-b' },
        ]),
    ),
  counter: () =>
    together(
      (doc) => {
        doc.getMap('likes').set(`counter::${doc.clientID}`, 3)
        doc.getMap('post').set(`counter:views:${doc.clientID}`, 2 ** 40)
      },
      (doc) => {
        doc.getMap('likes').set(`counter::${doc.clientID}`, -5)
        doc.getMap('post').set(`counter:views:${doc.clientID}`, 1)
        doc.getMap('post').set('counter:views:x', 99)
      },
    ),
  choice: () =>
    together(
      (doc) => doc.getMap('title').set(ulid(2), { v: 'A', by: 'ann', at: NOW, over: [ulid(1)] }),
      (doc) => doc.getMap('title').set(ulid(1), { v: 'draft', by: 'ann', at: NOW, over: [] }),
      (doc) => doc.getMap('title').set(ulid(3), { v: new Uint8Array([1, 2]), by: 'bob', at: NOW, over: [] }),
    ),
}

test('documents written by npm yjs equal the committed fixtures', () => {
  const made = Object.entries(WRITTEN).map(([name, write]) => [name, write()])
  const meanings = Object.fromEntries(made.map(([name, doc]) => [name, READERS[name](doc)]))
  if (process.env.SYNCLINE_WRITE_FIXTURES) {
    for (const [name, doc] of made) writeFileSync(new URL(`${name}.by-npm.bin`, FIXTURES), Y.encodeStateAsUpdate(doc))
    writeFileSync(new URL('by-npm.json', FIXTURES), JSON.stringify(meanings, null, 2) + '\n')
  }
  assert.deepEqual(JSON.parse(readFileSync(new URL('by-npm.json', FIXTURES), 'utf8')), meanings)
  for (const [name, doc] of made) {
    assert.deepEqual(Buffer.from(Y.encodeStateAsUpdate(doc)), readFileSync(new URL(`${name}.by-npm.bin`, FIXTURES)), name)
  }
})

// Not in package.json, because not every registry has it. The test runs where it is installed.
const { LWWMap } = await import('y-lwwmap').catch(() => ({}))

test('npm y-lwwmap reads and overwrites our map', { skip: LWWMap ? false : 'y-lwwmap is not installed' }, () => {
  const doc = load('lww-map.bin')
  const map = new LWWMap(doc.getArray('settings'))
  for (const [key, { value }] of Object.entries(expected['lww-map'])) {
    // y-lwwmap orders equal stamps by MD5: the only difference, which lasts until the next write.
    if (key !== 'tie') assert.deepEqual(plain(map.get(key)), value, key)
  }
  map.set('theme', 'from npm')
  assert.equal(lwwMap(doc).theme.value, 'from npm')
})
