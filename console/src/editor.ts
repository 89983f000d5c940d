// A plain-text CodeMirror editor on a replica: its text, other people's cursors, and its own undo history.

import { defaultKeymap } from '@codemirror/commands'
import { drawSelection, EditorView, keymap, placeholder, ViewPlugin } from '@codemirror/view'
import { yCollab, yUndoManagerKeymap } from 'y-codemirror.next'
import { UndoManager } from 'yjs'
import type { Replica } from './providers'

export function mountEditor(parent: HTMLElement, replica: Replica, label: string): EditorView {
  return new EditorView({
    parent,
    doc: replica.text.toString(),
    extensions: [
      keymap.of([...yUndoManagerKeymap, ...defaultKeymap]),
      EditorView.lineWrapping,
      // Works around @codemirror/view 6.43: without it, the browser's selection and the focus move back into an editor whose
      // caret was at a soft line break, and the next keystrokes go into the wrong editor.
      drawSelection(),
      EditorView.contentAttributes.of({ 'aria-label': label }),
      placeholder('Type here…'),
      flagsInside,
      yCollab(replica.text, replica.awareness, { undoManager: new UndoManager(replica.text) }),
    ],
  })
}

/** Shows the name at a cursor to its left where it would be cut off at the right edge. */
const flagsInside = ViewPlugin.define((view) => {
  const measure = {
    read: () => {
      const edge = view.scrollDOM.getBoundingClientRect().right
      return [...view.contentDOM.querySelectorAll<HTMLElement>('.cm-ySelectionInfo')].map((flag) => ({
        flag,
        leftward: flag.parentElement!.getBoundingClientRect().left + flag.offsetWidth > edge,
      }))
    },
    write: (flags: { flag: HTMLElement; leftward: boolean }[]) => {
      for (const { flag, leftward } of flags) flag.classList.toggle('leftward', leftward)
    },
  }
  return { update: () => view.requestMeasure(measure) }
})
