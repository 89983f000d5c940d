// Two Syncline devices and two npm clients on one document: all edit offline, one of each kind and the server are killed
// with SIGKILL, then all reconnect. At the end all hold the same state, and every edit is there exactly once.
//
// Ten seeds; `SYNCLINE_SEED=n` replays one. The seed decides the edits, the killed clients and the order of reconnects.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import * as Y from 'yjs'
import { makers, until, untilSynced } from './support/clients.mjs'
import { allEqual, assertAllEqual } from './support/documents.mjs'
import { generator } from './support/random.mjs'
import { amountOf, contents, keyOf, tokens } from './support/scenario-edits.mjs'
import { BINARY, startServer, temporaryDirectory } from './support/server.mjs'

const SIMULATOR = join(dirname(BINARY), 'syncline-sim')
const ACTOR = fileURLToPath(new URL('support/scenario-actor.mjs', import.meta.url))
const DOCUMENT = 'mixed'
const SEEDS = 10
const CLIENTS = ['device', 'device', 'y-websocket', 'hocuspocus']
const KINDS = ['insert', 'insert', 'append', 'delete', 'map', 'push', 'put', 'count', 'last', 'choice']
/** Kinds of edit whose presence the final document alone reveals. */
const PLAIN_KINDS = ['insert', 'append', 'map', 'push']
/** Edits per client: while connected, while offline, and while offline with the server down. */
const EDITS = { together: 5, apart: 12, alone: 6 }
const PATIENCE_MS = 30_000

const first = Math.floor(Math.random() * 2 ** 32)
const seeds = process.env.SYNCLINE_SEED
  ? [Number(process.env.SYNCLINE_SEED)]
  : Array.from({ length: SEEDS }, (_, i) => (first + i) >>> 0)

for (const seed of seeds) {
  test(`devices and npm clients, offline and killed, SYNCLINE_SEED=${seed}`, async (t) => {
    const random = generator(seed)
    const server = await startServer()
    t.after(() => server.kill())
    const ledger = []
    const actors = CLIENTS.map((kind, number) => new Actor(t, server.url, kind, number, random, ledger))

    for (const actor of actors) await actor.start()
    await allEdit(actors, random, EDITS.together)
    await untilEqual(actors)

    for (const actor of actors) await actor.ask('offline')
    await allEdit(actors, random, EDITS.apart)
    for (const actor of [random.pick(actors.slice(0, 2)), random.pick(actors.slice(2))]) {
      await actor.killWhileEditing()
      await actor.start('--offline')
    }
    await server.kill()
    await allEdit(actors, random, EDITS.alone)
    await server.restart()

    const order = actors.map((actor) => ({ actor, at: random() })).sort((one, other) => one.at - other.at)
    const killAfter = random.below(order.length)
    for (const [index, { actor }] of order.entries()) {
      await actor.ask('online')
      // Some clients have begun to send, some have not.
      if (index !== killAfter) continue
      await new Promise((resolve) => setTimeout(resolve, random.below(60)))
      await server.kill()
      await server.restart()
    }
    await allEdit(actors, random, EDITS.together)
    await untilEqual(actors)
    for (const actor of actors) {
      await until(async () => (await actor.ask('saved')).saved, { what: `${actor.name} is saved`, timeout: PATIENCE_MS })
    }
    const docs = await Promise.all(actors.map((actor) => actor.doc()))
    assertAllEqual(docs)
    for (const doc of docs) check(doc, ledger)

    // Saved edits are on the server's disk: a new client receives them after another kill -9.
    for (const actor of actors) await actor.ask('exit')
    await server.kill()
    await server.restart()
    const fresh = makers.ywebsocket(t, server, DOCUMENT)
    await untilSynced(fresh)
    assertAllEqual([docs[0], fresh.doc])
    check(fresh.doc, ledger)
    const made = ledger.filter(({ outcome }) => outcome === 'made').length
    t.diagnostic(`${made} edits made, ${ledger.filter(({ outcome }) => outcome === 'unknown').length} interrupted`)
    assert(made > 4 * EDITS.apart)
  })
}

/** A client in a process of its own, which records its edits in the ledger. */
class Actor {
  #child
  #answers
  #count = 0

  constructor(t, url, kind, number, random, ledger) {
    this.name = `d${number}`
    this.kind = kind
    this.url = url
    this.random = random
    this.ledger = ledger
    this.directory = join(temporaryDirectory(), this.name)
    t.after(() => this.#child?.kill('SIGKILL'))
  }

  async start(...more) {
    const [program, args] =
      this.kind === 'device'
        ? [SIMULATOR, ['actor', '--dir', this.directory, '--url', this.url, '--document', DOCUMENT]]
        : [process.execPath, [ACTOR, this.url, DOCUMENT, '--dialect', this.kind, '--dir', this.directory]]
    const child = spawn(program, [...args, ...more], { stdio: ['pipe', 'pipe', 'inherit'] })
    child.stdin.on('error', () => {}) // The process was killed; the missing answer reports it.
    this.#child = child
    this.#answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  }

  /** Sends one command; resolves to its answer, or null if the process ended before it answered. */
  async #exchange(command) {
    this.#child.stdin.write(`${command}\n`)
    const { value, done } = await this.#answers.next()
    return done ? null : JSON.parse(value)
  }

  async ask(command) {
    const answer = await this.#exchange(command)
    assert(answer?.ok, `${this.name} (${this.kind}), asked to ${command}: ${answer?.error ?? 'the process ended'}`)
    return answer
  }

  #draw(kinds) {
    const dice = BigInt(Math.floor(this.random() * 2 ** 32)) * 2n ** 32n + BigInt(Math.floor(this.random() * 2 ** 32))
    return { id: `${this.name}-${++this.#count}`, kind: this.random.pick(kinds), dice }
  }

