// The console page in a real browser: both stock providers, two users, offline work across a reload, the saved light.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import WebSocket from 'ws'
import { WebsocketProvider } from 'y-websocket'
import * as Y from 'yjs'
import { launchChromium } from './support/chromium.mjs'
import { makers } from './support/clients.mjs'
import {
  allTexts,
  DIALECTS,
  occursOnce,
  openPerson as open,
  stateOf,
  textIn,
  type,
  typeRounds,
  until,
  untilAgreed,
  untilConnected,
  untilCursorOf,
  untilOffline,
  untilShown,
  untilState,
} from './support/page.mjs'
import { runBinary, startServer } from './support/server.mjs'

let server
let browser

before(async () => {
  server = await startServer({})
  browser = await launchChromium()
})

after(async () => {
  await browser?.close()
  await server?.stop()
})

test('four editors of two people agree after concurrent typing and an offline reload', async () => {
  const ann = await openPerson('garden')
  const ben = await openPerson('garden')
  const markers = []

  // Both type at the same time, each alternating between both editors.
  markers.push(...(await Promise.all([typeRounds(ann, 'ann-online'), typeRounds(ben, 'ben-online')])).flat())
  await untilAgreed([ann, ben], markers)
  await untilState(ann, 'saved-light', 'saved')
  await untilState(ben, 'saved-light', 'saved')

  // Each sees the other's cursor, by name, in both editors.
  await untilCursorOf(ann, ben)
  await untilCursorOf(ben, ann)

  // Ann goes offline; both keep typing.
  await ann.page.getByTestId('offline-switch').check()
  await untilOffline(ann)
  const annOffline = await typeRounds(ann, 'ann-offline')
  const benMeanwhile = await typeRounds(ben, 'ben-meanwhile')
  await untilAgreed([ben], [...markers, ...benMeanwhile])
  for (const marker of annOffline) assert(!(await textIn(ben, 'ywebsocket')).includes(marker), `${marker} leaked`)

  // A reload while offline keeps the page offline and the edits, each in its own editor.
  const sockets = []
  ann.page.on('websocket', (socket) => sockets.push(socket.url()))
  await ann.page.reload()
  await untilOffline(ann)
  for (const [index, dialect] of DIALECTS.entries()) {
    const own = annOffline.filter((_, i) => i % DIALECTS.length === index)
    await until(`${dialect} shows what was typed offline`, async () =>
      occursOnce(await textIn(ann, dialect), [...markers, ...own]),
    )
  }
  const annReloaded = await typeRounds(ann, 'ann-reloaded')
  await untilState(ann, 'saved-light', 'browser')
  assert.deepEqual(sockets, [], 'a page that starts offline opens no connection')

  // Back online: nothing is lost, nothing is duplicated, and the light shows "saved".
  await ann.page.getByTestId('offline-switch').uncheck()
  await untilState(ann, 'saved-light', 'saved')
  await untilAgreed([ann, ben], [...markers, ...annOffline, ...benMeanwhile, ...annReloaded])
  await untilCursorOf(ben, ann)

  await ann.close()
  await ben.close()
})

test('a name with slash, space and umlaut is one document in both dialects', async () => {
  const ann = await openPerson('häuser/no 1?')
  await type(ann, 'ywebsocket', '[left]')
  await type(ann, 'hocuspocus', '[right]')
  await untilAgreed([ann], ['[left]', '[right]'])
  await ann.close()
})

test('a document named on the page is the one that other clients open by that name', async () => {
  for (const name of ['team/notes [1]', '100% 文档', 'a:b@c&d', '%2F']) {
    const ann = await openPerson(name)
    await type(ann, 'hocuspocus', '[typed]')
    await untilAgreed([ann], ['[typed]'])
    const doc = new Y.Doc()
    const client = new WebsocketProvider(server.url, name, doc, { WebSocketPolyfill: WebSocket, disableBc: true })
    await until(`a client of ${name} has the text`, () => doc.getText('text').toString() === '[typed]')
    client.destroy()
    await ann.close()
  }
})

