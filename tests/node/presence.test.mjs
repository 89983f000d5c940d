// Awareness of stock clients: visible again right after a reconnect, gone right after the connection or tab closes.

import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import * as Y from 'yjs'
import { makers, rawClient, until, untilSynced, yWebsocketClient } from './support/clients.mjs'
import { presence, statesIn, watchPresence } from './support/presence.mjs'
import { startServer } from './support/server.mjs'
import { hocuspocus, readHocuspocus, readYWebsocket, yWebsocket } from './support/wire.mjs'

const DIALECTS = Object.keys(makers)
const BACK_LIMIT_MS = 200
const GONE_LIMIT_MS = 1_000
const EMPTY_VECTOR = Y.encodeStateVector(new Y.Doc())

let server

before(async () => {
  server = await startServer()
})
after(() => server?.stop())

describe('awareness', () => {
  test('is echoed to its sender in the y-websocket dialect', async (t) => {
    const client = rawClient(t, server, 'own-presence')
    const own = presence(41, { name: 'Ann' })
    await client.send(yWebsocket.step1(EMPTY_VECTOR), yWebsocket.awareness(own.update()))
    await client.frame(
      readYWebsocket,
      (m) => m.kind === 'awareness' && statesIn(m).get(41)?.name === 'Ann',
      'own awareness',
    )
    own.awareness.setLocalState({ name: 'Ann', cursor: 3 })
    await client.send(yWebsocket.awareness(own.update()))
    await client.frame(readYWebsocket, (m) => m.kind === 'awareness' && statesIn(m).get(41)?.cursor === 3, 'the change')
  })

  test('is echoed to its sender in the Hocuspocus dialect', async (t) => {
    const client = rawClient(t, server)
    const name = 'own-presence-too'
    const own = presence(42, { name: 'Ben' })
    await client.send(
      hocuspocus.auth(name),
      hocuspocus.step1(name, EMPTY_VECTOR),
      hocuspocus.awareness(name, own.update()),
    )
    await client.frame(
      readHocuspocus,
      (m) => m.kind === 'awareness' && statesIn(m).get(42)?.name === 'Ben',
      'own awareness',
    )
  })

  test('of all clients is sent to a client that queries it', async (t) => {
    const ann = yWebsocketClient(t, server, 'query')
    ann.awareness.setLocalState({ name: 'Ann' })
    await untilSynced(ann)
    const client = rawClient(t, server, 'query')
    await client.send(yWebsocket.queryAwareness())
    const isAnn = (m) => m.kind === 'awareness' && statesIn(m).get(ann.doc.clientID)?.name === 'Ann'
    await client.frame(readYWebsocket, isAnn, "Ann's awareness")
  })

  for (const dialect of DIALECTS) {
    test(`of a ${dialect} client returns within ${BACK_LIMIT_MS} ms of a reconnect and goes with its tab`, async (t) => {
      const room = `back-${dialect}`
      const person = makers[dialect](t, server, room)
      person.awareness.setLocalState({ name: 'Ann' })
      const observers = DIALECTS.map((observing) => makers[observing](t, server, room))
      const seen = observers.map((observer) => watchPresence(observer, person.doc.clientID))
      await untilSynced(person, ...observers)
      await until(() => seen.every(({ here }) => here), { what: 'everyone sees Ann' })

      for (let visit = 1; visit <= 3; visit++) {
        const cutAt = performance.now()
        person.cut()
        await until(() => seen.every(({ here }) => !here), { what: `Ann is gone (visit ${visit})` })
        for (const { changedAt } of seen) assertWithin(changedAt - cutAt, GONE_LIMIT_MS, 'gone after the cut')

        person.mend()
        await until(() => seen.every(({ here }) => here), { what: `Ann is back (visit ${visit})` })
        for (const { changedAt } of seen)
          assertWithin(changedAt - person.line.openedAt, BACK_LIMIT_MS, 'back after the reconnect')
        for (const { awareness } of observers) assert.equal(awareness.getStates().get(person.doc.clientID).name, 'Ann')
        // Later changes are seen too.
        person.awareness.setLocalStateField('cursor', visit)
        const follows = () =>
          observers.every(({ awareness }) => awareness.getStates().get(person.doc.clientID)?.cursor === visit)
        await until(follows, { what: "Ann's cursor moves" })
      }

      const closedAt = performance.now()
      person.destroy()
      await until(() => seen.every(({ here }) => !here), { what: 'Ann has left' })
      for (const { changedAt } of seen) assertWithin(changedAt - closedAt, GONE_LIMIT_MS, 'gone after the tab closed')
    })
  }
})

function assertWithin(ms, limit, what) {
  assert(ms < limit, `${what}: ${Math.round(ms)} ms, the limit is ${limit} ms`)
}
