// One plain-text CodeMirror editor on a replica: its text, other people's cursors, and an undo that is its own.

import { defaultKeymap } from '@codemirror/commands'
import { EditorView, keymap, placeholder } from '@codemirror/view'
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
      EditorView.contentAttributes.of({ 'aria-label': label }),
      placeholder('Type here…'),
      yCollab(replica.text, replica.awareness, { undoManager: new UndoManager(replica.text) }),
    ],
  })
}
