// The list of people: a random name and colour for this tab, and a chip for each person in the awareness of either provider.

import type { Awareness } from 'y-protocols/awareness'

/** The `user` field of an awareness state. y-codemirror.next reads `name`, `color` and `colorLight` from it. */
export interface Person {
  /** The same in both awareness states of a tab, so that they become one chip. */
  id: string
  name: string
  color: string
  colorLight: string
}

const NAME_KEY = 'syncline-console:name'
const CHIPS_LIMIT = 12
const NAME_LIMIT_CHARS = 40

const FIRST = 'Amber Brave Calm Clever Coral Eager Fern Gentle Golden Hazel Indigo Jolly Kind Lucky Mellow Misty Quiet Rapid Rosy Silver Sunny Swift Velvet Witty'.split(' ')
const SECOND = 'Badger Beaver Bison Crane Dolphin Falcon Finch Fox Gecko Heron Ibex Koala Lynx Marten Newt Otter Owl Panda Puffin Raven Robin Seal Tapir Wren'.split(' ')

/** Creates a person; keeps the name that this tab had before a reload. */
export function randomPerson(): Person {
  const name = sessionStorage.getItem(NAME_KEY) ?? `${pick(FIRST)} ${pick(SECOND)}`
  sessionStorage.setItem(NAME_KEY, name)
  // The same lightness for every hue: white text is readable on it, and it contrasts with light and dark backgrounds.
  const hue = hueOf(name)
  return {
    id: crypto.getRandomValues(new Uint32Array(2)).join('-'),
    name,
    color: `oklch(54% 0.15 ${hue})`,
    colorLight: `oklch(62% 0.15 ${hue} / 0.25)`,
  }
}

/** Sets `me` in every awareness, and keeps `list` up to date with the people in them, `me` first. */
export function showPeople(list: HTMLElement, me: Person, awarenesses: Awareness[]): { stop(): void } {
  const draw = () => {
    const people = new Map([[me.id, me]])
    for (const awareness of awarenesses) {
      for (const [clientId, state] of awareness.getStates()) {
        const person = readPerson(clientId, state['user'])
        if (!people.has(person.id)) people.set(person.id, person)
      }
    }
    const [self, ...others] = people.values()
    others.sort((a, b) => a.name.localeCompare(b.name))
    const shown = [self!, ...others.slice(0, CHIPS_LIMIT - 1)]
    const chips = shown.map((person) => chip(person, person === self))
    const left = people.size - shown.length
    if (left > 0) chips.push(element('li', 'more', `and ${left} more`))
    list.replaceChildren(...chips)
  }
  for (const awareness of awarenesses) {
    awareness.setLocalStateField('user', me)
    awareness.on('change', draw)
  }
  draw()
  return { stop: () => awarenesses.forEach((awareness) => awareness.off('change', draw)) }
}

function chip(person: Person, isMe: boolean): HTMLElement {
  const item = element('li', 'chip', person.name)
  item.dataset['testid'] = 'person'
  item.dataset['me'] = String(isMe)
  item.style.setProperty('--person', person.color)
  if (isMe) item.append(element('small', '', 'you'))
  return item
}

/** Reads a `user` field, which other clients may leave out or set to anything. */
function readPerson(clientId: number, user: unknown): Person {
  const { id, name, color } = (typeof user === 'object' && user !== null ? user : {}) as Partial<Record<keyof Person, unknown>>
  return {
    id: typeof id === 'string' ? id : String(clientId),
    name: typeof name === 'string' && name !== '' ? name.slice(0, NAME_LIMIT_CHARS) : 'Anonymous',
    color: typeof color === 'string' ? color : 'gray',
    colorLight: '',
  }
}

function element(tag: string, className: string, text: string): HTMLElement {
  const created = document.createElement(tag)
  created.className = className
  created.textContent = text
  return created
}

function pick(words: string[]): string {
  return words[Math.floor(Math.random() * words.length)]!
}

function hueOf(name: string): number {
  let sum = 0
  for (const char of name) sum = (sum * 31 + char.codePointAt(0)!) % 360
  return sum
}
