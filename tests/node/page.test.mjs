// Serving the console page: without the server, after a server update, behind a path prefix, compressed, from other hosts.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { launchChromium } from './support/chromium.mjs'
import { startProxy } from './support/page-proxy.mjs'
import {
  occursOnce,
  openPerson,
  shown,
  textIn,
  type,
  until,
  untilAgreed,
  untilConnected,
  untilKept,
  untilOffline,
  untilShown,
  untilState,
} from './support/page.mjs'
import { startServer } from './support/server.mjs'

/** Limit for a first visit, including the files the service worker caches. */
const FIRST_VISIT_LIMIT_BYTES = 200_000
/** Limit for a later visit: "not modified" responses and the documents. */
const RETURN_LIMIT_BYTES = 10_000

let server
let browser

before(async () => {
  server = await startServer({})
  browser = await launchChromium(['--host-resolver-rules=MAP syncline.test 127.0.0.1'])
})

after(async () => {
  await browser?.close()
  await server?.stop()
})

test('page opens and keeps edits while the server is down, and sends them later', async () => {
  const own = await startServer({})
  const ann = await openPerson(browser, `${own.httpUrl}/`, 'field', { mayComplain: true })
  await type(ann, 'ywebsocket', '[before]')
  await untilAgreed([ann], ['[before]'])
  await untilState(ann, 'saved-light', 'saved')
  await untilKept(ann)

  await own.kill()
  await ann.page.reload()
  await untilText(ann, 'ywebsocket', ['[before]'])
  await untilState(ann, 'saved-light', 'browser')
  await type(ann, 'ywebsocket', '[left]')
  await type(ann, 'hocuspocus', '[right]')
  await untilState(ann, 'saved-light', 'browser')
  await ann.page.reload()
  await untilText(ann, 'ywebsocket', ['[before]', '[left]'])
  await untilText(ann, 'hocuspocus', ['[before]', '[right]'])
  await untilShown(ann, 'saved-light', /Kept in this browser/)
  await untilKept(ann)

  await own.restart()
  await untilAgreed([ann], ['[before]', '[left]', '[right]'])
  await untilState(ann, 'saved-light', 'saved')
  await ann.close()
  await own.stop()
})

test('page of an updated server replaces the cached one', async () => {
  const version = (number) => (path, body) => {
    if (path === '/') return body.replace('<h1>', `<h1>Release ${number}: `)
    if (path === '/service-worker.js') return body.replace(/^const VERSION = ".*?"/, `const VERSION = "${number}"`)
    return body
  }
  const proxy = await startProxy(server.port, { rewrite: version(1) })
  const ann = await openPerson(browser, proxy.url, 'updated', { mayComplain: true })
  await untilKept(ann)
  const title = () => ann.page.locator('h1').textContent()
  const caches = () => ann.page.evaluate(() => caches.keys())
  assert.match(await title(), /^Release 1/)
  assert.deepEqual(await caches(), ['syncline-page / 1'])

  proxy.rewrite = version(2)
  await ann.page.reload()
  assert.match(await title(), /^Release 2/, 'a reachable server takes precedence over the cached page')
  await until('only the new version is cached', async () => String(await caches()) === 'syncline-page / 2')

  await proxy.stop()
  await ann.page.reload()
  assert.match(await title(), /^Release 2/)
  await ann.close()
})

test('page keeps working behind a proxy whose server is down', async () => {
  const own = await startServer({})
  const proxy = await startProxy(own.port)
  const ann = await openPerson(browser, proxy.url, 'bad gateway', { mayComplain: true })
  await untilKept(ann)
  await own.kill()
  const response = await ann.page.reload()
  assert.ok(response.fromServiceWorker())
  await untilState(ann, 'status-ywebsocket', 'connecting')
  await ann.close()
  await proxy.stop()
})

test('page finds its files, sockets and service worker under a path prefix', async () => {
  const proxy = await startProxy(server.port, { path: '/team/collab' })
  const ann = await openPerson(browser, proxy.url, 'under a path')
  assert.match(await ann.page.locator('#snippet-ywebsocket').textContent(), /ws:\/\/127\.0\.0\.1:\d+\/team\/collab"/)
  await type(ann, 'ywebsocket', '[left]')
  await type(ann, 'hocuspocus', '[right]')
  await untilAgreed([ann], ['[left]', '[right]'])
  await untilKept(ann)
  const scopes = await ann.page.evaluate(async () =>
    (await navigator.serviceWorker.getRegistrations()).map(({ scope }) => new URL(scope).pathname),
  )
  assert.deepEqual(scopes, ['/team/collab/'])
  await ann.close()
  await proxy.stop()
})

test('first visit transfers less than 200 KB, a later one less than 10 KB', async () => {
  const proxy = await startProxy(server.port)
  const ann = await openPerson(browser, proxy.url, 'weighed')
  await untilKept(ann)
  await untilState(ann, 'saved-light', 'saved')
  // Leave the page, so that its connections close and all bytes are counted.
  await ann.page.goto('about:blank')
  await until('the connections are counted', () => proxy.bytes > 0)
  const first = proxy.bytes
  assert.ok(first > 50_000, `${first} bytes are too few for the whole page`)
  assert.ok(first < FIRST_VISIT_LIMIT_BYTES, `${first} bytes: ${proxy.requests.join(', ')}`)

  await ann.page.goto(`${proxy.url}#weighed`)
  await untilConnected(ann)
  await untilState(ann, 'saved-light', 'saved')
  await ann.close()
  await proxy.stop()
  const second = proxy.bytes - first
  assert.ok(second < RETURN_LIMIT_BYTES, `${second} bytes: ${proxy.requests.join(', ')}`)
  console.log(`first visit ${first} bytes, return ${second}`)
})

test('client that accepts no compression receives the same bytes', async () => {
  const get = async (encoding) => {
    const response = await fetch(`${server.httpUrl}/`, { headers: { 'accept-encoding': encoding } })
    return [response.headers.get('content-encoding'), await response.text()]
  }
  const [[packed, one], [plain, other]] = [await get('gzip'), await get('identity')]
  assert.deepEqual([packed, plain, one], ['gzip', null, other])
})

test('offline switch belongs to its tab', async () => {
  const ann = await openPerson(browser, `${server.httpUrl}/`, 'tabs')
  const other = await openPerson(browser, `${server.httpUrl}/`, 'tabs', { context: ann.context })
  await ann.page.getByTestId('offline-switch').check()
  await untilOffline(ann)
  await other.page.reload()
  await untilConnected(other)
  const third = await openPerson(browser, `${server.httpUrl}/`, 'tabs', { context: ann.context })
  await untilConnected(third)
  await ann.page.reload()
  await untilOffline(ann)
  await ann.close()
})

test('page mentions other devices and offline reloads only where they work', async () => {
  const here = await openPerson(browser, `${server.httpUrl}/`, 'hosts')
  assert.match(await shown(here, 'invite'), /second tab/)
  assert.doesNotMatch(await here.page.locator('body').textContent(), /machine|device/)
  await untilKept(here)
  await here.close()

  // Neither localhost nor https: browsers allow no service worker, so a reload needs the server.
  const there = await openPerson(browser, `http://syncline.test:${server.port}/`, 'hosts')
  assert.match(await shown(there, 'invite'), /another device/)
  assert.match(await shown(there, 'note'), /needs the server to open again/)
  assert.equal(await there.page.evaluate(() => 'serviceWorker' in navigator), false)
  await there.close()
})

function untilText(person, dialect, markers) {
  return until(`${dialect} shows ${markers}`, async () => occursOnce(await textIn(person, dialect), markers))
}
