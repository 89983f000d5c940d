//! PURE: acknowledgements that wait for the disk.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::ids::Seq;

use super::Core;
use crate::document::event::{Effect, Outcome};
use crate::document::frame::{Frame, Message};
use crate::ids::LeaseId;

/// What an author is sent when its record is on disk.
#[derive(Debug)]
pub(super) enum Answer {
    /// Sent `acks` times.
    Saved {
        echo: Option<Arc<Frame>>,
        acks: u64,
    },
    Decided {
        accepted: bool,
        register: Bytes,
    },
}

/// An answer that waits for the record `seq` to be on disk.
#[derive(Debug)]
pub(super) struct WaitingAck {
    seq: Seq,
    lease: LeaseId,
    batch: u64,
    /// The lease's, when the record was taken.
    round: u32,
    answer: Answer,
}

impl WaitingAck {
    /// Appends what its author is sent now that it is on disk.
    fn finish(self, effects: &mut Vec<Effect>) {
        let Self { seq, lease, batch, answer, .. } = self;
        match answer {
            Answer::Saved { echo, acks } => effects.extend((0..acks).map(|_| {
                let (outcome, echo) = (Outcome::Saved, echo.clone());
                Effect::Ack { lease, batch, seq, outcome, echo }
            })),
            Answer::Decided { accepted, register } => {
                effects.push(Effect::Decided { lease, batch, accepted, register });
            }
        }
    }
}

/// Bytes of acknowledgements that may wait for the disk, with what they send back. Beyond it the document takes in nothing more
/// until the disk has answered: only known updates can make so many, the log bounds the others.
const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// What an acknowledgement takes besides what it sends back.
const ACK_BYTES: usize = 256;

impl WaitingAck {
    fn bytes(&self) -> usize {
        let echo = match &self.answer {
            Answer::Saved { echo: Some(frame), .. } => match frame.message() {
                Message::Update(update) => update.len(),
                _ => 0,
            },
            Answer::Saved { echo: None, .. } => 0,
            Answer::Decided { register, .. } => register.len(),
        };
        ACK_BYTES + echo
    }
}

impl Core {
    /// True while so many acknowledgements wait for the disk that nothing more should be taken in.
    pub fn must_wait_for_disk(&self) -> bool {
        self.waiting_bytes > MAX_WAITING_BYTES
    }

    /// Every record up to `upto` is on disk: give the acks that waited for it.
    pub fn durable(&mut self, upto: Seq, effects: &mut Vec<Effect>) {
        let has_moved = upto > self.durable;
        self.durable = self.durable.max(upto);
        while let Some(waiting) = self.waiting.pop_front_if(|waiting| waiting.seq <= self.durable) {
            self.waiting_bytes -= waiting.bytes();
            if waiting.round == self.round(waiting.lease) {
                waiting.finish(effects);
            }
        }
        if has_moved {
            self.tell_all_durable(effects);
        }
    }

    /// Nothing more will reach the disk: what waits is refused, and so is everything to come.
    pub fn storage_failed(&mut self, effects: &mut Vec<Effect>) {
        self.storage_failed = true;
        self.waiting_bytes = 0;
        for waiting in self.waiting.drain(..) {
            let WaitingAck { seq, lease, batch, .. } = waiting;
            effects.push(Effect::Ack { lease, batch, seq, outcome: Outcome::Refused, echo: None });
        }
    }

    /// Answers an author when everything so far is on disk.
    pub(super) fn answer(&mut self, lease: LeaseId, batch: u64, answer: Answer, effects: &mut Vec<Effect>) {
        if matches!(answer, Answer::Saved { acks: 0, .. }) {
            return;
        }
        let waiting = WaitingAck { seq: self.last, lease, batch, round: self.round(lease), answer };
        if self.durable >= self.last {
            waiting.finish(effects);
        } else {
            self.waiting_bytes += waiting.bytes();
            self.waiting.push_back(waiting);
        }
    }
}
