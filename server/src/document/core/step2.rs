//! PURE: whether a step 2 of a lease is due, and which acknowledgements wait for it.
//!
//! The server sends its step 1 when a lease opens the document, after a step 1 of a client that counts unsynced changes, when
//! an update has missing dependencies, and when an update could not be stored. A step 2 has everything that the client
//! sent before it. So one state decides whether to ask and what the answer pays:
//!
//! - While an update of the lease is not stored (`unstored.rs`), its echoes are held back: each would acknowledge that update,
//!   too.
//! - A client that counts unsynced changes is refused such an update instead. The step 2 that has it pays its status
//!   (`unsynced.rs`).
//! - A client is asked once for what is missing. If its answer does not help, it is asked again when less is pending.

use bytes::Bytes;
use syncline_protocol::update::EMPTY_UPDATE;

use super::unstored::UnstoredUpdates;
use super::unsynced::UnsyncedCounter;
use crate::document::event::Origin;
use crate::document::outcome::Acks;

/// The server's newest step 1 to a lease.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Answered, or not sent yet.
    #[default]
    Answered,
    /// Sent, and no step 2 received since. A client that answers with a change leaves it here, so it may be asked for what
    /// is missing; one that sends another step 1 ends it.
    Sent,
    /// The same, because something was missing that the client may have: it is not asked once more meanwhile.
    SentForMissing,
    /// The step 2 did not have what was missing: asking again could loop forever.
    Unhelpful,
}

/// How the client is informed that its updates are on disk.
#[derive(Debug)]
enum AckMode {
    /// One echo per update.
    Each,
    /// Status messages that lower a counter in the client.
    Counted(Box<UnsyncedCounter>),
    /// One acknowledgement per batch. The client is not asked, and closed instead of refused.
    Batches,
}

/// What the server has asked of a lease, and owes it.
#[derive(Debug)]
pub(super) struct Step2State {
    question: Question,
    mode: AckMode,
    /// Updates that were not stored; `None` in almost all leases.
    unstored: Option<Box<UnstoredUpdates>>,
}

/// The acknowledgements that are due once a stored update is on disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DueAcks {
    /// Of the update, and of earlier ones that waited for it.
    pub(super) acks: u64,
    /// Number of empty updates to echo: they waited for it, too.
    pub(super) held_echoes: u64,
    /// The client must be asked for a step 2, because only a step 2 pays what is owed.
    pub(super) must_ask: bool,
}

/// What a client is sent for an update that was not stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RefusalReply {
    /// Acknowledgements of earlier updates, which no longer wait for this step 2.
    pub(super) acks: u64,
    /// The refusal itself is sent.
    pub(super) is_sent: bool,
    /// The client must be asked for what the update depends on.
    pub(super) must_ask: bool,
}

impl DueAcks {
    /// Of a session that nothing is known about.
    pub(super) const ONE: Self = Self { acks: 1, held_echoes: 0, must_ask: false };
}

impl Step2State {
    pub(super) fn new(acks: Acks) -> Self {
        let mode = match acks {
            Acks::Each => AckMode::Each,
            Acks::Counted => AckMode::Counted(Box::default()),
            Acks::Batches => AckMode::Batches,
        };
        Self { question: Question::default(), mode, unstored: None }
    }

    /// True for a session of the native dialect: it resumes by cursor, receives durable positions, and is never asked.
    pub(super) fn is_native(&self) -> bool {
        matches!(self.mode, AckMode::Batches)
    }

    /// Current round of the client's counter; acks of earlier rounds are not sent.
    pub(super) fn round(&self) -> u32 {
        self.counter().map_or(0, UnsyncedCounter::round)
    }

    fn counter(&self) -> Option<&UnsyncedCounter> {
        if let AckMode::Counted(counter) = &self.mode { Some(counter) } else { None }
    }

    /// True if acknowledgements of stored updates are held back.
    pub(super) fn holds_echoes(&self) -> bool {
        matches!(self.mode, AckMode::Each) && self.unstored.is_some()
    }

    /// Memory of what was not stored and of the client's clocks, in bytes.
    pub(super) fn kept_bytes(&self) -> usize {
        let unstored = self.unstored.as_ref().map_or(0, |unstored| unstored.bytes());
        unstored + self.counter().map_or(0, UnsyncedCounter::clocks_bytes)
    }

    /// The client has sent a step 1, whether or not it is answered now. An earlier question was meant to be answered before
    /// another step 1: if it was not, the provider that was asked is gone, and this one must be asked. `room_bytes`: memory
    /// that the client's clocks may take.
    pub(super) fn note_step1(&mut self, state_vector: &[u8], room_bytes: usize) {
        let AckMode::Counted(counter) = &mut self.mode else { return };
        counter.step1(state_vector, room_bytes);
        if counter.round() > 1 {
            self.end_question();
        }
    }

