// Runs every command of README.md unchanged, and its Rust example in an empty crate. Environment variables give the server
// its own port and directory; nothing else is added. The builds take minutes, so `tests/run` runs this file separately:
// `node --test readme-commands.mjs`.

import assert from 'node:assert/strict'
import { appendFileSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'

import { blocks, commands, installLine, PRINTED_URL, ROOT, run, runFor, start } from './support/readme.mjs'
import { temporaryDirectory } from './support/server.mjs'

/** Time after which a command that takes many minutes is stopped. */
const RUN_LIMIT_MS = 10_000
const BACKUP = join(ROOT, 'backups')

/** Commands that are not run here, and where they run or why not. */
const NOT_RUN = new Map([
  ['./tests/run', 'runs this test'],
  ['cargo build --profile dist', 'the build of the release profile with link-time optimisation, which takes minutes'],
  [installLine(0), 'readme.test.mjs'],
  [installLine(1), 'readme.test.mjs'],
])

const data = temporaryDirectory()
const env = { SYNCLINE_LISTEN: '127.0.0.1:0', SYNCLINE_DATA: data }
const done = new Set()
let server

/** Asserts that README prints the command, marks it as run, and returns it. */
function printed(command) {
  assert.ok(commands().includes(command), `README does not print \`${command}\``)
  done.add(command)
  return command
}

after(() => rmSync(BACKUP, { recursive: true, force: true }))

test('the first command starts the server, and --help lists the settings', async () => {
  server = start(printed('cargo run --release'), { env })
  const [, address] = await server.printed(/editors connect to +(ws:\/\/127\.0\.0\.1:\d+)/)
  env.SYNCLINE_URL = address
  assert.match(await run(printed('cargo run --release -- --help'), { env }), /--listen/)
})

test('a page may connect from the origin that the command allows', async () => {
  const own = { ...env, SYNCLINE_DATA: temporaryDirectory() }
  const allowing = start(printed('cargo run --release -- --allow-origin http://localhost:5173'), { env: own })
  const [, address] = await allowing.printed(/editors connect to +(ws:\/\/127\.0\.0\.1:\d+)/)
  for (const [origin, connects] of [['http://localhost:5173', true], ['http://localhost:5174', false]]) {
    const socket = new WebSocket(`${address}/doc`, { origin })
    const opened = await new Promise((resolve) => {
      socket.on('open', () => resolve(true))
      socket.on('error', () => resolve(false))
    })
    assert.equal(opened, connects, origin)
    socket.terminate()
  }
  assert.equal(await allowing.stop(), 0, allowing.output())
})

test('the Rust example runs in an empty crate with the lines that README prints', async () => {
  const parent = temporaryDirectory()
  symlinkSync(ROOT, join(parent, 'syncline'))
  await run(printed('cargo new my-app'), { cwd: parent })
  const cwd = join(parent, 'my-app')
  const manifest = readFileSync(join(cwd, 'Cargo.toml'), 'utf8')
  writeFileSync(join(cwd, 'Cargo.toml'), manifest.replace(/^\[dependencies\]\n/m, ''))
  appendFileSync(join(cwd, 'Cargo.toml'), blocks('toml')[0])
  const [example] = blocks('rust')
  assert.ok(example.includes(PRINTED_URL))
  writeFileSync(join(cwd, 'src/main.rs'), example.replaceAll(PRINTED_URL, env.SYNCLINE_URL))
  const target = join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'readme-example')
  const output = await run(printed('cargo run'), { cwd, env: { CARGO_TARGET_DIR: target } })
  assert.match(output, /waiting for a network: 2\n.*milk/)
})

test('commands that need a running server work', async () => {
  await edit('my-document')
  const replay = 'cargo run --release -p syncline-sim -- load trace-flow --readers 10 --allow-saturated'
  await run(printed(replay), { env })
  await run(printed('cargo run --release -- backup backups/notes'), { env })
  await run(printed('cargo run -p syncline-client --example shopping_list'), { env })
})

test('commands that need a stopped server work', async () => {
  assert.equal(await server.stop(), 0, server.output())
  await run(printed('cargo run --release -- inspect my-document'), { env })
  await run(printed('cargo run --release -- delete my-document'), { env })
  await run(printed('cargo run --release -- purge my-document'), { env })
})

test('the example with access control starts and ends with its input', async () => {
  assert.match(await run(printed('cargo run --example access -- ada=write ben=read')), /ws:\/\//)
})

test('the load and benchmark commands work', async () => {
  await run(printed('cargo run --release -p syncline-sim -- load --help'))
  await runFor(RUN_LIMIT_MS, printed('cargo run --release -p syncline-sim -- bench --against floor'))
})

test('the scenario, crash, power-cut and disk-fault commands work', async () => {
  await run(printed('cargo build && cargo run -p syncline-sim -- run prolonged-offline --seeds 1..50'))
  await run(printed('cargo build && cargo run -p syncline-sim -- crash --rounds 18'))
  // Without root these commands skip some checks and name them.
  await run(printed('cargo build && cargo run -p syncline-sim -- power-cut --trials 3'))
  await run(printed('cargo run -p syncline-sim -- disk-fault'))
})

test('the simulation commands work', async () => {
  await run(printed('cargo run -p syncline-simulation -- --seed 42'))
  await runFor(RUN_LIMIT_MS, printed('cargo run -p syncline-simulation -- --plans 100000'))
})

test('README prints no other command', () => {
  for (const command of NOT_RUN.keys()) assert.ok(commands().includes(command), command)
  assert.deepEqual(commands().filter((command) => !done.has(command) && !NOT_RUN.has(command)), [])
})

/** Creates a document on the running server. */
async function edit(name) {
  const doc = new Y.Doc()
  const provider = new WebsocketProvider(env.SYNCLINE_URL, name, doc, { WebSocketPolyfill: WebSocket, disableBc: true })
  doc.getText('text').insert(0, 'Hello')
  const observer = new Y.Doc()
  const other = new WebsocketProvider(env.SYNCLINE_URL, name, observer, { WebSocketPolyfill: WebSocket, disableBc: true })
  await new Promise((resolve) => {
    observer.on('update', () => observer.getText('text').length > 0 && resolve())
  })
  for (const one of [provider, other]) one.destroy()
}
