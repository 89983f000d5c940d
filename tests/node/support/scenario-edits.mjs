// The edits of a scenario as an npm client makes them. Each puts its id into the document, so that the final check can find
// it. `syncline-sim actor` makes the same edits: `client-sim/src/faults/actor/edits.rs`. The layouts are those of "Offline
// data types" in `protocol/SPEC.md`, so that both kinds of client edit the same counter, map and choice.
//
// kind              root, type         what it does
// insert, text      text, Y.Text       inserts [ID] between two tokens
// append            log, Y.Text        appends [ID]
// delete            text               deletes a token
// map               map, Y.Map         sets the key ID
// push, array       list, Y.Array      pushes ID
// put               keys, Y.Map        writes ID to one of three keys; the CRDT decides
// count, counter    counter, Y.Map     adds to a counter
// last              last, Y.Array      writes ID to one of three keys of a latest-wins map; the clock decides
// choice            choice, Y.Map      writes ID and replaces all versions seen

import { randomBytes } from 'node:crypto'

const KEYS = 3n
const MAX_AMOUNT = 9n
/** Clock ticks per millisecond: `client/src/types/clock.rs`. */
const TICKS_PER_MS = 3_000
const CROCKFORD = '0123456789ABCDEFGHJKMNPQRSTVWXYZ'
/** Largest number of replaced writes that a write of a choice names. */
const MAX_OVER = 32
const COUNTER_PREFIX = 'counter::'

/** The amount a `count` edit adds. `dice` is a BigInt below 2^64. */
export const amountOf = (dice) => Number(1n + (dice % MAX_AMOUNT))

/** The key a `put` or `last` edit writes. */
export const keyOf = (dice) => `k${dice % KEYS}`

/** Applies an edit; returns the ids of the edits it replaced, or null if there was nothing to do. */
export function applyEdit(doc, kind, id, dice) {
  const edit = EDITS[kind]
  if (!edit) throw new Error(`${JSON.stringify(kind)} is not a kind of edit`)
  return doc.transact(() => edit(doc, id, dice))
}

const EDITS = {
  insert(doc, id, dice) {
    const text = doc.getText('text')
    const places = [0, ...[...text.toString().matchAll(/\]/g)].map(({ index }) => index + 1)]
    text.insert(pick(places, dice), `[${id}]`)
    return []
  },
  append(doc, id) {
    const log = doc.getText('log')
    log.insert(log.length, `[${id}]`)
    return []
  },
  delete(doc, _id, dice) {
    const text = doc.getText('text')
    const tokens = [...text.toString().matchAll(/\[([^[\]]+)\]/g)]
    if (tokens.length === 0) return null
    const [token, victim] = pick(tokens, dice)
    text.delete(pick(tokens, dice).index, token.length)
    return [victim]
  },
  map(doc, id) {
    doc.getMap('map').set(id, id)
    return []
  },
  push(doc, id) {
    doc.getArray('list').push([id])
    return []
  },
  put(doc, id, dice) {
    const map = doc.getMap('keys')
    const before = map.get(keyOf(dice))
    map.set(keyOf(dice), id)
    return before === undefined ? [] : [before]
  },
  count(doc, _id, dice) {
    const counter = doc.getMap('counter')
    const mine = COUNTER_PREFIX + doc.clientID
    counter.set(mine, (counter.get(mine) ?? 0) + amountOf(dice))
    return []
  },
  last(doc, id, dice) {
    const log = doc.getArray('last')
    const seen = log.toArray().flatMap((entry, index) => (entry.Key === keyOf(dice) ? [{ ...entry, index }] : []))
    const newest = Math.max(0, ...seen.map(({ Timestamp }) => Timestamp))
    for (const { index } of seen.toReversed()) log.delete(index)
    log.push([{ Key: keyOf(dice), Value: id, Timestamp: Math.max(Date.now() * TICKS_PER_MS, newest + 1) }])
    return seen.map(({ Value }) => Value)
  },
  choice(doc, id) {
    const map = doc.getMap('choice')
    const seen = [...map.entries()]
    const current = choices(doc)
    const over = new Set(seen.flatMap(([ulid, version]) => [ulid, ...version.over]))
    for (const [ulid] of seen) map.delete(ulid)
    const author = id.split('-')[0]
    map.set(newUlid(), { v: id, by: author, at: Date.now(), over: [...over].sort().slice(-MAX_OVER) })
    return current
  },
}
EDITS.text = EDITS.insert
EDITS.array = EDITS.push
EDITS.counter = EDITS.count

/** The counter: the sum of all increments. */
export function count(doc) {
  const totals = [...doc.getMap('counter').entries()].filter(([key]) => key.startsWith(COUNTER_PREFIX))
  return totals.reduce((sum, [, total]) => sum + total, 0)
}

/** The latest-wins map: key to value. */
export function last(doc) {
  const best = new Map()
  for (const entry of doc.getArray('last').toArray()) {
    const known = best.get(entry.Key)
    if (!known || isNewer(entry, known)) best.set(entry.Key, entry)
  }
  return Object.fromEntries([...best].map(([key, { Value }]) => [key, Value]).sort())
}

/** Newer wins; ties go to the greater device, then to the greater value. */
function isNewer(one, other) {
  const order = ({ Timestamp, Device = '', Value }) => [Timestamp, Device, JSON.stringify(Value) ?? '']
  const [a, b] = [order(one), order(other)]
  const at = a.findIndex((part, index) => part !== b[index])
  return at >= 0 && a[at] > b[at]
}

/** The current values of the choice, sorted. */
export function choices(doc) {
  const all = [...doc.getMap('choice').entries()]
  const replaced = new Set(all.flatMap(([, { over }]) => over))
  return all.filter(([ulid]) => !replaced.has(ulid)).map(([, { v }]) => v).sort()
}

/** The whole content as JSON, for output and checks. */
export function contents(doc) {
  const roots = { text: 'getText', log: 'getText', map: 'getMap', list: 'getArray', keys: 'getMap' }
  const plain = Object.entries(roots).map(([name, get]) => [name, doc[get](name).toJSON()])
  return { ...Object.fromEntries(plain), count: count(doc), last: last(doc), choices: choices(doc) }
}

/** The ids in a text, and the rest of the text (`debris`). */
export function tokens(text) {
  const found = [...text.matchAll(/\[([^[\]]+)\]/g)].map(([, id]) => id)
  return { found, debris: text.replaceAll(/\[[^[\]]+\]/g, '') }
}

function pick(list, dice) {
  return list[Number(dice % BigInt(list.length))]
}

function newUlid() {
  let number = (BigInt(Date.now()) << 80n) | BigInt(`0x${randomBytes(10).toString('hex')}`)
  let text = ''
  for (let i = 0; i < 26; i++, number >>= 5n) text = CROCKFORD[Number(number & 31n)] + text
  return text
}
