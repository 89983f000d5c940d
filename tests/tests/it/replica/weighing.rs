//! An update is weighed, then entered: weighing changes nothing, and entering later does what taking the update immediately does.
//! The random test prints its seed; `SYNCLINE_SEED=<seed>` replays it.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_replica::{Full, HubDocument, HubLimits, Refused, WeighOutcome};
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, Map, Options, ReadTxn, StateVector, Text, Transact, Update, WriteTxn};

/// Everything that a document shows of itself.
fn shown(hub: &HubDocument) -> (Bytes, Bytes, Vec<Bytes>, usize, usize, bool) {
    let pending = hub.pending();
    (hub.state_vector(), hub.encode(), pending, hub.bytes(), hub.memory_bytes(), hub.is_compact())
}

/// An insertion, a second one behind it, a third one behind that, and a deletion of the first.
fn typed(client: u64) -> [Bytes; 4] {
    let doc = Doc::with_client_id(client);
    let text = doc.get_or_insert_text("text");
    let insert = |part: &str| {
        let mut txn = doc.transact_mut();
        let end = text.len(&txn);
        text.insert(&mut txn, end, part);
        Bytes::from(txn.encode_update_v1())
    };
    let inserted = [insert("one"), insert("two"), insert("three")];
    let mut txn = doc.transact_mut();
    text.remove_range(&mut txn, 0, 3);
    let [first, second, third] = inserted;
    [first, second, third, txn.encode_update_v1().into()]
}

#[test]
fn weighing_changes_nothing_whatever_the_verdict() {
    let [first, second, third, delete] = typed(1);
    let [other, ..] = typed(2);
    let elsewhere = typed(4);
    let [_, ahead, ..] = typed(3);
    let circle = [2, 1, 6, 0, 0x84, 5, 0, 1, b'b', 1, 5, 0, 0x84, 6, 0, 1, b'a', 0];
    let build = |limits: HubLimits| {
        let mut hub = HubDocument::new(9);
        // Ends with a deletion, after which no encoding is cached.
        for update in [&first, &third, &elsewhere[0], &elsewhere[3]] {
            hub.take(update).unwrap();
        }
        hub.limit(limits);
        hub
    };
    let none = HubLimits::default();
    let few_bytes = HubLimits { pending_bytes: third.len(), ..none };
    for (what, limits, update, verdict) in [
        ("empty", none, Bytes::from_static(&[0, 0]), Ok(WeighOutcome::Known)),
        ("known", none, first.clone(), Ok(WeighOutcome::Known)),
        ("known pending", none, third.clone(), Ok(WeighOutcome::Known)),
        ("new", none, other.clone(), Ok(WeighOutcome::Changed)),
        ("releasing", none, second.clone(), Ok(WeighOutcome::Changed)),
        ("deleting", none, delete.clone(), Ok(WeighOutcome::Changed)),
        ("pending", none, ahead.clone(), Ok(WeighOutcome::Pending)),
        ("no room", HubLimits { pending_entries: 1, ..none }, ahead.clone(), Ok(WeighOutcome::NoRoom)),
        ("no room in bytes", few_bytes, ahead, Ok(WeighOutcome::NoRoom)),
        ("full", HubLimits { bytes: 10, ..none }, other.clone(), Ok(WeighOutcome::Full(Full::Bytes))),
        ("too many clients", HubLimits { clients: 2, ..none }, other, Ok(WeighOutcome::Full(Full::Clients))),
        ("circular", none, Bytes::copy_from_slice(&circle), Err(Refused::Circular)),
    ] {
        let (mut hub, mut untouched) = (build(limits), build(limits));
        // Before anything is encoded, because encodings are cached.
        _ = hub.weigh(&update);
        assert_eq!(hub.memory_bytes(), untouched.memory_bytes(), "{what}");
        let before = shown(&untouched);
        for _ in 0..2 {
            assert_eq!(hub.weigh(&update).map(|weighed| weighed.outcome()), verdict, "{what}");
            assert_eq!(shown(&hub), before, "{what}: something has changed");
            assert!(hub.take_released().is_empty() && hub.take_touched().is_empty(), "{what}");
        }
        assert_eq!(hub.take(&update), untouched.take(&update), "{what}");
        assert_eq!(shown(&hub), shown(&untouched), "{what}");
        let enters = matches!(verdict, Ok(WeighOutcome::Changed | WeighOutcome::Pending));
        assert_eq!(shown(&hub) != before, enters, "{what}: only what is to be entered changes the document");
    }
    let mut hub = build(none);
    assert!(matches!(hub.weigh(&Bytes::from_static(&[1, 1])), Err(Refused::Unreadable(_))));
    hub.take(&delete).unwrap();
    assert_eq!(hub.weigh(&delete).map(|weighed| weighed.outcome()), Ok(WeighOutcome::Known), "deleted already");
}

/// Two documents with the same history: one takes each update, the other weighs it and enters it later.
struct Twins {
    random: StdRng,
    taker: HubDocument,
    weigher: HubDocument,
    /// The document may be compacted between weighing and entering: not if it has a limit on its bytes, which would then count
    /// differently.
    may_compact: bool,
    writers: Vec<Doc>,
    updates: Vec<Bytes>,
    outcomes: BTreeMap<String, usize>,
}

