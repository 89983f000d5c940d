// A document has the same name in both dialects, however the URL of y-websocket encodes it.

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { makers, until, untilSynced } from './support/clients.mjs'
import { seededRandom } from './support/random.mjs'
import { runBinary, startServer } from './support/server.mjs'

/** Names as users type them, without `?`, `#` and `\`, which have a meaning of their own in a URL. */
const NAMES = [
  'space name',
  '会议记录 2026',
  'größe/日本',
  '"quoted" <b> `code` {x} a|b ^',
  '100% done',
  'family \u{1f468}\u200d\u{1f469}\u200d\u{1f467}',
  '会'.repeat(512),
  '\u{1f600}'.repeat(512),
  'a/b',
  'a%2Fb',
  'a:b@c=d&e+f,g;h',
]

/** Creates one client of each dialect and waits until both are synced. */
async function pair(t, server, [yWebsocketName, hocuspocusName], path = '') {
  const at = { url: server.url + path }
  const clients = [makers.ywebsocket(t, at, yWebsocketName), makers.hocuspocus(t, at, hocuspocusName)]
  await untilSynced(...clients)
  return clients
}

const textOf = (client) => client.doc.getText('text').toString()

/** Length of the text that `share` leaves in the document. */
const LENGTH = 'from y-websocket. from Hocuspocus. '.length

async function share([one, other], what) {
  one.doc.getText('text').insert(0, 'from y-websocket. ')
  other.doc.getText('text').insert(0, 'from Hocuspocus. ')
  await until(() => textOf(one) === textOf(other) && textOf(one).length === LENGTH, { what: `${what} is one document` })
}

describe('y-websocket and Hocuspocus share the document', () => {
  for (const name of NAMES) {
    test(name.length > 60 ? `${name.slice(0, 2)}, ${name.length} UTF-16 units long` : name, async (t) => {
      const server = await startServer()
      t.after(() => server.kill())
      await share(await pair(t, server, [name, name]), name)
      // Either side may send the name as a URL parser encodes it.
      const url = new URL(`ws://host/${name}`).pathname.slice(1)
      const late = await pair(t, server, [url, url])
      assert.deepEqual(late.map((client) => textOf(client).length), [LENGTH, LENGTH])
    })
  }

  test('for random names that both sides encode', async (t) => {
    const random = seededRandom(t)
    const server = await startServer()
    t.after(() => server.kill())
    const letters = Array.from({ length: 95 }, (_, at) => String.fromCharCode(32 + at)).concat(['é', '文', '\u{1f600}'])
    for (let round = 0; round < 20; round++) {
      const name = encodeURIComponent(`n${Array.from({ length: 8 }, () => random.pick(letters)).join('')}n`)
      await share(await pair(t, server, [name, name]), name)
    }
  })
})

test('a name that the user has percent-encoded is a separate document', async (t) => {
  const server = await startServer()
  t.after(() => server.kill())
  const [plain] = await pair(t, server, ['a/b', 'a/b'])
  const [encoded] = await pair(t, server, ['a%2Fb', 'a%2Fb'])
  plain.doc.getText('text').insert(0, 'plain')
  const [late] = await pair(t, server, ['a/b', 'a/b'])
  await until(() => textOf(late) === 'plain', { what: 'the late client has the text' })
  assert.equal(textOf(encoded), '')
})

test('commands accept a name as typed and as encoded in its URL', async (t) => {
  const server = await startServer()
  t.after(() => server.kill())
  const clients = await pair(t, server, ['会议 1', '会议 1'])
  await share(clients, '会议 1')
  const spellings = ['会议 1', '%E4%BC%9A%E8%AE%AE%201']
  const run = async (command, name, ...more) => {
    const { code, stdout, stderr } = await runBinary([command, name, '--data', server.dataDir, ...more])
    return code === 0 ? stdout : assert.fail(stderr)
  }
  for (const name of spellings) assert.match(await run('export', name, '--format', 'json'), /from Hocuspocus/)
  await server.stop()
  for (const name of spellings) {
    assert.match(await run('inspect', name), /^document {2}"会议 1"$/m)
    assert.match(await run('export', name, '--format', 'json'), /from Hocuspocus/)
  }
  await assert.rejects(run('inspect', spellings[1], '--exact-name'), /does not exist/)
  assert.match(await run('delete', spellings[1]), /deleted "会议 1"/)
  assert.match(await run('purge', spellings[0]), /purged "会议 1"/)
})

describe('behind a proxy that keeps the path prefix /collab', () => {
  test('both dialects open one document, with the prefix and without', async (t) => {
    const server = await startServer({ args: ['--path-prefix', '/collab'] })
    t.after(() => server.kill())
    await share(await pair(t, server, ['notes a', 'notes a'], '/collab'), 'the document')
    const late = await pair(t, server, ['notes a', 'notes a'], '')
    assert.deepEqual(late.map((client) => textOf(client).length), [LENGTH, LENGTH])
  })

  test('the page and the health checks answer with the prefix and without', async (t) => {
    const server = await startServer({ env: { SYNCLINE_PATH_PREFIX: 'collab/' } })
    t.after(() => server.kill())
    const page = await (await fetch(`${server.httpUrl}/collab/`)).text()
    const script = page.match(/src="\.\/(assets\/[^"]+\.js)"/)[1]
    for (const path of ['/', '/collab/', `/collab/${script}`, '/healthz', '/collab/healthz', '/readyz', '/collab/readyz']) {
      const response = await fetch(server.httpUrl + path)
      assert.equal(response.status, 200, path)
    }
    const bare = await fetch(`${server.httpUrl}/collab`, { redirect: 'manual' })
    assert.equal(new URL(bare.headers.get('location'), `${server.httpUrl}/collab`).pathname, '/collab/')
    assert.equal((await fetch(`${server.httpUrl}/collaborate/healthz`)).status, 404)
    assert.match(server.output(), /editors connect to +ws:\/\/127\.0\.0\.1:\d+\/collab$/m)
  })
})