test('another document opened in the same page shows nothing of the first', async () => {
  const ann = await openPerson('first')
  await type(ann, 'ywebsocket', '[first]')
  await untilAgreed([ann], ['[first]'])
  await ann.page.getByTestId('document-name').fill('second')
  await ann.page.getByTestId('document-name').press('Enter')
  await until('the first text is gone', async () => (await allTexts([ann])).every((text) => text === ''))
  await untilConnected(ann)
  await type(ann, 'hocuspocus', '[second]')
  await untilAgreed([ann], ['[second]'])
  await ann.close()
})

test('text that the light shows as saved survives a kill of the server', async () => {
  const ann = await openPerson('kept')
  await type(ann, 'hocuspocus', '[kept]')
  await untilAgreed([ann], ['[kept]'])
  await untilState(ann, 'saved-light', 'saved')
  await ann.close()

  await server.kill()
  await server.restart()

  // A new browser profile: everything it shows comes from the server.
  const ben = await openPerson('kept')
  await untilAgreed([ben], ['[kept]'])
  await ben.close()
})

test('the light waits for every acknowledgement, also for edits queued while offline', async () => {
  const acks = { held: [], pass: 0 }
  const ann = await openPerson('patience', { prepare: (page) => holdAcks(page, acks) })
  await untilState(ann, 'saved-light', 'saving')

  // Without an acknowledgement it is never saved, however much time passes.
  await type(ann, 'hocuspocus', '[a]')
  await until('acknowledgements are held', () => acks.held.length > '[a]'.length)
  await ann.page.clock.fastForward(5_000)
  assert.equal(await stateOf(ann, 'saved-light'), 'saving')
  release(acks)
  await untilState(ann, 'saved-light', 'saved')

  // The provider takes the first acknowledgement after a reconnect for all edits: the server sends it when all are on disk.
  await ann.page.getByTestId('offline-switch').check()
  await untilOffline(ann)
  await type(ann, 'hocuspocus', '[offline]')
  acks.pass = 0
  await ann.page.getByTestId('offline-switch').uncheck()
  await until('an acknowledgement is held', () => acks.held.length > 0)
  await ann.page.clock.fastForward(5_000)
  assert.equal(await stateOf(ann, 'saved-light'), 'saving')
  release(acks)
  await untilState(ann, 'saved-light', 'saved')

  await untilAgreed([ann], ['[a]', '[offline]'])
  await ann.close()
})

test('the light is not "saved" while an edit of the left editor is not on disk', async () => {
  const acks = { held: [], pass: Infinity }
  const ann = await openPerson('both', { prepare: (page) => holdAcks(page, acks) })
  await untilState(ann, 'saved-light', 'saved')

  acks.pass = 0
  await type(ann, 'ywebsocket', '[left]')
  await untilAgreed([ann], ['[left]'])
  await until('acknowledgements are held', () => acks.held.length > 0)
  await ann.page.clock.fastForward(5_000)
  assert.equal(await stateOf(ann, 'saved-light'), 'saving')
  release(acks)
  await untilState(ann, 'saved-light', 'saved')
  await ann.close()
})

test('the light is not "saved" while the left editor has unsent edits', async () => {
  const held = []
  let holds = false
  const prepare = async (page) => {
    await page.clock.install()
    await page.routeWebSocket(
      (url) => url.pathname === '/unsent',
      (client) => {
        const upstream = client.connectToServer()
        client.onMessage((frame) => (holds ? held.push(() => upstream.send(frame)) : upstream.send(frame)))
      },
    )
  }
  const ann = await openPerson('unsent', { prepare })
  await untilState(ann, 'saved-light', 'saved')
  holds = true
  await type(ann, 'ywebsocket', '[unsent]')
  await until('the edit is held', () => held.length > 0)
  await ann.page.clock.fastForward(5_000)
  assert.equal(await stateOf(ann, 'saved-light'), 'saving')
  holds = false
  for (const send of held) send()
  await untilState(ann, 'saved-light', 'saved')
  await untilAgreed([ann], ['[unsent]'])
  await ann.close()
})

