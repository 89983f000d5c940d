// Hostile payloads: small messages that exhaust the memory or time of an unprotected server, or crash it. See protocol/SPEC.md.

import { bytes, join, text } from './wire.mjs'

const GC = 0
const STRING = 4
const ANY = 8
const TYPE = 7
const ARRAY_TYPE = 0
const ROOT_PARENT = 1
const ID_PARENT = 0
const ANY_ARRAY = 117
const ANY_MAP = 118
const ANY_NULL = 126

/** name -> a v1 update. */
export function updateBombs() {
  return {
    'an update of 4 bytes that claims 268 million clients': hex('ffffff7f'),
    'an update of 3 bytes that claims 2 million clients': hex('ffff7f'),
    'an update that claims 268 million structs': hex('01ffffff7f0100'),
    'a delete set that claims 268 million clients': hex('00ffffff7f'),
    'a delete set that claims 268 million ranges': hex('000101ffffff7f'),
    'a string longer than the update': bytes(1, 1, 7, 0, STRING, ROOT_PARENT, text('t'), hex('ffffff7f'), hex('61'), 0),
    'arrays nested 100,000 deep in one value': anyUpdate(repeated(100_000, ANY_ARRAY, 1), ANY_NULL),
    'maps nested 100,000 deep in one value': anyUpdate(repeated(100_000, ANY_MAP, 1, 1, 0x61), ANY_NULL),
    '1,000,000 clients without structs': bytes(
      manyClients(1_000_000, (i) => [0, i + 1, 0]),
      0,
    ),
    '1,000,000 clients in a delete set': bytes(
      0,
      manyClients(1_000_000, (i) => [i + 1, 0]),
    ),
    'a clock near 2^32': hex('0101b102ffffffff0fc40a030a0f016100'),
  }
}

/** name -> a state vector. */
export function stateVectorBombs() {
  return {
    'a state vector of 4 bytes that claims 268 million clients': hex('ffffff7f'),
    'a state vector of 1,000,000 clients': manyClients(1_000_000, (i) => [i + 1, 1]),
  }
}

/** name -> an awareness update. */
export function awarenessBombs() {
  return {
    'awareness of 4 bytes that claims 268 million clients': hex('ffffff7f'),
    'awareness of 500,000 clients': manyClients(500_000, (i) => [i + 1, 1, text('{}')]),
    'awareness nested 100,000 deep': bytes(1, 7, 1, text('['.repeat(100_000) + ']'.repeat(100_000))),
    'awareness that is not JSON': bytes(1, 7, 1, text('{"name":')),
  }
}

/** name -> updates that are expensive to integrate into a tree, sent in order by one client. */
export function bombsInPieces() {
  const pieces = 600
  const levels = 500
  return {
    'types nested 100,000 deep and then deleted': [nestedTypes(0, 100_000, [1, 7, 1, 0, 1])],
    '30,000 clients whose ids collide in many tables': [
      bytes(
        manyClients(30_000, (i) => [1, collidingId(i), 0, GC, 1]),
        0,
      ),
    ],
    '30,000 such ids in a delete set': [
      bytes(
        0,
        manyClients(30_000, (i) => [collidingId(i), 1, 0, 1]),
      ),
    ],
    'types nested 300,000 deep, 500 levels at a time, and then deleted': [
      ...Array.from({ length: pieces }, (_, i) => nestedTypes(i * levels, levels)),
      bytes(0, 1, 7, 1, 0, 1),
    ],
    '10,000 clients whose ids collide, 20 at a time': Array.from({ length: 500 }, (_, i) =>
      bytes(
        manyClients(20, (j) => [1, collidingId(i * 20 + j), 0, STRING, ROOT_PARENT, text('t'), text('x')]),
        0,
      ),
    ),
  }
}

/** Ids below 2^53 with equal low bits, which collide in a hash table that uses the id as its hash. */
function collidingId(i) {
  return (i + 1) * 2 ** 32
}

function anyUpdate(...value) {
  return bytes(1, 1, 7, 0, ANY, ROOT_PARENT, text('t'), 1, ...value, 0)
}

/** Arrays of client 7 from clock `from` on, each the child of the one before; the one at clock 0 is in a root type. */
function nestedTypes(from, levels, deleteSet = [0]) {
  const parts = [1, levels, 7, from]
  for (let clock = from; clock < from + levels; clock++) {
    if (clock === 0) parts.push(TYPE, ROOT_PARENT, text('t'), ARRAY_TYPE)
    else parts.push(TYPE, ID_PARENT, 7, clock - 1, ARRAY_TYPE)
  }
  parts.push(...deleteSet)
  return join(parts)
}

/** The count, followed by the parts that `entry` returns for each client. */
function manyClients(count, entry) {
  const parts = [count]
  for (let i = 0; i < count; i++) parts.push(...entry(i))
  return join(parts)
}

function repeated(count, ...one) {
  return Uint8Array.from({ length: count * one.length }, (_, i) => one[i % one.length])
}

function hex(digits) {
  return new Uint8Array(Buffer.from(digits, 'hex'))
}
