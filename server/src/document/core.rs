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
//!
//! [`Core`] coordinates: it has one value for each kind of state (`core/`), whose files have the rules of that state alone. What
//! needs more than one of them is here, in `core/updates.rs` (changes) and in `core/joining.rs` (readers).

mod acks;
mod awareness;
mod client_clocks;
mod diff_cache;
mod history;
mod joining;
mod leases;
mod owed_diffs;
mod registers;
mod step2;
mod unstored;
mod unsynced;
mod updates;

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::Cursor;
use syncline_replica::{HubDocument, HubLimits, Known};

use self::acks::{AckReply, WaitingAck, WaitingAcks};
use self::awareness::EncodedAwareness;
use self::diff_cache::DiffCache;
use self::history::History;
use self::leases::Leases;
use self::owed_diffs::OwedDiffs;
use self::registers::RegisterDecisions;
use self::updates::Submitted;
use super::awareness::ChangedClient;
use super::event::{Effect, Event, SessionEvent};
use super::frame::Frame;
use super::message::Message;
use super::outcome::{Acks, Outcome};
use super::recent_changes::RecentChanges;
use crate::ids::LeaseId;

/// Fixed cost of an open document: its task, its inbox, its entries in the registry and the log.
const DOCUMENT_BYTES: usize = 4 * 1024;
/// Encoding a larger document takes milliseconds.
const LARGE_DOCUMENT_BYTES: usize = 1024 * 1024;

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
/// - [`Event::LimitGrowth`]: at any time. A document may grow until the first one.
///
/// Order of effects: the owner executes them as they were emitted, after each event or after several, and all of
/// them before it waits for the next event. [`Effect::may_pass_changes`] has the exceptions. Awareness is encoded
/// after them, once ([`Core::awareness_of`], [`Core::all_awareness`]). From then on [`Core::known`] is what the readers
/// were sent. When [`Core::is_settled`], the document may leave memory.
#[derive(Debug)]
pub struct Core {
    document: HubDocument,
    history: History,
    leases: Leases,
    /// Cleared by every record.
    diff_cache: DiffCache,
    owed_diffs: OwedDiffs,
    awareness: EncodedAwareness,
    decisions: RegisterDecisions,
    acks: WaitingAcks,
    /// Set by [`Event::LimitGrowth`].
    may_grow: bool,
}

impl Core {
    /// A document that was loaded from its log, without leases.
    pub fn new(loaded: LoadedDocument, limits: CoreLimits) -> Self {
        let LoadedDocument { mut document, newest, recent } = loaded;
        document.limit(limits.hub);
        let recent = if document.was_pending_at_load() { RecentChanges::after(newest.seq) } else { recent };
        Self {
            decisions: RegisterDecisions::of(&document),
            document,
            history: History::new(newest, recent),
            leases: Leases::new(),
            diff_cache: DiffCache::default(),
            owed_diffs: OwedDiffs::new(),
            awareness: EncodedAwareness::with_limit(limits.awareness_bytes),
            acks: WaitingAcks::default(),
            may_grow: true,
        }
    }

    /// Sequence number of the newest record.
    pub fn last(&self) -> Seq {
        self.history.last()
    }

    /// True when no ack is outstanding and every record is on disk, or storage has failed.
    pub fn is_settled(&self) -> bool {
        self.acks.is_empty() && (self.history.is_durable() || self.history.has_failed())
    }

    /// True while so many acks wait for the disk that no more events should be taken.
    pub fn must_wait_for_disk(&self) -> bool {
        self.acks.are_too_many()
    }

    /// False while the memory limit for all open documents is reached.
    pub fn may_grow(&self) -> bool {
        self.may_grow
    }

    /// Number of sessions that have the document open.
    pub fn lease_count(&self) -> usize {
        self.leases.len()
    }

    /// The integrated state: a clock per client and the deletions.
    pub fn known(&self) -> Known {
        self.document.known()
    }

    /// All awareness states; `None` if there are none. A large encoding is cached until a state changes.
    pub fn all_awareness(&mut self) -> Option<Arc<Frame>> {
        self.awareness.all()
    }

