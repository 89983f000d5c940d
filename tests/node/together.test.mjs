// Four clients of two kinds edit one document of each Yjs type; then the server is stopped and killed.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import * as Y from 'yjs'
import { hocuspocusClient, makers, until, untilSaved, untilSynced, yWebsocketClient } from './support/clients.mjs'
import { allEqual, assertAllEqual } from './support/documents.mjs'
import { seededRandom } from './support/random.mjs'
import { startServer } from './support/server.mjs'

const ROUNDS = 25

/** For each type, a random edit (which begins with an insertion) and a function that reads the content. */
const TYPES = {
  text: {
    edit(doc, random, id) {
      const text = doc.getText('text')
      text.insert(random.below(text.length + 1), `<${id}>`)
      if (random() < 0.3) text.delete(random.below(text.length), 1)
    },
    read: (doc) => doc.getText('text').toJSON(),
  },
  map: {
    edit(doc, random, id) {
      const map = doc.getMap('map')
      const key = `key ${random.below(8)}`
      map.set(
        key,
        random.pick([id, 1.5, -7, true, null, { deep: [id, { deeper: 2 ** 40 }] }, new Uint8Array([1, 2, 255])]),
      )
      if (random() < 0.3) map.delete(`key ${random.below(8)}`)
      if (random() < 0.2) map.set(`nested ${random.below(3)}`, new Y.Map([['from', id]]))
    },
    read: (doc) => doc.getMap('map').toJSON(),
  },
  array: {
    edit(doc, random, id) {
      const array = doc.getArray('array')
      array.insert(random.below(array.length + 1), [id, { id, list: [1, 2, 3] }])
      if (random() < 0.4) array.delete(random.below(array.length), 1)
      if (random() < 0.2) array.push([new Y.Array()])
      const inner = array.toArray().findLast((item) => item instanceof Y.Array)
      inner?.push([id])
    },
    read: (doc) => doc.getArray('array').toJSON(),
  },
  xml: {
    edit(doc, random, id) {
      const root = doc.getXmlFragment('xml')
      const parent = random.pick([root, ...elements(root)])
      const element = new Y.XmlElement(random.pick(['p', 'ul', 'li']))
      element.setAttribute('id', id)
      element.insert(0, [new Y.XmlText(`text of ${id}`)])
      parent.insert(random.below(parent.length + 1), [element])
      const other = random.pick(elements(root))
      other.setAttribute('class', `seen by ${id}`)
      if (random() < 0.3) other.removeAttribute('class')
      if (random() < 0.1) root.delete(random.below(root.length), 1)
    },
    read: (doc) => doc.getXmlFragment('xml').toString(),
  },
  'rich text': {
    edit(doc, random, id) {
      const text = doc.getText('rich')
      text.insert(random.below(text.length + 1), `${id} `, random() < 0.5 ? { bold: true } : {})
      const from = random.below(text.length)
      const length = 1 + random.below(Math.min(10, text.length - from))
      text.format(from, length, random.pick([{ bold: true }, { bold: null }, { color: 'red' }, { color: null }]))
      if (random() < 0.2) text.insertEmbed(random.below(text.length + 1), { image: `${id}.png` }, { width: 100 })
      if (random() < 0.2) text.delete(random.below(text.length), 1)
    },
    read: (doc) => doc.getText('rich').toDelta(),
  },
}

let server
/** name of the type -> a document with the state all clients agreed on and the server acknowledged */
const agreed = {}

before(async () => (server = await startServer()))
after(() => server?.stop())

for (const [name, type] of Object.entries(TYPES)) {
  test(`four clients of both kinds edit one ${name} concurrently and converge`, async (t) => {
    const random = seededRandom(t)
    const clients = fourClients(t, name)
    await untilSynced(...clients)
    await editConcurrently(clients, type, random, 'a')
    await untilAgreed(clients, type)
    await untilSaved(...clients)
    agreed[name] = clients[0].doc
    await assertFreshClientsHold(t, name, type)
  })
}

test('a fresh client finds everything after the server is stopped and started', async (t) => {
  assert.deepEqual(await server.stop(), { code: 0, signal: null })
  await server.restart()
  for (const [name, type] of Object.entries(TYPES)) await assertFreshClientsHold(t, name, type)
})

test('a fresh client finds all edits acknowledged before kill -9', async (t) => {
  const random = seededRandom(t)
  const allClients = []
  for (const [name, type] of Object.entries(TYPES)) {
    const clients = fourClients(t, name)
    allClients.push(...clients)
    await untilSynced(...clients)
    await editConcurrently(clients, type, random, 'b')
    await untilAgreed(clients, type)
    agreed[name] = clients[0].doc
  }
  await untilSaved(...allClients)
  await server.kill()
  for (const client of allClients) client.destroy()
  await server.restart()
  for (const [name, type] of Object.entries(TYPES)) await assertFreshClientsHold(t, name, type)
})

function fourClients(t, name) {
  const room = name.replace(' ', '-')
  return [yWebsocketClient, hocuspocusClient, yWebsocketClient, hocuspocusClient].map((make) => make(t, server, room))
}

/** In each round all clients edit before they can receive each other's edits; some arrive between rounds. */
async function editConcurrently(clients, type, random, run) {
  for (let round = 0; round < ROUNDS; round++) {
    clients.forEach(({ doc }, person) => {
      const edit = () => type.edit(doc, random, `${run}${person}-${round}`)
      if (random() < 0.5) doc.transact(edit)
      else edit()
    })
    for (let i = random.below(4); i > 0; i--) await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

async function untilAgreed(clients, type) {
  const docs = clients.map(({ doc }) => doc)
  try {
    await until(() => allEqual(docs), { what: 'all four hold the same state' })
  } catch (error) {
    assertAllEqual(docs)
    throw error
  }
  for (const doc of docs) assert.deepEqual(type.read(doc), type.read(docs[0]))
}

async function assertFreshClientsHold(t, name, type) {
  for (const make of Object.values(makers)) {
    const fresh = make(t, server, name.replace(' ', '-'))
    await untilSynced(fresh)
    assertAllEqual([agreed[name], fresh.doc])
    assert.deepEqual(type.read(fresh.doc), type.read(agreed[name]))
    fresh.destroy()
  }
}

function elements(parent) {
  return parent.toArray().flatMap((child) => (child instanceof Y.XmlElement ? [child, ...elements(child)] : []))
}
