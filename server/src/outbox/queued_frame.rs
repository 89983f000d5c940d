//! PURE: entries of an outbox's queue, and how each kind counts towards the limits.

use bytes::Bytes;
use syncline_replica::Pieces;

use super::awareness::QueuedAwareness;
use crate::ids::LeaseId;
use crate::websocket::Opcode;

/// Bytes of the frames of a queue.
#[derive(Debug, Default)]
pub(super) struct QueuedBytes {
    pub(super) all: usize,
    /// Part of `all` that cannot be dropped.
    pub(super) control: usize,
    /// Part of `all` that takes no room from changes.
    pub(super) replies: usize,
    /// Part of `all` that is shared with documents' memory.
    pub(super) shared: usize,
}

impl QueuedBytes {
    pub(super) fn add(&mut self, queued: &QueuedFrame) {
        self.all += queued.bytes();
        self.control += queued.control_bytes();
        self.replies += queued.reply_bytes();
        self.shared += queued.shared_bytes();
    }

    pub(super) fn remove(&mut self, queued: &QueuedFrame) {
        self.all -= queued.bytes();
        self.control -= queued.control_bytes();
        self.replies -= queued.reply_bytes();
        self.shared -= queued.shared_bytes();
    }
}

#[derive(Debug)]
pub(super) enum QueuedFrame {
    Document {
        lease: LeaseId,
        frame: Bytes,
    },
    /// A reply; never dropped once queued.
    Reply {
        lease: LeaseId,
        pieces: Box<Pieces>,
    },
    Awareness {
        lease: LeaseId,
        backlog: Box<QueuedAwareness>,
    },
    Echo {
        lease: LeaseId,
        frame: Bytes,
    },
    Control {
        frame: Bytes,
    },
    /// A step 1. At most one per lease is queued: the newest replaces earlier ones.
    Step1 {
        lease: LeaseId,
        frame: Bytes,
    },
    /// Used by conformance tests only.
    Text {
        frame: Bytes,
    },
    /// A WebSocket pong.
    Pong {
        frame: Bytes,
    },
    /// A WebSocket ping.
    Ping,
}

impl QueuedFrame {
    pub(super) fn bytes(&self) -> usize {
        match self {
            QueuedFrame::Awareness { backlog, .. } => backlog.bytes(),
            QueuedFrame::Reply { pieces, .. } => pieces.len(),
            QueuedFrame::Ping => 0,
            QueuedFrame::Document { frame, .. }
            | QueuedFrame::Echo { frame, .. }
            | QueuedFrame::Step1 { frame, .. }
            | QueuedFrame::Control { frame }
            | QueuedFrame::Text { frame }
            | QueuedFrame::Pong { frame } => frame.len(),
        }
    }

    pub(super) fn into_pieces(self) -> Pieces {
        match self {
            QueuedFrame::Awareness { backlog, .. } => backlog.into_frame().into(),
            QueuedFrame::Reply { pieces, .. } => *pieces,
            QueuedFrame::Ping => Bytes::new().into(),
            QueuedFrame::Document { frame, .. }
            | QueuedFrame::Echo { frame, .. }
            | QueuedFrame::Step1 { frame, .. }
            | QueuedFrame::Control { frame }
            | QueuedFrame::Text { frame }
            | QueuedFrame::Pong { frame } => frame.into(),
        }
    }

    pub(super) fn opcode(&self) -> Opcode {
        match self {
            QueuedFrame::Pong { .. } => Opcode::Pong,
            QueuedFrame::Ping => Opcode::Ping,
            QueuedFrame::Text { .. } => Opcode::Text,
            _ => Opcode::Binary,
        }
    }

    pub(super) fn is_echo_of(&self, of: LeaseId) -> bool {
        matches!(self, QueuedFrame::Echo { lease, .. } if *lease == of)
    }

    fn control_bytes(&self) -> usize {
        match self {
            QueuedFrame::Control { frame }
            | QueuedFrame::Step1 { frame, .. }
            | QueuedFrame::Text { frame }
            | QueuedFrame::Pong { frame } => frame.len(),
            _ => 0,
        }
    }

    pub(super) fn is_reply_to(&self, of: LeaseId) -> bool {
        matches!(self, QueuedFrame::Reply { lease, .. } if *lease == of)
    }

    fn reply_bytes(&self) -> usize {
        if let QueuedFrame::Reply { pieces, .. } = self { pieces.len() } else { 0 }
    }

    pub(super) fn shared_bytes(&self) -> usize {
        if let QueuedFrame::Reply { pieces, .. } = self { pieces.shared_bytes() } else { 0 }
    }

    /// True if only the newer one of both is to be sent.
    pub(super) fn is_replaced_by(&self, newer: &QueuedFrame) -> bool {
        match (self, newer) {
            (QueuedFrame::Step1 { lease, .. }, QueuedFrame::Step1 { lease: of_newer, .. }) => lease == of_newer,
            (QueuedFrame::Pong { .. }, QueuedFrame::Pong { .. }) => true,
            _ => false,
        }
    }

    pub(super) fn is_change_for(&self, of: LeaseId) -> bool {
        matches!(self, QueuedFrame::Document { lease, .. } | QueuedFrame::Awareness { lease, .. } if *lease == of)
    }
}
