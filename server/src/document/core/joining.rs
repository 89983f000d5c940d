//! PURE: who joins is answered with what it lacks, and whoever asks the same shares the answer; and the document's rest.

use std::sync::Arc;

use bytes::Bytes;

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, LARGE_ANSWER_BYTES, Message};
use crate::ids::LeaseId;

/// Most answers remembered for those who ask the same.
const MAX_ANSWERS: usize = 4;
/// A document of more bytes takes milliseconds to encode.
const SLOW_BYTES: usize = 1024 * 1024;
/// What remembering an answer takes: one that is smaller is made again.
const REMEMBERING_BYTES: usize = 256;

/// Answers to state vectors, newest last.
#[derive(Debug, Default)]
pub(super) struct Answers(Vec<(Bytes, Arc<Frame>)>);

impl Answers {
    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// Bytes that they take. A small one may be encoded beside itself, a large one shares the document's memory.
    pub(super) fn bytes(&self) -> usize {
        let answers = self.0.iter().map(|(asked, frame)| match frame.message() {
            Message::Step2(diff) if diff.len() < LARGE_ANSWER_BYTES => asked.len() + diff.len() * 2,
            Message::Step2(diff) => asked.len() + diff.len() - diff.shared_bytes(),
            _ => asked.len(),
        });
        answers.sum()
    }

    fn find(&self, state_vector: &[u8]) -> Option<Arc<Frame>> {
        self.0.iter().find(|(asked, _)| asked[..] == *state_vector).map(|(_, frame)| Arc::clone(frame))
    }

    fn remember(&mut self, state_vector: &Bytes, frame: &Arc<Frame>) {
        if self.0.len() == MAX_ANSWERS {
            self.0.remove(0);
        }
        // Most documents have one asker, and an idle one keeps its answer.
        self.0.reserve_exact(1);
        self.0.push((state_vector.clone(), Arc::clone(frame)));
    }
}

impl Core {
    pub(super) fn step1(&mut self, lease: LeaseId, state_vector: &Bytes, effects: &mut Vec<Effect>) {
        if let Some(frame) = self.answers.find(state_vector) {
            effects.push(Effect::Diff { lease, frame });
            return;
        }
        let diff = self.document.diff(state_vector);
        let is_cheap = diff.len() < REMEMBERING_BYTES;
        let frame = Frame::at(self.last, Message::Step2(diff));
        if !is_cheap {
            self.answers.remember(state_vector, &frame);
        }
        effects.push(Effect::Diff { lease, frame });
    }

    /// True when an answer to this state vector is at hand.
    pub fn has_answer(&self, state_vector: &[u8]) -> bool {
        self.answers.find(state_vector).is_some()
    }

    /// Nothing has changed for a while: drop what was deleted, and what can be made again.
    pub fn rest(&mut self) {
        self.answers.clear();
        self.everyone = None;
        self.document.compact();
    }

    /// True while there is nothing to drop.
    pub fn is_resting(&self) -> bool {
        self.document.is_compact()
    }

    /// True when it takes as little memory as it can.
    pub fn is_minimal(&self) -> bool {
        self.is_resting() && self.answers.0.is_empty()
    }

    /// True when going through all of it takes milliseconds.
    pub fn is_large(&self) -> bool {
        self.document.bytes() > SLOW_BYTES
    }
}