    /// The newest states of the clients named by [`Effect::Awareness`].
    pub fn awareness_of(&self, clients: impl ExactSizeIterator<Item = ChangedClient>) -> Arc<Frame> {
        self.awareness.of(clients)
    }

    /// Estimated memory use of the document, in bytes, without walking it.
    pub fn memory_bytes(&self) -> usize {
        DOCUMENT_BYTES
            + self.document.memory_bytes()
            + self.history.memory_bytes()
            + self.leases.memory_bytes()
            + self.diff_cache.bytes()
            + self.owed_diffs.bytes()
            + self.awareness.memory_bytes()
            + self.decisions.memory_bytes()
    }

    /// Number of records that each snapshot appends again.
    pub fn pending_records(&self) -> usize {
        self.document.pending_len()
    }

    /// Approximate size of what is pending: each snapshot writes it again.
    pub fn pending_bytes(&self) -> usize {
        self.document.pending_bytes()
    }

    /// True if there is no deleted content to drop.
    pub fn is_dormant(&self) -> bool {
        self.document.is_compact()
    }

    /// True if its memory cannot be reduced any further.
    pub fn is_minimal(&self) -> bool {
        self.is_dormant() && self.diff_cache.is_empty() && !self.awareness.is_cached()
    }

    /// True if handling this event takes milliseconds: it processes all of a large document.
    pub fn takes_long(&self, event: &Event) -> bool {
        let processes_all = match event {
            Event::Session(lease, SessionEvent::Step1 { state_vector }) => {
                self.shows_pending(*lease) || self.diff_cache.get(state_vector).is_none()
            }
            Event::Resync { .. } | Event::Compact | Event::MakeDormant => true,
            _ => false,
        };
        processes_all && self.document.bytes() > LARGE_DOCUMENT_BYTES
    }

    /// Processes one event and appends the resulting effects.
    pub fn handle(&mut self, event: Event, effects: &mut Vec<Effect>) {
        let has_ended = event.lease().is_some_and(|lease| self.leases.has_ended(lease));
        if has_ended && !matches!(event, Event::Leave { .. }) {
            return;
        }
        match event {
            Event::Open { lease, acks, documents } => self.open(lease, acks, documents, effects),
            Event::Session(lease, event) => self.handle_session(lease, event, effects),
            Event::DeferStep1 { lease, state_vector } => self.defer_step1(lease, &state_vector),
            Event::Resync { lease, floor } => self.resync(lease, floor.as_deref(), effects),
            Event::Leave { lease } => self.leave(lease, effects),
            Event::Durable { upto } => self.advance_durable(upto, effects),
            Event::StorageFailed => self.fail_storage(effects),
            Event::Compact => self.compact(effects),
            Event::MakeDormant => self.make_dormant(),
            Event::LimitGrowth { may_grow } => self.may_grow = may_grow,
        }
    }

    fn handle_session(&mut self, lease: LeaseId, event: SessionEvent, effects: &mut Vec<Effect>) {
        match event {
            SessionEvent::Resume { cursor, wants_state_vector, read_only } => {
                self.resume(lease, cursor.map(|cursor| *cursor), wants_state_vector, read_only, effects);
            }
            SessionEvent::Step1 { state_vector } => self.step1(lease, &state_vector, effects),
            SessionEvent::Update { update, origin, batch } => {
                self.update(lease, Submitted { update, origin, batch }, effects);
            }
            SessionEvent::Propose { batch, write } => self.propose(lease, batch, &write, effects),
            SessionEvent::Awareness { update } => self.apply_awareness(lease, &update, effects),
            SessionEvent::QueryAwareness => self.awareness.push_all(lease, effects),
            SessionEvent::Refused { batch, update, origin } => {
                self.refuse_read_only(lease, batch, (update, origin), effects);
            }
        }
    }

    /// A native session is not asked, and sends what it wants next: [`SessionEvent::Resume`].
    fn open(&mut self, lease: LeaseId, acks: Acks, documents: usize, effects: &mut Vec<Effect>) {
        self.leases.open(lease, acks);
        self.awareness.limit_share(lease, documents);
        if acks != Acks::Batches {
            self.ask(lease, effects);
            self.awareness.push_all(lease, effects);
        }
    }

