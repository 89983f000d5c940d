//! What enters a document and what leaves it: the whole contract of [`super::core::Core`].

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Cursor, Resume};
use syncline_replica::{Full, RegisterWrite};

use super::frame::Frame;
use super::presence::Changed;
use crate::ids::LeaseId;

/// How an update came. `Live` and `Confirmed` matter for [`Acks::Counted`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In answer to our step 1: everything the server lacked, often nothing.
    Step2,
    /// The same, and what the session called [`Origin::LiveChange`] before it was one.
    ConfirmedStep2,
    /// A change made just now, or one that the client queued before it was connected.
    Change,
    /// A change made on this connection, unless the step 2 that follows is not [`Origin::ConfirmedStep2`].
    LiveChange,
}

impl Origin {
    /// True for the answer to our step 1.
    pub fn is_step2(self) -> bool {
        matches!(self, Origin::Step2 | Origin::ConfirmedStep2)
    }
}

/// How a session's client learns that its updates are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Each is acknowledged, or sent back.
    Each,
    /// The client counts: see `core/unsynced.rs`.
    Counted,
}

/// What a session tells a document. Small: an inbox has room for some from its beginning. Payloads have passed the scanner.
#[derive(Debug, Clone)]
pub enum Event {
    /// A session begins to talk to the document.
    Open {
        /// Its lease.
        lease: LeaseId,
        /// What its client expects for its updates.
        acks: Acks,
    },
    /// A native session begins to talk to the document, or goes on where it was.
    Resume {
        /// Its lease.
        lease: LeaseId,
        /// How far it has come; `None`: it will send a state vector.
        cursor: Option<Box<Cursor>>,
        /// It asks for the document's state vector.
        wants_state_vector: bool,
        /// It may look only: passed on to the answer.
        read_only: bool,
    },
    /// It asks for what it lacks and becomes a reader.
    Step1 {
        /// Its lease.
        lease: LeaseId,
        /// What it has, encoded.
        state_vector: Bytes,
    },
    /// It brings an update.
    Update {
        /// Its lease.
        lease: LeaseId,
        /// A v1 update.
        update: Bytes,
        /// How it came.
        origin: Origin,
        /// The author's number for it, in the native dialect; 0 in the others.
        batch: u64,
    },
    /// It wants to write a versioned register.
    Propose {
        /// Its lease.
        lease: LeaseId,
        /// The author's number for it.
        batch: u64,
        /// The write.
        write: Box<RegisterWrite>,
    },
    /// It brings presence.
    Awareness {
        /// Its lease.
        lease: LeaseId,
        /// A y-protocols awareness update.
        update: Bytes,
    },
    /// It asks for everyone's presence.
    QueryAwareness {
        /// Its lease.
        lease: LeaseId,
    },
    /// It may not write, and what it says is refused, unless it is known here.
    Refused {
        /// Its lease.
        lease: LeaseId,
        /// The author's number for it, in the native dialect; 0 in the others.
        batch: u64,
        /// A v1 update that the scanner has accepted; `None`: a write to a register.
        update: Option<Bytes>,
        /// How it came.
        origin: Origin,
    },
    /// Its socket has drained after frames were dropped: send what it missed.
    Resync {
        /// Its lease.
        lease: LeaseId,
    },
    /// It is gone.
    Leave {
        /// Its lease.
        lease: LeaseId,
    },
}

impl Event {
    /// Who says it.
    pub fn lease(&self) -> LeaseId {
        match *self {
            Event::Open { lease, .. }
            | Event::Resume { lease, .. }
            | Event::Step1 { lease, .. }
            | Event::Update { lease, .. }
            | Event::Propose { lease, .. }
            | Event::Awareness { lease, .. }
            | Event::QueryAwareness { lease }
            | Event::Refused { lease, .. }
            | Event::Resync { lease }
            | Event::Leave { lease } => lease,
        }
    }
}

