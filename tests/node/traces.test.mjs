// Real editing sessions, replayed keystroke by keystroke with ten readers: the text is right at every reader, after
// kill -9 and a restart, and for a stock client that never saw the session.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'

import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'

import { BINARY, startServer } from './support/server.mjs'

const SIMULATOR = join(dirname(BINARY), 'syncline-sim')
const READERS = 10

for (const [trace, dialect] of [
  ['sveltecomponent', 'y-websocket'],
  ['sveltecomponent', 'hocuspocus'],
  ['automerge-paper', 'y-websocket'],
]) {
  test(`${trace} over ${dialect} is right at ten readers and after kill -9`, async () => {
    const file = fileURLToPath(new URL(`../fixtures/traces/${trace}.json.gz`, import.meta.url))
    const { endContent } = JSON.parse(gunzipSync(readFileSync(file)))
    const server = await startServer()
    try {
      const common = ['load', 'trace-flow', '--trace', file, '--url', server.url, '--document', trace, '--dialect', dialect, '--json']
      const report = JSON.parse(await simulate([...common, '--readers', String(READERS), '--allow-saturated']))
      const { updates, right_readers } = report.figures
      assert.equal(right_readers, READERS)
      assert.ok(updates > 18_000, `the whole trace was replayed: ${updates} updates`)
      assert.equal(report.ack_latency.count, updates)
      // Every update was acknowledged, so every update survives.
      await server.kill()
      await server.restart()
      await simulate([...common, '--verify-only'])
      assert.equal(await readText(server.url, trace), endContent)
    } finally {
      await server.stop()
    }
  })
}

/** Runs the simulator, which exits non-zero if any reader's text is wrong. Resolves to its standard output. */
function simulate(args) {
  return new Promise((resolve, reject) => {
    const child = spawn(SIMULATOR, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    let [out, errors] = ['', '']
    child.stdout.on('data', (data) => (out += data))
    child.stderr.on('data', (data) => (errors += data))
    child.on('error', reject)
    child.on('close', (code) => {
      if (code === 0) resolve(out)
      else reject(new Error(`syncline-sim ended with ${code}: ${errors}`))
    })
  })
}

async function readText(url, name) {
  const doc = new Y.Doc()
  const provider = new WebsocketProvider(url, name, doc, { WebSocketPolyfill: WebSocket, disableBc: true })
  await new Promise((resolve) => provider.on('sync', (synced) => synced && resolve()))
  const text = doc.getText('text').toString()
  provider.destroy()
  doc.destroy() // Stops the awareness timer, which would keep this process alive.
  return text
}
