// The page: the open document, the offline switch, and the wiring between replicas, editors and status display.

import './style.css'
import { documentName, isLoopback, roomOf, socketUrl } from './address'
import { mountEditor } from './editor'
import { randomPerson, showPeople } from './presence'
import { openHocuspocus, openYWebsocket } from './providers'
import { SavedWatch } from './saved'
import { showLine, showSaved } from './status'
import { keepPage, showNote } from './without-server'

/** Key in the tab's session storage: another tab is another person, who may be online. */
const OFFLINE_KEY = 'syncline-console:offline'

const byId = <T extends HTMLElement>(id: string): T => {
  const element = document.getElementById(id)
  if (!element) throw new Error(`the page has no element #${id}`)
  return element as T
}

const serverUrl = socketUrl(location)
const me = randomPerson()
const offlineSwitch = byId<HTMLInputElement>('offline')
const nameInput = byId<HTMLInputElement>('name')
offlineSwitch.checked = sessionStorage.getItem(OFFLINE_KEY) === 'true'

/** An open document. */
interface OpenDocument {
  setOnline(online: boolean): void
  close(): Promise<void>
}

async function openDocument(name: string): Promise<OpenDocument> {
  const room = roomOf(name)
  document.title = `${name} · Syncline`
  nameInput.value = name
  byId('snippet-ywebsocket').textContent = `new WebsocketProvider(${JSON.stringify(serverUrl)}, ${JSON.stringify(room)}, doc)`
  byId('snippet-hocuspocus').textContent =
    `new HocuspocusProvider({ url: ${JSON.stringify(serverUrl)}, name: ${JSON.stringify(room)}, document })`

  // A replica may report a change before both of them exist.
  let refresh = () => {}
  const onChange = () => refresh()
  const [left, right] = await Promise.all([
    openYWebsocket(serverUrl, room, onChange),
    openHocuspocus(serverUrl, room, onChange),
  ])
  const replicas = [left, right]
  const watch = new SavedWatch(left, right, (saved) => showSaved(byId('saved-light'), saved))
  refresh = () => {
    showLine(byId('status-ywebsocket'), byId('reason-ywebsocket'), left.line())
    showLine(byId('status-hocuspocus'), byId('reason-hocuspocus'), right.line())
    showNote(byId('note'), replicas.every((replica) => replica.kept() !== 'no'))
    watch.update()
  }
  void keepPage(onChange)

  const people = showPeople(byId('people'), me, replicas.map((replica) => replica.awareness))
  const leftEditor = mountEditor(byId('editor-ywebsocket'), left, 'Text, through y-websocket')
  const rightEditor = mountEditor(byId('editor-hocuspocus'), right, 'Text, through Hocuspocus')
  // One person has one cursor: focusing an editor removes the cursor of the other.
  leftEditor.contentDOM.addEventListener('focus', () => right.awareness.setLocalStateField('cursor', null))
  rightEditor.contentDOM.addEventListener('focus', () => left.awareness.setLocalStateField('cursor', null))

  // Without a local store, an edit that the server has not acknowledged exists only in this tab.
  const warn = (event: BeforeUnloadEvent) => {
    if (watch.saved !== 'saved' && replicas.some((replica) => replica.kept() === 'no')) event.preventDefault()
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
      watch.stop()
      refresh = () => {}
      await Promise.all(replicas.map((replica) => replica.close()))
    },
  }
}

// Documents are opened one after the other, even when the address changes quickly.
let current: Promise<OpenDocument | undefined> = Promise.resolve(undefined)
const show = () => {
  current = current.then(async (previous) => {
    await previous?.close()
    return openDocument(documentName(location))
  })
}

offlineSwitch.addEventListener('change', () => {
  sessionStorage.setItem(OFFLINE_KEY, String(offlineSwitch.checked))
  void current.then((opened) => opened?.setOnline(!offlineSwitch.checked))
})
byId<HTMLFormElement>('open').addEventListener('submit', (event) => {
  event.preventDefault()
  location.hash = encodeURIComponent(nameInput.value.trim())
})
byId('invite').textContent = `Open this page in a second tab${isLoopback(location) ? '' : ' or on another device'} and type in both.`
window.addEventListener('hashchange', show)
show()
