//! PURE: what was decided on a register stays decided.
//!
//! A decision is relayed before it is on the disk, like every change. When the server crashes in between, it decides anew,
//! and whoever had received the lost decision brings it back, as a change like any other: the CRDT would let one of the two
//! win by chance. So what an update does to a register counts only if it goes on from what is decided here; else the
//! document writes its decision once more, on top.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use syncline_replica::{HubDocument, RegisterState};

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, Message};

/// Most refused writes remembered.
const MAX_REFUSED: usize = 1_000;

/// What was decided.
#[derive(Debug, Default)]
pub(super) struct Registers {
    /// The state of each, decided or there when the document was loaded.
    decided: HashMap<Arc<str>, RegisterState>,
    /// The newest writes that were refused. A lost decision on one of them may still come back, from before a crash: its author
    /// was told no since.
    refused: VecDeque<u128>,
}

impl Registers {
    /// Those of a document that was just loaded.
    pub(super) fn of(document: &HubDocument) -> Self {
        Self { decided: document.read_registers().collect(), refused: VecDeque::new() }
    }
}

impl Core {
    /// The document itself wrote it, or it goes on from what is decided.
    pub(super) fn decided(&mut self, name: &str, state: &RegisterState) {
        self.registers.decided.insert(name.into(), state.clone());
    }

    /// A write was not taken.
    pub(super) fn refused(&mut self, id: u128) {
        let refused = &mut self.registers.refused;
        if refused.len() == MAX_REFUSED {
            refused.pop_front();
        }
        refused.push_back(id);
    }

    /// Looks at the registers that the last update changed.
    pub(super) fn hold_registers(&mut self, effects: &mut Vec<Effect>) {
        for name in self.document.take_touched() {
            let now = self.document.read_register(&name);
            let Registers { decided, refused } = &self.registers;
            let decided = decided.get(&*name);
            let goes_on = match (&now, decided) {
                (_, None) => true,
                (Some(now), Some(decided)) if now == decided => true,
                (Some(now), Some(decided)) => {
                    now.ids.contains(&decided.version.id) && !refused.contains(&now.version.id)
                }
                (None, Some(_)) => false,
            };
            if let Some(decided) = decided.filter(|_| !goes_on).cloned() {
                self.write_register(&name, &decided, effects);
            } else if let Some(now) = now {
                self.decided(&name, &now);
            }
        }
        // Its own writes are no news.
        self.document.take_touched();
    }

    /// The document's own edit, for all readers.
    pub(super) fn write_register(&mut self, name: &str, state: &RegisterState, effects: &mut Vec<Effect>) {
        let update = self.document.write_register(name, state);
        self.append(update.clone(), effects);
        self.broadcast(Frame::at(self.last, Message::Update(update)), None, effects);
    }
}
