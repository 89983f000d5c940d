// Measures the bytes that a reconnect of the npm clients transfers: `syncline-sim wire-cost` runs this and prints the table.
//
// node wire-cost.mjs URL DOCUMENT DIRECTORY prints JSON: one object per client, bytes of WebSocket payloads per direction.
//
// Each visit uses a new provider with a new Y.Doc, loaded from the client's own disk before it connects, as with
// y-indexeddb. The providers have default options, awareness included, except `disableBc`, as there are no other tabs.

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import * as Y from 'yjs'
import { makers, until } from './clients.mjs'
import { FilePersistence } from './indexeddb.mjs'

/** After this time without a message the sync is complete. Shorter than either heartbeat interval. */
const QUIET_MS = 700
const LIMIT_MS = 120_000
const CLIENTS = { ywebsocket: 'npm y-websocket', hocuspocus: 'npm Hocuspocus' }

const [url, name, directory] = process.argv.slice(2)
mkdirSync(directory, { recursive: true })
const rows = []
for (const [dialect, client] of Object.entries(CLIENTS)) {
  const file = join(directory, `${dialect}.yjs`)
  const first = await visit(dialect, file)
  const nothing_missed = await visit(dialect, file)
  const keystroke_made = await visit(dialect, file, type)
  const other = join(directory, `${dialect}-other.yjs`)
  await visit('hocuspocus', other)
  const typed = await visit('hocuspocus', other, type)
  const keystroke_missed = await visit(dialect, file)
  const texts = [first, nothing_missed, keystroke_made, typed, keystroke_missed].map(({ length }) => length)
  const expected = [0, 0, 1, 2, 2].map((more) => texts[0] + more)
  if (String(texts) !== String(expected)) throw new Error(`${client}: the texts have ${texts}, not ${expected}`)
  const bytes = ({ sent, received }) => ({ sent, received })
  const measured = { first, nothing_missed, keystroke_made, keystroke_missed }
  rows.push({ client, ...Object.fromEntries(Object.entries(measured).map(([key, of]) => [key, bytes(of)])) })
}
process.stdout.write(`${JSON.stringify(rows)}\n`)
process.exit(0)

/** Inserts one character in the middle. */
function type(doc) {
  const text = doc.getText('text')
  text.insert(Math.floor(text.length / 2), 'x')
}

/** Loads the client from its disk, applies `edit` if given, connects, and counts bytes until no more messages arrive. */
async function visit(dialect, file, edit) {
  const doc = new Y.Doc()
  const persistence = new FilePersistence(file, doc)
  await persistence.whenSynced
  edit?.(doc)
  const client = makers[dialect]({ after() {} }, { url }, name, { doc })
  const { line } = client
  const isDone = () => client.isSynced && (dialect === 'ywebsocket' || client.isSaved)
  await until(isDone, { what: `${dialect} is synced`, timeout: LIMIT_MS })
  let [messages, since] = [0, performance.now()]
  const isQuiet = () => {
    const now = line.sent.messages + line.received.messages
    if (now !== messages) [messages, since] = [now, performance.now()]
    return performance.now() - since > QUIET_MS
  }
  await until(isQuiet, { what: 'no more messages arrive', timeout: LIMIT_MS })
  const counted = { sent: line.sent.bytes, received: line.received.bytes, length: doc.getText('text').length }
  client.destroy()
  await persistence.destroy()
  doc.destroy()
  return counted
}
