// The quick starts in README.md, as they stand there, against the binary: what a newcomer copies works.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

import { startServer } from './support/server.mjs'

const README = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')
/** Beside this file, where the packages are found. */
const SCRIPT = (number) => fileURLToPath(new URL(`./.readme-${number}.mjs`, import.meta.url))
/** Node 20 has no WebSocket of its own; browsers do. */
const PRELUDE = "import ws from 'ws'\nglobalThis.WebSocket = ws\n"

test('the two quick starts connect and share one document', async () => {
  const examples = [...README.matchAll(/```js\n(.*?)```/gs)].map((match) => match[1])
  assert.equal(examples.length, 2)
  for (const example of examples) {
    const lines = example.trim().split('\n').length
    assert.ok(lines <= 12, `${lines} lines are more than a newcomer wants to read`)
  }
  const server = await startServer()
  const running = examples.map((example, number) => run(number, example.replaceAll('ws://127.0.0.1:1234', server.url)))
  try {
    await Promise.all(running.map(({ said }) => said('Hello from y-websocket.', 'Hello from Hocuspocus.')))
    await running[0].said('in sync: true')
    await running[1].said('not yet saved: 0')
  } finally {
    for (const one of running) await one.end()
    await server.stop()
  }
})

function run(number, source) {
  // Imports come first in a module: the prelude is one of its own.
  writeFileSync(SCRIPT(`${number}-prelude`), PRELUDE)
  writeFileSync(SCRIPT(number), `import './.readme-${number}-prelude.mjs'\n${source}`)
  const child = spawn(process.execPath, [SCRIPT(number)], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  let look = () => {}
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (data) => {
      output += data
      look()
    })
  }
  const ended = new Promise((resolve) => child.on('close', resolve))
  return {
    /** Resolves when everything in `texts` has been printed. */
    said: (...texts) =>
      new Promise((resolve, reject) => {
        look = () => texts.every((text) => output.includes(text)) && resolve()
        look()
        ended.then(() => reject(new Error(`example ${number} ended: ${output}`)))
      }),
    end: async () => {
      child.kill('SIGTERM')
      await ended
      for (const name of [number, `${number}-prelude`]) rmSync(SCRIPT(name), { force: true })
    },
  }
}
