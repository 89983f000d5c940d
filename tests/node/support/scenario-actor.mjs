// An npm client in a process of its own, for scenarios that kill it: reads one command per line and answers each, in order,
// with one line of JSON. The Rust side is `client-sim/src/faults/scenario/node.rs`.
//
// node scenario-actor.mjs URL DOCUMENT... [--dialect y-websocket|hocuspocus] [--dir DIRECTORY] [--offline]
//
// edit KIND ID [DICE] [DOCUMENT]   {"ok": true, "id": ID, "replaced": [ID...]}, with "nothing": true if there was
//                                  nothing to do; with a directory, the edit is on disk
// offline, online                  {"ok": true}: the connection to the server is cut, or restored
// state [DOCUMENT]                 {"ok": true, "state": "<v1 update, hexadecimal>", "json": {...}, "synced": true}
// saved [DOCUMENT]                 {"ok": true, "saved": true}: hocuspocus: synced, and no change is unacknowledged;
//                                  y-websocket: synced
// exit                             {"ok": true}, and the process exits
//
// A command that fails is answered with {"ok": false, "error": "why"}. Kinds are listed in `scenario-edits.mjs`. DOCUMENT
// defaults to the first, DICE to a random number. With a directory, each document is stored in a file there and survives
// kill -9.

import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import * as Y from 'yjs'
import { makers } from './clients.mjs'
import { FilePersistence } from './indexeddb.mjs'
import { applyEdit, contents } from './scenario-edits.mjs'

const DIALECTS = { 'y-websocket': makers.ywebsocket, hocuspocus: makers.hocuspocus }

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    dialect: { type: 'string', default: 'y-websocket' },
    dir: { type: 'string' },
    offline: { type: 'boolean', default: false },
  },
})
const [url, ...names] = positionals
const make = DIALECTS[values.dialect]
if (!make || names.length === 0) {
  console.error('usage: scenario-actor.mjs URL DOCUMENT... [--dialect y-websocket|hocuspocus] [--dir DIR] [--offline]')
  process.exit(2)
}

const documents = new Map()
const connected = new Map()
for (const name of names) {
  const doc = new Y.Doc()
  documents.set(name, doc)
  if (values.dir === undefined) continue
  mkdirSync(values.dir, { recursive: true })
  await new FilePersistence(join(values.dir, `${encodeURIComponent(name)}.yjs`), doc).whenSynced
}
if (!values.offline) online()

function online() {
  for (const [name, doc] of documents) {
    const client = connected.get(name)
    if (client) client.mend()
    else connected.set(name, make({ after() {} }, { url }, name, { doc }))
  }
}

const COMMANDS = {
  edit([kind, id, dice = `0x${randomBytes(8).toString('hex')}`, name = names[0]]) {
    const replaced = applyEdit(documentOf(name), kind, id, BigInt(dice))
    return replaced === null ? { id, nothing: true } : { id, replaced }
  },
  offline() {
    for (const client of connected.values()) client.cut()
    return {}
  },
  online() {
    online()
    return {}
  },
  state([name = names[0]]) {
    const doc = documentOf(name)
    const state = Buffer.from(Y.encodeStateAsUpdate(doc)).toString('hex')
    return { state, json: contents(doc), synced: connected.get(name)?.isSynced ?? false }
  },
  saved([name = names[0]]) {
    documentOf(name)
    const client = connected.get(name)
    return { saved: Boolean(client?.isSynced) && (values.dialect === 'y-websocket' || client.isSaved) }
  },
  exit: () => ({}),
}

function documentOf(name) {
  const doc = documents.get(name)
  if (!doc) throw new Error(`${name} is not open here`)
  return doc
}

for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...words] = line.trim().split(/ +/)
  let answer
  try {
    if (!Object.hasOwn(COMMANDS, command)) throw new Error(`${JSON.stringify(command)} is not a command`)
    answer = { ok: true, ...COMMANDS[command](words) }
  } catch (error) {
    answer = { ok: false, error: error.message }
  }
  // Writes to a pipe are synchronous: an answer that was read holds even if the process is killed right after.
  process.stdout.write(`${JSON.stringify(answer)}\n`)
  if (command === 'exit') break
}
process.exit(0)
