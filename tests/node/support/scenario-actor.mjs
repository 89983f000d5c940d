// An npm client in a process of its own, for scenarios that kill it: it obeys lines, and answers each with one line of
// JSON, in order. The Rust half is `client-sim/src/scenario/node.rs`.
//
// node scenario-actor.mjs URL DOCUMENT... [--dialect y-websocket|hocuspocus] [--dir DIRECTORY] [--offline]
//
// edit KIND ID [DICE] [DOCUMENT]   {"ok": true, "id": ID, "replaced": [ID...]}, with "nothing": true when there was
//                                  nothing to do; the edit is on this process's disk if it has a directory
// offline, online                  {"ok": true}: the line to the server is cut, or mended
// state [DOCUMENT]                 {"ok": true, "state": "<v1 update, hexadecimal>", "json": {...}, "synced": true}
// saved [DOCUMENT]                 {"ok": true, "saved": true}: hocuspocus: nothing is unsynced; y-websocket: in sync,
//                                  and the newest of what was sent as it was typed has come back
// exit                             {"ok": true}, and the process ends
//
// What cannot be done is answered with {"ok": false, "error": "why"}. Kinds are in `scenario-edits.mjs`. Without
// DOCUMENT the first is meant; without DICE chance decides. With a directory each document is kept in a file there,
// and survives kill -9.

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
    if (!Object.hasOwn(COMMANDS, command)) throw new Error(`${JSON.stringify(command)} is no command`)
    answer = { ok: true, ...COMMANDS[command](words) }
  } catch (error) {
    answer = { ok: false, error: error.message }
  }
  // A pipe is written at once: an answer that was read is true whatever happens to the process afterwards.
  process.stdout.write(`${JSON.stringify(answer)}\n`)
  if (command === 'exit') break
}
process.exit(0)
