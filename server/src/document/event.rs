//! What enters a document and what leaves it: the whole contract of [`super::core::Core`].

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::Seq;

use super::frame::Frame;
use crate::ids::LeaseId;

/// How an update came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In answer to our step 1: everything the server lacked, often nothing.
    Step2,
    /// A change made just now.
    Change,
}

/// What a session tells a document. Payloads have passed the scanner.
#[derive(Debug, Clone)]
pub enum Event {
    /// A session begins to talk to the document.
    Open {
        /// Its lease.
        lease: LeaseId,
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
    /// It may not write: its update is refused.
    Refused {
        /// Its lease.
        lease: LeaseId,
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

/// What became of an update, for its author.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk.
    Saved,
    /// It was not taken.
    Refused,
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
        /// The author; `None` for one that had waited, whose author may be long gone.
        author: Option<LeaseId>,
    },
    /// Presence, for everyone, its bringer included: it is what keeps stock clients from hanging up.
    Presence {
        /// The awareness update.
        frame: Arc<Frame>,
        /// The clients it is about.
        clients: Box<[u64]>,
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
    /// Tell the author what became of its update.
    Ack {
        /// The author.
        lease: LeaseId,
        /// Saved or refused.
        outcome: Outcome,
        /// The change as an update message, for dialects that acknowledge by echo. `None` for a step 2.
        echo: Option<Arc<Frame>>,
    },
    /// End this session.
    Close {
        /// Whose.
        lease: LeaseId,
        /// Why.
        close: Close,
    },
    /// The CRDT is broken: load it again from the log, then call `Core::restore`.
    Reload,
}
