// The server process: HTTP, starting, refusing to start, stopping, inspecting its data, and settings.

import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import * as Y from 'yjs'
import { makers, rawClient, until, untilSaved, untilSynced } from './support/clients.mjs'
import { allEqual, assertAllEqual } from './support/documents.mjs'
import { BINARY, runBinary, startServer, temporaryDirectory } from './support/server.mjs'
import { hocuspocus, yWebsocket } from './support/wire.mjs'

const RESTARTING = 1012
const EMPTY_VECTOR = Y.encodeStateVector(new Y.Doc())

describe('HTTP', () => {
  test('serves health, readiness, the page and problem details on the same port', async (t) => {
    const server = await startedServer(t)
    for (const path of ['/healthz', '/readyz']) assert.equal((await fetch(server.httpUrl + path)).status, 200, path)

    const page = await fetch(`${server.httpUrl}/`)
    assert.equal(page.status, 200)
    assert.match(page.headers.get('content-type'), /^text\/html/)
    const html = await page.text()
    assert.match(html, /<!doctype html>/i)
    // The assets that the page refers to are served too.
    const assets = [...html.matchAll(/(?:src|href)="\.?\/?(assets\/[^"]+)"/g)].map(([, path]) => path)
    assert(assets.length > 0, 'the page has a script')
    for (const path of assets) {
      const asset = await fetch(`${server.httpUrl}/${path}`)
      assert.equal(asset.status, 200, path)
      assert.match(asset.headers.get('content-type'), /javascript|css|svg/)
    }

    const missing = await fetch(`${server.httpUrl}/no/such/page`)
    assert.equal(missing.status, 404)
    assert.match(missing.headers.get('content-type'), /^application\/problem\+json/)
    const problem = await missing.json()
    assert.equal(problem.status, 404)
    assert(problem.title && problem.detail)
    assert.equal((await fetch(`${server.httpUrl}/`, { method: 'POST' })).status, 405)
  })
})

describe('starting', () => {
  test('prints on stdout where editors connect and where the documents are stored', async (t) => {
    const server = await startedServer(t)
    const output = server.output()
    assert.match(output, /^Syncline \d+\.\d+\.\d+\S* is ready\.$/m)
    assert.match(output, new RegExp(`^ +editors connect to +${server.url}$`, 'm'))
    assert.match(output, new RegExp(`${server.httpUrl}/`))
    assert(output.includes(server.dataDir))
  })

  test('a second server on the same data exits with code 1 and names the first process', async (t) => {
    const server = await startedServer(t)
    const second = await runBinary(['serve', '--listen', '127.0.0.1:0', '--data', server.dataDir])
    assert.equal(second.code, 1)
    assert.equal(second.stdout, '')
    assert.match(oneLine(second.stderr), new RegExp(`\\b${server.pid}\\b`))
    assert(second.stderr.includes(server.dataDir))
    assert.equal((await fetch(`${server.httpUrl}/readyz`)).status, 200, 'the first server keeps running')
  })

  test('a port in use is reported in one line with exit code 1', async (t) => {
    const holder = createServer().listen(0, '127.0.0.1')
    t.after(() => holder.close())
    await new Promise((resolve) => holder.once('listening', resolve))
    const address = `127.0.0.1:${holder.address().port}`
    const refused = await runBinary(['serve', '--listen', address, '--data', temporaryDirectory()])
    assert.equal(refused.code, 1)
    assert.equal(refused.stdout, '')
    assert.match(oneLine(refused.stderr), new RegExp(`${address}.*in use`))
    assert.doesNotMatch(refused.stderr, /os error/, 'the message does not repeat the OS error')
  })

  test('a data directory that cannot be created is reported in one line with exit code 1', async () => {
    const refused = await runBinary(['serve', '--listen', '127.0.0.1:0', '--data', join(BINARY, 'data')])
    assert.equal(refused.code, 1)
    assert(oneLine(refused.stderr).includes(BINARY))
  })
})

