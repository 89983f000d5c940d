// Bytes transferred by a reconnect: our client needs the least, a device that missed nothing under 200 bytes, also after a
// server restart. docs/offline.md has the figures of a large document.

import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { until } from './support/clients.mjs'
import { BINARY, startServer, temporaryDirectory } from './support/server.mjs'

const SIMULATOR = join(dirname(BINARY), 'syncline-sim')
const TRACE = fileURLToPath(new URL('../fixtures/traces/automerge-paper.json.gz', import.meta.url))
const SCRIPT = fileURLToPath(new URL('support/wire-cost.mjs', import.meta.url))
const EDITS = 20_000
const NOTHING_MISSED_BYTES = 200
const KEYSTROKE_BYTES = 300

test('a reconnect costs our client little, and the npm clients their delete set twice', async (t) => {
  const server = await startServer()
  t.after(() => server.stop())
  const args = ['wire-cost', '--trace', TRACE, '--edits', String(EDITS), '--url', server.url, '--npm', SCRIPT, '--json']
  const { stdout } = await promisify(execFile)(SIMULATOR, args)
  const { rows, state_bytes, characters } = JSON.parse(stdout)
  const [ours, ...npm] = rows
  assert.deepEqual(rows.map(({ client }) => client), ['Syncline device', 'npm y-websocket', 'npm Hocuspocus'])
  const sum = ({ sent, received }) => sent + received
  for (const [what, limit] of [
    ['nothing_missed', NOTHING_MISSED_BYTES],
    ['keystroke_made', KEYSTROKE_BYTES],
    ['keystroke_missed', KEYSTROKE_BYTES],
  ]) {
    t.diagnostic(`${what}: ${rows.map((row) => `${row.client} ${sum(row[what])}`).join(', ')}`)
    assert(sum(ours[what]) < limit, `${what}: ${sum(ours[what])} bytes`)
    for (const row of npm) {
      assert(sum(row[what]) > sum(ours[what]), `${what}: ${row.client} needs more`)
      assert(sum(row[what]) < state_bytes, `${what}: ${row.client} needs less than the whole document`)
    }
  }
  // The server encodes the state in fewer bytes than the tool, but not in fewer than it has characters.
  for (const row of rows) assert(sum(row.first) > characters, `${row.client} received the whole document at first`)
})

test('a device that missed nothing needs under 200 bytes, also after a restart', async (t) => {
  const server = await startServer()
  t.after(() => server.kill())
  const ask = device(t, server.url)
  for (let i = 0; i < 600; i++) await ask(`edit ${i % 3 === 2 ? 'delete' : 'insert'} d0-${i} ${i * 7919}`)
  await until(async () => (await ask('saved')).saved, { what: 'every edit is saved' })

  for (const [what, meanwhile] of [
    ['nothing', () => {}],
    ['restart', () => server.restart()],
    ['kill -9', () => server.kill().then(() => server.restart())],
  ]) {
    await ask('offline')
    await meanwhile()
    const before = total(await ask('traffic'))
    await ask('online')
    await until(async () => (await ask('state')).synced, { what: 'the device is synced' })
    const bytes = total(await ask('traffic')) - before
    t.diagnostic(`${what} meanwhile: ${bytes} bytes`)
    assert(bytes > 0 && bytes < NOTHING_MISSED_BYTES, `${what} meanwhile: ${bytes} bytes`)
  }
})

/** Starts a device in a process of its own; returns the function that sends it a command. */
function device(t, url) {
  const args = ['actor', '--dir', temporaryDirectory(), '--url', url, '--document', 'cost']
  const child = spawn(SIMULATOR, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  t.after(() => child.kill('SIGKILL'))
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return async (command) => {
    child.stdin.write(`${command}\n`)
    const answer = JSON.parse((await answers.next()).value)
    assert(answer.ok, answer.error)
    return answer
  }
}

function total({ sent, received }) {
  return sent.bytes + received.bytes
}
