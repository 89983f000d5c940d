//! PURE: the state machine of one document: events in, effects out. No clock, no I/O, no runtime, no log.
//!
//! Architecture invariants:
//! - An ack is emitted only after its record's sequence number is durable ([`Core::durable`]).
//! - A change is broadcast when it is applied. An update that changes nothing is neither logged nor
//!   broadcast; it is acked at the current sequence number, which may not be durable yet.
//! - A step 1 is always answered, even if the state vectors are equal: deletions do not advance a state
//!   vector.
//! - After a storage failure no edit is accepted; the document stays readable.
//! - Every change sent to readers is added to the tail in the same step, under the same sequence number
//!   (`tail.rs`).

mod authors;
mod awareness;
mod joining;
mod memory;
mod native;
mod refuse;
mod registers;
mod unsynced;
mod waiting;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::Cursor;
use syncline_protocol::update::EMPTY_UPDATE;

use self::authors::Authors;
use self::joining::Answers;
use self::registers::Registers;
use self::unsynced::Unsynced;
use self::waiting::{Answer, WaitingAck};
use super::event::{Acks, Effect, Event, Origin, Outcome};
use super::frame::{Frame, Message};
use super::presence::Presence;
use super::tail::Tail;
use crate::ids::LeaseId;
use syncline_replica::{Entered, HubDocument, HubLimits, Known};