describe('stopping', () => {
  for (const signal of ['SIGTERM', 'SIGINT']) {
    test(`with ${signal} asks clients to reconnect, stores everything and exits with 0`, async (t) => {
      const server = await startedServer(t)
      const clients = ['ywebsocket', 'hocuspocus'].map((dialect) => makers[dialect](t, server, 'stopping'))
      const idle = rawClient(t, server, 'stopping')
      const active = rawClient(t, server)
      await active.send(hocuspocus.auth('elsewhere'), hocuspocus.step1('elsewhere', EMPTY_VECTOR))
      await idle.opened
      await untilSynced(...clients)
      // Clients edit while the server stops and while it is down.
      const [ann, ben] = clients
      for (let i = 0; i < 100; i++) clients.forEach(({ doc }, number) => doc.getText('text').insert(0, `${number}-${i} `))
      const stopped = server.stop(signal)
      for (const client of [idle, active]) {
        const { code, reason } = await client.closed()
        assert.equal(code, RESTARTING)
        assert.match(reason, /reconnect/)
      }
      assert.deepEqual(await stopped, { code: 0, signal: null })
      await assert.rejects(fetch(`${server.httpUrl}/healthz`), 'the port is closed')
      for (let i = 0; i < 20; i++) clients.forEach(({ doc }, number) => doc.getText('text').insert(0, `${number}-away-${i} `))

      await server.restart()
      await until(() => allEqual([ann.doc, ben.doc]) && ann.isSynced && ben.isSynced, {
        what: 'both have reconnected and agree',
      })
      await untilSaved(ben)
      assert.equal(ann.doc.getText('text').toString().split(' ').length, 241, 'each edit is there exactly once')
      const fresh = makers.ywebsocket(t, server, 'stopping')
      await untilSynced(fresh)
      assertAllEqual([ann.doc, ben.doc, fresh.doc])
    })
  }

  test('finishes quickly although a client does not respond', async (t) => {
    const server = await startedServer(t)
    const unresponsive = rawClient(t, server, 'unresponsive')
    await unresponsive.send(yWebsocket.step1(EMPTY_VECTOR))
    unresponsive.socket._socket.pause()
    const start = performance.now()
    assert.deepEqual(await server.stop(), { code: 0, signal: null })
    assert(performance.now() - start < 10_000)
  })
})

describe('inspect', () => {
  test('lists number, time, size and clients of every record while no server runs', async (t) => {
    const server = await startedServer(t)
    const before = Date.now()
    const clients = ['ywebsocket', 'hocuspocus'].map((dialect) => makers[dialect](t, server, 'a%2Fdocument'))
    await untilSynced(...clients)
    const sizes = []
    for (let i = 0; i < 3; i++) {
      for (const { doc } of clients) {
        doc.once('update', (update) => sizes.push(update.length))
        doc.getText('text').insert(0, `edit ${i} `)
        await untilSaved(...clients)
      }
    }
    const after = Date.now()
    const ids = clients.map(({ doc }) => doc.clientID)

    const whileRunning = await runBinary(['inspect', 'a%2Fdocument', '--data', server.dataDir])
    assert.equal(whileRunning.code, 1)
    assert.match(oneLine(whileRunning.stderr), new RegExp(`\\b${server.pid}\\b.*server`))

    // kill -9: a clean stop may have made a snapshot of the records.
    await server.kill()
    const shown = await runBinary(['inspect', 'a%2Fdocument', '--data', server.dataDir])
    assert.deepEqual([shown.code, shown.stderr], [0, ''])
    const records = shown.stdout
      .split('\n')
      .map((line) => line.match(/^ *(\d+) +(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z) +(\d+) +([\d ]+)$/))
      .filter(Boolean)
      .map(([, seq, time, size, clients]) => ({
        seq: +seq,
        time: Date.parse(time),
        size: +size,
        clients: clients.split(' ').map(Number),
      }))
    assert.deepEqual(
      records.map(({ seq }) => seq),
      [1, 2, 3, 4, 5, 6],
      shown.stdout,
    )
    assert.deepEqual(
      records.map(({ size }) => size),
      sizes,
    )
    assert.deepEqual(
      records.map(({ clients }) => clients),
      [0, 1, 2].flatMap(() => ids.map((id) => [id])),
    )
    for (const { time } of records) assert(time >= before && time <= after, new Date(time).toISOString())
  })

  test('reports a missing document or directory and creates neither', async (t) => {
    const server = await startedServer(t)
    await server.stop()
    const noDocument = await runBinary(['inspect', 'nobody-wrote-this', '--data', server.dataDir])
    assert.equal(noDocument.code, 1)
    assert.match(oneLine(noDocument.stderr), /nobody-wrote-this/)
    const nowhere = join(temporaryDirectory(), 'nowhere')
    const noDirectory = await runBinary(['inspect', 'notes', '--data', nowhere])
    assert.equal(noDirectory.code, 1)
    assert(oneLine(noDirectory.stderr).includes(nowhere))
  })
})

