//! PURE: a document's CRDT built again from what its journal holds, without what cannot be used. Part of [`Core`].

use bytes::Bytes;
use syncline_replica::{CrdtError, Replica};

use super::core::{Core, Origin};

impl Core {
    /// Builds the CRDT from what the journal holds; tells what cannot be used, and leaves it out.
    pub(super) fn rebuild(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        loop {
            let base = std::iter::once(self.base.clone()).filter(|base| !base.is_empty());
            let all = base.chain(self.updates.iter().map(|update| update.bytes.clone()));
            match Replica::load(all) {
                Ok(replica) => {
                    self.replica = replica;
                    return problems;
                }
                Err(error) if self.updates.is_empty() && self.base.is_empty() => {
                    problems.push(format!("nothing of it can be read: {error}"));
                    return problems;
                }
                Err(error) => self.leave_out_a_culprit(&error, &mut problems),
            }
        }
    }

    /// Finds the first update that breaks a replica by adding them one by one.
    fn leave_out_a_culprit(&mut self, error: &CrdtError, problems: &mut Vec<String>) {
        let mut so_far: Vec<Bytes> = Some(self.base.clone()).filter(|base| !base.is_empty()).into_iter().collect();
        if Replica::load(so_far.iter().cloned()).is_err() {
            problems.push(format!("its last snapshot cannot be read: {error}"));
            self.base = Bytes::new();
            // Only the server can bring it back: all of it.
            self.in_step = None;
            return;
        }
        for at in 0..self.updates.len() {
            so_far.push(self.updates[at].bytes.clone());
            if Replica::load(so_far.iter().cloned()).is_err() {
                let update = self.updates.remove(at);
                let whose = match update.of {
                    Origin::Edit(_) => "an edit made here",
                    Origin::Remote(_) | Origin::SentAgain(_) => "a change by others",
                };
                problems.push(format!("{whose} ({} bytes) cannot be used: {error}", update.bytes.len()));
                self.in_step = None;
                return;
            }
        }
    }
}