#[derive(Debug, Default)]
struct Lease {
    /// It was asked for missing updates and has not supplied any: asking again could loop forever.
    asked_for_missing: bool,
    /// It resumes by cursor and receives durable positions.
    native: bool,
    /// It was sent a step 1 and has not replied with a step 2.
    is_asked: bool,
    /// Mirrors the client's counter of unsynced changes; `None` if its dialect has none.
    unsynced: Option<Box<Unsynced>>,
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
    tail: Tail,
    /// Newest sequence number known to be on disk.
    durable: Seq,
    leases: HashMap<LeaseId, Lease>,
    /// Number of native leases in `leases`.
    native_leases: usize,
    /// Leases closed by the document that have not sent `Leave` yet; their events are ignored.
    ended: BTreeSet<LeaseId>,
    presence: Presence,
    /// Cached encoding of all awareness states; kept only if it is large, dropped on every change.
    everyone: Option<Arc<Frame>>,
    /// Leases that sent the pending updates.
    authors: Authors,
    /// Decided states of versioned registers; `None` for the many documents without registers.
    registers: Option<Box<Registers>>,
    /// Acks waiting for the disk, by ascending sequence number.
    waiting: VecDeque<WaitingAck>,
    /// Memory held by `waiting`, in bytes.
    waiting_bytes: usize,
    /// Recent step 2 replies, shared by sessions with the same state vector. Cleared by every change.
    answers: Answers,
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
            registers: Registers::of(&document),
            document,
            epoch,
            last,
            tail: Tail::after(last),
            durable: last,
            leases: HashMap::new(),
            native_leases: 0,
            ended: BTreeSet::new(),
            presence: Presence::default(),
            everyone: None,
            authors: Authors::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            answers: Answers::default(),
            storage_failed: false,
            dropped_states: 0,
        }
    }

    /// Limits the bytes of awareness states per lease.
    #[must_use]
    pub fn with_presence_limit(self, presence_bytes: usize) -> Self {
        Self { presence: Presence::with_limit(presence_bytes), ..self }
    }

    /// Adds the changes at the end of the stored history, for clients that resume from a cursor. They are not
    /// used if an update was pending during the load: the records then do not show when readers received it.
    #[must_use]
    pub fn with_tail(self, tail: Tail) -> Self {
        if self.document.has_waited_at_load() { self } else { Self { tail, ..self } }
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
                self.tell_durable(lease, effects);
            }
            Event::Update { lease, update, origin, batch } => {
                self.note_answer(lease, origin);
                self.update(lease, (update, origin, batch), effects);
            }
            Event::Propose { lease, batch, write } => self.propose(lease, batch, &write, effects),
            Event::Awareness { lease, update } => self.take_awareness(lease, &update, effects),
            Event::QueryAwareness { lease } => self.show_everyone(lease, effects),
            Event::Refused { lease, batch, update, origin } => {
                self.note_answer(lease, origin);
                self.forbid(lease, batch, (update, origin), effects);
            }
            Event::Resync { .. } => {} // The task calls `Core::resync`: it knows the reader's checkpoint.
            Event::Leave { lease } => {
                let left = self.leases.remove(&lease);
                self.native_leases -= usize::from(left.is_some_and(|lease| lease.native));
                self.ended.remove(&lease);
                self.authors.leave(lease);
                self.leave_presence(lease, effects);
            }
        }
    }

    /// Brings a reader up to date with one diff from `floor`, or from the empty state.
    pub fn resync(&mut self, lease: LeaseId, floor: Option<&Known>, effects: &mut Vec<Effect>) {
        let from_nothing = Known::default();
        let diff = self.document.diff_since(floor.unwrap_or(&from_nothing));
        effects.push(Effect::Diff { lease, frame: Frame::at(self.last, Message::Step2(diff)) });
        self.tell_durable(lease, effects);
        self.send_presence(lease, effects);
    }

    fn open(&mut self, lease: LeaseId, acks: Acks, effects: &mut Vec<Effect>) {
        let unsynced = (acks == Acks::Counted).then(Box::default);
        self.leases.insert(lease, Lease { unsynced, ..Lease::default() });
        self.ask(lease, effects);
        self.show_everyone(lease, effects);
    }

    fn update(&mut self, lease: LeaseId, (update, origin, batch): (Bytes, Origin, u64), effects: &mut Vec<Effect>) {
        if self.storage_failed {
            // Every client replies to our step 1, even a read-only one: that is not an edit to refuse.
            let unneeded = origin == Origin::Step2 && self.document.inserts_nothing_new(&update);
            let outcome = if unneeded { Outcome::Unneeded } else { Outcome::Refused };
            effects.push(Effect::Ack { lease, batch, seq: self.last, outcome, echo: None });
            return;
        }
        let waited_before = self.document.pending().len();
        let is_empty = update[..] == EMPTY_UPDATE;
        let entered = match self.document.take(&update) {
            Ok(entered) => entered,
            Err(refused) => return self.refuse(lease, &refused, effects),
        };
        let frame = match entered {
            Entered::Known => Frame::at(self.last, Message::Update(update)),
            // A pending update is logged so that it is not lost; readers get it once it is integrated.
            Entered::Waits | Entered::Changed => {
                if entered == Entered::Waits {
                    self.authors.waits(self.document.pending().last().cloned(), lease);
                }
                let frame = Frame::change(self.last.next(), update);
                if let Message::Update(update) = frame.message() {
                    self.append(update.clone(), effects);
                }
                frame
            }
            Entered::NoRoom => {
                let close = Close::TooMany("too many pending updates with missing dependencies".into());
                return self.close(lease, close, effects);
            }
            Entered::Full(full) => {
                let (seq, outcome) = (self.last, Outcome::Full(full));
                return effects.push(Effect::Ack { lease, batch, seq, outcome, echo: None });
            }
        };
        if entered == Entered::Changed {
            self.broadcast(Arc::clone(&frame), Some(lease), effects);
            for freed in self.document.take_freed() {
                let author = self.authors.freed(&freed);
                self.broadcast(Frame::at(self.last, Message::Update(freed)), author, effects);
            }
            self.hold_registers(effects);
        }
        let acks = match frame.message() {
            Message::Update(update) => self.acks_of(lease, &update.clone(), origin),
            _ => 1,
        };
        let is_echoed = origin == Origin::Change || (!is_empty && self.presence.may_speak_yjs14(lease));
        self.answer(lease, batch, Answer::Saved { echo: is_echoed.then_some(frame), acks }, effects);
        if entered == Entered::Waits {
            self.ask_for_missing(lease, effects);
        } else if self.document.pending().len() < waited_before {
            self.leases.values_mut().for_each(|lease| lease.asked_for_missing = false);
        }
    }

    /// Sends a change of the newest record to readers and adds it to the tail.
    fn broadcast(&mut self, frame: Arc<Frame>, author: Option<LeaseId>, effects: &mut Vec<Effect>) {
        if let Message::Update(update) = frame.message() {
            self.tail.push(self.last, update);
        }
        effects.push(Effect::Broadcast { frame, author });
    }

    fn append(&mut self, update: Bytes, effects: &mut Vec<Effect>) {
        self.last = self.last.next();
        self.answers.clear();
        effects.push(Effect::Append { seq: self.last, update });
    }

    /// Asks the sender of a pending update for its missing dependencies, once.
    fn ask_for_missing(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if let Some(state) = self.leases.get_mut(&lease)
            && !state.asked_for_missing
        {
            state.asked_for_missing = true;
            self.ask(lease, effects);
        }
    }

    /// Every step 2 counts as the reply to our step 1, even if it is refused.
    fn note_answer(&mut self, lease: LeaseId, origin: Origin) {
        if let Some(lease) = self.leases.get_mut(&lease).filter(|_| origin == Origin::Step2) {
            lease.is_asked = false;
        }
    }

    /// Asks a session for what the document lacks. Native sessions get the state vector when they open the
    /// document instead.
    fn ask(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            if lease.native {
                return;
            }
            lease.is_asked = true;
        }
        let frame = Frame::new(Message::Step1(self.document.state_vector()));
        effects.push(Effect::Answer { lease, frame });
    }
}
