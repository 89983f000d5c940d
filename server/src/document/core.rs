//! PURE: what one document does with what it is told. No clock, no I/O, no runtime, no log.
//!
//! Architecture invariants:
//! - An ack leaves only when its record's Seq is durable ([`Core::durable`] tells).
//! - A change is broadcast on apply; one that changes nothing is neither logged nor broadcast, and acked at the
//!   current Seq (it may still be on its way to the disk).
//! - A step 1 is always answered, equal state vectors or not: deletions do not move a state vector.
//! - After storage has failed nothing is taken any more; reading goes on.
//! - What readers are sent enters the tail at the same moment, under the same Seq (`tail.rs`).

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
    /// It was asked for what is missing and nothing came of it yet: asking again would go round for ever.
    asked_for_missing: bool,
    /// It goes by cursors, and is told durable positions.
    native: bool,
    /// It was sent a step 1 and has not answered.
    is_asked: bool,
    /// The number that its client shows, if it counts.
    unsynced: Option<Box<Unsynced>>,
}

/// One document. Owned by its task (or by a test, a simulator, a fuzzer).
#[derive(Debug)]
pub struct Core {
    document: HubDocument,
    /// Which history this is.
    epoch: Epoch,
    /// The newest record's number.
    last: Seq,
    /// The newest changes, for clients that missed a few.
    tail: Tail,
    /// The newest one known to be on disk.
    durable: Seq,
    leases: HashMap<LeaseId, Lease>,
    /// How many of them are native.
    native_leases: usize,
    /// Leases that were ended and have not left: what they said before they heard of it is not taken.
    ended: BTreeSet<LeaseId>,
    presence: Presence,
    /// Everyone's presence as it was sent last, if it is large and nothing has changed since.
    everyone: Option<Arc<Frame>>,
    /// Of what waits.
    authors: Authors,
    /// Of few documents.
    registers: Option<Box<Registers>>,
    /// In Seq order.
    waiting: VecDeque<WaitingAck>,
    /// What they take.
    waiting_bytes: usize,
    /// For those who ask the same. Outdated by every change.
    answers: Answers,
    storage_failed: bool,
    /// Awareness states over a limit; taken by [`Core::take_dropped_states`].
    dropped_states: usize,
}

impl Core {
    /// A document as its log tells it; `newest` is the last record in it.
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

    /// With a limit on the bytes of presence that one lease may show.
    #[must_use]
    pub fn with_presence_limit(self, presence_bytes: usize) -> Self {
        Self { presence: Presence::with_limit(presence_bytes), ..self }
    }

    /// With the end of the stored history, for clients that come from before. Not if something was pending while it was
    /// loaded: then the records do not tell when readers got what.
    #[must_use]
    pub fn with_tail(self, tail: Tail) -> Self {
        if self.document.has_waited_at_load() { self } else { Self { tail, ..self } }
    }

    /// The newest record's number.
    pub fn last(&self) -> Seq {
        self.last
    }

    /// True when every ack has been given and every record is on disk.
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && (self.durable >= self.last || self.storage_failed)
    }

    /// How many awareness states were dropped since this was last asked.
    pub fn take_dropped_states(&mut self) -> usize {
        std::mem::take(&mut self.dropped_states)
    }

    /// How many sessions talk to it.
    pub fn lease_count(&self) -> usize {
        self.leases.len()
    }

    /// How far it has come.
    pub fn known(&self) -> Known {
        self.document.known()
    }

    /// The state up to [`Core::last`] as it is now, to replace the records before; deleted content is dropped from it. What
    /// waits is not in it and is appended again, behind it.
    pub fn snapshot(&mut self, effects: &mut Vec<Effect>) -> (Seq, Bytes) {
        let (upto, state) = (self.last, self.document.compact());
        for update in self.document.pending().cloned().collect::<Vec<_>>() {
            self.append(update, effects);
        }
        (upto, state)
    }

    /// Takes one event.
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
            Event::Resync { .. } => {} // The shell knows how far the reader has come: `Core::resync`.
            Event::Leave { lease } => {
                let left = self.leases.remove(&lease);
                self.native_leases -= usize::from(left.is_some_and(|lease| lease.native));
                self.ended.remove(&lease);
                self.authors.leave(lease);
                self.leave_presence(lease, effects);
            }
        }
    }

    /// Brings a reader up to date from `floor`, or from nothing.
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
            // Every client answers our step 1, also one that only reads: that is no edit to refuse.
            let unneeded = origin.is_step2() && self.document.inserts_nothing_new(&update);
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
            // What waits is logged, so it is not lost; the readers get it when it is freed.
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
                let close = Close::TooMany("too many updates that wait for others which never came".into());
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
        let is_echoed = !origin.is_step2() || (!is_empty && self.presence.may_speak_yjs14(lease));
        self.answer(lease, batch, Answer::Saved { echo: is_echoed.then_some(frame), acks }, effects);
        if entered == Entered::Waits {
            self.ask_for_missing(lease, effects);
        } else if self.document.pending().len() < waited_before {
            self.leases.values_mut().for_each(|lease| lease.asked_for_missing = false);
        }
    }

    /// Readers are sent a change of the newest record.
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

    /// Something waits for an update that has not come: ask its author, once.
    fn ask_for_missing(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        if let Some(state) = self.leases.get_mut(&lease)
            && !state.asked_for_missing
        {
            state.asked_for_missing = true;
            self.ask(lease, effects);
        }
    }

    /// A step 2 answers the question that the session was asked, also when it is not taken.
    fn note_answer(&mut self, lease: LeaseId, origin: Origin) {
        if let Some(lease) = self.leases.get_mut(&lease).filter(|_| origin.is_step2()) {
            lease.is_asked = false;
        }
    }

    /// Asks for what the document lacks. A native session has no such question: it is told the state vector when it
    /// opens the document.
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