    /// True if the client's step 1 must be followed by one of the server: the client expects a status for its step 2, and no
    /// earlier question is open.
    pub(super) fn awaits_unasked_step2(&self) -> bool {
        let is_open = matches!(self.question, Question::Sent | Question::SentForMissing);
        !is_open && self.counter().is_some_and(UnsyncedCounter::is_syncing)
    }

    /// The server sends its step 1.
    pub(super) fn note_asked(&mut self) {
        self.question = match self.question {
            Question::Answered | Question::Sent => Question::Sent,
            Question::SentForMissing | Question::Unhelpful => Question::SentForMissing,
        };
    }

    /// Something is missing that the client may have: returns whether to ask for it now.
    pub(super) fn ask_for_missing(&mut self) -> bool {
        let must_ask = !self.is_native() && matches!(self.question, Question::Answered | Question::Sent);
        if must_ask {
            self.question = Question::SentForMissing;
        }
        must_ask
    }

    /// Less is pending in the document than before: returns whether to ask now for what was not stored.
    pub(super) fn note_released(&mut self, pending_len: usize) -> bool {
        self.question = match self.question {
            Question::SentForMissing => Question::Sent,
            Question::Unhelpful => Question::Answered,
            other => other,
        };
        self.unstored.as_mut().is_some_and(|unstored| unstored.has_more_room(pending_len)) && self.ask_for_missing()
    }

    /// A step 2 was received. It counts as the answer even if it is refused.
    pub(super) fn note_step2(&mut self) {
        self.end_question();
    }

    fn end_question(&mut self) {
        self.question = match self.question {
            Question::Sent => Question::Answered,
            Question::SentForMissing => Question::Unhelpful,
            other => other,
        };
    }

    /// An update was stored, or is known. `is_complete`: nothing of it is pending. `is_stored` compares an update with the
    /// document.
    pub(super) fn store(
        &mut self,
        update: &[u8],
        origin: Origin,
        is_complete: bool,
        is_stored: impl Fn(&Bytes) -> bool,
    ) -> DueAcks {
        let is_step2 = origin.is_step2();
        let released = self.unstored.take_if(|unstored| is_step2 || unstored.are_stored(is_stored));
        if is_complete && (is_step2 || released.is_some()) {
            self.question = Question::Answered;
        }
        let held_echoes = released.as_ref().map_or(0, |released| released.held_echoes);
        match (&mut self.mode, &mut self.unstored) {
            (AckMode::Counted(counter), _) => {
                let acks = counter.store(update, origin);
                DueAcks { acks, held_echoes, must_ask: released.is_some() && counter.is_owed() }
            }
            (AckMode::Each, Some(unstored)) => {
                unstored.held_echoes += u64::from(update == EMPTY_UPDATE);
                DueAcks { acks: 0, held_echoes, must_ask: false }
            }
            (AckMode::Each, None) | (AckMode::Batches, _) => DueAcks { acks: 1, held_echoes, must_ask: false },
        }
    }

    /// An update was not stored, because too much is pending.
    pub(super) fn refuse_pending(&mut self, update: &[u8], origin: Origin, pending_len: usize) -> RefusalReply {
        self.unstored.get_or_insert_default().add(update, pending_len);
        let is_step2 = origin.is_step2();
        let (acks, is_sent) = match &mut self.mode {
            AckMode::Counted(counter) => (counter.refuse(update, origin), is_step2 || !counter.is_syncing()),
            AckMode::Each | AckMode::Batches => (0, is_step2),
        };
        if is_step2 {
            // The next answer would be the same.
            self.question = Question::Unhelpful;
        }
        RefusalReply { acks, is_sent, must_ask: self.ask_for_missing() }
    }

