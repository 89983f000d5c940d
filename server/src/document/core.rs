//! PURE: the state machine of one document: events in, effects out. No clock, no I/O, no runtime, no log.
//!
//! Architecture invariants:
//! - An ack is emitted only after its record's sequence number is durable ([`Core::durable`]).
//! - A change is broadcast when it is applied. An update that changes nothing is neither logged nor
//!   broadcast; it is acked at the current sequence number, which may not be durable yet.
//! - A step 1 is always answered, even if the state vectors are equal: deletions do not advance a state
//!   vector.
//! - After a storage failure no edit is accepted; the document stays readable.
//! - Every change sent to readers is added to the recent changes in the same step, under the same sequence
//!   number (`recent_changes.rs`).

mod acks;
mod awareness;
mod joining;
mod memory;
mod native;
mod pending_authors;
mod refusal;
mod registers;
mod unsynced;
mod updates;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::Cursor;

use self::acks::{AckReply, WaitingAck};
use self::joining::DiffCache;
use self::pending_authors::PendingAuthors;
use self::registers::RegisterDecisions;
use self::unsynced::UnsyncedCounter;
use self::updates::Submitted;
use super::awareness::AwarenessStates;
use super::event::{Acks, Effect, Event};
use super::frame::{Frame, Message};
use super::lease_map::LeaseMap;
use super::recent_changes::RecentChanges;
use crate::ids::LeaseId;
use syncline_replica::{HubDocument, HubLimits, Known};

#[derive(Debug, Default)]
struct LeaseState {
    /// It was asked for missing updates and has not supplied any: asking again could loop forever.
    asked_for_missing: bool,
    /// It resumes by cursor and receives durable positions.
    native: bool,
    /// It was sent a step 1 and has not replied with a step 2.
    awaits_step2: bool,
    /// Mirrors the client's counter of unsynced changes; `None` if its dialect has none.
    unsynced: Option<Box<UnsyncedCounter>>,
}

/// State machine of one document. Owned by the document's task (or by a test, a simulator, a fuzzer).
#[derive(Debug)]
pub struct Core {
    document: HubDocument,
    /// Identifies the history that sequence numbers belong to.
    epoch: Epoch,
    /// Sequence number of the newest record.
    last: Seq,
    /// Recent changes, for native clients that resume from a cursor.
    recent: RecentChanges,
    /// Newest sequence number known to be on disk.
    durable: Seq,
    leases: LeaseMap<LeaseState>,
    /// Number of native leases in `leases`.
    native_leases: usize,
    /// Leases closed by the document that have not sent `Leave` yet; their events are ignored.
    ended: BTreeSet<LeaseId>,
    awareness: AwarenessStates,
    /// Cached encoding of all awareness states; kept only if it is large, dropped on every change.
    cached_awareness: Option<Arc<Frame>>,
    /// Leases that sent the pending updates.
    pending_authors: PendingAuthors,
    /// Decided states of versioned registers; `None` for the many documents without registers.
    decisions: Option<Box<RegisterDecisions>>,
    /// Acks waiting for the disk, by ascending sequence number.
    waiting: VecDeque<WaitingAck>,
    /// Memory held by `waiting`, in bytes.
    waiting_bytes: usize,
    /// Recent step 2 replies, shared by sessions with the same state vector. Cleared by every change.
    diff_cache: DiffCache,
    storage_failed: bool,
    /// Awareness states dropped because of a limit; read and reset by [`Core::take_dropped_states`].
    dropped_states: usize,
}

impl Core {
    /// A document loaded from its log, whose last record is `newest`.
    pub fn new(mut document: HubDocument, newest: Cursor, limits: HubLimits) -> Self {
        let Cursor { epoch, seq: last } = newest;
        document.limit(limits);
        Self {
            decisions: RegisterDecisions::of(&document),
            document,
            epoch,
            last,
            recent: RecentChanges::after(last),
            durable: last,
            leases: LeaseMap::new(),
            native_leases: 0,
            ended: BTreeSet::new(),
            awareness: AwarenessStates::default(),
            cached_awareness: None,
            pending_authors: PendingAuthors::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            diff_cache: DiffCache::default(),
            storage_failed: false,
            dropped_states: 0,
        }
    }

    /// Limits the bytes of awareness states per lease.
    #[must_use]
    pub fn with_awareness_limit(self, awareness_bytes: usize) -> Self {
        Self { awareness: AwarenessStates::with_limit(awareness_bytes), ..self }
    }