test('the light does not claim that a browser without storage keeps edits', async () => {
  // As on a full disk: every write is aborted.
  const prepare = (page) =>
    page.addInitScript(() => {
      const { add } = IDBObjectStore.prototype
      IDBObjectStore.prototype.add = function (...values) {
        const request = add.apply(this, values)
        this.transaction.abort()
        return request
      }
    })
  const ann = await openPerson('unkept', { prepare, mayComplain: true })
  await untilState(ann, 'saved-light', 'saved')
  await ann.page.getByTestId('offline-switch').check()
  await type(ann, 'ywebsocket', '[unkept]')
  await untilState(ann, 'saved-light', 'memory')
  await untilShown(ann, 'note', /does not let the page store anything/)
  await ann.close()
})

test('the page shows why the server refuses a document and why a session ended', async () => {
  const ann = await openPerson('gone')
  await type(ann, 'hocuspocus', '[gone]')
  await untilState(ann, 'saved-light', 'saved')
  await ann.close()
  await server.stop()
  const { code, stderr } = await runBinary(['delete', 'gone', '--data', server.dataDir])
  assert.equal(code, 0, stderr)
  await server.restart()

  const untilReady = async (person) => {
    await untilState(person, 'status-ywebsocket', 'refused')
    for (const dialect of DIALECTS) await untilShown(person, `reason-${dialect}`, /session: .*deleted/)
  }
  const ben = await openPerson('gone', { untilReady, mayComplain: true })
  assert.notEqual(await stateOf(ben, 'saved-light'), 'saved')
  await ben.close()

  const cid = await openPerson('interrupted', { mayComplain: true })
  await untilState(cid, 'saved-light', 'saved')
  await server.stop()
  for (const dialect of DIALECTS) {
    await untilShown(cid, `reason-${dialect}`, /ended the last session: .*restart/)
    await untilState(cid, `status-${dialect}`, 'connecting')
  }
  await server.restart()
  await untilConnected(cid)
  for (const dialect of DIALECTS) await untilShown(cid, `reason-${dialect}`, /^$/)
  await untilState(cid, 'saved-light', 'saved')
  await cid.close()
})

test('under a path prefix both editors open the document by its typed name', async (t) => {
  const prefixed = await startServer({ args: ['--path-prefix', '/collab'] })
  t.after(() => prefixed.stop())
  const name = 'notes: 会议 "x" a/b'
  const person = await open(browser, `${prefixed.httpUrl}/collab/`, name)
  const markers = await typeRounds(person, 'typed')
  await untilAgreed([person], markers)
  const other = makers.hocuspocus(t, prefixed, name)
  await until('a client of that name has the text', () => other.doc.getText('text').toString().includes(markers.at(-1)))
  assert.match(await person.page.locator('#snippet-ywebsocket').textContent(), /\/collab", "notes: 会议/)
  await person.close()
})

function openPerson(name, options) {
  return open(browser, `${server.httpUrl}/`, name, options)
}

/** Intercepts the Hocuspocus connection: forwards `acks.pass` acknowledgements and holds the others back. */
async function holdAcks(page, acks) {
  await page.clock.install()
  await page.routeWebSocket(
    (url) => url.pathname === '/',
    (client) => {
      const upstream = client.connectToServer()
      upstream.onMessage((frame) => {
        const deliver = () => client.send(frame)
        if (isSyncStatus(frame) && acks.pass-- <= 0) acks.held.push(deliver)
        else deliver()
      })
    },
  )
}

function release(acks) {
  acks.pass = Infinity
  for (const deliver of acks.held.splice(0)) deliver()
}

/** A Hocuspocus frame starts with the length of the name (one byte here), the name and the type. Type 8 is SyncStatus. */
function isSyncStatus(frame) {
  return frame.length > 1 && frame[1 + frame[0]] === 8
}

