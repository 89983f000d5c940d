//! PURE: rebuilds a document's CRDT from its journal, without the updates that cannot be applied. Part of [`Core`].

use bytes::Bytes;
use syncline_replica::{CrdtError, Replica};

use super::core::{Core, Origin};

impl Core {
    /// Rebuilds the CRDT from the journal. Updates that cannot be applied are dropped and reported as texts.
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
                    problems.push(format!("the CRDT cannot be created: {error}"));
                    return problems;
                }
                Err(error) => self.drop_first_bad_update(&error, &mut problems),
            }
        }
    }

    /// Drops the first update that cannot be applied, found by adding the updates one by one.
    fn drop_first_bad_update(&mut self, error: &CrdtError, problems: &mut Vec<String>) {
        let mut so_far: Vec<Bytes> = Some(self.base.clone()).filter(|base| !base.is_empty()).into_iter().collect();
        if Replica::load(so_far.iter().cloned()).is_err() {
            problems.push(format!("the stored snapshot cannot be applied: {error}"));
            self.base = Bytes::new();
            // Only the server can restore the state: fetch all of it.
            self.in_step = None;
            return;
        }
        for at in 0..self.updates.len() {
            so_far.push(self.updates[at].bytes.clone());
            if Replica::load(so_far.iter().cloned()).is_err() {
                let update = self.updates.remove(at);
                let origin = match update.of {
                    Origin::Edit(_) => "an edit of this device",
                    Origin::Remote(_) | Origin::SentAgain(_) => "a remote change",
                };
                problems.push(format!("{origin} ({} bytes) cannot be applied: {error}", update.bytes.len()));
                self.in_step = None;
                return;
            }
        }
    }
}
