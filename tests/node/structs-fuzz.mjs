// Compares the struct store with npm yjs: a client that applies the store's states and diffs must end with the document
// that Yjs builds from the updates given to the store. The store runs in tests/examples/struct_worker.rs.
//
//   cargo build -p syncline-tests --example struct_worker
//   node structs-fuzz.mjs [--seconds N] [--plans N] [--seed S] [--worker FILE] [--vectors FILE.jsonl.gz]
//
// `--seed` replays one plan; a failing plan prints its seed and is shrunk to the fewest steps that still fail.

import { spawn } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { gunzipSync } from 'node:zlib'

import * as Y from 'yjs'

import { Random, lowered, makePlan, newDoc } from './structs-plan.mjs'

const { values: options } = parseArgs({
  options: { seconds: { type: 'string' }, plans: { type: 'string' }, seed: { type: 'string' }, worker: { type: 'string' }, vectors: { type: 'string' } },
})

// Yjs clients delete redundant format marks, and which ones are redundant depends on the order of updates. That is not
// part of the document's state, so only the editing clients do it.
let isCleaning = true
console.warn = () => {}
const callObserver = Y.Text.prototype._callObserver
Y.Text.prototype._callObserver = function (transaction, keys) {
  callObserver.call(this, transaction, keys)
  if (!isCleaning) transaction._needFormattingCleanup = false
}

/** The store in a process of its own. */
class Worker {
  constructor(file) {
    this.child = spawn(file, { stdio: ['pipe', 'pipe', 'inherit'] })
    this.answers = []
    this.buffer = Buffer.alloc(0)
    this.child.stdout.on('data', data => this.read(data))
    this.child.on('exit', code => this.answers.splice(0).forEach(({ reject }) => reject(new Error(`the worker exited: ${code}`))))
  }

  read(data) {
    this.buffer = this.buffer.length > 0 ? Buffer.concat([this.buffer, data]) : data
    while (this.buffer.length >= 4 && this.buffer.length >= 4 + this.buffer.readUInt32LE(0)) {
      const end = 4 + this.buffer.readUInt32LE(0)
      const answer = new Uint8Array(this.buffer.subarray(5, end))
      const { resolve, reject } = this.answers.shift()
      if (this.buffer[4] === 0) resolve(answer)
      else reject(new Error(`the worker: ${Buffer.from(answer)}`))
      this.buffer = this.buffer.subarray(end)
    }
  }

  ask(command, bytes = new Uint8Array()) {
    const head = Buffer.alloc(5)
    head.writeUInt32LE(bytes.length + 1, 0)
    head[4] = command
    this.child.stdin.write(Buffer.concat([head, bytes]))
    return new Promise((resolve, reject) => this.answers.push({ resolve, reject }))
  }

  reset() { return this.ask(0) }
  async add(update) {
    const added = await this.ask(1, update)
    return [...new Uint32Array(added.buffer)]
  }
  encode() { return this.ask(2) }
  compact() { return this.ask(3) }
  diff(vector) { return this.ask(4, vector) }
  stateVector() { return this.ask(5) }
  async pending() { return new Uint32Array((await this.ask(6)).buffer)[0] }
  reload() { return this.ask(7) }
}

/** Any value as text, including values that JSON cannot represent. */
function show(value) {
  return JSON.stringify(value, function (key) {
    // The value before `toJSON`.
    const value = this[key]
    if (value === undefined) return { $undefined: 1 }
    if (typeof value === 'bigint') return { $bigint: String(value) }
    if (value instanceof Uint8Array) return { $bytes: [...value] }
    if (value instanceof Y.Doc) return { $doc: value.guid, options: value.meta, autoLoad: value.autoLoad }
    if (value instanceof Y.AbstractType) return { $type: value.constructor.name }
    if (value === null || typeof value !== 'object' || Array.isArray(value)) return value
    return Object.fromEntries(Object.entries(value).sort(([one], [other]) => (one < other ? -1 : 1)))
  })
}

function showItem(item) {
  const { content, deleted, id, length } = item
  const place = `${id.client}:${id.clock}+${length}`
  if (deleted) return `${place} deleted`
  if (content instanceof Y.ContentType) return `${place} ${content.type.constructor.name} ${content.type.nodeName ?? ''}`
  if (content instanceof Y.ContentFormat) return `${place} ${content.key}=${show(content.value)}`
  return `${place} ${content.constructor.name} ${content.str ?? show(content.getContent())}`
}