describe('settings', () => {
  test('come from the environment', async (t) => {
    const own = temporaryDirectory()
    const server = await startServer({ env: { SYNCLINE_MESSAGE_BYTES: '2048' } })
    t.after(() => server.stop())
    await assertLimit(t, server, 2048)
    // Also the settings that the tests above pass as flags.
    const env = { SYNCLINE_LISTEN: 'not an address', SYNCLINE_DATA: own }
    const refused = await runBinary(['serve'], { env, cwd: own })
    assert.notEqual(refused.code, 0)
    assert.match(refused.stderr, /not an address/)
    const inUse = await runBinary(['serve'], {
      env: { SYNCLINE_LISTEN: '127.0.0.1:0', SYNCLINE_DATA: server.dataDir },
      cwd: own,
    })
    assert(inUse.stderr.includes(server.dataDir), 'SYNCLINE_DATA is used')
  })

  test('come from a file, and flags and environment override it', async (t) => {
    const config = join(temporaryDirectory(), 'server.toml')
    writeFileSync(config, 'message_bytes = 4096\nlog_format = "json"\n')
    const server = await startServer({ args: ['--config', config] })
    t.after(() => server.stop())
    await assertLimit(t, server, 4096)
    await until(() => server.output().includes('{"'), { what: 'a log line in JSON' })

    const overruled = await startServer({ args: ['--config', config], env: { SYNCLINE_MESSAGE_BYTES: '3000' } })
    t.after(() => overruled.stop())
    await assertLimit(t, overruled, 3000)
    const flagged = await startServer({
      args: ['--config', config, '--message-bytes', '2000'],
      env: { SYNCLINE_MESSAGE_BYTES: '3000' },
    })
    t.after(() => flagged.stop())
    await assertLimit(t, flagged, 2000)
  })

  test('that are unknown are named in the error, as is a missing file', async () => {
    const directory = temporaryDirectory()
    const config = join(directory, 'server.toml')
    writeFileSync(config, 'lisen = "127.0.0.1:0"\n')
    const unknown = await runBinary(['serve', '--config', config, '--data', join(directory, 'data')])
    assert.equal(unknown.code, 1)
    assert.match(unknown.stderr, /lisen/)
    assert(unknown.stderr.includes(config))
    const missing = await runBinary(['serve', '--config', join(directory, 'none.toml')], { cwd: directory })
    assert.equal(missing.code, 1)
    assert.match(oneLine(missing.stderr), /none\.toml/)
    const wrong = await runBinary(['serve', '--message-bytes', '10', '--data', join(directory, 'data')])
    assert.equal(wrong.code, 1)
    assert.match(oneLine(wrong.stderr), /message-bytes/)
  })

  test('that cannot work are reported with their name and the reason', async () => {
    for (const [args, expected] of [
      [['--listen', '127.0.0.1:21', '--metrics', '127.0.0.1:21'], /^syncline: --metrics: 127\.0\.0\.1:21 is the address of --listen/],
      [['--data', '/dev/null', '--listen', '127.0.0.1:0'], /\/dev\/null cannot be opened: it is not a directory/],
    ]) {
      const { code, stderr } = await runBinary(['serve', ...args], { cwd: temporaryDirectory() })
      assert.equal(code, 1)
      assert.match(oneLine(stderr), expected)
    }
  })

  test('that are wrong in a file are reported in the log format set in that file', async () => {
    const config = join(temporaryDirectory(), 'server.toml')
    for (const line of ['outbox_bytes = 0', 'lisen = "127.0.0.1:0"']) {
      writeFileSync(config, `log_format = "json"\n${line}\n`)
      const { code, stderr } = await runBinary(['serve', '--config', config])
      assert.equal(code, 1)
      assert(JSON.parse(oneLine(stderr)).fields.message.includes(line.split(' ')[0]), stderr)
    }
  })

  test('with an address in use are named in the error', async (t) => {
    const server = await startedServer(t)
    const address = new URL(server.url).host
    for (const setting of ['--listen', '--metrics']) {
      const listen = setting === '--listen' ? [] : ['--listen', '127.0.0.1:0']
      const { code, stderr } = await runBinary(['serve', ...listen, setting, address], { cwd: temporaryDirectory() })
      assert.equal(code, 1)
      assert(oneLine(stderr).endsWith(`choose another address with ${setting}`), stderr)
      assert(stderr.includes(address), stderr)
    }
  })

  test('are listed in --help with environment variables and file', async () => {
    const { code, stdout } = await runBinary(['serve', '--help'])
    assert.equal(code, 0)
    for (const word of [
      '--listen',
      '--data',
      '--config',
      '--log-format',
      'SYNCLINE_LISTEN',
      'SYNCLINE_DATA',
      'SYNCLINE_LOG_FORMAT',
      'TOML',
      '127.0.0.1:1234',
    ]) {
      assert(stdout.includes(word), `${word} in\n${stdout}`)
    }
    const overview = await runBinary(['--help'])
    for (const word of ['serve', 'inspect', 'SYNCLINE_LISTEN', 'syncline.toml'])
      assert(overview.stdout.includes(word), word)
  })
})

async function startedServer(t) {
  const server = await startServer()
  t.after(() => server.stop())
  return server
}

/** Asserts the limit in force, which the refusal of a larger message names. */
async function assertLimit(t, server, bytes) {
  const client = rawClient(t, server, 'limits')
  await client.send(yWebsocket.step1(EMPTY_VECTOR), new Uint8Array(bytes + 1))
  const { code, reason } = await client.closed()
  assert.equal(code, 4413)
  assert.match(reason, new RegExp(`\\b${bytes}\\b`))
}

/** Asserts that stderr has exactly one line, and returns it. */
function oneLine(stderr) {
  const lines = stderr.trimEnd().split('\n')
  assert.equal(lines.length, 1, stderr)
  return lines[0]
}
