// Random plans for structs-fuzz.mjs: documents edited by several Yjs clients, and the updates to give to a store.

import * as Y from 'yjs'

/** The root types of every document. */
export const ROOTS = { text: 'Text', rich: 'Text', map: 'Map', array: 'Array', xml: 'XmlFragment' }

const WORDS = ['sync', 'a', 'b', ' ', 'zoë', '日本', 'e\u0301', 'x\ny', '😀', '😀😀', 'a😀b', '👩‍👩‍👧', '𝒳y', 'longer run of plain text, ']
const KEYS = ['a', 'b', 'c', 'ключ']
const FORMATS = [{ bold: true }, { bold: null }, { italic: true }, { color: 'red' }, { color: null }, { link: { href: 'x' } }]

/** A seeded random number generator (mulberry32). */
export class Random {
  constructor(seed) {
    this.state = seed >>> 0
  }

  next() {
    this.state = (this.state + 0x6d2b79f5) >>> 0
    let t = this.state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }

  int(below) {
    return Math.floor(this.next() * below)
  }

  pick(list) {
    return list[this.int(list.length)]
  }

  chance(p) {
    return this.next() < p
  }

  shuffle(list) {
    for (let k = list.length - 1; k > 0; k--) {
      const j = this.int(k + 1)
      ;[list[k], list[j]] = [list[j], list[k]]
    }
  }
}

/** An empty document with all roots. */
export function newDoc(options = {}) {
  const doc = new Y.Doc({ guid: 'document', ...options })
  for (const [name, kind] of Object.entries(ROOTS)) doc[`get${kind}`](name)
  return doc
}

function clientIds(random, count) {
  const scheme = random.int(4)
  const ids = new Set()
  while (ids.size < count) {
    if (scheme === 0) ids.add(1 + random.int(200))
    else if (scheme === 1) ids.add(7 + random.int(1 << 20) * 4096)
    else if (scheme === 2) ids.add(Math.floor(random.next() * 2 ** 53))
    else ids.add(random.chance(0.5) ? random.int(100) : Math.floor(random.next() * 2 ** 32))
  }
  return [...ids]
}

/** Makes random edits. */
class Editor {
  constructor(random, isStrict) {
    this.random = random
    this.isStrict = isStrict
    this.subdocuments = 0
  }

  value(depth = 0) {
    const { random } = this
    switch (random.int(depth > 2 ? 10 : 15)) {
      case 0: return random.int(1000) - 500
      case 1: return random.pick(WORDS)
      case 2: return random.chance(0.5)
      case 3: return null
      case 4: return undefined
      case 5: return BigInt(random.int(2 ** 31)) * 4294967296n - 5n
      case 6: return { k: random.int(9), s: random.pick(WORDS), deep: [1, { x: null, y: undefined }] }
      case 7: return [random.int(5), random.pick(WORDS), [true, random.next() * 1e9]]
      case 8: return new Uint8Array(Array.from({ length: random.int(6) }, () => random.int(256)))
      case 9: return new Y.Doc({ guid: `sub-${this.subdocuments++}`, meta: random.chance(0.5) ? { m: 1 } : undefined, autoLoad: random.chance(0.3) })
      default: return this.type(depth)
    }
  }

  /** Values for lists, which accept `undefined` and `BigInt` only inside another value. */
  values(count, depth) {
    const fit = value => (value === undefined || typeof value === 'bigint' ? [value] : value)
    return Array.from({ length: count }, () => fit(this.value(depth)))
  }

  type(depth) {
    const { random } = this
    switch (random.int(5)) {
      case 0: {
        const map = new Y.Map()
        for (let n = random.int(3); n > 0; n--) map.set(random.pick(KEYS), this.value(depth + 1))
        return map
      }
      case 1: {
        const array = new Y.Array()
        array.push(this.values(random.int(4), depth + 1))
        return array
      }
      case 2: return this.xml(depth)
      default: return new Y.Text(random.pick(WORDS))
    }
  }

  xml(depth) {
    const { random } = this
    if (depth > 2 || random.chance(0.4)) return new Y.XmlText(random.pick(WORDS))
    const element = new Y.XmlElement(random.pick(['p', 'h1', 'li']))
    if (random.chance(0.5)) element.setAttribute(random.pick(KEYS), random.pick(WORDS))
    element.insert(0, Array.from({ length: random.int(3) }, () => this.xml(depth + 1)))
    return element
  }

