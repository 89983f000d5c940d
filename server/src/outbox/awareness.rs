//! Awareness that waits for one socket: one frame for each lease, with the newest state of each client.
//!
//! A document encodes each awareness update once for all readers. While the socket takes nothing the updates are collected as they
//! are, shared with other readers; they are joined when the socket takes them, or when they exceed a bound.

use bytes::Bytes;
use syncline_protocol::awareness::coalesce;
use syncline_protocol::varint::write_var_uint;

use super::{MAX_AWARENESS_LOOKBACK, Outbox, Pushed, Waiting};
use crate::ids::LeaseId;

/// Frames that are collected before they are joined: each costs memory besides its bytes.
const MAX_FRAMES: usize = 64;

/// How a reader of a message finds the length of the awareness update at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateLength {
    /// It stands before the update as a varUint.
    Prefixed,
    /// The update ends with the message.
    ToTheEnd,
}

/// A message that ends with an awareness update.
#[derive(Debug, Clone)]
pub struct AwarenessFrame {
    /// The message.
    pub bytes: Bytes,
    /// How many of them, at the end, are the update.
    pub update_bytes: usize,
    /// What stands before them.
    pub length: UpdateLength,
}

impl AwarenessFrame {
    fn update(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.update_bytes..]
    }

    /// The same message with another update.
    fn with(&self, update: &[u8]) -> Self {
        let mut prefix = Vec::new();
        let head_bytes = match self.length {
            UpdateLength::ToTheEnd => self.bytes.len() - self.update_bytes,
            UpdateLength::Prefixed => {
                write_var_uint(&mut prefix, self.update_bytes as u64);
                let before = self.bytes.len() - self.update_bytes - prefix.len();
                prefix.clear();
                write_var_uint(&mut prefix, update.len() as u64);
                before
            }
        };
        let bytes = [&self.bytes[..head_bytes], &prefix, update].concat();
        Self { bytes: bytes.into(), update_bytes: update.len(), length: self.length }
    }
}

/// The awareness updates of one lease that wait, as one place in the queue.
#[derive(Debug)]
pub(super) struct Backlog {
    newest: AwarenessFrame,
    /// Oldest first.
    older: Vec<AwarenessFrame>,
    bytes: usize,
    /// What the last join left.
    joined_bytes: usize,
}

impl Backlog {
    fn new(frame: AwarenessFrame) -> Self {
        Self { bytes: frame.bytes.len(), newest: frame, older: Vec::new(), joined_bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn into_frame(mut self) -> Bytes {
        self.join();
        self.newest.bytes
    }

    fn push(&mut self, frame: AwarenessFrame) {
        self.bytes += frame.bytes.len();
        self.older.push(std::mem::replace(&mut self.newest, frame));
        if self.older.len() == MAX_FRAMES {
            self.join();
        }
    }

    fn join(&mut self) {
        if !self.older.is_empty() {
            let updates = self.older.iter().chain([&self.newest]).map(AwarenessFrame::update);
            self.newest = self.newest.with(&coalesce(updates));
            self.older = Vec::new();
            self.bytes = self.newest.bytes.len();
        }
        self.joined_bytes = self.bytes;
    }

    /// Joining again is worth its cost: it reads all of the backlog.
    fn has_doubled(&self) -> bool {
        self.bytes >= self.joined_bytes * 2
    }
}

impl Outbox {
    /// Presence of a document. Joins what waits of the same lease.
    pub fn push_awareness(&self, lease: LeaseId, frame: AwarenessFrame) -> Pushed {
        let mut inner = self.lock();
        if inner.takes_nothing_of(lease) || inner.behind.contains(&lease) {
            return Pushed::Dropped;
        }
        let others = inner.bytes - inner.answer_bytes;
        let fits = others == 0 || others + frame.bytes.len() <= self.limit_bytes(&inner);
        let mut waiting = inner.queue.iter_mut().rev().take(MAX_AWARENESS_LOOKBACK);
        let backlog = waiting.find_map(|(_, waiting)| match waiting {
            Waiting::Awareness { lease: of, backlog } if *of == lease => Some(backlog),
            _ => None,
        });
        let Some(backlog) = backlog else {
            if fits {
                return inner.enqueue(Waiting::Awareness { lease, backlog: Box::new(Backlog::new(frame)) });
            }
            inner.fall_behind(lease);
            self.note_drained(inner);
            return Pushed::Dropped;
        };
        let before = backlog.bytes();
        backlog.push(frame);
        if !fits && backlog.has_doubled() {
            backlog.join();
        }
        let after = backlog.bytes();
        inner.bytes = inner.bytes - before + after;
        inner.charge();
        if inner.bytes - inner.answer_bytes > self.limit_bytes(&inner) {
            inner.fall_behind(lease);
            self.note_drained(inner);
            return Pushed::Dropped;
        }
        Pushed::Queued
    }
}
