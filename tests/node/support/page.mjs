// A user of the console page with a browser profile of their own: typing, reading and waiting.

import assert from 'node:assert/strict'

export const DIALECTS = ['ywebsocket', 'hocuspocus']
const ROUNDS = 4
const LIMIT_MS = 30_000

/**
 * Opens document `name` in the page at `url` (which ends with a slash), and waits until it is connected.
 *
 * - `prepare(page)`: called before the page loads.
 * - `context`: the browser profile, for a second tab; the default is a new one.
 * - `mayComplain`: errors in the browser's console are allowed, because the server goes down in the test.
 * - `untilReady(person)`: replaces the wait for both connections.
 */
export async function openPerson(browser, url, name, options = {}) {
  const { prepare = async () => {}, mayComplain = false, untilReady = untilConnected } = options
  const context = options.context ?? (await browser.newContext())
  const page = await context.newPage()
  await prepare(page)
  const complaints = []
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text())
  })
  page.on('pageerror', (error) => complaints.push(String(error)))
  page.on('requestfailed', (request) => complaints.push(`${request.url()}: ${request.failure()?.errorText}`))
  await page.goto(`${url}#${encodeURIComponent(name)}`)
  const person = {
    page,
    context,
    async close() {
      await context.close()
      if (!mayComplain) assert.deepEqual(complaints, [])
    },
  }
  await untilReady(person)
  return person
}

/** Types one marker per round into each editor in turn; returns them in the order of DIALECTS within each round. */
export async function typeRounds(person, who) {
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

/** Focuses without a click: the caret stays behind the text typed before, so that no marker is split. */
export async function type({ page }, dialect, text) {
  const content = page.getByTestId(`editor-${dialect}`).locator('.cm-content')
  await content.focus()
  await page.keyboard.type(text)
}

/** The text of an editor without the remote cursors drawn into it. */
export function textIn({ page }, dialect) {
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

export function allTexts(people) {
  return Promise.all(people.flatMap((person) => DIALECTS.map((dialect) => textIn(person, dialect))))
}

export function occursOnce(text, markers) {
  return markers.every((marker) => text.split(marker).length === 2)
}

/** Waits until all editors have the same text, which is each marker exactly once and nothing else. */
export async function untilAgreed(people, markers) {
  const length = markers.join('').length
  await until('all texts agree', async () => {
    const [first, ...others] = await allTexts(people)
    return first.length === length && occursOnce(first, markers) && others.every((other) => other === first)
  })
}

export function stateOf({ page }, testId) {
  return page.getByTestId(testId).getAttribute('data-state')
}

export function untilState(person, testId, state) {
  return until(`${testId} is ${state}`, async () => (await stateOf(person, testId)) === state)
}

export async function untilConnected(person) {
  for (const dialect of DIALECTS) await untilState(person, `status-${dialect}`, 'connected')
}

export async function untilOffline(person) {
  for (const dialect of DIALECTS) await untilState(person, `status-${dialect}`, 'offline')
  await untilState(person, 'saved-light', 'browser')
}

/** Focuses each editor of the other user in turn and waits until the viewer sees the cursor with the name there. */
export async function untilCursorOf(viewer, other) {
  const name = await other.page.locator('[data-testid=person][data-me=true]').evaluate((chip) => chip.firstChild.textContent)
  for (const dialect of DIALECTS) {
    await other.page.getByTestId(`editor-${dialect}`).locator('.cm-content').focus()
    const flag = viewer.page.getByTestId(`editor-${dialect}`).locator('.cm-ySelectionInfo', { hasText: name })
    await until(`the cursor of ${name} is seen`, () => flag.first().isVisible())
  }
}

/** Waits for a condition, not for a fixed time: the limit only ends a failed test. */
export async function until(what, condition) {
  const end = Date.now() + LIMIT_MS
  while (!(await condition())) {
    assert(Date.now() < end, `timed out waiting: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
}

/** The text of the element, without surrounding space. */
export async function shown({ page }, testId) {
  return (await page.getByTestId(testId).textContent()).trim()
}

export function untilShown(person, testId, pattern) {
  return until(`${testId} shows ${pattern}`, async () => pattern.test(await shown(person, testId)))
}

/** Waits until the page opens without its server: the service worker has cached all of it. */
export function untilKept(person) {
  return untilShown(person, 'note', /opens without the server/)
}