/** Prints items; adjacent ones that could be one item are printed as one. */
function showItems(items) {
  const lines = []
  let last = null
  for (const item of items) {
    const joins = last && item.deleted === last.deleted && item.id.client === last.client && item.id.clock === last.end
    if (joins && item.deleted) last.line = `${last.client}:${last.start}+${item.id.clock + item.length - last.start} deleted`
    else if (joins && last.kind === item.content.constructor && item.content.str !== undefined) {
      last.text += item.content.str
      last.line = `${last.client}:${last.start}+${last.text.length} ContentString ${last.text}`
    } else {
      if (last) lines.push(last.line)
      last = { client: item.id.client, start: item.id.clock, kind: item.content.constructor, deleted: item.deleted, text: item.content.str, line: showItem(item) }
      if (item.content instanceof Y.ContentAny && !item.deleted) {
        item.content.arr.forEach((value, k) => lines.push(`${item.id.client}:${item.id.clock + k} ${show(value)}`))
        last = null
        continue
      }
    }
    last.end = item.id.clock + item.length
  }
  if (last) lines.push(last.line)
  return lines
}

/** Everything in a document: the order of the items in all live types, the deletions, and what applications see. */
function view(doc) {
  const lines = []
  const todo = [...doc.share].map(([name, type]) => [name, type])
  for (const [name, type] of todo) {
    const nested = []
    const visit = items => {
      items.forEach(item => !item.deleted && item.content instanceof Y.ContentType && nested.push([`${item.id.client}:${item.id.clock}`, item.content.type]))
      return showItems(items)
    }
    const list = []
    for (let item = type._start; item !== null; item = item.right) list.push(item)
    lines.push(`${name} [${visit(list).join(', ')}]`)
    for (const [key, last] of [...type._map].sort(([one], [other]) => (one < other ? -1 : 1))) {
      const chain = []
      for (let item = last; item !== null; item = item.left) chain.unshift(item)
      lines.push(`${name}.${key} [${visit(chain).join(', ')}]`)
    }
    todo.push(...nested)
    if (type instanceof Y.Text) lines.push(show(type.toDelta()))
    else lines.push(show(type.toJSON()))
    if (type instanceof Y.XmlFragment) lines.push(type.toString())
  }
  for (const [client, structs] of [...doc.store.clients].sort(([one], [other]) => one - other)) {
    const deleted = []
    for (const { deleted: isDeleted, id, length } of structs) {
      if (!isDeleted) continue
      if (deleted.at(-1)?.[1] === id.clock) deleted.at(-1)[1] += length
      else deleted.push([id.clock, id.clock + length])
    }
    lines.push(`${client}: ${Y.getState(doc.store, client)} clocks, deleted ${show(deleted)}`)
  }
  if (doc.store.pendingStructs) lines.push(`pending structs ${show([...doc.store.pendingStructs.missing])}`)
  if (doc.store.pendingDs) lines.push('pending deletions')
  return lines
}

class Difference extends Error {}

/** Excerpts of two lines around their first difference. */
function parts(one, other) {
  let at = 0
  while (one[at] === other[at]) at++
  const part = line => `${line.slice(0, 40)} ... ${line.slice(Math.max(0, at - 150), at + 150)}`.replaceAll('\n', '\\n')
  return [`  store: ${part(one)}`, `  yjs:   ${part(other)}`]
}

function same(what, ours, theirs, isStrict) {
  // See `makePlan`.
  const lenient = lines => lines.map(line => line.replace(/[\ud800-\udbff][\udc00-\udfff]/g, '\ufffd\ufffd'))
  const [one, other] = [view(ours), view(theirs)].map(isStrict ? lines => lines : lenient)
  if (one.length === other.length && one.every((line, k) => line === other[k])) return
  const differing = [...one.keys()].filter(k => one[k] !== other[k])
  const lines = differing.reverse().flatMap(k => parts(one[k], other[k] ?? ''))
  throw new Difference(`${what}\n${lines.slice(0, 6).join('\n')}`)
}

function reader(updates, gc = true) {
  const doc = newDoc({ gc })
  for (const update of updates) Y.applyUpdate(doc, update)
  return doc
}

/** The state, as an update, of a client that has a random part of this document; pending structs are left out. */
function cutPeer(random, update) {
  // A copy, because `createDocFromSnapshot` changes it.
  const whole = reader([update], false)
  const snapshot = Y.snapshot(whole)
  const sv = Y.decodeStateVector(lowered(random, Y.encodeStateVector(whole)))
  const ds = random.chance(0.5) ? snapshot.ds : Y.emptySnapshot.ds
  const cut = Y.createDocFromSnapshot(whole, new Y.Snapshot(ds, sv), newDoc())
  cut.store.pendingStructs = cut.store.pendingDs = null
  return Y.encodeStateAsUpdate(cut)
}

const totals = { plans: 0, updates: 0, checks: 0, structs: 0, outcomes: [], pending: 0 }

