//! PURE: entries of an outbox's queue, and how each kind counts towards the limits.

use bytes::Bytes;
use syncline_replica::Pieces;

use super::Kind;
use super::awareness::Backlog;
use crate::ids::LeaseId;

/// A queued frame.
#[derive(Debug)]
pub(super) enum Waiting {
    Document {
        lease: LeaseId,
        frame: Bytes,
    },
    /// A reply; never dropped once queued.
    Answer {
        lease: LeaseId,
        pieces: Box<Pieces>,
    },
    Awareness {
        lease: LeaseId,
        backlog: Box<Backlog>,
    },
    Echo {
        lease: LeaseId,
        frame: Bytes,
    },
    Control {
        frame: Bytes,
    },
    /// A step 1. At most one per lease is queued: the newest replaces earlier ones.
    Question {
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
}

impl Waiting {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Waiting::Awareness { backlog, .. } => backlog.bytes(),
            Waiting::Answer { pieces, .. } => pieces.len(),
            Waiting::Document { frame, .. }
            | Waiting::Echo { frame, .. }
            | Waiting::Question { frame, .. }
            | Waiting::Control { frame }
            | Waiting::Text { frame }
            | Waiting::Pong { frame } => frame.len(),
        }
    }

    pub(super) fn into_pieces(self) -> Pieces {
        match self {
            Waiting::Awareness { backlog, .. } => backlog.into_frame().into(),
            Waiting::Answer { pieces, .. } => *pieces,
            Waiting::Document { frame, .. }
            | Waiting::Echo { frame, .. }
            | Waiting::Question { frame, .. }
            | Waiting::Control { frame }
            | Waiting::Text { frame }
            | Waiting::Pong { frame } => frame.into(),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Waiting::Pong { .. } => Kind::Pong,
            Waiting::Text { .. } => Kind::Text,
            _ => Kind::Message,
        }
    }

    pub(super) fn is_echo_of(&self, of: LeaseId) -> bool {
        matches!(self, Waiting::Echo { lease, .. } if *lease == of)
    }

    pub(super) fn control_bytes(&self) -> usize {
        match self {
            Waiting::Control { frame }
            | Waiting::Question { frame, .. }
            | Waiting::Text { frame }
            | Waiting::Pong { frame } => frame.len(),
            _ => 0,
        }
    }

    pub(super) fn is_answer_to(&self, of: LeaseId) -> bool {
        matches!(self, Waiting::Answer { lease, .. } if *lease == of)
    }

    pub(super) fn answer_bytes(&self) -> usize {
        if let Waiting::Answer { pieces, .. } = self { pieces.len() } else { 0 }
    }

    pub(super) fn shared_bytes(&self) -> usize {
        if let Waiting::Answer { pieces, .. } = self { pieces.shared_bytes() } else { 0 }
    }

    pub(super) fn belongs_to(&self, of: LeaseId) -> bool {
        matches!(self, Waiting::Document { lease, .. } | Waiting::Awareness { lease, .. } if *lease == of)
    }
}
