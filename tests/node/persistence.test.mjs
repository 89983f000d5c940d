// The file store that replaces y-indexeddb in tests: stored updates are on disk and survive a killed process.

import assert from 'node:assert/strict'
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import * as Y from 'yjs'
import { assertAllEqual } from './support/documents.mjs'
import { FilePersistence } from './support/indexeddb.mjs'
import { temporaryDirectory } from './support/server.mjs'

async function open(path, doc = new Y.Doc()) {
  const persistence = new FilePersistence(path, doc)
  await persistence.whenSynced
  return { doc, persistence, text: doc.getText('text') }
}

test('local and remote edits are there exactly once after reopening', async () => {
  const path = join(temporaryDirectory(), 'doc')
  const one = await open(path)
  one.text.insert(0, 'mine')
  const other = new Y.Doc()
  other.getText('text').insert(0, 'theirs ')
  Y.applyUpdate(one.doc, Y.encodeStateAsUpdate(other), 'a provider')
  const size = statSync(path).size
  // The first store is not closed, as if its process had been killed.
  const again = await open(path)
  assertAllEqual([one.doc, again.doc])
  assert.equal(statSync(path).size, size, 'what was loaded is not stored again')
  again.text.insert(0, '!')
  const third = await open(path)
  assertAllEqual([again.doc, third.doc])
})

test('edits made before the file is loaded are kept', async () => {
  const path = join(temporaryDirectory(), 'doc')
  const one = await open(path)
  one.text.insert(0, 'stored')
  const early = new Y.Doc()
  const persistence = new FilePersistence(path, early)
  early.getText('text').insert(0, 'early ')
  await persistence.whenSynced
  const again = await open(path)
  assertAllEqual([early, again.doc])
  assert.equal(again.text.length, 'early stored'.length)
})

test('an incomplete record at the end is truncated, and later records are readable', async () => {
  const path = join(temporaryDirectory(), 'doc')
  const one = await open(path)
  one.text.insert(0, 'a')
  const whole = statSync(path).size
  one.text.insert(1, 'b')
  for (const harm of [() => truncateSync(path, statSync(path).size - 1), flipLastByte]) {
    harm(path)
    const again = await open(path)
    assert.equal(again.text.toString(), 'a')
    assert.equal(statSync(path).size, whole)
    again.text.insert(1, 'c')
    assert.equal((await open(path)).text.toString(), 'ac')
  }
})

test('many updates are compacted into one record', async () => {
  const path = join(temporaryDirectory(), 'doc')
  const { doc, text } = await open(path)
  const sizes = []
  for (let i = 0; i < 1_200; i++) {
    text.insert(i, 'x')
    sizes.push(statSync(path).size)
  }
  assert(sizes.some((size, i) => i > 0 && size < sizes[i - 1] / 10), 'the file shrank')
  assertAllEqual([doc, (await open(path)).doc])
})

test('a destroyed store stops storing, and clearing it removes the file', async () => {
  const path = join(temporaryDirectory(), 'doc')
  const { text, persistence } = await open(path)
  text.insert(0, 'a')
  await persistence.destroy()
  text.insert(0, 'b')
  const again = await open(path)
  assert.equal(again.text.toString(), 'a')
  await again.persistence.clearData()
  assert(!existsSync(path))
})

function flipLastByte(path) {
  const bytes = readFileSync(path)
  bytes[bytes.length - 1] ^= 255
  writeFileSync(path, bytes)
}