  async edit() {
    const edit = this.#draw(KINDS)
    const { nothing, replaced } = await this.ask(`edit ${edit.kind} ${edit.id} ${edit.dice}`)
    if (!nothing) this.ledger.push({ ...edit, replaced, outcome: 'made' })
  }

  /** kill -9 while edits are being written to its disk: answered edits are stored, the others may be. */
  async killWhileEditing() {
    const edits = Array.from({ length: 8 }, () => this.#draw(PLAIN_KINDS))
    const killAfter = this.random.below(edits.length)
    const answers = edits.map(async (edit, index) => {
      const answer = await this.#exchange(`edit ${edit.kind} ${edit.id} ${edit.dice}`)
      if (index === killAfter) this.#child.kill('SIGKILL')
      assert(answer === null || answer.ok, answer?.error)
      return answer ? 'made' : 'unknown'
    })
    for (const [index, answer] of answers.entries()) {
      this.ledger.push({ ...edits[index], replaced: [], outcome: await answer })
    }
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      await new Promise((resolve) => this.#child.once('exit', resolve))
    }
    assert.equal(this.#child.signalCode, 'SIGKILL')
  }

  /** The client's document. */
  async doc() {
    const { state } = await this.ask('state')
    const doc = new Y.Doc()
    Y.applyUpdate(doc, Buffer.from(state, 'hex'))
    return doc
  }
}

/** Each actor makes `count` edits, in random turns. */
async function allEdit(actors, random, count) {
  const turns = actors.flatMap((actor) => Array.from({ length: count }, () => ({ actor, at: random() })))
  for (const { actor } of turns.sort((one, other) => one.at - other.at)) await actor.edit()
}

function untilEqual(actors) {
  const what = () => `all hold the same state: ${actors.map(({ name, kind }) => `${name} is a ${kind}`)}`
  return until(async () => allEqual(await Promise.all(actors.map((actor) => actor.doc()))), {
    what,
    timeout: PATIENCE_MS,
  })
}

/** Asserts that the document holds every edit exactly once and in its place, and nothing else. */
function check(doc, ledger) {
  const of = (kind) => ledger.filter((edit) => edit.kind === kind)
  const isMade = ({ outcome }) => outcome === 'made'
  const gone = (kind) => new Set(of(kind).flatMap(({ replaced }) => replaced))
  const { text, log, map, list, keys, count, last, choices } = contents(doc)

  const onceEach = (kind, found, without = new Set()) => {
    const sure = of(kind).filter((edit) => isMade(edit) && !without.has(edit.id)).map(({ id }) => id)
    const unsure = new Set(of(kind).filter((edit) => !isMade(edit)).map(({ id }) => id))
    assert.equal(new Set(found).size, found.length, `${kind}: duplicates in ${found}`)
    assert.deepEqual(found.filter((id) => !unsure.has(id)).sort(), sure.sort(), `${kind}: every edit once`)
  }
  for (const [kind, content, without] of [['insert', text, gone('delete')], ['append', log]]) {
    const { found, debris } = tokens(content)
    assert.equal(debris, '', `${kind}: nothing but tokens`)
    onceEach(kind, found, without)
  }
  for (const name of CLIENTS.map((_, number) => `d${number}`)) {
    const numbers = tokens(log).found.filter((id) => id.startsWith(`${name}-`)).map((id) => Number(id.split('-')[1]))
    assert.deepEqual(numbers, numbers.toSorted((a, b) => a - b), `the entries ${name} appended keep their order`)
  }
  onceEach('map', Object.keys(map))
  onceEach('push', list)
  onceEach('choice', choices, gone('choice'))
  const counted = of('count').reduce((sum, { dice }) => sum + amountOf(dice), 0)
  assert.equal(count, counted, 'the sum of all increments, of devices and of npm clients')
  for (const [kind, found] of [['put', keys], ['last', last]]) {
    const written = new Set(of(kind).map(({ dice }) => keyOf(dice)))
    assert.deepEqual(Object.keys(found).sort(), [...written].sort(), `${kind}: the keys`)
    for (const key of written) {
      const current = of(kind).filter(({ dice, id }) => keyOf(dice) === key && !gone(kind).has(id)).map(({ id }) => id)
      assert(current.includes(found[key]), `${kind}: ${key} is ${found[key]}, but should be one of ${current}, which were not overwritten`)
    }
  }
}
