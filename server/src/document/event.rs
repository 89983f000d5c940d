//! Events into and effects out of a document: the contract of [`super::core::Core`].

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Cursor, Resume};
use syncline_replica::{Full, RegisterWrite};

use super::awareness::ChangedClient;
use super::frame::Frame;
use crate::ids::LeaseId;

/// How an update arrived. `ConfirmedStep2` and `LiveChange` differ from the others for [`Acks::Counted`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// As the reply to our step 1: everything the server lacked, often nothing.
    Step2,
    /// The same, and every [`Origin::LiveChange`] before it was made on this connection.
    ConfirmedStep2,
    /// As a change that the client made on this connection, or queued while it was offline.
    Change,
    /// As a change that the client made on this connection, if a [`Origin::ConfirmedStep2`] follows.
    LiveChange,
}

impl Origin {
    /// True for the reply to our step 1.
    pub fn is_step2(self) -> bool {
        matches!(self, Origin::Step2 | Origin::ConfirmedStep2)
    }
}

/// How a client is informed that its updates are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// One acknowledgement or echo per update.
    Each,
    /// By status messages that lower a counter in the client: see `core/unsynced.rs`.
    Counted,
}

/// A message from a session to a document. Kept small, because inboxes hold events by value. Payloads have
/// passed the scanner.
#[derive(Debug, Clone)]
pub enum Event {
    /// A session opens the document.
    Open {
        /// Lease of the session.
        lease: LeaseId,
        /// How its client expects acks.
        acks: Acks,
    },
    /// A native session opens the document or resumes where it left off.
    Resume {
        /// Lease of the session.
        lease: LeaseId,
        /// Durable position that the client has reached; `None` if it will send a state vector.
        cursor: Option<Box<Cursor>>,
        /// The client asks for the document's state vector.
        wants_state_vector: bool,
        /// It has read access only; copied into the reply.
        read_only: bool,
    },
    /// A session asks for what it lacks and becomes a reader.
    Step1 {
        /// Lease of the session.
        lease: LeaseId,
        /// The client's encoded state vector.
        state_vector: Bytes,
    },
    /// A session sends an update.
    Update {
        /// Lease of the session.
        lease: LeaseId,
        /// The update, encoding v1.
        update: Bytes,
        /// How it arrived.
        origin: Origin,
        /// The client's batch number, in the native dialect; 0 in the others.
        batch: u64,
    },
    /// A session proposes a write to a versioned register.
    Propose {
        /// Lease of the session.
        lease: LeaseId,
        /// The client's batch number.
        batch: u64,
        /// The proposed write.
        write: Box<RegisterWrite>,
    },
    /// A session sends awareness states.
    Awareness {
        /// Lease of the session.
        lease: LeaseId,
        /// A y-protocols awareness update.
        update: Bytes,
    },
    /// A session asks for all awareness states.
    QueryAwareness {
        /// Lease of the session.
        lease: LeaseId,
    },
    /// A read-only session sent an edit, which is refused unless the document has everything in it.
    Refused {
        /// Lease of the session.
        lease: LeaseId,
        /// The client's batch number, in the native dialect; 0 in the others.
        batch: u64,
        /// A v1 update accepted by the scanner; `None` for a write to a register.
        update: Option<Bytes>,
        /// How it arrived.
        origin: Origin,
    },
    /// The session's socket has drained after frames were dropped: send what it missed.
    Resync {
        /// Lease of the session.
        lease: LeaseId,
    },
    /// The session has left the document.
    Leave {
        /// Lease of the session.
        lease: LeaseId,
    },
}

impl Event {
    /// Lease of the session that sent the event.
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

/// Result of an update, for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Accepted and on disk.
    Saved,
    /// Refused: storage has failed.
    Refused,
    /// Refused: the sender has read access only.
    Forbidden,
    /// Refused: it would exceed a size limit of the document.
    Full(Full),
    /// Not applied, but it inserts nothing new: a read-only client's reply to our step 1. It is not a promise
    /// that anything is on disk.
    Unneeded,
}

