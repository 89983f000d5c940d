// The console page in a real browser: both stock providers, two people, offline work across a reload, the saved light.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { launchChromium } from './support/chromium.mjs'
import { makers } from './support/clients.mjs'
import { startServer } from './support/server.mjs'

const DIALECTS = ['ywebsocket', 'hocuspocus']
const ROUNDS = 4
const LIMIT_MS = 30_000

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

test('two people in four editors type at once, one works offline across a reload, and all texts agree', async () => {
  const ann = await openPerson('garden')
  const ben = await openPerson('garden')
  const markers = []

  // Everyone types at once, each person going back and forth between both editors.
  markers.push(...(await Promise.all([typeRounds(ann, 'ann-online'), typeRounds(ben, 'ben-online')])).flat())
  await untilAgreed([ann, ben], markers)
  await untilState(ann, 'saved-light', 'saved')
  await untilState(ben, 'saved-light', 'saved')

  // Each sees the other's cursor, by name, in both editors.
  await untilCursorOf(ann, ben)
  await untilCursorOf(ben, ann)

  // Ann leaves the network; both go on.
  await ann.page.getByTestId('offline-switch').check()
  await untilOffline(ann)
  const annOffline = await typeRounds(ann, 'ann-offline')
  const benMeanwhile = await typeRounds(ben, 'ben-meanwhile')
  await untilAgreed([ben], [...markers, ...benMeanwhile])
  for (const marker of annOffline) assert(!(await textIn(ben, 'ywebsocket')).includes(marker), `${marker} leaked`)

  // A reload while offline keeps the switch off and the edits here, each editor its own.
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
  assert.equal(await stateOf(ann, 'saved-light'), 'offline')
  assert.deepEqual(sockets, [], 'a page that starts switched off connects to nothing')

  // And back: nothing lost, nothing doubled, and the light tells it.
  await ann.page.getByTestId('offline-switch').uncheck()
  await untilState(ann, 'saved-light', 'saved')
  await untilAgreed([ann, ben], [...markers, ...annOffline, ...benMeanwhile, ...annReloaded])
  await untilCursorOf(ben, ann)

  await ann.close()
  await ben.close()
})

test('a document name with a slash, a space and an umlaut is one document in both dialects', async () => {
  const ann = await openPerson('häuser/no 1?')
  await type(ann, 'ywebsocket', '[left]')
  await type(ann, 'hocuspocus', '[right]')
  await untilAgreed([ann], ['[left]', '[right]'])
  await ann.close()
})

test('another document opens in the same page and shows nothing of the first', async () => {
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

test('what the light calls saved is there after the server was killed', async () => {
  const ann = await openPerson('kept')
  await type(ann, 'hocuspocus', '[kept]')
  await untilAgreed([ann], ['[kept]'])
  await untilState(ann, 'saved-light', 'saved')
  await ann.close()

  await server.kill()
  await server.restart()

  // A new profile: what it shows can only come from the server.
  const ben = await openPerson('kept')
  await untilAgreed([ben], ['[kept]'])
  await ben.close()
})

test('the light waits for every acknowledgement, also for edits queued while offline', async () => {
  const acks = { held: [], pass: 0 }
  const ann = await openPerson('patience', (page) => holdAcks(page, acks))
  await untilState(ann, 'saved-light', 'saving')

  // Nothing acknowledged: not saved, however long it takes.
  await type(ann, 'hocuspocus', '[a]')
  await until('acknowledgements are held', () => acks.held.length > '[a]'.length)
  await ann.page.clock.fastForward(5_000)
  assert.equal(await stateOf(ann, 'saved-light'), 'saving')
  release(acks)
  await untilState(ann, 'saved-light', 'saved')

  // The provider takes the first acknowledgement after a reconnect for all of them. The light must not.
  await ann.page.getByTestId('offline-switch').check()
  await untilOffline(ann)
  await type(ann, 'hocuspocus', '[offline]')
  acks.pass = 1
  await ann.page.getByTestId('offline-switch').uncheck()
  await until('acknowledgements are held', () => acks.held.length >= '[offline]'.length)
  await ann.page.clock.fastForward(5_000)
  assert.equal(await stateOf(ann, 'saved-light'), 'saving')
  release(acks)
  await untilState(ann, 'saved-light', 'saved')

  await untilAgreed([ann], ['[a]', '[offline]'])
  await ann.close()
})

/** A person: a browser profile of their own with the page open on `name`, and everything it complained about. */
test('under a path prefix the page opens the document of the name as typed, in both dialects', async (t) => {
  const prefixed = await startServer({ args: ['--path-prefix', '/collab'] })
  t.after(() => prefixed.stop())
  const name = 'notes: 会议 "x" a/b'
  const person = await openPerson(name, async () => {}, `${prefixed.httpUrl}/collab/`)
  const markers = await typeRounds(person, 'typed')
  await untilAgreed([person], markers)
  const other = makers.hocuspocus(t, prefixed, name)
  await until('a client of that name has the text', () => other.doc.getText('text').toString().includes(markers.at(-1)))
  assert.match(await person.page.locator('#snippet-ywebsocket').textContent(), /\/collab", "notes: 会议/)
  await person.close()
})

async function openPerson(name, prepare = async () => {}, base = `${server.httpUrl}/`) {
  const context = await browser.newContext()
  const page = await context.newPage()
  await prepare(page)
  const complaints = []
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text())
  })
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('requestfailed', (request) => complaints.push(`${request.url()}: ${request.failure()?.errorText}`))
  await page.goto(`${base}#${encodeURIComponent(name)}`)
  const person = {
    page,
    async close() {
      await context.close()
      assert.deepEqual(complaints, [])
    },
  }
  await untilConnected(person)
  return person
}

