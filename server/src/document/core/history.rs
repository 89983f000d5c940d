//! PURE: the history of a document: its identity, its newest record, how much of it is on disk, and the newest changes as
//! they were sent to readers.

use bytes::Bytes;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::Cursor;

use crate::document::frame::Frame;

use crate::document::message::Message;
use crate::document::recent_changes::RecentChanges;

/// Where a document is in its log.
#[derive(Debug)]
pub(super) struct History {
    /// Identifies the history that sequence numbers belong to.
    epoch: Epoch,
    last: Seq,
    durable: Seq,
    /// Nothing more will be durable.
    has_failed: bool,
    /// For native clients that resume from a cursor.
    recent: RecentChanges,
}

impl History {
    /// A history that is on disk up to `newest`.
    pub(super) fn new(newest: Cursor, recent: RecentChanges) -> Self {
        let Cursor { epoch, seq } = newest;
        Self { epoch, last: seq, durable: seq, has_failed: false, recent }
    }

    /// Sequence number of the newest record.
    pub(super) fn last(&self) -> Seq {
        self.last
    }

    /// Newest sequence number known to be on disk.
    pub(super) fn durable(&self) -> Seq {
        self.durable
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable >= self.last
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The newest record.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor { epoch: self.epoch, seq: self.last }
    }

    /// True if the cursor belongs to this history. The start of any history is empty, so it always does.
    pub(super) fn has(&self, cursor: Cursor) -> bool {
        cursor.seq == Seq::ZERO || (cursor.epoch == self.epoch && cursor.seq <= self.last)
    }

    /// Numbers a new record.
    pub(super) fn append(&mut self) -> Seq {
        self.last = self.last.next();
        self.last
    }

    /// Everything up to `upto` is on disk. Returns false if that was known.
    pub(super) fn advance_durable(&mut self, upto: Seq) -> bool {
        let has_moved = upto > self.durable;
        self.durable = self.durable.max(upto);
        has_moved
    }

    /// Nothing more will be durable. Returns false if that was known.
    pub(super) fn fail(&mut self) -> bool {
        !std::mem::replace(&mut self.has_failed, true)
    }

    /// Adds a message to readers to the recent changes, as one of the newest record.
    pub(super) fn note_sent(&mut self, message: &Message) {
        if let Message::Update(update) = message {
            self.recent.push(self.last, update);
        }
    }

    /// The changes since a record, as messages; `None` if some of them are not recent any more.
    pub(super) fn changes_since(&self, seq: Seq) -> Option<impl Iterator<Item = std::sync::Arc<Frame>>> {
        let changes = self.recent.since(seq)?;
        Some(changes.map(|(seq, update): (Seq, &Bytes)| Frame::at(seq, Message::Update(update.clone()))))
    }

    /// Memory of the recent changes, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        self.recent.bytes()
    }
}