/// An action the document requests; executed in order.
#[derive(Debug)]
pub enum Effect {
    /// Append this record to the log.
    Append {
        /// Sequence number of the record.
        seq: Seq,
        /// The update as received.
        update: Bytes,
    },
    /// Send a change to every reader but its author.
    Broadcast {
        /// The change.
        frame: Arc<Frame>,
        /// Lease to skip; `None` if the author has left or the document made the change itself.
        author: Option<LeaseId>,
    },
    /// Awareness changed: send the new states to everyone, the sender included, because their echo keeps
    /// stock clients connected. All clients named in one turn are sent as one frame at its end
    /// ([`super::core::Core::awareness_of`]).
    Awareness {
        /// The changed clients with their clocks.
        clients: Box<[ChangedClient]>,
    },
    /// Send all awareness states to one session at the end of the turn: [`super::core::Core::all_awareness`],
    /// encoded once for all that ask.
    AllAwareness {
        /// The receiver.
        lease: LeaseId,
    },
    /// A reply to one session, never dropped while it is open; awareness is deferred if the session is slow.
    Reply {
        /// The receiver.
        lease: LeaseId,
        /// The reply.
        frame: Arc<Frame>,
    },
    /// A diff that makes this session a reader, or brings it up to date.
    Diff {
        /// The receiver.
        lease: LeaseId,
        /// A step 2 message.
        frame: Arc<Frame>,
    },
    /// The reply to a native session that opened the document. With `FromCursor` it is a reader immediately;
    /// with `OtherHistory` the lease ends.
    Opened {
        /// The receiver.
        lease: LeaseId,
        /// The document's epoch and newest sequence number.
        cursor: Cursor,
        /// Copied from [`Event::Resume`].
        read_only: bool,
        /// How the session continues.
        resume: Resume,
        /// The document's state vector, if requested or needed.
        state_vector: Option<Bytes>,
    },
    /// A change that one native reader missed.
    Missed {
        /// The receiver.
        lease: LeaseId,
        /// The change.
        frame: Arc<Frame>,
    },
    /// Every record up to `seq` is on disk, and was sent to the native readers or came from them.
    Durable {
        /// The receiver; `None` for all native readers.
        lease: Option<LeaseId>,
        /// The durable position.
        seq: Seq,
    },
    /// Send the result of an update to its author.
    Ack {
        /// The author.
        lease: LeaseId,
        /// The author's batch number.
        batch: u64,
        /// The document's newest sequence number when the update was accepted.
        seq: Seq,
        /// The result.
        outcome: Outcome,
        /// The change as an update message, for dialects that acknowledge by echo. `None` for a step 2 of Yjs
        /// 13.
        echo: Option<Arc<Frame>>,
    },
    /// Send the decision on a proposal to its author. The decision is on disk.
    Decided {
        /// The author.
        lease: LeaseId,
        /// The author's batch number.
        batch: u64,
        /// Whether the write was accepted.
        accepted: bool,
        /// The current register as lib0 `Any`; empty if it was never written.
        register: Bytes,
    },
    /// Close this session; of a native or Hocuspocus session, only this document.
    Close {
        /// The lease to close.
        lease: LeaseId,
        /// The reason, which the client receives.
        close: Close,
    },
}

impl Effect {
    /// True if changes and awareness emitted before this effect may be sent after it, to be coalesced with
    /// later ones. An effect that adds or removes a reader, replies to one, or refers to what was sent keeps
    /// its place.
    pub fn may_pass_changes(&self) -> bool {
        match self {
            Effect::Append { .. }
            | Effect::Broadcast { .. }
            | Effect::Awareness { .. }
            | Effect::AllAwareness { .. }
            | Effect::Ack { outcome: Outcome::Saved, .. } => true,
            Effect::Reply { .. }
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
