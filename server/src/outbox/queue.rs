//! PURE: the frames queued for one socket, their limits in bytes, and what was taken and may not be written yet.

use std::collections::VecDeque;

use bytes::Bytes;
use syncline_replica::Pieces;

use super::Pushed;
use super::awareness::{AwarenessFrame, QueuedAwareness};
use super::budget::{BudgetShare, SCARCE_BYTES};
use super::positions::{Position, Positions};
use super::queued_frame::{QueuedBytes, QueuedFrame};
use crate::ids::LeaseId;
use crate::websocket::Opcode;

/// Bytes the writer takes at a time: the rest still counts towards the limit.
pub(super) const MAX_TAKE_BYTES: usize = 256 * 1024;
/// Number of queued frames searched for an awareness frame to coalesce with.
const MAX_AWARENESS_LOOKBACK: usize = 64;
/// A session with at most this many queued frames, of at most this many bytes, is never too slow.
const FEW_FRAMES: usize = 64;
const FEW_FRAMES_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct FrameQueue {
    limit_bytes: usize,
    /// Frames with their numbers, in order.
    frames: VecDeque<(u64, QueuedFrame)>,
    /// The number of the next frame.
    next: u64,
    positions: Positions,
    /// Bytes of `frames`.
    bytes: QueuedBytes,
    /// Bytes taken by the writer and not known to be written; `taken_own_bytes` without those shared with
    /// documents.
    taken_bytes: usize,
    taken_own_bytes: usize,
    /// Diffs that are queued, or taken and not known to be written: the number of each, and its lease.
    unwritten_diffs: Vec<(u64, LeaseId)>,
    /// Share of the outbox in the budget of all outboxes.
    share: BudgetShare,
}

impl FrameQueue {
    pub(super) fn new(limit_bytes: usize, share: BudgetShare) -> Self {
        Self { limit_bytes, share, ..Self::default() }
    }

