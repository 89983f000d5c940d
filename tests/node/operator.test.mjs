// What an operator meets first: the store a command uses, wrong settings, signals, log lines, file permissions, damaged
// backups, and web pages of other origins.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import * as Y from 'yjs'
import { makers, rawClient, until, untilSaved, untilSynced } from './support/clients.mjs'
import { BINARY, runBinary, startServer, temporaryDirectory } from './support/server.mjs'
import { bytes, hocuspocus, text, yWebsocket } from './support/wire.mjs'

const EMPTY_VECTOR = Y.encodeStateVector(new Y.Doc())
const HOSTILE_NAME = 'a\u202eb\u2028 level=ERROR "x'
/** Characters that a log line must not contain unescaped. */
const UNPRINTABLE = /[\u202e\u2028\u001b]/

describe('the store of a command', () => {
  test('is chosen by flag, then environment, then file, and its path is printed', async (t) => {
    const home = temporaryDirectory()
    const server = await startServer({ dataDir: join(home, 'notes') })
    t.after(() => server.stop())
    await write(t, server, 'page', 'by a client')
    writeFileSync(join(home, 'syncline.toml'), 'data = "notes"\n')
    const elsewhere = join(home, 'elsewhere')
    const here = { cwd: home }
    for (const isRunning of [true, false]) {
      if (!isRunning) await server.stop()
      const commands = [['backup', join(home, `backup-${isRunning}`)], ['export', 'page', '--format', 'json']]
      if (!isRunning) commands.push(['inspect', 'page'], ['verify'], ['repair'], ['delete', 'page'], ['purge', 'page'])
      for (const args of commands) {
        const { code, stdout, stderr } = await runBinary(args, here)
        assert.equal(code, 0, `${args}: ${stderr}`)
        const printed = args[0] === 'export' ? stderr : stdout
        assert(printed.startsWith(`store: ${join(home, 'notes')}`), `${args}: ${printed}`)
        if (args[0] === 'export') assert.deepEqual(JSON.parse(stdout), { text: { $text: 'by a client' } })
      }
    }
    const overruled = [
      { args: ['verify', '--data', elsewhere], env: { SYNCLINE_DATA: join(home, 'notes') } },
      { args: ['verify'], env: { SYNCLINE_DATA: elsewhere } },
      { args: ['verify', '--config', join(home, 'other.toml')], env: {} },
    ]
    writeFileSync(join(home, 'other.toml'), `data = "${elsewhere}"\n`)
    for (const { args, env } of overruled) {
      const { code, stderr } = await runBinary(args, { ...here, env })
      assert.equal(code, 1)
      assert(stderr.includes(`no Syncline store in ${elsewhere}`), stderr)
    }
    assert.equal((await runBinary(['verify'], { ...here, env: { SYNCLINE_DATA: '' } })).code, 0, 'empty counts as unset')
  })

  test('must exist: no command creates one or accepts an empty directory', async () => {
    const [home, backups] = [temporaryDirectory(), join(temporaryDirectory(), 'backups')]
    const file = join(temporaryDirectory(), 'file.json')
    writeFileSync(file, '{"text":"x"}')
    const commands = [['backup', backups], ['import', 'page', file], ['export', 'page'], ['inspect', 'page']]
    commands.push(['delete', 'page'], ['purge', 'page'], ['verify'], ['repair'])
    for (const isEmpty of [false, true]) {
      if (isEmpty) mkdirSync(join(home, 'data'))
      for (const args of commands) {
        const { code, stdout, stderr } = await runBinary([...args], { cwd: home })
        assert.deepEqual([code, stdout], [1, ''], args[0])
        assert(oneLine(stderr).includes(`no Syncline store in ${join(home, 'data')}`), stderr)
        assert.match(stderr, /--data DIR, SYNCLINE_DATA/)
      }
      assert.deepEqual(readdirSync(home), isEmpty ? ['data'] : [])
      assert(!existsSync(backups))
    }
    assert.deepEqual(readdirSync(join(home, 'data')), [])
    assert.match((await runBinary(['import', 'page', file], { cwd: home })).stderr, /--create/)
    const made = await runBinary(['import', 'page', file, '--create'], { cwd: home })
    assert.equal(made.code, 0, made.stderr)
    assert.match(made.stdout, /imported .* into "page"/)
    assert.equal((await runBinary(['import', 'page', file], { cwd: temporaryDirectory() })).code, 1)
    const nameless = await runBinary(['restore', backups], { cwd: home })
    assert.equal(nameless.code, 1)
  })
})

