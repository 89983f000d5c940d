//! Coalescing of awareness queued for one socket: one frame for each lease, with the newest state of each
//! client.
//!
//! A document encodes each awareness update once for all readers. While the socket is full the updates are
//! collected as they are, shared with other readers; they are coalesced when they are taken, or when they
//! exceed a limit.

use bytes::Bytes;
use syncline_protocol::awareness::coalesce;
use syncline_protocol::varint::write_var_uint;

/// Frames collected before they are coalesced: each costs memory besides its bytes.
const MAX_FRAMES: usize = 64;

/// How a message delimits the awareness update at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateLength {
    /// The update is preceded by its length as a varUint.
    Prefixed,
    /// The update extends to the end of the message.
    ToTheEnd,
}

/// A message that ends with an awareness update.
#[derive(Debug, Clone)]
pub struct AwarenessFrame {
    /// The encoded message.
    pub bytes: Bytes,
    /// Length of the update at the end of the message.
    pub update_bytes: usize,
    /// How the update is delimited.
    pub length: UpdateLength,
}

impl AwarenessFrame {
    fn update(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - self.update_bytes..]
    }

    /// The same message with a different update.
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

/// The queued awareness updates of one lease, as one entry of the queue.
#[derive(Debug)]
pub(super) struct QueuedAwareness {
    newest: AwarenessFrame,
    /// Oldest first.
    older: Vec<AwarenessFrame>,
    bytes: usize,
    /// Size after the last coalescing.
    coalesced_bytes: usize,
}

impl QueuedAwareness {
    pub(super) fn new(frame: AwarenessFrame) -> Self {
        Self { bytes: frame.bytes.len(), newest: frame, older: Vec::new(), coalesced_bytes: 0 }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn into_frame(mut self) -> Bytes {
        self.coalesce();
        self.newest.bytes
    }

    /// Adds a newer frame. If it does not fit into the queue, the frames are coalesced.
    pub(super) fn push(&mut self, frame: AwarenessFrame, fits: bool) {
        self.bytes += frame.bytes.len();
        self.older.push(std::mem::replace(&mut self.newest, frame));
        if self.older.len() == MAX_FRAMES || !fits && self.has_doubled() {
            self.coalesce();
        }
    }

    fn coalesce(&mut self) {
        if !self.older.is_empty() {
            let updates = self.older.iter().chain([&self.newest]).map(AwarenessFrame::update);
            self.newest = self.newest.with(&coalesce(updates));
            self.older = Vec::new();
            self.bytes = self.newest.bytes.len();
        }
        self.coalesced_bytes = self.bytes;
    }

    /// Coalescing again is worth its cost, which is reading the whole backlog.
    fn has_doubled(&self) -> bool {
        self.bytes >= self.coalesced_bytes * 2
    }
}
