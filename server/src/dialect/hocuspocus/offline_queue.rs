//! PURE: whether a Hocuspocus client has sent the queue of what it made before it was connected.
//!
//! The provider (npm `@hocuspocus/provider` 2.9 to 4.8, HocuspocusProviderWebsocket.ts) queues what it sends while its socket is not
//! open, and sends the queue when it *receives its first message*: after its step 1, between changes that its user makes meanwhile.
//! Queued changes are not in its number of unsynced changes (`document/core/unsynced.rs`), the others are. To tell them apart, the
//! server sends a WebSocket ping right before its first message:
//!
//! | a change is received | it was |
//! |---|---|
//! | before the pong | made on this connection: the client has not received a message yet |
//! | after the pong, before the first step 2 | made on this connection or queued |
//! | after a step 2, which answers a message of the server | made on this connection: the queue is sent |
//!
//! A client that answers the server's step 1 but no ping (RFC 6455, section 5.5.2, demands a pong) never shows whether
//! its queue is sent.

use crate::document::event::Origin;

/// What is known of a client's queue.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum OfflineQueue {
    /// No pong was received.
    #[default]
    Unsent,
    /// A pong was received, and no step 2.
    MayBeSent,
    /// A step 2 was received after a pong.
    Sent,
    /// A step 2 was received before any pong.
    Unknown,
}

impl OfflineQueue {
    /// The client has sent a pong.
    pub(super) fn note_pong(&mut self) {
        if *self == Self::Unsent {
            *self = Self::MayBeSent;
        }
    }

    /// The client has sent a change.
    pub(super) fn change(self) -> Origin {
        match self {
            Self::Unsent | Self::Sent => Origin::LiveChange,
            Self::MayBeSent | Self::Unknown => Origin::Change,
        }
    }

    /// The client has sent a step 2.
    pub(super) fn step2(&mut self) -> Origin {
        *self = match self {
            Self::Unsent | Self::Unknown => Self::Unknown,
            Self::MayBeSent | Self::Sent => Self::Sent,
        };
        if *self == Self::Sent { Origin::ConfirmedStep2 } else { Origin::Step2 }
    }
}