    fn leave(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        self.owed_diffs.take(lease);
        self.leases.leave(lease);
        self.awareness.leave(lease, effects);
    }

    /// Closes a session; of a native or Hocuspocus session, only this document.
    fn close(&mut self, lease: LeaseId, close: Close, effects: &mut Vec<Effect>) {
        self.leases.end(lease);
        effects.push(Effect::Close { lease, close });
    }

    /// Asks a session for what the document lacks. Native sessions get the state vector when they open the
    /// document instead.
    fn ask(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if self.leases.change(lease, |step2| step2.note_asked()).is_some() {
            let frame = Frame::new(Message::Step1(self.document.state_vector()));
            effects.push(Effect::Reply { lease, frame });
        }
    }

    /// Appends a record to the log.
    fn append(&mut self, update: Bytes, effects: &mut Vec<Effect>) {
        self.diff_cache.clear();
        effects.push(Effect::Append { seq: self.history.append(), update });
    }

    /// Sends a change of the newest record to readers and adds it to the recent changes.
    fn broadcast(&mut self, frame: Arc<Frame>, author: Option<LeaseId>, effects: &mut Vec<Effect>) {
        self.history.note_sent(frame.message());
        effects.push(Effect::Broadcast { frame, author });
    }

    /// Sends a reply once everything so far is on disk.
    fn push_when_durable(&mut self, lease: LeaseId, batch: u64, reply: AckReply, effects: &mut Vec<Effect>) {
        if matches!(reply, AckReply::Saved { acks: 0, .. }) {
            return;
        }
        let waiting = WaitingAck { seq: self.last(), lease, batch, round: self.leases.round(lease), reply };
        if self.history.is_durable() {
            waiting.finish(effects);
        } else {
            self.acks.push(waiting);
        }
    }

    /// Sends a refusal, but not before acknowledgements of earlier updates: clients match them by their order.
    fn push_refusal(&mut self, lease: LeaseId, batch: u64, outcome: Outcome, effects: &mut Vec<Effect>) {
        if self.acks.has(lease) {
            self.push_when_durable(lease, batch, AckReply::Refused(outcome), effects);
        } else {
            effects.push(Effect::Ack { lease, batch, seq: self.last(), outcome, count: 1, echo: None });
        }
    }

    /// Every record up to `upto` is on disk: sends the acks that waited for it.
    fn advance_durable(&mut self, upto: Seq, effects: &mut Vec<Effect>) {
        let has_moved = self.history.advance_durable(upto);
        while let Some(waiting) = self.acks.pop(self.history.durable()) {
            if waiting.round == self.leases.round(waiting.lease) {
                waiting.finish(effects);
            }
        }
        if has_moved && self.leases.has_native() {
            effects.push(Effect::Durable { lease: None, seq: self.history.durable() });
        }
    }

    /// Nothing more will be durable: refuses all waiting updates and every later edit.
    fn fail_storage(&mut self, effects: &mut Vec<Effect>) {
        self.acks.refuse_all(effects);
        if self.history.fail() {
            let (seq, outcome) = (self.last(), Outcome::Refused);
            let refuse = |lease| Effect::Ack { lease, batch: 0, seq, outcome, count: 1, echo: None };
            effects.extend(self.leases.holding_echoes().map(refuse));
        }
    }

    /// Emits the compacted state up to [`Core::last`]; deleted content is removed. Pending updates are not part of
    /// it: they are appended again as new records before the snapshot replaces their first copies.
    fn compact(&mut self, effects: &mut Vec<Effect>) {
        if self.history.has_failed() {
            return;
        }
        let (upto, update) = (self.last(), self.document.compact());
        for pending in self.document.pending() {
            self.append(pending, effects);
        }
        effects.push(Effect::Snapshot { upto, update });
    }

    /// Drops what can be rebuilt.
    fn make_dormant(&mut self) {
        self.diff_cache.clear();
        self.awareness.drop_cache();
        self.document.compact();
    }
}
