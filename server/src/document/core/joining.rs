//! PURE: who joins is answered with what it lacks, and whoever asks the same shares the answer; and the document's rest.
//!
//! The whole of a large document, once encoded, serves those who come later as well: the changes since then are joined to it by
//! their bytes, without asking the CRDT again.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::update::join_updates;

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::{Frame, Message};
use crate::document::tail::Tail;
use crate::ids::LeaseId;

/// Most answers remembered for those who ask the same.
const MAX_ANSWERS: usize = 4;
/// From this size on the whole document is not encoded again for what the tail can tell.
const LARGE_BYTES: usize = 4 * super::super::tail::MAX_BYTES;
/// A document of more bytes takes milliseconds to encode.
const SLOW_BYTES: usize = 1024 * 1024;
/// What remembering an answer takes: one that is smaller, and is made from bytes, is made again.
const REMEMBERING_BYTES: usize = 256;
/// The state vector of who has nothing.
const NOTHING: &[u8] = &[0];

/// Answers to state vectors, newest last.
#[derive(Debug, Default)]
pub(super) struct Answers(Vec<(Bytes, Arc<Frame>)>);

impl Answers {
    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }

    /// The document changes: the whole of a large one stays, while the tail has all that came after.
    pub(super) fn outdate(&mut self, tail: &Tail) {
        self.0.retain(|(asked, frame)| {
            let Message::Step2(diff) = frame.message() else { return false };
            asked[..] == *NOTHING && diff.len() >= LARGE_BYTES && tail.reaches(frame.seq())
        });
    }

    /// Bytes that they take. A large one is its encoding, a small one may be encoded beside itself.
    pub(super) fn bytes(&self) -> usize {
        let answers = self.0.iter().map(|(asked, frame)| match frame.message() {
            Message::Step2(diff) => asked.len() + diff.len() * 2,
            _ => asked.len(),
        });
        answers.sum()
    }

    fn find(&self, state_vector: &[u8]) -> Option<Arc<Frame>> {
        self.0.iter().find(|(asked, _)| asked[..] == *state_vector).map(|(_, frame)| Arc::clone(frame))
    }

    fn remember(&mut self, state_vector: &Bytes, frame: &Arc<Frame>) {
        self.0.retain(|(asked, _)| asked != state_vector);
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
        if let Some(frame) = self.answers.find(state_vector).and_then(|frame| self.up_to_date(frame)) {
            self.answers.remember(state_vector, &frame);
            effects.push(Effect::Diff { lease, frame });
            return;
        }
        let diff = self.document.diff(state_vector);
        let is_cheap = diff.len() < REMEMBERING_BYTES;
        let frame = Frame::answer(self.last, diff);
        if !is_cheap {
            self.answers.remember(state_vector, &frame);
        }
        effects.push(Effect::Diff { lease, frame });
    }

    /// An earlier answer with all that came since: to whoever is answered "in sync" means that nothing is missing.
    fn up_to_date(&self, frame: Arc<Frame>) -> Option<Arc<Frame>> {
        if frame.seq() == self.last {
            return Some(frame);
        }
        let Message::Step2(whole) = frame.message() else { return None };
        let missed = self.tail.since(frame.seq())?.map(|(_, update)| &update[..]);
        let joined = join_updates(std::iter::once(&whole[..]).chain(missed))?;
        Some(Frame::answer(self.last, joined.into()))
    }

    /// Nothing has changed for a while: drop what was deleted, and what can be made again.
    pub fn rest(&mut self) {
        self.answers.clear();
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
