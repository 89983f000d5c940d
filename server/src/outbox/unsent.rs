//! PURE: bytes for a socket that it has not accepted yet, in order.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Pieces per write when the socket accepts bytes again.
const MAX_PIECES: usize = 64;

#[derive(Debug, Default)]
pub(super) struct UnsentBytes(VecDeque<Bytes>);

impl UnsentBytes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, bytes: impl Into<Bytes>) {
        self.0.push_back(bytes.into());
    }

    /// Adds the rest of a write before what the timers have added meanwhile.
    pub(super) fn push_rest(&mut self, mut rest: VecDeque<Bytes>) {
        rest.append(&mut self.0);
        self.0 = rest;
    }

    /// The pieces for the next write.
    pub(super) fn first_pieces(&self) -> Vec<Bytes> {
        self.0.iter().take(MAX_PIECES).cloned().collect()
    }

    /// Removes bytes that the socket has accepted.
    pub(super) fn drop_written(&mut self, mut written: usize) {
        while let Some(next) = self.0.front_mut() {
            let accepted = written.min(next.len());
            next.advance(accepted);
            written -= accepted;
            if !next.is_empty() {
                return;
            }
            self.0.pop_front();
        }
        self.clear();
    }

    /// Drops everything and frees its memory.
    pub(super) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }
}
