// Runs the JavaScript quick starts of README.md unchanged against the binary: in an empty directory with only what the npm
// install line installs, on a Node without WebSocket, and bundled in a browser. `readme-commands.mjs` runs the rest.

import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'

import { build } from '../../console/node_modules/vite/dist/node/index.js'
import { launchChromium } from './support/chromium.mjs'
import { startProxy } from './support/page-proxy.mjs'
import { blocks, installLine, PRINTED_URL, run, start } from './support/readme.mjs'
import { startServer, temporaryDirectory } from './support/server.mjs'

const EXAMPLES = blocks('js')
const GREETINGS = ['Hello from y-websocket.', 'Hello from Hocuspocus.']
const LAST_LINES = [/in sync: true/, /not yet saved: 0/]
/** Node 20 has no global WebSocket: newer versions run without theirs. */
const NO_WEBSOCKET = globalThis.WebSocket ? { NODE_OPTIONS: '--no-experimental-websocket' } : {}

const projects = EXAMPLES.map(() => temporaryDirectory())
let server

before(async () => {
  server = await startServer()
  for (const [number, cwd] of projects.entries()) await run(installLine(number), { cwd })
})
after(() => server?.stop())

test('quick starts are short', () => {
  assert.equal(EXAMPLES.length, 2)
  for (const example of EXAMPLES) {
    const lines = example.trim().split('\n').length
    assert.ok(lines <= 12, `${lines} lines are too many for a quick start`)
  }
})

test('quick starts run on Node without WebSocket, and share one document', async () => {
  const running = EXAMPLES.map((example, number) => {
    writeFileSync(join(projects[number], 'editor.mjs'), at(server.url, example))
    return start('node editor.mjs', { cwd: projects[number], env: NO_WEBSOCKET })
  })
  for (const [number, one] of running.entries()) {
    for (const greeting of GREETINGS) await one.printed(greeting)
    await one.printed(LAST_LINES[number])
  }
  for (const one of running) await one.stop()
})

test('quick starts run from a bundler in a browser', async () => {
  const proxy = await startProxy(server.port)
  const browser = await launchChromium()
  for (const [number, example] of EXAMPLES.entries()) {
    const script = await bundle(projects[number], at(proxy.url.replace('http', 'ws').slice(0, -1), example))
    proxy.rewrite = (path, body) =>
      path === '/' ? `<!doctype html><script type="module">${script.replaceAll('</script', '<\\/script')}</script>` : body
    const page = await browser.newPage()
    const lines = []
    const done = new Promise((resolve, reject) => {
      page.on('console', (message) => {
        lines.push(message.text())
        if (LAST_LINES[number].test(message.text())) resolve()
      })
      page.on('pageerror', (error) => reject(new Error(`${error}\n${lines.join('\n')}`)))
    })
    await page.goto(proxy.url)
    await done
    await page.close()
  }
  await browser.close()
  await proxy.stop()
})

function at(url, example) {
  assert.ok(example.includes(PRINTED_URL))
  return example.replaceAll(PRINTED_URL, url)
}

/** Bundles the example for browsers into one file. */
async function bundle(root, source) {
  const input = join(root, 'bundled.mjs')
  writeFileSync(input, source)
  const { output } = await build({
    root,
    configFile: false,
    logLevel: 'error',
    build: { write: false, target: 'es2022', modulePreload: false, rolldownOptions: { input, output: { codeSplitting: false } } },
  })
  assert.equal(output.length, 1)
  return output[0].code
}
