//! PURE: the state machine of one document: events in, effects out. No clock, no I/O, no runtime, no log.
//!
//! Architecture invariants:
//! - An ack is emitted only after its record's sequence number is durable ([`Event::Durable`]).
//! - A change is broadcast when it is applied. An update that changes nothing is neither logged nor
//!   broadcast; it is acked at the current sequence number, which may not be durable yet.
//! - A step 1 is always answered, even if the state vectors are equal: deletions do not advance a state
//!   vector. Of several that arrive while the client cannot be sent a diff, the newest is (`owed_diffs.rs`).
//! - After a storage failure no edit is accepted; the document stays readable.
//! - Every change sent to readers is added to the recent changes in the same step, under the same sequence
//!   number (`recent_changes.rs`).

mod acks;
mod awareness;
mod joining;
mod memory;
mod native;
mod owed_diffs;
mod refusal;
mod registers;
mod snapshot;
mod step2;
mod unstored;
mod unsynced;
mod updates;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::Cursor;

use self::acks::{AckReply, WaitingAck};
use self::joining::DiffCache;
use self::registers::RegisterDecisions;
use self::step2::Step2State;
use self::updates::Submitted;
use super::awareness::AwarenessStates;
use super::event::{Acks, Effect, Event, SessionEvent};
use super::frame::{Frame, Message};
use super::lease_map::LeaseMap;
use super::recent_changes::RecentChanges;
use crate::ids::LeaseId;
use syncline_replica::{HubDocument, HubLimits, Known};

/// A document as its log has it.
#[derive(Debug)]
pub struct LoadedDocument {
    /// The document, with every record of its log.
    pub document: HubDocument,
    /// Its epoch, and the sequence number of its newest record.
    pub newest: Cursor,
    /// The changes at the end of its history, for clients that resume from a cursor. Not used if an update was
    /// pending during the load: the records then do not show when readers received it.
    pub recent: RecentChanges,
}

impl LoadedDocument {
    /// A new document without records. `document` is empty.
    pub fn empty(document: HubDocument, epoch: Epoch) -> Self {
        let newest = Cursor { epoch, seq: Seq::ZERO };
        Self { document, newest, recent: RecentChanges::after(Seq::ZERO) }
    }
}

/// Limits of a document that is open.
#[derive(Debug, Clone, Copy)]
pub struct CoreLimits {
    /// Size limits of the document.
    pub hub: HubLimits,
    /// Maximum bytes of awareness states per lease.
    pub awareness_bytes: usize,
}

impl Default for CoreLimits {
    fn default() -> Self {
        Self { hub: HubLimits::default(), awareness_bytes: usize::MAX }
    }
}

#[derive(Debug)]
struct LeaseState {
    step2: Step2State,
    /// State vector of its newest step 1, if that is not answered yet.
    owed_diff: Option<Box<Bytes>>,
}

/// State machine of one document. Its owner is the document's task (or a test, or a fuzzer). There are three kinds
/// of calls:
///
/// - [`Core::new`], once, with what was loaded from the log.
/// - [`Core::handle`], for each event. Nothing else changes the document.
/// - Questions, at any time. They take `&self`; only [`Core::all_awareness`] takes `&mut self`, because it caches its
///   answer.
///
/// Order of events:
///
/// - A lease's events begin with [`Event::Open`], in the native dialect followed by [`SessionEvent::Resume`], and end
///   with [`Event::Leave`]. After [`Effect::Close`], or [`Effect::Opened`] with another history, the document
///   ignores the lease's events up to [`Event::Leave`].
/// - [`Event::Durable`] follows when the log has the records of [`Effect::Append`] on disk. Positions ascend and may
///   repeat; other events may come before them, until [`Core::must_wait_for_disk`]. After
///   [`Event::StorageFailed`] no higher position follows.
/// - [`Event::DeferStep1`] is followed by [`SessionEvent::Step1`] or [`Event::Resync`] of the same lease, unless it ends.
/// - [`Event::Compact`] and [`Event::MakeDormant`]: at any time. The owner decides when they are worth their cost.
///
/// Order of effects: the owner executes them as they were emitted, after each event or after several, and all of
/// them before it waits for the next event. [`Effect::may_pass_changes`] has the exceptions. Awareness is encoded
/// after them, once ([`Core::awareness_of`], [`Core::all_awareness`]). From then on [`Core::known`] is what the readers
/// were sent. When [`Core::is_settled`], the document may leave memory.
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
    /// Bytes of the state vectors of step 1 messages that are not answered yet.
    owed_bytes: usize,
    /// Memory of the updates that could not be stored, in bytes.
    unstored_bytes: usize,
    /// Leases closed by the document that have not sent `Leave` yet; their events are ignored.
    ended: BTreeSet<LeaseId>,
    awareness: AwarenessStates,
    /// Cached encoding of all awareness states; kept only if it is large, dropped on every change.
    cached_awareness: Option<Arc<Frame>>,
    /// Decided states of versioned registers; `None` for the many documents without registers.
    decisions: Option<Box<RegisterDecisions>>,
    /// Acks waiting for the disk, by ascending sequence number.
    waiting: VecDeque<WaitingAck>,
    /// Memory held by `waiting`, in bytes.
    waiting_bytes: usize,
    /// Recent step 2 replies, shared by sessions with the same state vector. Cleared by every change.
    diff_cache: DiffCache,
    storage_failed: bool,
}

