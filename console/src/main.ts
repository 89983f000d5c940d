// The page: which document is open, the offline switch, and the wiring between the editors and what is shown.

import './style.css'
import { mountEditor } from './editor'
import { randomPerson, showPeople } from './presence'
import { openHocuspocus, openYWebsocket } from './providers'
import { SavedLight, showLine } from './status'

const OFFLINE_KEY = 'syncline-console:offline'
const DEFAULT_NAME = 'welcome'

const byId = <T extends HTMLElement>(id: string): T => {
  const element = document.getElementById(id)
  if (!element) throw new Error(`the page has no element #${id}`)
  return element as T
}

// The page may lie under a path, behind a proxy: its sockets are under the same one.
const basePath = location.pathname.replace(/\/[^/]*$/, '')
const serverUrl = `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${basePath}`
const me = randomPerson()
const offlineSwitch = byId<HTMLInputElement>('offline')
const nameInput = byId<HTMLInputElement>('name')
offlineSwitch.checked = localStorage.getItem(OFFLINE_KEY) === 'true'

/** What `openDocument` gives back: enough to follow the switch and to make room for the next document. */
interface OpenDocument {
  setOnline(online: boolean): void
  close(): Promise<void>
}

async function openDocument(name: string): Promise<OpenDocument> {
  // The name as typed: the server decodes what a URL encodes by itself. Three characters end or divide a URL's path.
  const room = name.replace(/[?#\\]/g, encodeURIComponent)
  const storeKey = encodeURIComponent(name)
  document.title = `${name} · Syncline`
  nameInput.value = name
  byId('snippet-ywebsocket').textContent = `new WebsocketProvider(${JSON.stringify(serverUrl)}, ${JSON.stringify(room)}, doc)`
  byId('snippet-hocuspocus').textContent =
    `new HocuspocusProvider({ url: ${JSON.stringify(serverUrl)}, name: ${JSON.stringify(room)}, document })`

  const savedLight = new SavedLight(byId('saved-light'))
  const [left, right] = await Promise.all([
    openYWebsocket(serverUrl, room, storeKey, (line) => showLine(byId('status-ywebsocket'), line)),
    openHocuspocus(serverUrl, room, storeKey, (line, saved) => {
      showLine(byId('status-hocuspocus'), line)
      savedLight.update(saved)
    }),
  ])

  const replicas = [left, right]
  const people = showPeople(byId('people'), me, replicas.map((replica) => replica.awareness))
  const leftEditor = mountEditor(byId('editor-ywebsocket'), left, 'Text, through y-websocket')
  const rightEditor = mountEditor(byId('editor-hocuspocus'), right, 'Text, through Hocuspocus')
  // One person has one cursor: the editor that was left gives its cursor up.
  leftEditor.contentDOM.addEventListener('focus', () => right.awareness.setLocalStateField('cursor', null))
  rightEditor.contentDOM.addEventListener('focus', () => left.awareness.setLocalStateField('cursor', null))

  // Without a local store an edit that the server has not confirmed lives in this tab only.
  const warn = (event: BeforeUnloadEvent) => {
    if (replicas.some((replica) => replica.wouldLoseEdits())) event.preventDefault()
  }
  window.addEventListener('beforeunload', warn)

  const setOnline = (online: boolean) => replicas.forEach((replica) => replica.setOnline(online))
  setOnline(!offlineSwitch.checked)

  return {
    setOnline,
    async close() {
      window.removeEventListener('beforeunload', warn)
      people.stop()
      leftEditor.destroy()
      rightEditor.destroy()
      await Promise.all(replicas.map((replica) => replica.close()))
      savedLight.stop()
    },
  }
}

/** The document named in the address, or the default for no name and for names a URL path cannot carry. */
function nameFromAddress(): string {
  let name = location.hash.slice(1)
  try {
    name = decodeURIComponent(name)
  } catch {
    // A lone % is part of the name as typed.
  }
  name = name.trim()
  return name === '' || name === '.' || name === '..' ? DEFAULT_NAME : name
}

// Documents are opened one after the other, however fast the address changes.
let current: Promise<OpenDocument | undefined> = Promise.resolve(undefined)
const show = () => {
  current = current.then(async (previous) => {
    await previous?.close()
    return openDocument(nameFromAddress())
  })
}

offlineSwitch.addEventListener('change', () => {
  localStorage.setItem(OFFLINE_KEY, String(offlineSwitch.checked))
  void current.then((opened) => opened?.setOnline(!offlineSwitch.checked))
})
byId<HTMLFormElement>('open').addEventListener('submit', (event) => {
  event.preventDefault()
  location.hash = encodeURIComponent(nameInput.value.trim())
})
window.addEventListener('hashchange', show)
show()