    /// Adds the changes at the end of the stored history, for clients that resume from a cursor. They are not
    /// used if an update was pending during the load: the records then do not show when readers received it.
    #[must_use]
    pub fn with_recent_changes(self, recent: RecentChanges) -> Self {
        if self.document.was_pending_at_load() { self } else { Self { recent, ..self } }
    }

    /// Sequence number of the newest record.
    pub fn last(&self) -> Seq {
        self.last
    }

    /// True when no ack is outstanding and every record is on disk, or storage has failed.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && (self.durable >= self.last || self.storage_failed)
    }

    /// Number of awareness states dropped since the last call.
    pub fn take_dropped_states(&mut self) -> usize {
        std::mem::take(&mut self.dropped_states)
    }

    /// Number of sessions that have the document open.
    pub fn lease_count(&self) -> usize {
        self.leases.len()
    }

    /// The integrated state: a clock per client and the deletions.
    pub fn known(&self) -> Known {
        self.document.known()
    }

    /// The compacted state up to [`Core::last`], to replace all records up to there; deleted content is
    /// removed. Pending updates are not part of it: they are appended again as new records.
    pub fn snapshot(&mut self, effects: &mut Vec<Effect>) -> (Seq, Bytes) {
        let (upto, state) = (self.last, self.document.compact());
        for update in self.document.pending().cloned().collect::<Vec<_>>() {
            self.append(update, effects);
        }
        (upto, state)
    }

    /// Processes one event and appends the resulting effects.
    pub fn handle(&mut self, event: Event, effects: &mut Vec<Effect>) {
        if self.ended.contains(&event.lease()) && !matches!(event, Event::Leave { .. }) {
            return;
        }
        match event {
            Event::Open { lease, acks } => self.open(lease, acks, effects),
            Event::Resume { lease, cursor, wants_state_vector, read_only } => {
                self.resume(lease, cursor.map(|cursor| *cursor), wants_state_vector, read_only, effects);
            }
            Event::Step1 { lease, state_vector } => {
                let must_ask = self.note_step1(lease, &state_vector);
                self.step1(lease, &state_vector, effects);
                if must_ask {
                    self.ask(lease, effects);
                }
                self.push_durable(lease, effects);
            }
            Event::Update { lease, update, origin, batch } => {
                self.note_step2(lease, origin);
                self.update(lease, Submitted { update, origin, batch }, effects);
            }
            Event::Propose { lease, batch, write } => self.propose(lease, batch, &write, effects),
            Event::Awareness { lease, update } => self.apply_awareness(lease, &update, effects),
            Event::QueryAwareness { lease } => self.push_all_awareness(lease, effects),
            Event::Refused { lease, batch, update, origin } => {
                self.note_step2(lease, origin);
                self.refuse_read_only(lease, batch, (update, origin), effects);
            }
            Event::Resync { .. } => {} // The task calls `Core::resync`: it knows the reader's checkpoint.
            Event::Leave { lease } => {
                let left = self.leases.remove(lease);
                self.native_leases -= usize::from(left.is_some_and(|lease| lease.native));
                self.ended.remove(&lease);
                self.pending_authors.forget_lease(lease);
                self.remove_awareness(lease, effects);
            }
        }
    }

    /// Brings a reader up to date with one diff from `floor`, or from the empty state.
    pub fn resync(&mut self, lease: LeaseId, floor: Option<&Known>, effects: &mut Vec<Effect>) {
        let from_nothing = Known::default();
        let diff = self.document.diff_since(floor.unwrap_or(&from_nothing));
        effects.push(Effect::Diff { lease, frame: Frame::at(self.last, Message::Step2(diff)) });
        self.push_durable(lease, effects);
        self.push_awareness_now(lease, effects);
    }

    fn open(&mut self, lease: LeaseId, acks: Acks, effects: &mut Vec<Effect>) {
        let unsynced = (acks == Acks::Counted).then(Box::default);
        self.leases.insert(lease, LeaseState { unsynced, ..LeaseState::default() });
        self.ask(lease, effects);
        self.push_all_awareness(lease, effects);
    }

    /// Sends a change of the newest record to readers and adds it to the recent changes.
    fn broadcast(&mut self, frame: Arc<Frame>, author: Option<LeaseId>, effects: &mut Vec<Effect>) {
        if let Message::Update(update) = frame.message() {
            self.recent.push(self.last, update);
        }
        effects.push(Effect::Broadcast { frame, author });
    }

    fn append(&mut self, update: Bytes, effects: &mut Vec<Effect>) {
        self.last = self.last.next();
        self.diff_cache.clear();
        effects.push(Effect::Append { seq: self.last, update });
    }
}
