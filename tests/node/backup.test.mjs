// Backup, restore, export and import with the server binary: while stock clients edit, with a server killed midway, with
// damaged files, and with the stores of other servers.

import assert from 'node:assert/strict'
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, test } from 'node:test'
import * as Y from 'yjs'
import { makers, until, untilSaved, untilSynced } from './support/clients.mjs'
import { runBinary, startServer, temporaryDirectory } from './support/server.mjs'

const STORES = fileURLToPath(new URL('../fixtures/stores/', import.meta.url))

describe('backup and restore', () => {
  test('a backup taken while stock clients type restores everything saved before it', async (t) => {
    const { server, backups } = await startServerWithBackups(t)
    const clients = ['ywebsocket', 'hocuspocus'].map((dialect) => makers[dialect](t, server, `by-${dialect}`))
    for (const client of clients) await untilSynced(client)
    const saved = []
    for (const client of clients) {
      insert(client, 'saved before; ')
      await untilSaved(client)
      saved.push(text(client))
    }
    let typing = true
    const typists = clients.map(async (client) => {
      while (typing) {
        insert(client, '.')
        await new Promise((resolve) => setTimeout(resolve, 1))
      }
    })
    const first = await run(['backup', backups, '--data', server.dataDir])
    assert.match(first.stdout, /backed up 2 documents .*: 2 had changed/)
    typing = false
    await Promise.all(typists)
    for (const client of clients) await untilSaved(client)

    // Nothing changes between the next two backups; before the third, one document does.
    await run(['backup', backups, '--data', server.dataDir])
    assert.match((await run(['backup', backups, '--data', server.dataDir])).stdout, /: 0 had changed/)
    insert(clients[0], 'the last word')
    await untilSaved(clients[0])
    assert.match((await run(['backup', backups, '--data', server.dataDir])).stdout, /: 1 had changed/)
    assert.match((await run(['backup', backups, '--verify'])).stdout, /2 documents verified/)
    const texts = clients.map(text)
    for (const client of clients) client.destroy()
    await server.stop()

    const restored = join(temporaryDirectory(), 'restored')
    await run(['restore', backups, '--data', restored])
    const second = await startServer({ dataDir: restored })
    t.after(() => second.stop())
    for (const [i, dialect] of ['ywebsocket', 'hocuspocus'].entries()) {
      const client = makers[dialect](t, second, `by-${dialect}`)
      await untilSynced(client)
      assert.equal(text(client), texts[i])
      assert(text(client).startsWith(saved[i]))
    }
    const again = await runBinary(['restore', backups, '--data', restored])
    assert.equal(again.code, 1)
    assert.match(again.stderr, /is not empty/)
  })

  for (const point of ['backup-packs-written', 'backup-manifest-written']) {
    test(`a kill at ${point} leaves the earlier backup usable; the next one is complete`, async (t) => {
      const directory = temporaryDirectory()
      const [backups, file] = [join(directory, 'backups'), join(directory, 'file.json')]
      const env = { SYNCLINE_FAILPOINT: `${point}:2:halt` }
      const server = await startServer({ env })
      t.after(() => server.stop())
      writeFileSync(file, JSON.stringify({ text: 'some text' }))
      await run(['import', 'first', file, '--data', server.dataDir])
      await run(['backup', backups, '--data', server.dataDir])
      await run(['import', 'second', file, '--data', server.dataDir])
      // The first document changes as well: the next backup takes neither document from the earlier one.
      const client = makers.ywebsocket(t, server, 'first')
      await untilSynced(client)
      insert(client, ', changed')
      await untilSaved(client)
      const backup = runBinary(['backup', backups, '--data', server.dataDir])
      await until(() => server.output().includes(`halted at ${point}`), { what: 'the backup halts at the failpoint' })
      // A running backup does not delay edits.
      insert(client, ', meanwhile')
      await untilSaved(client)
      client.destroy()
      await server.kill()
      const { code, stderr } = await backup
      assert.equal(code, 1)
      assert.match(stderr, /lost the connection to the server/)
      assert.match((await run(['backup', backups, '--verify'])).stdout, /^1 document /)
      await server.restart()
      const { stdout } = await run(['backup', backups, '--data', server.dataDir])
      assert.match(stdout, /backed up 2 documents .*: 2 had changed/)
      assert(!readdirSync(backups).some((name) => name.endsWith('.new')))
      assert.match((await run(['backup', backups, '--verify'])).stdout, /^2 documents/)
    })
  }

  test('a damaged backup is refused naming file and document, and nothing is restored', async (t) => {
    const { server, backups, directory } = await startServerWithBackups(t)
    const file = join(directory, 'one.json')
    writeFileSync(file, JSON.stringify({ text: 'one' }))
    await run(['import', 'one', file, '--data', server.dataDir])
    await run(['backup', backups, '--data', server.dataDir])
    const pack = join(backups, 'r000001-000.pack')
    const bytes = readFileSync(pack)
    bytes[bytes.length - 12] ^= 4
    writeFileSync(pack, bytes)
    const restored = join(directory, 'restored')
    for (const args of [['backup', backups, '--verify'], ['restore', backups, '--data', restored]]) {
      const { code, stdout, stderr } = await runBinary(args)
      assert.equal(code, 1)
      assert.match(stdout + stderr, /r000001-000\.pack is damaged: document "one"/)
    }
    assert(!existsSync(restored))
    writeFileSync(join(backups, 'manifest.jsonl'), '{"format":"syncline-backup","version":1}\n')
    const { stderr } = await runBinary(['restore', backups, '--data', restored])
    assert.match(stderr, /manifest\.jsonl is damaged/)
  })

  test('one document is restored into a stopped store, under its own name or another', async (t) => {
    const { server, backups, directory } = await startServerWithBackups(t)
    const file = join(directory, 'page.json')
    writeFileSync(file, JSON.stringify({ text: 'as it was' }))
    await run(['import', 'page', file, '--data', server.dataDir])
    await run(['backup', backups, '--data', server.dataDir])
    const client = makers.ywebsocket(t, server, 'page')
    await untilSynced(client)
    client.doc.getText('text').delete(0, 9)
    await untilSaved(client)
    client.destroy()
    const restore = ['restore', backups, '--data', server.dataDir, '--document', 'page']
    assert.match((await runBinary(restore)).stderr, /stop that server first/)
    await server.stop()
    assert.match((await runBinary(restore)).stderr, /--replace to replace it/)
    await run([...restore, '--as', 'copy'])
    await run([...restore, '--replace'])
    for (const document of ['page', 'copy']) {
      const { stdout } = await run(['export', document, '--format', 'json', '--data', server.dataDir])
      assert.deepEqual(JSON.parse(stdout), { text: { $text: 'as it was' } }, document)
    }
  })
})