/** Runs the steps of a plan. `isThorough`: checks everything after each step. */
async function run(worker, { steps, peers, isStrict }, isThorough = false) {
  isCleaning = false
  await worker.reset()
  const [sent, added] = [[], []]
  const reference = newDoc()
  const add = async update => {
    sent.push(update)
    for (const number of await worker.add(update)) {
      added.push(sent[number])
      Y.applyUpdate(reference, sent[number])
    }
  }
  const check = async (random, isLast) => {
    totals.checks++
    const all = random.chance(0.5) || isThorough
    const [ours, theirs] = [await worker.stateVector(), Y.encodeStateVector(reference)]
    const clocks = vector => show([...Y.decodeStateVector(vector)].sort(([one], [other]) => one - other))
    if (clocks(ours) !== clocks(theirs)) throw new Difference(`state vector\n  ${clocks(ours)}\n  ${clocks(theirs)}`)
    const forms = isLast || all ? ['encode', 'compact', 'compact, encode'] : [random.pick(['encode', 'compact'])]
    const kept = all && added.length > 0 ? Y.encodeStateAsUpdate(reader(added, false)) : null
    let compacted = null
    for (const form of forms) {
      const state = form === 'compact' ? await worker.compact() : await worker.encode()
      if (form !== 'encode') compacted = state
      same(form, reader([state]), reference, isStrict)
      if (all) same(`${form}, gc off`, reader([state], false), reader([Y.encodeStateAsUpdate(reference)], false), isStrict)
      if (all) {
        isCleaning = true
        const [ours, theirs] = [reader([state]), reader([Y.encodeStateAsUpdate(reference)])]
        isCleaning = false
        same(`${form}, redundant formats deleted`, ours, theirs, isStrict)
      }
      // Apply diffs to clients with other states, before and after the compaction.
      const clients = isThorough ? [...peers] : Array.from({ length: 2 }, () => random.pick(peers))
      if (kept) for (let n = isThorough ? 6 : 2; n > 0; n--) clients.push(cutPeer(random, kept))
      for (const peer of clients) {
        const gc = random.chance(0.7)
        const vector = Y.encodeStateVector(reader([peer], gc))
        const diff = await worker.diff(vector)
        same(`diff after ${form}, gc ${gc}`, reader([peer, diff], gc), reader([peer, Y.encodeStateAsUpdate(reference, vector)], gc), isStrict)
      }
    }
    if (isLast) {
      const whole = Y.encodeStateAsUpdate(reader([Y.encodeStateAsUpdate(reference)]))
      // A client with the whole document also sends the deletions that Yjs derives from concurrent map entries.
      await add(whole)
      const settled = await worker.compact()
      same('settled', reader([settled]), reference, isStrict)
      return { ratio: compacted.length / whole.length, settled: settled.length / whole.length, bytes: whole.length }
    }
  }
  let outcome
  for (const [k, { op, update, seed, last }] of steps.entries()) {
    if (op === 'add') await add(update)
    else if (op === 'compact') await worker.compact()
    else if (op === 'reload') await worker.reload()
    else outcome = await check(new Random(seed), last) ?? outcome
    if (isThorough && (op !== 'add' || k + 1 === steps.length)) await check(new Random(k), false)
    if (last) {
      const pending = await worker.pending()
      if (pending > 0) throw new Difference(`${pending} updates are still pending`)
    }
    if (op === 'compact' || op === 'reload') totals.pending += await worker.pending() > 0 ? 1 : 0
  }
  totals.updates += sent.length
  for (const structs of reference.store.clients.values()) totals.structs += structs.length
  return outcome
}

/** Shrinks a failing plan by leaving out ever smaller runs of steps. */
async function shrink(worker, plan, until) {
  const fails = async steps => run(worker, { ...plan, steps }, true).then(() => null, error => error)
  let steps = plan.steps.filter(({ last }) => !last)
  let error = await fails(steps)
  if (!error) return null
  for (let size = steps.length >> 1; size >= 1; size >>= 1) {
    for (let at = 0; at < steps.length && Date.now() < until;) {
      const rest = [...steps.slice(0, at), ...steps.slice(at + size)]
      const found = await fails(rest)
      if (found) [steps, error] = [rest, found]
      else at += size
    }
  }
  return { steps, error }
}

function describe({ steps, error }) {
  const lines = [error.message]
  for (const { op, update } of steps) {
    lines.push(update ? `add ${Buffer.from(update).toString('hex')}` : op)
    if (!update) continue
    const { structs, ds } = Y.decodeUpdate(update)
    for (const it of structs.slice(0, 400)) {
      const id = id => (id ? `${id.client}:${id.clock}` : '-')
      const item = it instanceof Y.Item ? `left ${id(it.origin)} right ${id(it.rightOrigin)} parent ${it.parent?.clock === undefined ? it.parent : id(it.parent)} ${it.parentSub ?? ''} ${it.content.constructor.name} ${show(it.content.getContent())}` : it.constructor.name
      lines.push(`    ${id(it.id)}+${it.length} ${item}`)
    }
    ds.clients.forEach((ranges, client) => lines.push(`    deletes ${client}: ${ranges.map(({ clock, len }) => `${clock}+${len}`).join(' ')}`))
  }
  return lines.join('\n')
}

