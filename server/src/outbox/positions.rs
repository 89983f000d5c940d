//! Positions: frames of which only the newest counts, sent when all that was queued before them has gone.
//!
//! A newer one may take the place of one that waits, but never its *turn*: it speaks of the frames before it. So a lease
//! has at most two of a kind waiting: the one whose turn comes next, and the newest.

use bytes::Bytes;

use crate::ids::LeaseId;

/// What a position tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// How far the document is on disk: true only behind all the frames before it.
    Durable,
    /// How far the lease's own changes are.
    Ack,
}

#[derive(Debug)]
struct Waiting {
    lease: LeaseId,
    position: Position,
    /// Its turn comes when everything that was queued before this number has gone.
    after: u64,
    frame: Bytes,
}

/// The positions waiting for one socket. Empty for sessions of dialects that have none.
#[derive(Debug, Default)]
pub(super) struct Positions(Vec<Waiting>);

impl Positions {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the newest of its kind, behind everything queued before the number `after`.
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
            None => self.0.push(Waiting { lease, position, after, frame }),
        }
    }

    /// Hands out those whose turn has come: everything queued before the number `gone` has gone. True if there were any.
    pub(super) fn take(&mut self, gone: u64, mut put: impl FnMut(Bytes)) -> bool {
        let before = self.0.len();
        self.0.retain_mut(|waiting| {
            let stays = waiting.after > gone;
            if !stays {
                put(std::mem::take(&mut waiting.frame));
            }
            stays
        });
        self.0.len() < before
    }

    /// Forgets what is told of the document's frames: some of them will not be sent.
    pub(super) fn drop_durable(&mut self, of: LeaseId) {
        self.0.retain(|waiting| waiting.lease != of || waiting.position != Position::Durable);
    }

    /// Forgets everything of a lease.
    pub(super) fn drop_lease(&mut self, of: LeaseId) {
        self.0.retain(|waiting| waiting.lease != of);
    }

    /// The session ends: of what was to be said, acknowledgements are still true.
    pub(super) fn keep_acks(&mut self) {
        self.0.retain(|waiting| waiting.position == Position::Ack);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
