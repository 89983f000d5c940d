//! PURE: what was decided on a register stays decided.
//!
//! A decision is relayed before it is on the disk, like every change. When the server crashes in between, it decides anew,
//! and whoever had received the lost decision brings it back, as a change like any other: the CRDT would let one of the two
//! win by chance. So what an update does to a register counts only if it goes on from what is decided here; else the
//! document writes its decision once more, on top.

use std::collections::HashMap;

use syncline_replica::{CrdtError, RegisterState, Replica};

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, Message};

/// What was decided, or was there when the document was loaded.
#[derive(Debug, Default)]
pub(super) struct Registers(HashMap<String, RegisterState>);

impl Registers {
    /// Those of a document that was just loaded, and a watch on them.
    fn of(replica: &mut Replica) -> Result<Self, CrdtError> {
        replica.watch_registers()?;
        replica.read_registers().map(Self)
    }
}

impl Core {
    /// Before the first change: builds the tree, and reads what is decided.
    pub(super) fn know_registers(&mut self) -> Result<(), CrdtError> {
        let tree = self.replica.wake()?;
        if self.registers.is_none() {
            self.registers = Some(Registers::of(tree)?);
        }
        Ok(())
    }

    /// The document itself wrote it, or it goes on from what is decided.
    pub(super) fn decided(&mut self, name: &str, state: &RegisterState) {
        if let Some(Registers(decided)) = &mut self.registers {
            decided.insert(name.to_owned(), state.clone());
        }
    }

    /// Looks at the registers that the last update changed.
    pub(super) fn hold_registers(&mut self, effects: &mut Vec<Effect>) -> Result<(), CrdtError> {
        for name in self.replica.take_touched() {
            let now = self.replica.read_register(&name)?;
            let decided = self.registers.as_ref().and_then(|Registers(decided)| decided.get(&*name));
            let goes_on = match (&now, decided) {
                (_, None) => true,
                (Some(now), Some(decided)) => now == decided || now.ids.contains(&decided.version.id),
                (None, Some(_)) => false,
            };
            if let Some(decided) = decided.filter(|_| !goes_on).cloned() {
                let update = self.replica.write_register(&name, &decided)?;
                self.append(update.clone(), effects);
                self.broadcast(Frame::at(self.last, Message::Update(update)), None, effects);
            } else if let Some(now) = now {
                self.decided(&name, &now);
            }
        }
        // Its own writes are no news.
        self.replica.take_touched();
        Ok(())
    }
}