/// What became of an update, for its author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk.
    Saved,
    /// It was not taken: nothing is, for the disk refuses writes.
    Refused,
    /// It was not taken: its author may only read.
    Forbidden,
    /// It was not taken: it would have made the document larger than it may be.
    Full(Full),
    /// It was not taken, and it inserts nothing that is not here: what a reader says in answer to our step 1. No
    /// promise that it is on disk.
    Unneeded,
}

/// What a document wants done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Put this record into the log.
    Append {
        /// Its number.
        seq: Seq,
        /// The update, as received.
        update: Bytes,
    },
    /// A change, for every reader but its author.
    Broadcast {
        /// The change.
        frame: Arc<Frame>,
        /// The author; `None` for one that had waited, whose author has gone.
        author: Option<LeaseId>,
    },
    /// Clients whose presence changed, for everyone, its bringer included: it is what keeps stock clients from hanging up.
    /// All that a turn names leaves at its end as one frame of [`super::core::Core::presence_of`].
    Presence {
        /// Each with its clock.
        clients: Box<[Changed]>,
    },
    /// Everyone's presence for one session, at the end of the turn: [`super::core::Core::everyone`], shared by all who ask.
    Everyone {
        /// To whom.
        lease: LeaseId,
    },
    /// An answer for one session, never dropped while it lives; presence comes later if the session is slow.
    Answer {
        /// To whom.
        lease: LeaseId,
        /// What.
        frame: Arc<Frame>,
    },
    /// The difference that makes this session a reader, or brings it up to date.
    Diff {
        /// To whom.
        lease: LeaseId,
        /// A step 2.
        frame: Arc<Frame>,
    },
    /// The answer to a native session that opened the document. From its cursor it is a reader at once; with another
    /// history it is over.
    Opened {
        /// To whom.
        lease: LeaseId,
        /// The document's history and its last record.
        cursor: Cursor,
        /// As it was asked.
        read_only: bool,
        /// How it goes on.
        resume: Resume,
        /// The document's state vector.
        state_vector: Option<Bytes>,
    },
    /// A change that one native reader missed.
    Missed {
        /// To whom.
        lease: LeaseId,
        /// The change.
        frame: Arc<Frame>,
    },
    /// Everything up to here is on disk, and has been sent to the native readers or came from them.
    Durable {
        /// To whom; `None`: to all.
        lease: Option<LeaseId>,
        /// Up to here.
        seq: Seq,
    },
    /// Tell the author what became of its update.
    Ack {
        /// The author.
        lease: LeaseId,
        /// The author's number for it.
        batch: u64,
        /// The document's last record when it was taken.
        seq: Seq,
        /// Saved or refused.
        outcome: Outcome,
        /// The change as an update message, for dialects that acknowledge by echo. `None` for a step 2 of Yjs 13.
        echo: Option<Arc<Frame>>,
    },
    /// Tell the author what became of its proposal. What is told is on disk.
    Decided {
        /// The author.
        lease: LeaseId,
        /// The author's number for it.
        batch: u64,
        /// Whether the register took it.
        accepted: bool,
        /// The register, as lib0 `Any`; empty: never written.
        register: Bytes,
    },
    /// End this session, or this document of a native session.
    Close {
        /// Whose.
        lease: LeaseId,
        /// Why.
        close: Close,
    },
}

impl Effect {
    /// True for what changes and presence may be sent after, though they came before it: they are then sent together.
    /// What makes or ends a reader, answers one, or speaks of what was sent, keeps its place.
    pub fn may_pass_changes(&self) -> bool {
        match self {
            Effect::Append { .. }
            | Effect::Broadcast { .. }
            | Effect::Presence { .. }
            | Effect::Everyone { .. }
            | Effect::Ack { outcome: Outcome::Saved, .. } => true,
            Effect::Answer { .. }
            | Effect::Diff { .. }
            | Effect::Opened { .. }
            | Effect::Missed { .. }
            | Effect::Durable { .. }
            | Effect::Ack { .. }
            | Effect::Decided { .. }
            | Effect::Close { .. } => false,
        }
    }
}