  text(text) {
    const { random } = this
    const length = text.length
    const at = random.chance(0.4) ? length : random.int(length + 1)
    const span = Math.min(length - at, 1 + random.int(5))
    switch (random.int(length === 0 ? 4 : 10)) {
      case 0: case 1: case 2: return text.insert(at, random.pick(WORDS))
      case 3: return text.insert(at, random.pick(WORDS), random.pick(FORMATS))
      case 4: case 5: case 6: return span > 0 && text.delete(at, span)
      case 7: return span > 0 && this.format(text, at, span)
      case 8: return text.insertEmbed(at, random.chance(0.3) ? this.type(1) : { image: random.int(9) })
      default: return random.chance(0.5) ? text.setAttribute(random.pick(KEYS), random.int(9)) : text.removeAttribute(random.pick(KEYS))
    }
  }

  format(text, at, span) {
    const units = text.toDelta().map(({ insert }) => (typeof insert === 'string' ? insert : '-')).join('')
    const isHalf = at => units.charCodeAt(at) >> 10 === 0x37
    if (!this.isStrict || (!isHalf(at) && !isHalf(at + span))) text.format(at, span, this.random.pick(FORMATS))
  }

  list(list, values) {
    const { random } = this
    const at = random.chance(0.4) ? list.length : random.int(list.length + 1)
    const span = Math.min(list.length - at, 1 + random.int(3))
    if (span > 0 && random.chance(0.45)) list.delete(at, span)
    else list.insert(at, values())
  }

  edit(type) {
    const { random } = this
    if (type instanceof Y.Text) this.text(type)
    else if (type instanceof Y.Map) {
      if (random.chance(0.3)) type.delete(random.pick(KEYS))
      else type.set(random.pick(KEYS), this.value(1))
    } else if (type instanceof Y.Array) this.list(type, () => this.values(1 + random.int(3), 1))
    else if (type instanceof Y.XmlElement && random.chance(0.4)) {
      if (random.chance(0.3)) type.removeAttribute(random.pick(KEYS))
      else type.setAttribute(random.pick(KEYS), random.pick(WORDS))
    } else this.list(type, () => Array.from({ length: 1 + random.int(2) }, () => this.xml(1)))
  }

  /** Inserts or deletes where this client wrote last, or near the beginning, where the others write. */
  typeAt(doc, list) {
    const { random } = this
    const last = doc.store.clients.get(doc.clientID)?.at(-1)
    let at = random.int(Math.min(list.length, 3) + 1)
    if (last?.parent === list && random.chance(0.7)) {
      at = last.deleted ? 0 : last.length
      for (let item = last.left; item !== null; item = item.left) at += item.deleted || !item.countable ? 0 : item.length
    }
    if (at < list.length && random.chance(0.15)) list.delete(at, 1)
    else if (at > 0 && random.chance(0.1)) list.delete(at - 1, 1)
    else if (list instanceof Y.Text && random.chance(0.1)) this.format(list, 0, at)
    else if (list instanceof Y.Text) list.insert(at, random.pick(['a', 'b', 'cd', '😀']))
    else list.insert(at, list instanceof Y.Array ? [random.int(9)] : [new Y.XmlText('x')])
  }

  transaction(doc, roots, isFocused) {
    const { random } = this
    if (isFocused) return this.typeAt(doc, doc.share.get(roots[0]))
    doc.transact(() => {
      for (let n = 1 + random.int(4); n > 0; n--) {
        const types = liveTypes(doc)
        this.edit(random.chance(0.5) ? doc.share.get(random.pick(roots)) : random.pick(types))
      }
    })
  }
}

function liveTypes(doc) {
  const found = [...doc.share.values()]
  for (let k = 0; k < found.length; k++) {
    for (let item = found[k]._start; item !== null; item = item.right) {
      if (!item.deleted && item.content instanceof Y.ContentType) found.push(item.content.type)
    }
    for (const item of found[k]._map.values()) {
      if (!item.deleted && item.content instanceof Y.ContentType) found.push(item.content.type)
    }
  }
  return found
}

/** A copy of a state vector with some clocks lowered at random, also to the middle of structs. */
export function lowered(random, vector) {
  const clocks = new Map()
  for (const [client, clock] of Y.decodeStateVector(vector)) {
    const lower = random.pick([0, clock, random.int(clock + 1), random.int(clock + 1)])
    if (lower > 0) clocks.set(client, lower)
  }
  return Y.encodeStateVector(clocks)
}