describe('wrong settings', () => {
  test('are named once by flag, variable or file, and an empty variable counts as unset', async () => {
    const directory = temporaryDirectory()
    const config = join(directory, 'server.toml')
    writeFileSync(config, 'message_bytes = 3\n')
    for (const { args = [], env = {}, named, not } of [
      { env: { SYNCLINE_LISTEN: 'nowhere' }, named: /environment variable SYNCLINE_LISTEN/ },
      { args: ['--listen', 'nowhere'], env: { SYNCLINE_LISTEN: 'x' }, named: /'--listen <ADDRESS:PORT>'/, not: /SYNCLINE/ },
      { env: { SYNCLINE_MESSAGE_BYTES: '3' }, named: /environment variable SYNCLINE_MESSAGE_BYTES: must be at least/ },
      { env: { SYNCLINE_MESSAGE_BYTES: 'many' }, named: /environment variable SYNCLINE_MESSAGE_BYTES/ },
      { args: ['--message-bytes=3'], named: /--message-bytes: must be at least/, not: /SYNCLINE/ },
      { args: ['--config', config], named: /message_bytes in the configuration file .*server\.toml: must be at least/ },
      { args: ['--allow-origin', 'localhost'], named: /--allow-origin: "localhost" is not an origin/ },
      { args: ['--config', join(directory, 'none.toml')], named: /none\.toml: No such file or directory \(os error 2\)\n$/ },
    ]) {
      for (const command of [['serve', ...args], args]) {
        const refused = await runBinary(command, { env, cwd: directory })
        assert.notEqual(refused.code, 0)
        assert.match(refused.stderr, named)
        assert.doesNotMatch(refused.stderr, /panicked/)
        if (not) assert.doesNotMatch(refused.stderr, not)
        const causes = refused.stderr.trim().split(': ')
        assert.equal(new Set(causes).size, causes.length, `a cause is repeated: ${refused.stderr}`)
      }
    }
    assert.deepEqual(readdirSync(directory), ['server.toml'])
    const unset = { SYNCLINE_LISTEN: '', SYNCLINE_CONFIG: '', SYNCLINE_LOG_FORMAT: '', RUST_LOG: '' }
    const server = await startServer({ env: { ...unset, SYNCLINE_MESSAGE_BYTES: '', SYNCLINE_USER_HEADER: '' } })
    assert.doesNotMatch(server.output(), /WARN|ERROR/)
    await server.stop()
  })

  test('in RUST_LOG are reported, and logging continues', async (t) => {
    for (const filter of ['inof', 'syncline_server=loud']) {
      const server = await startServer({ env: { RUST_LOG: filter } })
      t.after(() => server.stop())
      await until(() => /WARN.*RUST_LOG is ignored/.test(server.output()), { what: 'a warning' })
      assert(server.output().includes(filter))
    }
  })

  for (const listen of ['localhost:0', ':0']) {
    test(`--listen ${listen} listens on loopback`, async (t) => {
      const server = await startServer({ args: ['--log-format', 'text'], listen })
      t.after(() => server.stop())
      assert.equal((await fetch(`${server.httpUrl}/healthz`)).status, 200)
    })
  }
})