/** Stands between the Hocuspocus client and the server: lets `acks.pass` acknowledgements through and keeps the others. */
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

/** A Hocuspocus frame: the length of the name (short here), the name, the type. Type 8 is SyncStatus. */
function isSyncStatus(frame) {
  return frame.length > 1 && frame[1 + frame[0]] === 8
}

/** Types one marker per round into each editor in turn; returns them in the order of DIALECTS within each round. */
async function typeRounds(person, who) {
  const markers = []
  for (let round = 0; round < ROUNDS; round++) {
    for (const dialect of DIALECTS) {
      const marker = `[${who}-${dialect}-${round}]`
      await type(person, dialect, marker)
      markers.push(marker)
    }
  }
  return markers
}

/** Focuses instead of clicking: the caret stays after what was typed there before, so no marker is split. */
async function type({ page }, dialect, text) {
  const content = page.getByTestId(`editor-${dialect}`).locator('.cm-content')
  await content.focus()
  await page.keyboard.type(text)
}

/** The text of an editor as a person reads it, without the cursors of others drawn into it. */
function textIn({ page }, dialect) {
  return page.getByTestId(`editor-${dialect}`).evaluate((editor) =>
    [...editor.querySelectorAll('.cm-line')]
      .map((line) => {
        const copy = line.cloneNode(true)
        for (const drawn of copy.querySelectorAll('.cm-ySelectionCaret, .cm-placeholder')) drawn.remove()
        return copy.textContent
      })
      .join('\n'),
  )
}

function allTexts(people) {
  return Promise.all(people.flatMap((person) => DIALECTS.map((dialect) => textIn(person, dialect))))
}

function occursOnce(text, markers) {
  return markers.every((marker) => text.split(marker).length === 2)
}

/** All editors hold the same text, and it is exactly the markers: each once, and nothing else. */
async function untilAgreed(people, markers) {
  const length = markers.join('').length
  await until('all texts agree', async () => {
    const [first, ...others] = await allTexts(people)
    return first.length === length && occursOnce(first, markers) && others.every((other) => other === first)
  })
}

function stateOf({ page }, testId) {
  return page.getByTestId(testId).getAttribute('data-state')
}

function untilState(person, testId, state) {
  return until(`${testId} is ${state}`, async () => (await stateOf(person, testId)) === state)
}

async function untilConnected(person) {
  for (const dialect of DIALECTS) await untilState(person, `status-${dialect}`, 'connected')
}

async function untilOffline(person) {
  for (const dialect of DIALECTS) await untilState(person, `status-${dialect}`, 'disconnected')
  await untilState(person, 'saved-light', 'offline')
}

/** Puts the other person's caret into each editor in turn and waits until the viewer sees it there, with the name. */
async function untilCursorOf(viewer, other) {
  const name = await other.page.locator('[data-testid=person][data-me=true]').evaluate((chip) => chip.firstChild.textContent)
  for (const dialect of DIALECTS) {
    await other.page.getByTestId(`editor-${dialect}`).locator('.cm-content').focus()
    const flag = viewer.page.getByTestId(`editor-${dialect}`).locator('.cm-ySelectionInfo', { hasText: name })
    await until(`the cursor of ${name} is seen`, () => flag.first().isVisible())
  }
}

/** Waits for a condition, never for a time: the limit only ends a test that has failed. */
async function until(what, condition) {
  const end = Date.now() + LIMIT_MS
  while (!(await condition())) {
    assert(Date.now() < end, `gave up waiting: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
}