/** Lets clients edit and sync; returns their documents, their updates, and intermediate states. */
function play(random, isStrict) {
  const editor = new Editor(random, isStrict)
  const count = 2 + random.int(4)
  const names = Object.keys(ROOTS)
  // All clients type at one place and sync often, so that items have concurrent neighbours.
  const isFocused = random.chance(0.35)
  const roots = random.chance(0.4) ? [random.pick(names)] : names
  if (isFocused) roots.splice(0, roots.length, random.pick(['text', 'rich', 'array', 'xml']))
  const emitted = []
  const states = []
  const clients = clientIds(random, count).map(id => {
    const doc = newDoc({ gc: random.chance(0.6) })
    doc.clientID = id
    doc.on('update', update => emitted.push(update))
    const scope = [...doc.share.values()]
    return { doc, undo: random.chance(0.3) ? new Y.UndoManager(scope, { captureTimeout: 0 }) : null }
  })
  const sync = random.pick(isFocused ? [0.5, 0.8] : [0.05, 0.2, 0.5])
  const steps = random.pick([3, 3, 8, 8, 20, 20, 40, 40, 80, 250])
  for (let n = 0; n < steps; n++) {
    const { doc, undo } = random.pick(clients)
    if (undo && random.chance(0.3)) random.chance(0.6) ? undo.undo() : undo.redo()
    else editor.transaction(doc, roots, isFocused)
    if (random.chance(sync)) {
      const other = random.pick(clients).doc
      if (other !== doc) Y.applyUpdate(other, Y.encodeStateAsUpdate(doc, Y.encodeStateVector(other)))
    }
    if (random.chance(0.1)) states.push(state(random, doc, states, isStrict))
  }
  for (const { doc } of clients) states.push(state(random, doc, states, isStrict))
  return { docs: clients.map(({ doc }) => doc), emitted, states }
}

/** A client's state: in full, and as a diff to an earlier or lowered state vector. */
function state(random, doc, earlier, isStrict) {
  const vector = Y.encodeStateVector(doc)
  const known = earlier.length > 0 ? random.pick(earlier).vector : Y.encodeStateVector(new Map())
  const base = !isStrict && random.chance(0.4) ? lowered(random, vector) : known
  return { vector, whole: Y.encodeStateAsUpdate(doc), part: Y.encodeStateAsUpdate(doc, base) }
}

/** The updates: reordered, merged in groups, repeated and cut. */
function pieces(random, { emitted, states }, isStrict) {
  const base = vector => (isStrict ? random.pick(states).vector : lowered(random, vector))
  let list = emitted.slice()
  const disorder = random.int(4)
  if (disorder === 1) for (let k = 0; k + 1 < list.length; k += 1 + random.int(4)) [list[k], list[k + 1]] = [list[k + 1], list[k]]
  else if (disorder > 1) random.shuffle(list)
  const grouping = random.pick([0, 0.2, 0.6])
  if (grouping > 0) {
    const grouped = []
    while (list.length > 0) grouped.push(random.chance(grouping) ? Y.mergeUpdates(list.splice(0, 1 + random.int(6))) : list.shift())
    list = grouped
  }
  const repeats = random.pick([0, 0.1, 0.4])
  const put = update => list.splice(random.int(list.length + 1), 0, update)
  for (const update of list.slice()) {
    if (!random.chance(repeats)) continue
    const other = random.pick(list)
    const whole = random.chance(0.3) ? update : Y.mergeUpdates([update, other])
    put(random.chance(0.4) ? whole : Y.diffUpdate(whole, base(Y.encodeStateVectorFromUpdate(whole))))
  }
  for (const { whole, part, vector } of states) {
    if (random.chance(repeats)) put(part)
    if (random.chance(repeats / 4)) put(whole)
    if (random.chance(repeats)) put(Y.diffUpdate(whole, base(vector)))
    if (random.chance(repeats / 2)) put(Y.mergeUpdates([part, random.pick(list)]))
  }
  return list
}

/**
 * The plan of a seed: steps for the store, and the states of clients that will request diffs.
 *
 * Yjs splits a known item where a repeated update splits it, and in doing so permanently replaces both halves of a surrogate
 * pair by U+FFFD. Documents without that update keep the pair. A strict plan avoids such updates: there, only updates that
 * every document receives split a pair.
 */
export function makePlan(seed) {
  const random = new Random(Math.imul(seed, 0x9e3779b1) ^ (seed / 2 ** 32))
  const isStrict = random.chance(0.5)
  const played = play(random, isStrict)
  const steps = pieces(random, played, isStrict).map(update => ({ op: 'add', update }))
  // Every update is delivered at the end, so the plan does not depend on merges with gaps being lossless.
  for (const doc of played.docs) steps.push({ op: 'add', update: Y.encodeStateAsUpdate(doc) })
  const often = random.pick([0.02, 0.1, 0.3])
  const extra = () => ({ op: random.pick(['compact', 'compact', 'reload', 'check', 'check']), seed: random.int(2 ** 31) })
  const plan = steps.flatMap(step => (random.chance(often) ? [step, extra()] : [step]))
  plan.push({ op: 'check', seed: random.int(2 ** 31), last: true })
  return { seed, isStrict, steps: plan, peers: played.states.map(({ whole }) => whole) }
}