impl Twins {
    fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let limits = match random.random_range(0..4) {
            0 => HubLimits { bytes: random.random_range(50..400), ..HubLimits::default() },
            1 => HubLimits { clients: 2, pending_bytes: 200, ..HubLimits::default() },
            2 => HubLimits { pending_entries: 2, ..HubLimits::default() },
            _ => HubLimits::default(),
        };
        let hub = || {
            let mut hub = HubDocument::new(7);
            hub.limit(limits);
            hub
        };
        let writer = |client| Doc::with_options(Options { client_id: ClientID::new(client), ..Options::default() });
        let writers = (0..4).map(|_| writer(random.random_range(1..1 << 40))).collect();
        let may_compact = limits.bytes == usize::MAX;
        let (taker, weigher) = (hub(), hub());
        Self { random, taker, weigher, may_compact, writers, updates: Vec::new(), outcomes: BTreeMap::new() }
    }

    fn edit(&mut self) {
        let at = self.random.random_range(0..self.writers.len());
        let doc = self.writers[at].clone();
        let text = doc.get_or_insert_text("text");
        let mut txn = doc.transact_mut();
        let (len, at) = (text.get_string(&txn).len() as u32, self.random.random_range(0..=text.len(&txn)));
        match self.random.random_range(0..8) {
            0..4 => text.insert(&mut txn, at, "ab"),
            4 | 5 if len > 0 => {
                let at = self.random.random_range(0..len);
                text.remove_range(&mut txn, at, self.random.random_range(1..=len - at));
            }
            6 => _ = txn.get_or_insert_map("syncline:registers").insert(&mut txn, "status", i64::from(len)),
            _ => _ = txn.get_or_insert_map("map").insert(&mut txn, "key", i64::from(len)),
        }
        let update = Bytes::from(txn.encode_update_v1());
        drop(txn);
        self.updates.push(update.clone());
        if self.random.random_bool(0.5) {
            let to = self.random.random_range(0..self.writers.len());
            self.writers[to].transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
        }
    }

    /// An update that was made: alone, merged with another, a whole state, or with a byte changed.
    fn draw(&mut self) -> Option<Bytes> {
        let one = |random: &mut StdRng, updates: &[Bytes]| updates[random.random_range(0..updates.len())].clone();
        if self.updates.is_empty() {
            return None;
        }
        let update = one(&mut self.random, &self.updates);
        Some(match self.random.random_range(0..10) {
            0 => yrs::merge_updates_v1([&update, &one(&mut self.random, &self.updates)]).unwrap().into(),
            1 => {
                let at = self.random.random_range(0..self.writers.len());
                self.writers[at].transact().encode_state_as_update_v1(&StateVector::default()).into()
            }
            2 => {
                let mut bytes = update.to_vec();
                let at = self.random.random_range(0..bytes.len());
                bytes[at] ^= 1 << self.random.random_range(0..3);
                bytes.into()
            }
            _ => update,
        })
    }

    fn enter_one(&mut self, seed: u64) {
        let Some(update) = self.draw() else { return };
        let compacts = self.may_compact && self.random.random_bool(0.2);
        let other = self.draw().unwrap();
        let weighed = self.weigher.weigh(&update);
        // Later: other updates are weighed, readers join, the document becomes dormant.
        _ = self.weigher.weigh(&other);
        self.weigher.diff(&self.taker.state_vector());
        _ = self.weigher.weigh(&update);
        if compacts {
            self.taker.compact();
            self.weigher.compact();
        }
        let entered = weighed.map(|weighed| {
            let outcome = weighed.outcome();
            self.weigher.enter(weighed, None);
            outcome
        });
        let taken = self.taker.take(&update);
        assert_eq!(entered, taken, "SYNCLINE_SEED={seed}: {update:?}");
        assert_eq!(shown(&self.weigher), shown(&self.taker), "SYNCLINE_SEED={seed}: {update:?} {taken:?}");
        assert_eq!(self.weigher.take_released(), self.taker.take_released(), "SYNCLINE_SEED={seed}");
        assert_eq!(self.weigher.take_touched(), self.taker.take_touched(), "SYNCLINE_SEED={seed}");
        *self.outcomes.entry(taken.map_or("refused".into(), |taken| format!("{taken:?}"))).or_default() += 1;
    }
}

#[test]
fn entering_later_does_what_taking_does() {
    let replayed = std::env::var("SYNCLINE_SEED").ok().map(|seed| seed.parse().unwrap());
    let first = replayed.unwrap_or_else(|| rand::random::<u64>() >> 16);
    println!("SYNCLINE_SEED={first}");
    let mut outcomes = BTreeMap::<String, usize>::new();
    for seed in first..first + if replayed.is_some() { 1 } else { 300 } {
        let mut twins = Twins::new(seed);
        for _ in 0..60 {
            if twins.random.random_bool(0.5) { twins.edit() } else { twins.enter_one(seed) }
        }
        twins.outcomes.into_iter().for_each(|(outcome, count)| *outcomes.entry(outcome).or_default() += count);
    }
    println!("{outcomes:?}");
    if replayed.is_none() {
        for outcome in ["Known", "Changed", "Pending", "NoRoom", "Full(Bytes)", "Full(Clients)", "refused"] {
            assert!(outcomes.contains_key(outcome), "no update was {outcome}: {outcomes:?}");
        }
    }
}
