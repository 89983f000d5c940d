//! PURE: what was decided on a register stays decided.
//!
//! A decision is relayed before it is on the disk, like every change. When the server crashes in between, it decides anew,
//! and whoever had received the lost decision brings it back, as a change like any other: the CRDT would let one of the two
//! win by chance. So what an update does to a register counts only if it goes on from what is decided here; else the
//! document writes its decision once more, on top.

use std::collections::HashMap;
use std::sync::Arc;

use syncline_replica::{HubDocument, RegisterState};

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, Message};

/// What was decided, or was there when the document was loaded.
#[derive(Debug, Default)]
pub(super) struct Registers(HashMap<Arc<str>, RegisterState>);

impl Registers {
    /// Those of a document that was just loaded.
    pub(super) fn of(document: &HubDocument) -> Self {
        Self(document.read_registers().collect())
    }
}

impl Core {
    /// The document itself wrote it, or it goes on from what is decided.
    pub(super) fn decided(&mut self, name: &str, state: &RegisterState) {
        self.registers.0.insert(name.into(), state.clone());
    }

    /// Looks at the registers that the last update changed.
    pub(super) fn hold_registers(&mut self, effects: &mut Vec<Effect>) {
        for name in self.document.take_touched() {
            let now = self.document.read_register(&name);
            let decided = self.registers.0.get(&*name);
            let goes_on = match (&now, decided) {
                (_, None) => true,
                (Some(now), Some(decided)) => now == decided || now.ids.contains(&decided.version.id),
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
