//! PURE: what a reader is sent to be up to date: the reply to a step 1 or to a cursor, the diff for a reader that fell
//! behind, what is pending, and awareness.
//!
//! A cursor is a durable position. Its owner has received everything the document had integrated at that
//! record, so it lacks what was broadcast since: the recent changes, if these reach back far enough.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::awareness::AwarenessUpdate;
use syncline_protocol::native::{Cursor, Resume};
use syncline_protocol::update::EMPTY_UPDATE;
use syncline_replica::{Known, Pieces};

use super::Core;
use crate::document::event::Effect;
use crate::document::frame::Frame;
use crate::document::message::Message;
use crate::ids::LeaseId;

impl Core {
    pub(super) fn step1(&mut self, lease: LeaseId, state_vector: &Bytes, effects: &mut Vec<Effect>) {
        self.leases.note_step1(lease, state_vector);
        self.owed_diffs.take(lease);
        self.answer_step1(lease, state_vector, effects);
    }

    /// Keeps a step 1 for later. The client has already reset its counter of unsynced changes.
    pub(super) fn defer_step1(&mut self, lease: LeaseId, state_vector: &Bytes) {
        self.leases.note_step1(lease, state_vector);
        if self.leases.contains(lease) {
            self.owed_diffs.defer(lease, state_vector);
        }
    }

    /// Answers a step 1, and asks the client in turn if it counts unsynced changes.
    fn answer_step1(&mut self, lease: LeaseId, state_vector: &Bytes, effects: &mut Vec<Effect>) {
        self.push_diff(lease, state_vector, effects);
        if self.leases.get(lease).is_some_and(|step2| step2.awaits_unasked_step2()) {
            self.ask(lease, effects);
        }
        self.push_durable(lease, effects);
    }

    fn push_diff(&mut self, lease: LeaseId, state_vector: &Bytes, effects: &mut Vec<Effect>) {
        if self.shows_pending(lease) {
            let diff = self.document.diff(state_vector);
            let frame = Frame::at(self.last(), Message::Step2(self.with_pending(lease, diff)));
            return effects.push(Effect::Diff { lease, frame });
        }
        if let Some(frame) = self.diff_cache.get(state_vector) {
            return effects.push(Effect::Diff { lease, frame });
        }
        let diff = self.document.diff(state_vector);
        let bytes = diff.len();
        let frame = Frame::at(self.last(), Message::Step2(diff));
        self.diff_cache.insert(state_vector, bytes, &frame);
        effects.push(Effect::Diff { lease, frame });
    }

    /// Brings a reader up to date whose socket has drained: from the state vector of a deferred step 1, else from `floor` or
    /// from the empty state. It may have missed awareness, too.
    pub(super) fn resync(&mut self, lease: LeaseId, floor: Option<&Known>, effects: &mut Vec<Effect>) {
        if let Some(state_vector) = self.owed_diffs.take(lease) {
            self.answer_step1(lease, &state_vector, effects);
        } else {
            let from_nothing = Known::default();
            let diff = self.document.diff_since(floor.unwrap_or(&from_nothing));
            let diff = self.with_pending(lease, diff);
            effects.push(Effect::Diff { lease, frame: Frame::at(self.last(), Message::Step2(diff)) });
            self.push_durable(lease, effects);
        }
        self.awareness.push_all_now(lease, effects);
    }

    pub(super) fn resume(
        &mut self,
        lease: LeaseId,
        from: Option<Cursor>,
        wants_state_vector: bool,
        read_only: bool,
        effects: &mut Vec<Effect>,
    ) {
        let cursor = self.history.cursor();
        if from.is_some_and(|from| !self.history.has(from)) {
            self.leases.end(lease);
            let resume = Resume::OtherHistory;
            return effects.push(Effect::Opened { lease, cursor, read_only, resume, state_vector: None });
        }
        // The client may have the missing dependencies of pending updates: it sends them once it gets the
        // state vector.
        let sends_state_vector = wants_state_vector || self.document.pending_len() > 0;
        let state_vector = sends_state_vector.then(|| self.document.state_vector());
        let missed = from.and_then(|from| self.history.changes_since(from.seq));
        let resume = if missed.is_some() { Resume::FromCursor } else { Resume::SendStateVector };
        effects.push(Effect::Opened { lease, cursor, read_only, resume, state_vector });
        if let Some(missed) = missed {
            effects.extend(missed.map(|frame| Effect::Missed { lease, frame }));
            self.push_durable(lease, effects);
        }
        self.awareness.push_all(lease, effects);
    }

    /// Sends the durable position to a native reader that has just been brought up to date.
    fn push_durable(&self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if self.leases.is_native(lease) {
            effects.push(Effect::Durable { lease: Some(lease), seq: self.history.durable() });
        }
    }

    pub(super) fn apply_awareness(&mut self, lease: LeaseId, update: &[u8], effects: &mut Vec<Effect>) {
        let Ok(update) = AwarenessUpdate::scan(update, &Default::default()) else { return };
        let was_yjs14 = self.awareness.is_yjs14(lease);
        self.awareness.apply(lease, &update, self.may_grow, effects);
        if !was_yjs14 {
            // A client announces itself after its step 1.
            self.push_pending(lease, effects);
        }
    }

    /// True if something is pending and the client can show it: Yjs 14 has gaps in its documents, and makes some that stay.
    /// Other clients receive it when its dependencies are present.
    pub(super) fn shows_pending(&self, lease: LeaseId) -> bool {
        self.document.pending_len() > 0 && self.awareness.is_yjs14(lease)
    }

    /// The diff with what is pending, if the client can show it. In one frame: a reader is behind again if frames after its
    /// diff exceed the limit.
    fn with_pending(&self, lease: LeaseId, diff: Pieces) -> Pieces {
        if self.shows_pending(lease) { self.document.with_pending(&diff.to_bytes()).into() } else { diff }
    }

    /// Sends what is pending to a client that has announced itself after its step 1.
    fn push_pending(&self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if self.shows_pending(lease) {
            let update = self.document.with_pending(&Bytes::from_static(&EMPTY_UPDATE));
            effects.push(Effect::Pending { lease, frame: Frame::at(self.last(), Message::Update(update)) });
        }
    }

    /// Sends what has become pending to the clients that can show it.
    pub(super) fn broadcast_pending(&self, added: Bytes, author: LeaseId, effects: &mut Vec<Effect>) {
        let frame = Frame::at(self.last(), Message::Update(added));
        let receivers = self.leases.ids().filter(|lease| *lease != author && self.awareness.is_yjs14(*lease));
        effects.extend(receivers.map(|lease| Effect::Pending { lease, frame: Arc::clone(&frame) }));
    }
}
