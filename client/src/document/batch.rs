//! PURE: coalesces the next queued edits into one message.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use syncline_protocol::native::{Channel, Proposal, ToServer};

use super::journal::Proposed;
use super::queue::{Queue, State, What};

/// Limit of unanswered batches on a connection.
pub(crate) const MAX_IN_FLIGHT: u64 = 64;
/// Size limit of a merged change, in bytes; a single larger edit is sent alone.
pub(crate) const MAX_BATCH_BYTES: usize = 1024 * 1024;
// Merging takes quadratic time in yrs 0.28.1: 2 us per edit for 100 edits, 19 us per edit for 4,000.
/// Limit of edits merged into one change.
pub(crate) const MAX_BATCH_EDITS: usize = 512;

/// The queue entries of one message, and its content.
pub(crate) struct Batch {
    /// Indices in the queue.
    pub(crate) entries: Range<usize>,
    what: Outgoing,
}

enum Outgoing {
    Change(Bytes),
    Proposal(Proposed),
}

/// Returns the payload size of an entry, in bytes.
pub(crate) fn size(what: &What) -> usize {
    match what {
        What::Edit { update } => update.len(),
        What::Proposal(proposed) => proposed.value.len(),
    }
}

/// Returns the next batch: one proposal, or consecutive edits up to the limits, without the parts that the server is
/// known to have.
pub(crate) fn next(queue: &Queue, server_has: Option<&[u8]>, max_bytes: usize) -> Option<Batch> {
    // Never past an entry that is still being stored: acknowledgements follow the order of the queue.
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
    // Empty if the next entry is not stored yet.
    let first = updates.first()?.clone();
    let (count, merged) = merge(&updates, server_has).map_or((1, first), |merged| (updates.len(), merged));
    Some(Batch { entries: start..start + count, what: Outgoing::Change(merged) })
}

/// Merges updates; `None` if yrs fails, then the caller sends the first edit alone.
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
