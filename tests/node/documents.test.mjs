// The comparisons the other tests rely on: they must detect differences.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as Y from 'yjs'
import { allEqual, assertAllEqual, missingFrom } from './support/documents.mjs'

test('documents are equal however their content is split into structs', () => {
  const one = typed(['a', 'b', 'c'])
  const two = new Y.Doc()
  Y.applyUpdate(two, Y.encodeStateAsUpdate(one))
  assert(allEqual([one, two]))
  const whole = typed(['abc'])
  assert(allEqual([one, whole]))
  assertAllEqual([one, two, whole])
})

test('documents with equal ids but other content, formats or deletions are not equal', () => {
  const others = {
    content: typed(['abd']),
    shorter: typed(['ab']),
    longer: typed(['abc', 'd']),
    deletion: edited((text) => text.delete(1, 1)),
    format: edited((text) => text.format(0, 1, { bold: true })),
  }
  for (const [what, other] of Object.entries(others)) {
    assert(!allEqual([typed(['abc']), other]), what)
    assert.throws(() => assertAllEqual([typed(['abc']), other]), what)
  }
})

test('a document with a pending update is not equal to one without', () => {
  const whole = typed(['a', 'b'])
  const pending = typed(['a'])
  const [, , third] = updatesOf(['a', 'b', 'c'])
  Y.applyUpdate(pending, third)
  assert(!allEqual([typed(['a']), pending]))
  assert(!allEqual([whole, pending]))
})

test('missingFrom names insertions and deletions that a document lacks', () => {
  const [first, second] = updatesOf(['a', 'b'])
  const doc = new Y.Doc()
  assert.match(missingFrom(doc, first), /structs of client 1/)
  Y.applyUpdate(doc, first)
  assert.equal(missingFrom(doc, first), null)
  assert.match(missingFrom(doc, second), /structs of client 1/)

  const deleted = edited((text) => text.delete(0, 1))
  const deletion = Y.encodeStateAsUpdate(deleted)
  assert.match(missingFrom(typed(['abc']), deletion), /a deletion of client 1/)
  assert.equal(missingFrom(deleted, deletion), null)
})

function typed(parts) {
  const doc = new Y.Doc()
  doc.clientID = 1
  for (const part of parts) doc.getText('text').insert(doc.getText('text').length, part)
  return doc
}

function edited(edit) {
  const doc = typed(['abc'])
  edit(doc.getText('text'))
  return doc
}

function updatesOf(parts) {
  const doc = new Y.Doc()
  doc.clientID = 1
  const updates = []
  doc.on('update', (update) => updates.push(update))
  for (const part of parts) doc.getText('text').insert(doc.getText('text').length, part)
  return updates
}