describe('export and import', () => {
  test('an exported update is a Yjs v1 update and can be imported into another server', async (t) => {
    const { server, directory } = await startServerWithBackups(t)
    const client = makers.hocuspocus(t, server, 'notes')
    await untilSynced(client)
    insert(client, 'hello')
    client.doc.getMap('map').set('list', new Y.Array())
    await untilSaved(client)
    const file = join(directory, 'notes.update')
    await run(['export', 'notes', '-o', file, '--data', server.dataDir])
    const doc = new Y.Doc()
    Y.applyUpdate(doc, readFileSync(file))
    assert.equal(doc.getText('text').toString(), 'hello')

    const other = await startServerWithBackups(t)
    const reader = makers.ywebsocket(t, other.server, 'copy')
    await untilSynced(reader)
    await run(['import', 'copy', file, '--data', other.server.dataDir])
    await until(() => text(reader) === 'hello', { what: 'an open editor shows the imported text' })
    const v2 = join(directory, 'notes.v2')
    writeFileSync(v2, Y.encodeStateAsUpdateV2(client.doc))
    const { code, stderr } = await runBinary(['import', 'copy', v2, '--data', other.server.dataDir])
    assert.equal(code, 1)
    assert.match(stderr, /Yjs v2 update.*convertUpdateFormatV2ToV1/)
  })

  test('an import is not reported as done before it is on disk', async (t) => {
    const directory = temporaryDirectory()
    const server = await startServer({ env: { SYNCLINE_FAILPOINT: 'before-append:1:halt' } })
    t.after(() => server.kill())
    const file = join(directory, 'file.json')
    writeFileSync(file, JSON.stringify({ text: 'lost in the end' }))
    const importing = runBinary(['import', 'doc', file, '--data', server.dataDir])
    await until(() => server.output().includes('halted at before-append'), { what: 'the log halts before the write' })
    await server.kill()
    const { code, stderr } = await importing
    assert.equal(code, 1)
    assert.match(stderr, /lost the connection to the server before it answered; the outcome is unknown/)
  })

  for (const isRunning of [true, false]) {
    test(`y-sweet and Hocuspocus stores are imported with the server ${isRunning ? 'running' : 'stopped'}`, async (t) => {
      const { server } = await startServerWithBackups(t)
      if (!isRunning) await server.stop()
      const data = ['--data', server.dataDir]
      const ySweet = ['import', '--from', 'y-sweet', join(STORES, 'y-sweet'), ...data]
      assert.match((await run(ySweet)).stdout, /imported 2 documents/)
      const hocuspocus = ['import', '--from', 'hocuspocus', join(STORES, 'hocuspocus.sqlite'), ...data]
      assert.match((await run(hocuspocus)).stdout, /imported 2 documents/)
      const again = await runBinary(ySweet)
      assert.equal(again.code, 0)
      assert.match(again.stdout, /skipped "board": it already exists/)
      assert.match(again.stdout, /imported 0 documents from .*; 2 exist already and were skipped/)
      assert.match((await run([...ySweet, '--merge'])).stdout, /imported 2 documents/)
      if (!isRunning) await server.restart()

      const open = async (name) => {
        const client = makers.hocuspocus(t, server, name)
        await untilSynced(client)
        return client.doc
      }
      const fromYSweet = await open('notes-today')
      assert.equal(fromYSweet.getText('text').toString(), 'Written in y-sweet')
      assert.deepEqual(fromYSweet.getMap('meta').toJSON(), { n: 1 })
      assert.deepEqual((await open('board')).getArray('list').toJSON(), [1, 'two', null])
      const fromHocuspocus = await open('notes/today')
      assert.equal(fromHocuspocus.getText('text').toString(), 'Written in Hocuspocus')
      assert.deepEqual(fromHocuspocus.getMap('meta').toJSON(), { tags: ['a', 'b'] })
      assert.deepEqual((await open('a board')).getArray('cards').toJSON(), [{ title: 'first' }])
    })
  }

  test('a path that is not a y-sweet or Hocuspocus store is refused with an explanation', async (t) => {
    const { server, directory } = await startServerWithBackups(t)
    const data = ['--data', server.dataDir]
    const none = await runBinary(['import', '--from', 'y-sweet', directory, ...data])
    assert.match(none.stderr, /no data\.ysweet/)
    const file = join(directory, 'file')
    writeFileSync(file, 'no database')
    const sqlite = await runBinary(['import', '--from', 'hocuspocus', file, ...data])
    assert.equal(sqlite.code, 1)
    assert.match(sqlite.stderr, /not a database/)
  })
})

async function startServerWithBackups(t) {
  const server = await startServer()
  t.after(() => server.stop())
  const directory = temporaryDirectory()
  return { server, directory, backups: join(directory, 'backups') }
}

/** Runs a command and asserts exit code 0. */
async function run(args) {
  const result = await runBinary(args)
  assert.equal(result.code, 0, `syncline ${args.join(' ')}\n${result.stdout}${result.stderr}`)
  return result
}

function insert(client, typed) {
  const root = client.doc.getText('text')
  root.insert(root.length, typed)
}

function text(client) {
  return client.doc.getText('text').toString()
}