impl Core {
    /// A document that was loaded from its log, without leases.
    pub fn new(loaded: LoadedDocument, limits: CoreLimits) -> Self {
        let LoadedDocument { mut document, newest: Cursor { epoch, seq: last }, recent } = loaded;
        document.limit(limits.hub);
        Self {
            decisions: RegisterDecisions::of(&document),
            recent: if document.was_pending_at_load() { RecentChanges::after(last) } else { recent },
            document,
            epoch,
            last,
            durable: last,
            leases: LeaseMap::new(),
            native_leases: 0,
            owed_bytes: 0,
            unstored_bytes: 0,
            ended: BTreeSet::new(),
            awareness: AwarenessStates::with_limit(limits.awareness_bytes),
            cached_awareness: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            diff_cache: DiffCache::default(),
            storage_failed: false,
        }
    }

    /// Sequence number of the newest record.
    pub fn last(&self) -> Seq {
        self.last
    }

    /// True when no ack is outstanding and every record is on disk, or storage has failed.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && (self.durable >= self.last || self.storage_failed)
    }

    /// Number of sessions that have the document open.
    pub fn lease_count(&self) -> usize {
        self.leases.len()
    }

    /// The integrated state: a clock per client and the deletions.
    pub fn known(&self) -> Known {
        self.document.known()
    }

    /// Processes one event and appends the resulting effects.
    pub fn handle(&mut self, event: Event, effects: &mut Vec<Effect>) {
        let is_ended = event.lease().is_some_and(|lease| self.ended.contains(&lease));
        if is_ended && !matches!(event, Event::Leave { .. }) {
            return;
        }
        match event {
            Event::Open { lease, acks, documents } => self.open(lease, acks, documents, effects),
            Event::Session(lease, event) => self.handle_session(lease, event, effects),
            Event::DeferStep1 { lease, state_vector } => self.defer_step1(lease, &state_vector),
            Event::Resync { lease, floor } => match self.take_owed_diff(lease) {
                Some(state_vector) => self.send_owed_diff(lease, &state_vector, effects),
                None => self.resync(lease, floor.as_deref(), effects),
            },
            Event::Leave { lease } => self.leave(lease, effects),
            Event::Durable { upto } => self.advance_durable(upto, effects),
            Event::StorageFailed => self.fail_storage(effects),
            Event::Compact => self.compact(effects),
            Event::MakeDormant => self.make_dormant(),
        }
    }

    fn handle_session(&mut self, lease: LeaseId, event: SessionEvent, effects: &mut Vec<Effect>) {
        match event {
            SessionEvent::Resume { cursor, wants_state_vector, read_only } => {
                self.resume(lease, cursor.map(|cursor| *cursor), wants_state_vector, read_only, effects);
            }
            SessionEvent::Step1 { state_vector } => {
                self.note_step1(lease, &state_vector);
                self.take_owed_diff(lease);
                self.answer_step1(lease, &state_vector, effects);
            }
            SessionEvent::Update { update, origin, batch } => {
                self.note_step2(lease, origin);
                self.update(lease, Submitted { update, origin, batch }, effects);
            }
            SessionEvent::Propose { batch, write } => self.propose(lease, batch, &write, effects),
            SessionEvent::Awareness { update } => self.apply_awareness(lease, &update, effects),
            SessionEvent::QueryAwareness => self.push_all_awareness(lease, effects),
            SessionEvent::Refused { batch, update, origin } => {
                self.note_step2(lease, origin);
                self.refuse_read_only(lease, batch, (update, origin), effects);
            }
        }
    }

    /// A native session is not asked, and sends what it wants next: [`SessionEvent::Resume`].
    fn open(&mut self, lease: LeaseId, acks: Acks, documents: usize, effects: &mut Vec<Effect>) {
        let is_native = acks == Acks::Batches;
        let known = self.leases.insert(lease, LeaseState { step2: Step2State::new(acks), owed_diff: None });
        self.native_leases += usize::from(is_native);
        if let Some(known) = known {
            self.native_leases -= usize::from(known.step2.is_native());
            self.unstored_bytes -= known.step2.unstored_bytes();
        }
        self.awareness.limit_share(lease, documents);
        if !is_native {
            self.ask(lease, effects);
            self.push_all_awareness(lease, effects);
        }
    }

    fn leave(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        self.take_owed_diff(lease);
        if let Some(left) = self.leases.remove(lease) {
            self.native_leases -= usize::from(left.step2.is_native());
            self.unstored_bytes -= left.step2.unstored_bytes();
        }
        self.ended.remove(&lease);
        self.remove_awareness(lease, effects);
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
