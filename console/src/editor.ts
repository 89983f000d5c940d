// One plain-text CodeMirror editor on a replica: its text, other people's cursors, and an undo that is its own.

import { defaultKeymap } from '@codemirror/commands'
import { drawSelection, EditorView, keymap, placeholder } from '@codemirror/view'
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
      // Not for its looks: without it, @codemirror/view 6.43 moves the browser's selection, and with it the focus, back
      // into an editor whose caret was at a soft line break, and what is typed next lands in the wrong one of the two.
      drawSelection(),
      EditorView.contentAttributes.of({ 'aria-label': label }),
      placeholder('Type here…'),
      yCollab(replica.text, replica.awareness, { undoManager: new UndoManager(replica.text) }),
    ],
  })
}