describe('signals', () => {
  test('SIGHUP drains as SIGTERM does', async (t) => {
    const server = await startServer()
    t.after(() => server.kill())
    const client = rawClient(t, server, 'doc')
    await client.send(yWebsocket.step1(EMPTY_VECTOR))
    const stopped = server.stop('SIGHUP')
    assert.equal((await client.closed()).code, 1012)
    assert.deepEqual(await stopped, { code: 0, signal: null })
    assert.match(server.output(), /stopped; everything is on disk/)
  })

  test('a second SIGTERM or SIGINT kills a server that is still draining', async (t) => {
    for (const [first, second, isEnded] of [['SIGTERM', 'SIGINT', true], ['SIGINT', 'SIGINT', true], ['SIGHUP', 'SIGTERM', false]]) {
      // The log's thread halts at its next commit: draining would never finish.
      const server = await startServer({ env: { SYNCLINE_FAILPOINT: 'before-append:1:halt' } })
      t.after(() => server.kill())
      const client = makers.ywebsocket(t, server, 'doc')
      await untilSynced(client)
      client.doc.getText('text').insert(0, 'never on disk')
      await until(() => server.output().includes('halted at before-append'), { what: 'the log halts' })
      process.kill(server.pid, first)
      await until(() => server.output().includes(`signal="${first}"`), { what: 'the drain begins' })
      client.destroy()
      process.kill(server.pid, second)
      if (!isEnded) {
        // Service managers send both: the server has received the SIGTERM and is still running.
        await until(() => !isPending(server.pid, 15), { what: 'the SIGTERM is delivered' })
        assert(server.isRunning)
        process.kill(server.pid, 'SIGTERM')
      }
      assert.deepEqual(await server.ended(), { code: null, signal: second })
    }
  })

  test('a server started by nohup outlives its terminal', async (t) => {
    const data = temporaryDirectory()
    const script = `trap '' HUP; exec "${BINARY}" serve --listen 127.0.0.1:0 --data "${data}"`
    const child = spawn('sh', ['-c', script], { stdio: ['ignore', 'pipe', 'pipe'] })
    t.after(() => child.kill('SIGKILL'))
    let output = ''
    child.stdout.on('data', (data) => (output += data))
    child.stderr.on('data', (data) => (output += data))
    const ended = new Promise((resolve) => child.once('close', (code) => resolve(code)))
    await until(() => output.includes('is ready'), { what: 'the server is ready' })
    child.kill('SIGHUP')
    child.kill('SIGTERM')
    assert.equal(await ended, 0)
    assert.match(output, /signal="SIGTERM"/)
    assert.doesNotMatch(output, /SIGHUP/)
  })
})

