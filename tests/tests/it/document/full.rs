//! A document at its size limit: insertions are refused, and deletions up to twice the limit.

use bytes::Bytes;
use syncline_protocol::ids::Epoch;
use syncline_replica::{Full, HubDocument, HubLimits};
use syncline_server::internals::{
    Acks, Core, CoreLimits, Effect, Event, LeaseId, LoadedDocument, Origin, Outcome, SessionEvent,
};
use syncline_tests::document::{durable, handle, new_core};
use yrs::{Doc, Map, ReadTxn, StateVector, Text, Transact};

const A: LeaseId = LeaseId(1);
const LIMIT_BYTES: usize = 2_000;

/// The outcome of an update. The disk has it immediately.
fn outcome(core: &mut Core, update: Vec<u8>) -> Outcome {
    let event = SessionEvent::Update { update: Bytes::from(update), origin: Origin::Change, batch: 0 };
    let mut effects = handle(core, Event::Session(A, event));
    let last = core.last().0;
    effects.extend(durable(core, last));
    let acks = effects.iter().filter_map(|effect| match effect {
        Effect::Ack { outcome, .. } => Some(*outcome),
        _ => None,
    });
    acks.last().expect("an answer")
}

#[test]
fn deletions_are_refused_at_twice_the_size_limit() {
    let mut core = new_core(HubLimits { bytes: LIMIT_BYTES, ..HubLimits::default() });
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    let doc = Doc::with_client_id(1);
    let text = doc.get_or_insert_text("text");
    let insert = |part: &str| {
        let mut txn = doc.transact_mut();
        text.insert(&mut txn, 0, part);
        txn.encode_update_v1()
    };
    assert_eq!(outcome(&mut core, insert(&"x".repeat(1_900))), Outcome::Saved);
    assert_eq!(outcome(&mut core, insert(&"y".repeat(1_000))), Outcome::Full(Full::Bytes));
    // Every second letter: each deletion is a range of its own, and splits the text.
    let outcomes: Vec<Outcome> = (1_000..1_900)
        .map(|at| {
            let mut txn = doc.transact_mut();
            text.remove_range(&mut txn, at, 1);
            outcome(&mut core, txn.encode_update_v1())
        })
        .collect();
    let accepted = outcomes.iter().take_while(|outcome| **outcome == Outcome::Saved).count();
    assert!((100..300).contains(&accepted), "{accepted} deletions were accepted");
    assert!(outcomes[accepted..].iter().all(|outcome| *outcome == Outcome::Full(Full::Bytes)));
    assert_eq!(core.last().0, 1 + accepted as u64, "refused deletions are not logged");
}

#[test]
fn document_is_compacted_before_a_deletion_is_refused() {
    let doc = Doc::with_client_id(1);
    let map = doc.get_or_insert_map("map");
    for key in 0..100 {
        map.insert(&mut doc.transact_mut(), key.to_string(), "v".repeat(50));
    }
    let mut hub = HubDocument::new(9);
    let state = doc.transact().encode_state_as_update_v1(&StateVector::default());
    hub.take(&state.into()).unwrap();
    let remove = |key: u32| {
        let mut txn = doc.transact_mut();
        map.remove(&mut txn, &key.to_string());
        txn.encode_update_v1()
    };
    for key in 40..100 {
        hub.take(&remove(key).into()).unwrap();
    }
    // The deleted values still count.
    assert!(hub.bytes() > 2 * LIMIT_BYTES, "{}", hub.bytes());
    let limits = HubLimits { bytes: LIMIT_BYTES, ..HubLimits::default() };
    let loaded = LoadedDocument::empty(hub, Epoch(1));
    let mut core = Core::new(loaded, CoreLimits { hub: limits, ..CoreLimits::default() });
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    assert_eq!(outcome(&mut core, remove(0)), Outcome::Saved);
    let insert = {
        let mut txn = doc.transact_mut();
        map.insert(&mut txn, "new", "value");
        txn.encode_update_v1()
    };
    assert_eq!(
        outcome(&mut core, insert),
        Outcome::Full(Full::Bytes),
        "it is over the limit without the deleted values"
    );
}

#[test]
fn document_that_may_not_grow_closes_insertions_and_accepts_deletions() {
    let mut core = new_core(HubLimits::default());
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    let doc = Doc::with_client_id(1);
    let text = doc.get_or_insert_text("text");
    let insert = |part: &str| {
        let mut txn = doc.transact_mut();
        text.insert(&mut txn, 0, part);
        txn.encode_update_v1()
    };
    let (first, second) = (insert("first"), insert("second"));
    let deletion = vec![0, 1, 1, 1, 0, 3];
    assert_eq!(outcome(&mut core, first.clone()), Outcome::Saved);
    handle(&mut core, Event::LimitGrowth { may_grow: false });
    assert_eq!(outcome(&mut core, first), Outcome::Saved, "it is known");
    assert_eq!(outcome(&mut core, deletion), Outcome::Saved);
    let session =
        |update: &[u8]| SessionEvent::Update { update: update.to_vec().into(), origin: Origin::Change, batch: 0 };
    let effects = handle(&mut core, Event::Session(A, session(&second)));
    assert!(matches!(&effects[..], [Effect::Close { lease: A, close }] if close.code() == 4529), "{effects:?}");
    assert_eq!(core.last().0, 2, "it is not logged");
    // The client connects again, and sends it again.
    handle(&mut core, Event::Leave { lease: A });
    handle(&mut core, Event::LimitGrowth { may_grow: true });
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    assert_eq!(outcome(&mut core, second), Outcome::Saved);
}
