//! PURE: acks waiting for their records to be durable.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::ids::Seq;

use crate::document::event::Effect;

use crate::document::frame::Frame;
use crate::document::message::Message;
use crate::document::outcome::Outcome;
use crate::ids::LeaseId;

/// Limit on the bytes of waiting acks with their echoes. Above it the document takes no events until the disk
/// catches up. Only known updates can reach it; the log bounds the others.
const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Memory of an ack besides its echo.
const ACK_BYTES: usize = 256;

/// What a client is sent once its record is on disk.
#[derive(Debug)]
pub(super) enum AckReply {
    /// An accepted update: `acks` acknowledgements.
    Saved {
        echo: Option<Arc<Frame>>,
        acks: u64,
    },
    /// A refusal, behind earlier acknowledgements.
    Refused(Outcome),
    Decided {
        accepted: bool,
        register: Bytes,
    },
}

/// A reply that is sent once the record `seq` is on disk.
#[derive(Debug)]
pub(super) struct WaitingAck {
    pub(super) seq: Seq,
    pub(super) lease: LeaseId,
    pub(super) batch: u64,
    /// The lease's round when the update was accepted (`unsynced.rs`).
    pub(super) round: u32,
    pub(super) reply: AckReply,
}

impl WaitingAck {
    /// Appends the reply's effects.
    pub(super) fn finish(self, effects: &mut Vec<Effect>) {
        let Self { seq, lease, batch, reply, .. } = self;
        effects.push(match reply {
            AckReply::Saved { echo, acks: count } => {
                Effect::Ack { lease, batch, seq, outcome: Outcome::Saved, count, echo }
            }
            AckReply::Refused(outcome) => Effect::Ack { lease, batch, seq, outcome, count: 1, echo: None },
            AckReply::Decided { accepted, register } => Effect::Decided { lease, batch, accepted, register },
        });
    }

    fn bytes(&self) -> usize {
        let echo = match &self.reply {
            AckReply::Saved { echo: Some(frame), .. } => match frame.message() {
                Message::Update(update) => update.len(),
                _ => 0,
            },
            AckReply::Saved { echo: None, .. } | AckReply::Refused(_) => 0,
            AckReply::Decided { register, .. } => register.len(),
        };
        ACK_BYTES + echo
    }
}

/// Acks by ascending sequence number.
#[derive(Debug, Default)]
pub(super) struct WaitingAcks {
    queue: VecDeque<WaitingAck>,
    bytes: usize,
}

impl WaitingAcks {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// True while so many acks wait for the disk that no more events should be taken.
    pub(super) fn are_too_many(&self) -> bool {
        self.bytes > MAX_WAITING_BYTES
    }

    pub(super) fn has(&self, lease: LeaseId) -> bool {
        self.queue.iter().any(|waiting| waiting.lease == lease)
    }

    pub(super) fn push(&mut self, ack: WaitingAck) {
        self.bytes += ack.bytes();
        self.queue.push_back(ack);
    }

    /// The next one whose record is on disk.
    pub(super) fn pop(&mut self, durable: Seq) -> Option<WaitingAck> {
        let ack = self.queue.pop_front_if(|waiting| waiting.seq <= durable)?;
        self.bytes -= ack.bytes();
        Some(ack)
    }

    /// Refuses all of them: nothing more will be durable.
    pub(super) fn refuse_all(&mut self, effects: &mut Vec<Effect>) {
        self.bytes = 0;
        effects.extend(self.queue.drain(..).map(|WaitingAck { seq, lease, batch, reply, .. }| {
            let count = if let AckReply::Saved { acks, .. } = reply { acks } else { 1 };
            Effect::Ack { lease, batch, seq, outcome: Outcome::Refused, count, echo: None }
        }));
    }
}