    /// A step 2 was refused for another reason. Returns the number of acknowledgements that no longer wait for it.
    pub(super) fn refuse_step2(&mut self, origin: Origin) -> u64 {
        if let AckMode::Counted(counter) = &mut self.mode { counter.refuse(&EMPTY_UPDATE, origin) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPDATE: &[u8] = &[1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0];
    const NOTHING: DueAcks = DueAcks { acks: 0, held_echoes: 0, must_ask: false };

    fn missing(_: &Bytes) -> bool {
        false
    }

    fn asked(acks: Acks) -> Step2State {
        let mut state = Step2State::new(acks);
        state.note_asked();
        state
    }

    #[test]
    fn echoes_are_held_back_until_a_step_2_or_the_content_is_stored() {
        for by_content in [false, true] {
            let mut state = asked(Acks::Each);
            let refusal = state.refuse_pending(UPDATE, Origin::Change, 10);
            assert_eq!(refusal, RefusalReply { acks: 0, is_sent: false, must_ask: true });
            for update in [&EMPTY_UPDATE[..], UPDATE, &EMPTY_UPDATE] {
                assert_eq!(state.store(update, Origin::Change, true, missing), NOTHING);
            }
            assert!(state.holds_echoes());
            let due = if by_content {
                state.store(UPDATE, Origin::Change, true, |_| true)
            } else {
                state.note_step2();
                state.store(UPDATE, Origin::Step2, true, missing)
            };
            assert_eq!(due, DueAcks { acks: 1, held_echoes: 2, must_ask: false });
            assert!(!state.holds_echoes());
            assert!(state.ask_for_missing(), "the question was answered");
        }
    }

    #[test]
    fn only_a_step_2_is_known_to_have_more_than_can_be_kept() {
        let mut state = asked(Acks::Each);
        state.refuse_pending(&[0; 20_000], Origin::Change, 10);
        assert_eq!(state.kept_bytes(), 0);
        assert_eq!(state.store(UPDATE, Origin::Change, true, |_| true), NOTHING);
        assert_eq!(state.store(UPDATE, Origin::Step2, true, missing).acks, 1);
    }

    #[test]
    fn client_is_asked_once_until_less_is_pending() {
        let mut state = asked(Acks::Each);
        assert!(state.refuse_pending(UPDATE, Origin::Change, 80).must_ask, "it may answer step 1 with changes");
        assert!(!state.refuse_pending(UPDATE, Origin::Change, 80).must_ask);
        state.note_step2();
        assert!(!state.refuse_pending(UPDATE, Origin::Step2, 80).must_ask, "its answer did not help");
        assert!(!state.note_released(71), "less than an eighth");
        assert!(state.note_released(70));
        assert!(!state.note_released(69));
        assert!(state.note_released(60));
        assert!(state.store(UPDATE, Origin::Step2, true, missing).acks == 1 && !state.note_released(0));
    }

    #[test]
    fn step_2_that_is_partly_pending_does_not_ask_again() {
        let mut state = asked(Acks::Each);
        state.note_step2();
        state.store(UPDATE, Origin::Step2, false, missing);
        assert!(state.ask_for_missing());
        state.note_step2();
        state.store(UPDATE, Origin::Step2, false, missing);
        assert!(!state.ask_for_missing(), "asking again could loop forever");
        assert!(!state.note_released(0) && state.ask_for_missing(), "the client may have what is missing now");
    }

    #[test]
    fn counting_client_is_asked_after_its_step_1_if_no_question_is_open() {
        let mut state = asked(Acks::Counted);
        state.note_step1(&[0], usize::MAX);
        assert!(!state.awaits_unasked_step2(), "the step 2 is on its way");
        state.note_step2();
        assert_eq!(state.store(&EMPTY_UPDATE, Origin::Step2, true, missing).acks, 1);
        assert!(!state.awaits_unasked_step2(), "it expects no status");
        state.note_step1(&[0], usize::MAX);
        assert!(state.awaits_unasked_step2());
        state.note_asked();
        assert!(!state.awaits_unasked_step2());
    }

    #[test]
    fn counting_client_that_sends_another_step_1_is_asked_again() {
        let mut state = asked(Acks::Counted);
        state.note_step1(&[0], usize::MAX);
        for _ in 0..2 {
            // Nobody answered: the provider that was asked may be gone.
            state.note_step1(&[0], usize::MAX);
            assert!(state.awaits_unasked_step2());
            state.note_asked();
            assert!(!state.awaits_unasked_step2());
        }
        assert!(state.ask_for_missing());
        state.note_step1(&[0], usize::MAX);
        assert!(state.awaits_unasked_step2() && !state.ask_for_missing(), "asked once for what is missing");
    }

    #[test]
    fn status_of_a_refused_update_is_paid_by_the_step_2_that_has_it() {
        let mut state = asked(Acks::Counted);
        state.note_step2();
        state.store(&EMPTY_UPDATE, Origin::Step2, true, missing);
        let refusal = state.refuse_pending(UPDATE, Origin::Change, 10);
        assert_eq!(refusal, RefusalReply { acks: 0, is_sent: true, must_ask: true });
        assert_eq!(state.store(UPDATE, Origin::Change, true, missing).acks, 1, "statuses are not held back");
        let due = state.store(UPDATE, Origin::Change, true, |_| true);
        assert!(due.must_ask, "it is stored, but a client that answers with changes is owed no further status");
        assert_eq!(state.store(UPDATE, Origin::Step2, true, missing).acks, 1);
        assert_eq!(state.store(UPDATE, Origin::Step2, true, missing).acks, 0);
    }
}
