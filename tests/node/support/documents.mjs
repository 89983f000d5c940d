// Tests whether Yjs documents are equal, and whether a document contains an update.

import assert from 'node:assert/strict'
import { isDeepStrictEqual } from 'node:util'
import * as Y from 'yjs'

/** Fails with the difference unless all documents have the same state vector, deletions and units of content. */
export function assertAllEqual(docs) {
  const [first, ...others] = docs
  const expected = everything(first)
  for (const other of others) assert.deepEqual(everything(other), expected)
}

/** True if `assertAllEqual` would pass. Cheap while the documents differ. */
export function allEqual(docs) {
  const [first, ...others] = docs
  const snapshot = Y.snapshot(first)
  if (!others.every((other) => Y.equalSnapshots(Y.snapshot(other), snapshot))) return false
  if (docs.some((doc) => doc.store.pendingStructs || doc.store.pendingDs)) return false
  // Not compared as JSON: yrs writes the keys of an object in any order.
  const expected = everything(first)
  return others.every((other) => isDeepStrictEqual(everything(other), expected))
}

/**
 * The content of `Y.encodeStateAsUpdate`, unit by unit, so that replicas that split the same content into different structs
 * compare equal. Deleted content is equal whether it was garbage-collected or not.
 */
function everything(doc) {
  const { structs, ds } = Y.decodeUpdate(Y.encodeStateAsUpdate(doc))
  const units = {}
  for (const struct of structs) {
    const { client, clock } = struct.id
    const list = (units[client] ??= [])
    const content = 'content' in struct ? unitsOf(struct.content) : null
    for (let i = 0; i < struct.length; i++) {
      const deleted = !content || Y.isDeleted(ds, Y.createID(client, clock + i))
      list[clock + i] = deleted ? 'deleted' : content[i]
    }
  }
  return { units, pending: Boolean(doc.store.pendingStructs || doc.store.pendingDs) }
}

function unitsOf(content) {
  if (content instanceof Y.ContentFormat) return [{ format: content.key, value: content.value }]
  if (content instanceof Y.ContentType) return [{ type: content.type.constructor.name, node: content.type.nodeName }]
  return content.getContent()
}

/** Describes the first part of `update` that the document lacks; null if it has all of it. */
export function missingFrom(doc, update) {
  const { structs, ds } = Y.decodeUpdate(update)
  for (const struct of structs) {
    const { client, clock } = struct.id
    const state = Y.getState(doc.store, client)
    if (clock + struct.length > state)
      return `structs of client ${client} up to ${clock + struct.length}, it has ${state}`
  }
  const deleted = Y.createDeleteSetFromStructStore(doc.store)
  for (const [client, ranges] of ds.clients) {
    for (const { clock, len } of ranges) {
      for (let i = 0; i < len; i++) {
        if (!Y.isDeleted(deleted, Y.createID(client, clock + i)))
          return `a deletion of client ${client} at ${clock + i}`
      }
    }
  }
  return null
}