/** Runs every recorded document: its updates in order, and the diff for each intermediate state. */
async function runVectors(worker, file) {
  const vectors = gunzipSync(readFileSync(file)).toString().trim().split('\n').map(line => JSON.parse(line))
  const bytes = text => new Uint8Array(Buffer.from(text, 'base64'))
  let diffs = 0
  isCleaning = false
  for (const vector of vectors) {
    const updates = vector.updates.map(bytes)
    const steps = updates.map(update => ({ op: 'add', update }))
    for (let k = steps.length - 1; k > 0; k -= 7) steps.splice(k, 0, { op: k % 2 === 0 ? 'compact' : 'check', seed: k })
    steps.push({ op: 'check', seed: 1, last: true })
    const peers = [bytes(vector.partial.update), bytes(vector.v1)]
    await run(worker, { steps, peers, isStrict: true }).catch(error => { throw new Error(`vector ${vector.seed}: ${error.stack}`) })
    const expected = reader(updates)
    same(`vector ${vector.seed}`, reader([await worker.compact()]), expected, true)
    const peer = newDoc()
    for (const update of updates) {
      const vectorNow = Y.encodeStateVector(peer)
      const before = Y.encodeStateAsUpdate(peer)
      same(`vector ${vector.seed}, diff`, reader([before, await worker.diff(vectorNow)]), reader([before, Y.encodeStateAsUpdate(expected, vectorNow)]), true)
      diffs++
      Y.applyUpdate(peer, update)
    }
  }
  console.log(`${vectors.length} vectors, ${totals.updates} updates, ${diffs} diffs: all equal to Yjs`)
}

function report(started) {
  const seconds = (Date.now() - started) / 1000
  console.log(`${totals.plans} plans, ${totals.updates} updates, ${totals.structs} structs, ${totals.checks} checks in ${seconds.toFixed(0)} s: ` +
    `${(totals.plans / seconds).toFixed(1)} plans/s, ${(totals.updates / seconds).toFixed(0)} updates/s; ${totals.pending} compactions with updates pending`)
  for (const of of ['ratio', 'settled']) {
    const sorted = totals.outcomes.sort((one, other) => one[of] - other[of])
    const at = p => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))]
    const worst = sorted.filter(({ bytes }) => bytes > 200).at(-1)
    const shares = [0.01, 0.1, 0.5, 0.9, 0.99].map(p => `${100 * p}% ${at(p)?.[of].toFixed(4)}`)
    const name = of === 'ratio' ? 'compacted bytes / bytes of Yjs' : 'with the deletions that Yjs derived'
    console.log(`${name}: ${shares.join(', ')}, worst ${worst?.[of].toFixed(4)} (${worst?.bytes} bytes, seed ${worst?.seed})`)
  }
}

const targets = process.env.CARGO_TARGET_DIR ?? new URL('../../target', import.meta.url).pathname
const file = options.worker ?? ['release', 'debug'].map(profile => `${targets}/${profile}/examples/struct_worker`).find(existsSync)
const worker = new Worker(file)
const started = Date.now()
const until = started + 1000 * Number(options.seconds ?? 60)
const plans = options.seed ? 1 : Number(options.plans ?? Infinity)
let failures = 0
let skipped = 0
if (options.vectors) {
  await runVectors(worker, options.vectors)
  process.exit()
}
let printed = started
for (let n = 0; n < plans && (Date.now() < until || options.seed) && failures < 5; n++) {
  const seed = options.seed ? Number(options.seed) : Math.floor(Math.random() * 2 ** 47)
  isCleaning = true
  let plan
  try {
    plan = makePlan(seed)
  } catch (error) {
    // Yjs 13.6.33 throws when it merges certain updates with gaps: the seed is skipped.
    if (options.seed || ++skipped > 5 + totals.plans / 20) throw error
    console.log(`seed ${seed}: skipped, Yjs cannot make the plan: ${error.message}`)
    continue
  }
  try {
    const outcome = await run(worker, plan)
    totals.plans++
    totals.outcomes.push({ seed, ...outcome })
  } catch (error) {
    failures++
    console.log(`FAILED: --seed ${seed}: ${error instanceof Difference ? error.message : error.stack}`)
    const smaller = await shrink(worker, plan, Date.now() + 20_000)
    console.log(smaller ? describe(smaller) : 'the failing plan could not be shrunk')
  }
  if (Date.now() - printed > 30_000) {
    printed = Date.now()
    report(started)
  }
}
report(started)
process.exit(failures > 0 ? 1 : 0)