describe('the log', () => {
  test('with --log-format json is JSON from the first line to the last on both streams', async (t) => {
    const server = await startServer({ args: ['--log-format', 'json'], env: { RUST_LOG: 'debug' } })
    t.after(() => server.stop())
    const client = rawClient(t, server)
    // A denied document, then a frame that is shorter than its address.
    await client.send(hocuspocus.auth(HOSTILE_NAME), hocuspocus.update(HOSTILE_NAME, new Uint8Array([255])), new Uint8Array([99]))
    await client.closed()
    await server.stop()
    const lines = server.output().trimEnd().split('\n').map((line) => JSON.parse(line))
    const ready = lines.find(({ fields }) => fields.message.includes('is ready'))
    assert.equal(ready.fields.editors, server.url)
    assert.equal(ready.fields.data, server.dataDir)
    assert(lines.some(({ fields }) => fields.document === HOSTILE_NAME), 'JSON has the name unescaped')
    assert.doesNotMatch(server.output(), /[^\x00-\x7f]/, 'the log is ASCII')
    const inUse = await startServer()
    t.after(() => inUse.stop())
    for (const args of [
      ['--data', inUse.dataDir, '--listen', ':0', '--log-format', 'json'],
      ['--log-format=json', '--listen', 'nowhere'],
    ]) {
      const refused = await runBinary(['serve', ...args])
      assert.notEqual(refused.code, 0)
      for (const line of refused.stderr.trimEnd().split('\n')) assert.equal(JSON.parse(line).level, 'ERROR')
    }
  })

  test('quotes and escapes client input, and names the user of a closed session', async (t) => {
    const server = await startServer({ args: ['--user-header', 'X-User'], env: { RUST_LOG: 'debug' } })
    t.after(() => server.stop())
    const named = rawClient(t, server)
    await named.send(hocuspocus.auth(HOSTILE_NAME), hocuspocus.step1(HOSTILE_NAME, EMPTY_VECTOR))
    await named.send(hocuspocus.update(HOSTILE_NAME, new Uint8Array([255])))
    const logged = () => server.output().split('\n').find((line) => line.includes('dialect="Hocuspocus"'))
    await until(logged, { what: 'the denied document is logged' })
    assert.match(logged(), /address=127\.0\.0\.1 .*document="a\\u\{202e\}b\\u\{2028\} level=ERROR \\"x".* code=4400 reason="/)
    const user = rawClient(t, server, 'doc', { headers: { 'X-User': 'ada level=ERROR' } })
    await user.send(yWebsocket.step1(EMPTY_VECTOR), new Uint8Array([0, 2, 1, 255]))
    await user.closed()
    const refused = rawClient(t, server, 'any')
    const hello = bytes(text('\0syncline'), 1, new Uint8Array(16))
    await refused.send(hello, bytes(1, 7, text('a\nlevel=ERROR'), text(''), 0))
    const nativeRefusal = () => server.output().split('\n').find((line) => line.includes('dialect="native"'))
    await until(nativeRefusal, { what: 'a refused document is logged' })
    assert.match(nativeRefusal(), /address=127\.0\.0\.1 dialect="native" document="a\\nlevel=ERROR" code=4404 reason="/)
    const closed = () => server.output().split('\n').filter((line) => line.includes('session closed by the server'))
    await until(() => closed().length === 1, { what: 'the session is logged' })
    assert.doesNotMatch(server.output(), UNPRINTABLE)
    assert.match(closed()[0], /dialect="y-websocket" document="doc" .*user="ada level=ERROR" code=4400/)
  })

  test('has one line a minute for each kind of refusal and counts the rest', async (t) => {
    const server = await startServer()
    t.after(() => server.stop())
    for (let i = 0; i < 20; i++) {
      const client = rawClient(t, server, 'doc')
      await client.send(new Uint8Array([0, 0, 9]))
      assert.equal((await client.closed()).code, 4400)
    }
    await server.stop()
    const lines = server.output().split('\n')
    assert.equal(lines.filter((line) => line.includes('session closed by the server')).length, 1)
    assert.equal(lines.filter((line) => /kind="session closed" code=4400 count=19/.test(line)).length, 1, server.output())
  })
})

describe('files', () => {
  test('of store, backup and export are accessible to the owner only, even older ones', async (t) => {
    const home = temporaryDirectory()
    const [data, backups, file] = [join(home, 'data'), join(home, 'backups'), join(home, 'page.json')]
    const server = await startServer({ dataDir: data })
    t.after(() => server.stop())
    await write(t, server, 'page', 'private')
    const commands = [['backup', backups, '--data', data], ['export', 'page', '--format', 'json', '-o', file, '--data', data]]
    for (const args of commands) assert.equal((await runBinary(args)).code, 0)
    await server.stop()
    assertPrivate([data, backups, file])
    for (const path of everything([data, backups])) chmodSync(path, statSync(path).isDirectory() ? 0o755 : 0o644)
    assert.equal((await runBinary(['backup', backups, '--data', data])).code, 0)
    // The operator may have created the two directories; the files in them are Syncline's.
    assertPrivate([...inside(data), ...inside(backups)])
  })
})

describe('a backup', () => {
  test('with a damaged document restores all the others and names the damaged one', async (t) => {
    const home = temporaryDirectory()
    const [data, backups, restored] = [join(home, 'data'), join(home, 'backups'), join(home, 'restored')]
    const server = await startServer({ dataDir: data })
    t.after(() => server.stop())
    for (const name of ['one', 'two', 'three', 'four']) await write(t, server, name, `the text of ${name}`)
    assert.equal((await runBinary(['backup', backups, '--data', data])).code, 0)
    await server.stop()
    const pack = join(backups, 'r000001-000.pack')
    const content = readFileSync(pack)
    content[content.indexOf('the text of two')] ^= 1
    writeFileSync(pack, content)
    const { code, stdout, stderr } = await runBinary(['restore', backups, '--data', restored])
    assert.equal(code, 1)
    assert.match(stdout, /restored 3 documents/)
    assert.match(stdout, /not restored: .*r000001-000\.pack is damaged: document "two"/)
    assert.match(oneLine(stderr), /1 document damaged in the backup and not restored/)
    for (const name of ['one', 'three', 'four']) {
      const shown = await runBinary(['export', name, '--format', 'json', '--data', restored])
      assert.deepEqual(JSON.parse(shown.stdout), { text: { $text: `the text of ${name}` } })
    }
    assert.equal((await runBinary(['verify', '--data', restored])).code, 0)

    // Restore one document into an empty or missing directory.
    const empty = join(home, 'empty')
    mkdirSync(empty)
    for (const directory of [empty, join(home, 'new')]) {
      for (const missing of ['two', 'five']) {
        const refused = await runBinary(['restore', backups, '--document', missing, '--data', directory])
        assert.equal(refused.code, 1)
        assert(refused.stderr.includes(missing), refused.stderr)
        assert(!existsSync(directory) || readdirSync(directory).length === 0, 'no empty store is left behind')
      }
      const one = await runBinary(['restore', backups, '--document', 'one', '--data', directory])
      assert.equal(one.code, 0, one.stderr)
      const shown = await runBinary(['export', 'one', '--format', 'json', '--data', directory])
      assert.deepEqual(JSON.parse(shown.stdout), { text: { $text: 'the text of one' } })
    }
    const full = join(home, 'full')
    mkdirSync(full)
    writeFileSync(join(full, 'file'), 'x')
    assert.equal((await runBinary(['restore', backups, '--document', 'one', '--data', full])).code, 1)
    assert.deepEqual(readdirSync(full), ['file'])
  })
})

describe('a web page', () => {
  test('of another origin is refused with 403; the log names the option to allow it', async (t) => {
    const server = await startServer()
    t.after(() => server.stop())
    for (const origin of ['https://evil.example', 'null', 'http://localhost:5173']) {
      const { head, body } = await upgrade(server, { Origin: origin })
      assert.match(head, /^HTTP\/1\.1 403 /)
      assert.match(head, /content-type: text\/plain/i)
      assert(body.includes(`--allow-origin ${origin}`), body)
    }
    assert.match((await upgrade(server, { Origin: server.httpUrl })).head, /^HTTP\/1\.1 101 /)
    assert.match((await upgrade(server, {})).head, /^HTTP\/1\.1 101 /)
    await until(() => /WARN.*--allow-origin https:\/\/evil\.example/.test(server.output()), { what: 'the log names the option' })
    assert.equal(server.output().match(/--allow-origin/g).length, 1, 'the log names the option once')

    const open = await startServer({
      args: ['--allow-origin', 'http://localhost:5173', '--allow-origin', 'null'],
    })
    t.after(() => open.stop())
    for (const origin of ['http://localhost:5173', 'null', open.httpUrl]) {
      assert.match((await upgrade(open, { Origin: origin })).head, /^HTTP\/1\.1 101 /, origin)
    }
    assert.match((await upgrade(open, { Origin: 'https://evil.example' })).head, /^HTTP\/1\.1 403 /)
    const any = await startServer({ env: { SYNCLINE_ALLOW_ORIGIN: 'http://a.example,*' } })
    t.after(() => any.stop())
    assert.match((await upgrade(any, { Origin: 'https://evil.example' })).head, /^HTTP\/1\.1 101 /)
  })
})

async function write(t, server, name, content) {
  const client = makers.ywebsocket(t, server, name)
  await untilSynced(client)
  client.doc.getText('text').insert(0, content)
  // y-websocket echoes an edit once it is on disk; a second client has it before.
  const reader = makers.hocuspocus(t, server, name)
  await untilSynced(reader)
  reader.doc.getMap('saved').set('by', 'reader')
  reader.doc.getMap('saved').delete('by')
  await untilSaved(reader)
  client.destroy()
  reader.destroy()
}

/** Sends a raw WebSocket upgrade request. Resolves to the response. */
function upgrade(server, headers) {
  return new Promise((resolve, reject) => {
    const socket = connect(server.port, '127.0.0.1')
    const more = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
    socket.write(
      `GET /doc HTTP/1.1\r\nHost: 127.0.0.1:${server.port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${more.join('')}\r\n`,
    )
    let answer = ''
    socket.on('data', (data) => {
      answer += data.toString('latin1')
      const [head, body] = answer.split('\r\n\r\n')
      const length = Number(head.match(/content-length: (\d+)/i)?.[1] ?? 0)
      if (body === undefined || body.length < length) return
      socket.destroy()
      resolve({ head, body })
    })
    socket.on('error', reject)
    socket.on('end', () => reject(new Error(`the connection ended: ${answer}`)))
  })
}

function isPending(pid, signal) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  return (BigInt(`0x${status.match(/^ShdPnd:\s*(\w+)$/m)[1]}`) >> BigInt(signal - 1)) & 1n
}

function inside(directory) {
  return readdirSync(directory).map((name) => join(directory, name))
}

function everything(paths) {
  return paths.flatMap((path) => [path, ...(statSync(path).isDirectory() ? everything(inside(path)) : [])])
}

function assertPrivate(paths) {
  for (const path of everything(paths)) {
    const { mode } = statSync(path)
    assert.equal(mode & 0o077, 0, `${path} has mode ${(mode & 0o777).toString(8)}`)
  }
}

function oneLine(stderr) {
  const lines = stderr.trimEnd().split('\n')
  assert.equal(lines.length, 1, stderr)
  return lines[0]
}
