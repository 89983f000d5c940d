//! Events into and effects out of a document: the contract of [`super::core::Core`].

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Cursor, Resume};
use syncline_replica::{Known, RegisterWrite};

use super::awareness::ChangedClient;
use super::frame::Frame;
use super::outcome::{Acks, Outcome};
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

/// What a session sends to a document under its lease. Kept small, because inboxes hold it by value. Payloads have
/// passed the scanner.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// A native session opens the document or resumes where it left off: its first event.
    Resume {
        /// Durable position that the client has reached; `None` if it will send a state vector.
        cursor: Option<Box<Cursor>>,
        /// The client asks for the document's state vector.
        wants_state_vector: bool,
        /// It has read access only; copied into the reply.
        read_only: bool,
    },
    /// The client asks for what it lacks and becomes a reader.
    Step1 {
        /// The client's encoded state vector.
        state_vector: Bytes,
    },
    /// An update.
    Update {
        /// The update, encoding v1.
        update: Bytes,
        /// How it arrived.
        origin: Origin,
        /// The client's batch number, in the native dialect; 0 in the others.
        batch: u64,
    },
    /// A proposed write to a versioned register.
    Propose {
        /// The client's batch number.
        batch: u64,
        /// The proposed write.
        write: Box<RegisterWrite>,
    },
    /// Awareness states.
    Awareness {
        /// A y-protocols awareness update.
        update: Bytes,
    },
    /// The client asks for all awareness states.
    QueryAwareness,
    /// A read-only session sent an edit, which is refused unless the document has everything in it.
    Refused {
        /// The client's batch number, in the native dialect; 0 in the others.
        batch: u64,
        /// A v1 update accepted by the scanner; `None` for a write to a register.
        update: Option<Bytes>,
        /// How it arrived.
        origin: Origin,
    },
}

/// What enters a document's core. Only the document's task makes them: a session sends a [`SessionEvent`].
#[derive(Debug, Clone)]
pub enum Event {
    /// A session opens the document.
    Open {
        /// Lease of the session.
        lease: LeaseId,
        /// How its client expects acks.
        acks: Acks,
        /// Number of documents the session has open, this one included: they share its limit on awareness.
        documents: usize,
    },
    /// A session that has the document open sent this.
    Session(LeaseId, SessionEvent),
    /// A session sent a step 1 that is not answered now: the client sent a newer one already, or its socket has not
    /// accepted the last diff. The next [`SessionEvent::Step1`] or [`Event::Resync`] of the lease answers it.
    DeferStep1 {
        /// Lease of the session.
        lease: LeaseId,
        /// The client's encoded state vector.
        state_vector: Bytes,
    },
    /// The session's socket has drained after frames were dropped or a step 1 was deferred: send what it missed.
    Resync {
        /// Lease of the session.
        lease: LeaseId,
        /// State that the reader is known to have; `None` if nothing is known.
        floor: Option<Arc<Known>>,
    },
    /// The session has left the document.
    Leave {
        /// Lease of the session.
        lease: LeaseId,
    },
    /// The log has every record up to `upto` on disk.
    Durable {
        /// The newest durable sequence number, or an older one.
        upto: Seq,
    },
    /// The log has failed: nothing more will be durable. Refuses all waiting updates and every later edit.
    StorageFailed,
    /// Emit a snapshot ([`Effect::Snapshot`]), unless storage has failed.
    Compact,
    /// Drop deleted content and everything that can be rebuilt, after a quiet period.
    MakeDormant,
    /// The memory limit for all open documents is reached, or no longer: whether this one may grow.
    LimitGrowth {
        /// False: an update that inserts something closes its session, and an awareness state that needs more memory is
        /// dropped.
        may_grow: bool,
    },
}

impl Event {
    /// The lease that the event is about.
    pub fn lease(&self) -> Option<LeaseId> {
        match *self {
            Event::Open { lease, .. }
            | Event::Session(lease, _)
            | Event::DeferStep1 { lease, .. }
            | Event::Resync { lease, .. }
            | Event::Leave { lease } => Some(lease),
            Event::Durable { .. }
            | Event::StorageFailed
            | Event::Compact
            | Event::MakeDormant
            | Event::LimitGrowth { .. } => None,
        }
    }
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
    /// Replace the records up to `upto` by this snapshot in the log, after every record appended before this effect.
    Snapshot {
        /// The newest record that the snapshot covers.
        upto: Seq,
        /// The state as a v1 update, without pending updates: these were appended again.
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
    /// Awareness states were dropped because of a limit: count them.
    AwarenessDropped {
        /// Number of states.
        states: usize,
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
        /// Copied from [`SessionEvent::Resume`].
        read_only: bool,
        /// How the session continues.
        resume: Resume,
        /// The document's state vector, if requested or needed.
        state_vector: Option<Bytes>,
    },
    /// An update with missing dependencies, for a client that can show what it has.
    Pending {
        /// The receiver.
        lease: LeaseId,
        /// The update.
        frame: Arc<Frame>,
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
        /// How many times it is sent: one result may be that of several updates.
        count: u64,
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
            | Effect::Snapshot { .. }
            | Effect::Broadcast { .. }
            | Effect::Awareness { .. }
            | Effect::AllAwareness { .. }
            | Effect::AwarenessDropped { .. }
            | Effect::Ack { outcome: Outcome::Saved, .. } => true,
            Effect::Reply { .. }
            | Effect::Diff { .. }
            | Effect::Opened { .. }
            | Effect::Missed { .. }
            | Effect::Pending { .. }
            | Effect::Durable { .. }
            | Effect::Ack { .. }
            | Effect::Decided { .. }
            | Effect::Close { .. } => false,
        }
    }
}
