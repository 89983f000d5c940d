//! Positions: frames of which only the newest matters, sent after everything that was queued before them.
//!
//! A newer position may replace a queued one, but not take over its *place*: it refers to the frames before
//! it. So at most two of a kind are queued for a lease: the one that is sent next, and the newest.

use bytes::Bytes;

use crate::ids::LeaseId;

/// What a position refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// How far the document is on disk: true only once all frames before it were sent.
    Durable,
    /// How far the lease's own changes are on disk.
    Ack,
}

#[derive(Debug)]
struct QueuedPosition {
    lease: LeaseId,
    position: Position,
    /// It is sent once every frame with a smaller number has been taken from the queue.
    after: u64,
    frame: Bytes,
}

/// The positions queued for one socket. Empty for sessions of dialects without positions.
#[derive(Debug, Default)]
pub(super) struct Positions(Vec<QueuedPosition>);

impl Positions {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Queues the newest of its kind, after every frame numbered below `after`.
    pub(super) fn push(&mut self, lease: LeaseId, position: Position, after: u64, frame: Bytes) {
        let mut of_kind = self.0.iter_mut().filter(|older| older.lease == lease && older.position == position);
        let (first, second) = (of_kind.next(), of_kind.next());
        let replaced = match (first, second) {
            (_, Some(newest)) => Some(newest),
            (Some(only), None) if only.after == after => Some(only),
            _ => None,
        };
        match replaced {
            Some(older) => (older.after, older.frame) = (after, frame),
            None => self.0.push(QueuedPosition { lease, position, after, frame }),
        }
    }

    /// Hands out the positions that are due: every frame numbered below `gone` has been taken. True if there
    /// were any.
    pub(super) fn take(&mut self, gone: u64, mut put: impl FnMut(Bytes)) -> bool {
        let before = self.0.len();
        self.0.retain_mut(|queued| {
            let stays = queued.after > gone;
            if !stays {
                put(std::mem::take(&mut queued.frame));
            }
            stays
        });
        self.0.len() < before
    }

    /// Drops the durable position of a lease: some of the frames it refers to will not be sent.
    pub(super) fn drop_durable(&mut self, of: LeaseId) {
        self.0.retain(|queued| queued.lease != of || queued.position != Position::Durable);
    }

    /// Drops all positions of a lease.
    pub(super) fn drop_lease(&mut self, of: LeaseId) {
        self.0.retain(|queued| queued.lease != of);
    }

    /// Drops all but acks: when the session closes, only these are still true.
    pub(super) fn keep_acks(&mut self) {
        self.0.retain(|queued| queued.position == Position::Ack);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
