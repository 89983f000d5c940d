//! PURE: what leaves the queue next, merged into one message.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use syncline_protocol::native::{Channel, Proposal, ToServer};

use super::journal::Proposed;
use super::queue::{Queue, State, What};

/// Batches that may be on their way at once.
pub(crate) const MAX_IN_FLIGHT: u64 = 64;
/// Largest merged change, in bytes, as long as no single edit is larger.
pub(crate) const MAX_BATCH_BYTES: usize = 1024 * 1024;
// Merging is quadratic in yrs 0.28.1: 2 us each for 100, 19 us each for 4,000.
/// Most edits merged into one change.
pub(crate) const MAX_BATCH_EDITS: usize = 512;

/// One message's worth of the queue.
pub(crate) struct Batch {
    /// Positions in the queue.
    pub(crate) entries: Range<usize>,
    what: Outgoing,
}

enum Outgoing {
    Change(Bytes),
    Proposal(Proposed),
}

/// What an entry takes, in bytes.
pub(crate) fn size(what: &What) -> usize {
    match what {
        What::Edit { update } => update.len(),
        What::Proposal(proposed) => proposed.value.len(),
    }
}

/// The next batch: a proposal, or as many edits in a row as fit, without what the server is known to have.
pub(crate) fn next(queue: &Queue, server_has: Option<&[u8]>, max_bytes: usize) -> Option<Batch> {
    // Never past one that is still on its way to the device's disk: acknowledgements go by the order of the queue.
    let start = queue.iter().position(|entry| matches!(entry.state, State::Pending | State::Storing(_)))?;
    let mut updates: Vec<Bytes> = Vec::new();
    let mut bytes = 0;
    for entry in queue.iter().skip(start).take_while(|entry| entry.state == State::Pending) {
        match &entry.what {
            What::Proposal(proposed) if updates.is_empty() => {
                let what = Outgoing::Proposal(proposed.clone());
                return Some(Batch { entries: start..start + 1, what });
            }
            What::Edit { update }
                if updates.is_empty() || (updates.len() < MAX_BATCH_EDITS && bytes + update.len() <= max_bytes) =>
            {
                bytes += update.len();
                updates.push(update.clone());
                if entry.ends_batch {
                    break;
                }
            }
            _ => break,
        }
    }
    // None: the next one is not stored yet.
    let first = updates.first()?.clone();
    let (count, merged) = merge(&updates, server_has).map_or((1, first), |merged| (updates.len(), merged));
    Some(Batch { entries: start..start + count, what: Outgoing::Change(merged) })
}

/// `None` when yrs cannot: the first edit then goes alone.
pub(crate) fn merge(updates: &[Bytes], server_has: Option<&[u8]>) -> Option<Bytes> {
    let merge = || {
        let merged = match updates {
            [alone] => alone.clone(),
            several => Bytes::from(yrs::merge_updates_v1(several.iter().map(|update| &update[..])).ok()?),
        };
        match server_has {
            Some(state_vector) => yrs::diff_updates_v1(&merged, state_vector).ok().map(Bytes::from),
            None => Some(merged),
        }
    };
    catch_unwind(AssertUnwindSafe(merge)).ok().flatten()
}

impl Batch {
    pub(crate) fn frame(&self, channel: Channel, batch: u64) -> Bytes {
        let message = match &self.what {
            Outgoing::Change(update) => ToServer::Change { channel, batch, update },
            Outgoing::Proposal(proposed) => ToServer::Propose {
                channel,
                batch,
                proposal: Proposal {
                    register: &proposed.register,
                    id: proposed.id,
                    based_on: proposed.based_on,
                    author: &proposed.author,
                    at_ms: proposed.at_ms,
                    value: &proposed.value,
                },
            },
        };
        message.encode().into()
    }
}