    /// True if nothing is queued.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.positions.is_empty()
    }

    pub(super) fn has_frames(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Bytes of the queued frames.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.all
    }

    /// The current limit.
    fn limit_bytes(&self) -> usize {
        if self.share.is_scarce() { self.limit_bytes.min(SCARCE_BYTES) } else { self.limit_bytes }
    }

    /// True if a change of `bytes` fits. One larger than the limit fits if nothing else is queued: otherwise it
    /// could never be sent. Replies take no room from changes.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let queued = self.bytes.all - self.bytes.replies;
        queued == 0 || queued + bytes <= self.limit_bytes()
    }

    /// True if more is queued than the limit.
    pub(super) fn is_over_limit(&self) -> bool {
        self.bytes.all > self.limit_bytes()
    }

    /// True if a reply to the lease may be queued. While memory is scarce, bytes taken and not yet written count as
    /// well.
    pub(super) fn has_room_for_reply(&self, lease: LeaseId) -> bool {
        let is_scarce = self.share.is_scarce() && self.own_bytes() > SCARCE_BYTES;
        !self.is_over_limit() && !is_scarce || self.is_second_reply(lease)
    }

    /// True if one reply is queued for the lease: a document sends a reader a diff, then all awareness
    /// states, possibly with changes of the same turn between them.
    fn is_second_reply(&self, lease: LeaseId) -> bool {
        let mut replies = self.frames.iter().filter(|(_, queued)| queued.is_reply_to(lease));
        replies.next().is_some() && replies.next().is_none()
    }

    /// True if the small replies that cannot be dropped are too many: the client is too slow.
    pub(super) fn is_over_control_limit(&self) -> bool {
        let are_few = self.frames.len() <= FEW_FRAMES && self.bytes.control <= FEW_FRAMES_BYTES;
        self.bytes.control > self.limit_bytes().saturating_mul(2) && !are_few
    }

    /// True if the budget is exceeded and more than a little is queued or not known to be written.
    pub(super) fn exceeds_scarce_limit(&self) -> bool {
        self.share.is_scarce() && self.bytes.all + self.taken_bytes > SCARCE_BYTES
    }

    pub(super) fn push(&mut self, queued: QueuedFrame) -> Pushed {
        let was_empty = self.frames.is_empty();
        self.bytes.add(&queued);
        self.frames.push_back((self.next, queued));
        self.next += 1;
        self.update_budget();
        if was_empty { Pushed::First } else { Pushed::Queued }
    }

    /// Queues the reply to a step 1: see [`FrameQueue::has_unwritten_diff`].
    pub(super) fn push_diff(&mut self, lease: LeaseId, diff: QueuedFrame) -> Pushed {
        self.unwritten_diffs.push((self.next, lease));
        self.push(diff)
    }

    /// Queues an awareness update, coalesced with queued ones of the same lease; `None` if there is no room.
    pub(super) fn push_awareness(&mut self, lease: LeaseId, frame: AwarenessFrame) -> Option<Pushed> {
        let fits = self.has_room(frame.bytes.len());
        let mut queued = self.frames.iter_mut().rev().take(MAX_AWARENESS_LOOKBACK);
        let backlog = queued.find_map(|(_, queued)| match queued {
            QueuedFrame::Awareness { lease: of, backlog } if *of == lease => Some(backlog),
            _ => None,
        });
        let Some(backlog) = backlog else {
            let queued = || QueuedFrame::Awareness { lease, backlog: Box::new(QueuedAwareness::new(frame)) };
            return fits.then(|| self.push(queued()));
        };
        let before = backlog.bytes();
        backlog.push(frame, fits);
        self.bytes.all = self.bytes.all - before + backlog.bytes();
        self.update_budget();
        self.has_room(0).then_some(Pushed::Queued)
    }

    /// Queues a position after everything queued so far.
    pub(super) fn push_position(&mut self, lease: LeaseId, position: Position, frame: Bytes) -> Pushed {
        let was_empty = self.is_empty();
        self.positions.push(lease, position, self.next, frame);
        if was_empty { Pushed::First } else { Pushed::Queued }
    }

    /// Replaces the queued frame that this one makes obsolete. Returns this one if there is none.
    pub(super) fn replace(&mut self, newer: QueuedFrame) -> Option<QueuedFrame> {
        let mut queued = self.frames.iter_mut().map(|(_, queued)| queued);
        let Some(older) = queued.find(|older| older.is_replaced_by(&newer)) else { return Some(newer) };
        *older = newer;
        self.recount_bytes();
        None
    }

    pub(super) fn drop_echoes(&mut self, lease: LeaseId) {
        self.retain(|queued| !queued.is_echo_of(lease));
    }

    /// Drops the changes and the awareness of a lease, and the durable position that covers them.
    pub(super) fn drop_changes(&mut self, lease: LeaseId) {
        self.positions.drop_durable(lease);
        self.retain(|queued| !queued.is_change_for(lease));
    }

    /// Drops everything that a document has queued for a lease, except echoes.
    pub(super) fn drop_all_but_echoes(&mut self, lease: LeaseId) {
        self.positions.drop_lease(lease);
        self.retain(|queued| !queued.is_change_for(lease) && !queued.is_reply_to(lease));
    }

    /// Drops everything but small replies and acks: the session closes.
    pub(super) fn keep_small_replies(&mut self) {
        self.positions.keep_acks();
        self.retain(|queued| matches!(queued, QueuedFrame::Control { .. } | QueuedFrame::Text { .. }));
    }

    pub(super) fn clear(&mut self) {
        self.positions.clear();
        self.retain(|_| false);
    }

    fn retain(&mut self, keep: impl Fn(&QueuedFrame) -> bool) {
        self.frames.retain(|(_, queued)| keep(queued));
        self.recount_bytes();
    }

    fn recount_bytes(&mut self) {
        self.bytes = QueuedBytes::default();
        self.frames.iter().for_each(|(_, queued)| self.bytes.add(queued));
        self.update_budget();
    }

    /// Hands what is queued to `put`, in order, up to [`MAX_TAKE_BYTES`]. Returns whether there was anything.
    pub(super) fn take(&mut self, put: &mut impl FnMut(Opcode, Pieces)) -> bool {
        let before = self.bytes.all;
        let mut has_taken = false;
        while before - self.bytes.all < MAX_TAKE_BYTES {
            let Some((_, queued)) = self.frames.pop_front() else { break };
            self.bytes.remove(&queued);
            self.taken_own_bytes += queued.bytes() - queued.shared_bytes();
            put(queued.opcode(), queued.into_pieces());
            has_taken = true;
        }
        self.taken_bytes += before - self.bytes.all;
        self.update_budget();
        if self.frames.is_empty() {
            // Frees its memory: most sessions are idle most of the time.
            self.frames = VecDeque::new();
        }
        if !self.positions.is_empty() {
            let gone = self.first_queued();
            has_taken |= self.positions.take(gone, |frame| put(Opcode::Binary, frame.into()));
        }
        has_taken
    }

    /// The socket has accepted everything that was taken.
    pub(super) fn note_written(&mut self) {
        (self.taken_bytes, self.taken_own_bytes) = (0, 0);
        if !self.unwritten_diffs.is_empty() {
            let first_queued = self.first_queued();
            self.unwritten_diffs.retain(|(number, _)| *number >= first_queued);
            if self.unwritten_diffs.is_empty() {
                // Frees its memory, which an idle session does not need.
                self.unwritten_diffs = Vec::new();
            }
        }
        self.update_budget();
    }

    /// True if a diff for the lease is queued, or taken and not known to be written.
    pub(super) fn has_unwritten_diff(&self, lease: LeaseId) -> bool {
        self.unwritten_diffs.iter().any(|(_, of)| *of == lease)
    }

    /// The number of the first queued frame, or of the next one.
    fn first_queued(&self) -> u64 {
        self.frames.front().map_or(self.next, |(number, _)| *number)
    }

    /// Updates the budget with the bytes queued and taken, except those shared with documents.
    fn update_budget(&mut self) {
        self.share.set(self.own_bytes());
    }

    fn own_bytes(&self) -> usize {
        self.bytes.all - self.bytes.shared + self.taken_own_bytes
    }
}
