//! PURE: acks waiting for their records to be durable.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::ids::Seq;

use super::Core;
use crate::document::event::{Effect, Outcome};
use crate::document::frame::{Frame, Message};
use crate::ids::LeaseId;

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
    seq: Seq,
    lease: LeaseId,
    batch: u64,
    /// The lease's round when the update was accepted (`unsynced.rs`).
    round: u32,
    reply: AckReply,
}

impl WaitingAck {
    /// Appends the reply's effects.
    fn finish(self, effects: &mut Vec<Effect>) {
        let Self { seq, lease, batch, reply, .. } = self;
        match reply {
            AckReply::Saved { echo, acks: count } => {
                effects.push(Effect::Ack { lease, batch, seq, outcome: Outcome::Saved, count, echo });
            }
            AckReply::Refused(outcome) => {
                effects.push(Effect::Ack { lease, batch, seq, outcome, count: 1, echo: None });
            }
            AckReply::Decided { accepted, register } => {
                effects.push(Effect::Decided { lease, batch, accepted, register });
            }
        }
    }
}

/// Limit on the bytes of waiting acks with their echoes. Above it the document takes no events until the disk
/// catches up. Only known updates can reach it; the log bounds the others.
const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Memory of an ack besides its echo.
const ACK_BYTES: usize = 256;

impl WaitingAck {
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

impl Core {
    /// True while so many acks wait for the disk that no more events should be taken.
    pub fn must_wait_for_disk(&self) -> bool {
        self.waiting_bytes > MAX_WAITING_BYTES
    }

    /// Every record up to `upto` is on disk: sends the acks that waited for it.
    pub(super) fn advance_durable(&mut self, upto: Seq, effects: &mut Vec<Effect>) {
        let has_moved = upto > self.durable;
        self.durable = self.durable.max(upto);
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.seq <= self.durable) {
            self.waiting_bytes -= waiting.bytes();
            if waiting.round == self.round(waiting.lease) {
                waiting.finish(effects);
            }
        }
        if has_moved {
            self.push_durable_to_all(effects);
        }
    }

    /// Nothing more will be durable: refuses all waiting updates and every later edit.
    pub(super) fn fail_storage(&mut self, effects: &mut Vec<Effect>) {
        let has_failed_before = std::mem::replace(&mut self.storage_failed, true);
        let outcome = Outcome::Refused;
        self.waiting_bytes = 0;
        for WaitingAck { seq, lease, batch, reply, .. } in self.waiting.drain(..) {
            let count = if let AckReply::Saved { acks, .. } = reply { acks } else { 1 };
            effects.push(Effect::Ack { lease, batch, seq, outcome, count, echo: None });
        }
        if !has_failed_before {
            let holding = self.leases.iter().filter(|(_, lease)| lease.step2.holds_echoes());
            let refuse = |lease| Effect::Ack { lease, batch: 0, seq: self.last, outcome, count: 1, echo: None };
            effects.extend(holding.map(|(lease, _)| refuse(lease)));
        }
    }

    /// Sends a reply once everything so far is on disk.
    pub(super) fn push_when_durable(&mut self, lease: LeaseId, batch: u64, reply: AckReply, effects: &mut Vec<Effect>) {
        if matches!(reply, AckReply::Saved { acks: 0, .. }) {
            return;
        }
        let waiting = WaitingAck { seq: self.last, lease, batch, round: self.round(lease), reply };
        if self.durable >= self.last {
            waiting.finish(effects);
        } else {
            self.waiting_bytes += waiting.bytes();
            self.waiting.push_back(waiting);
        }
    }

    /// Sends a refusal, but not before acknowledgements of earlier updates: clients match them by their order.
    pub(super) fn push_refusal(&mut self, lease: LeaseId, batch: u64, outcome: Outcome, effects: &mut Vec<Effect>) {
        let refusal =
            WaitingAck { seq: self.last, lease, batch, round: self.round(lease), reply: AckReply::Refused(outcome) };
        if self.waiting.iter().any(|earlier| earlier.lease == lease) {
            self.waiting_bytes += refusal.bytes();
            self.waiting.push_back(refusal);
        } else {
            refusal.finish(effects);
        }
    }

    /// Current round of a session; acks of earlier rounds are not sent.
    fn round(&self, lease: LeaseId) -> u32 {
        self.leases.get(lease).map_or(0, |lease| lease.step2.round())
    }
}
