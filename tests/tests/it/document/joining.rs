//! A joining client gets the complete document in the step 2 that completes its sync.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::awareness::{AwarenessEntry, encode};
use syncline_replica::{HubLimits, Replica};
use syncline_server::internals::{Acks, Core, Effect, Event, LeaseId, Message, Origin, SessionEvent};
use syncline_tests::document::{handle, new_core};
use syncline_tests::fixtures::numbers;
use yrs::block::ClientID;
use yrs::{Doc, GetString, Options, ReadTxn, Text, Transact};

const A: LeaseId = LeaseId(1);
const B: LeaseId = LeaseId(2);

/// The text that a client with an empty document receives when it joins.
fn joined(core: &mut Core) -> String {
    let effects = handle(core, Event::Session(B, SessionEvent::Step1 { state_vector: Bytes::from_static(&[0]) }));
    let [Effect::Diff { frame, .. }] = &effects[..] else { panic!("expected one diff, got {effects:?}") };
    let Message::Step2(update) = frame.message() else { panic!("{frame:?}") };
    assert_eq!(frame.seq(), core.last());
    let replica = Replica::load(std::iter::once(update.to_bytes())).unwrap();
    assert_eq!(replica.pending().len(), 0);
    replica.read(|txn| txn.get_text("text").map_or(String::new(), |text| text.get_string(txn)))
}

#[test]
fn joining_large_document_includes_newest_changes() {
    let doc = Doc::with_options(Options::with_client_id(ClientID::new(7)));
    let text = doc.get_or_insert_text("text");
    let mut core = new_core(HubLimits::default());
    let typed = |at: u32, typed: &str| {
        let mut txn = doc.transact_mut();
        text.insert(&mut txn, at, typed);
        Event::Session(
            A,
            SessionEvent::Update { update: txn.encode_update_v1().into(), origin: Origin::Change, batch: 1 },
        )
    };
    handle(&mut core, typed(0, &"the document is big ".repeat(10_000)));
    let whole = joined(&mut core);
    for (number, at) in [0, 40, 100_000, 7].into_iter().enumerate() {
        handle(&mut core, typed(at, &format!("[{number}]")));
        let now = joined(&mut core);
        assert_eq!(now.len(), whole.len() + 3 * (number + 1));
        assert_eq!(now, text.get_string(&doc.transact()));
    }
    let mut txn = doc.transact_mut();
    text.remove_range(&mut txn, 5, 9);
    let update = txn.encode_update_v1().into();
    drop(txn);
    handle(&mut core, Event::Session(A, SessionEvent::Update { update, origin: Origin::Change, batch: 2 }));
    assert_eq!(joined(&mut core), text.get_string(&doc.transact()));
}

#[test]
fn all_awareness_is_encoded_once_until_it_changes() {
    let mut core = new_core(HubLimits::default());
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    let large = format!("\"{}\"", "x".repeat(100_000));
    let show = |core: &mut Core, clock| {
        let update = encode([AwarenessEntry { client: 7, clock, state: &large }].into_iter()).into();
        handle(core, Event::Session(A, SessionEvent::Awareness { update }));
        core.all_awareness().unwrap()
    };
    let first = show(&mut core, 1);
    assert!(Arc::ptr_eq(&first, &core.all_awareness().unwrap()));
    let second = show(&mut core, 2);
    assert!(!Arc::ptr_eq(&first, &second) && first.message() != second.message());
    handle(&mut core, Event::Leave { lease: A });
    assert!(core.all_awareness().is_none(), "no client has a state");
}

#[test]
fn kept_step_1_is_counted_until_it_is_answered_or_its_session_leaves() {
    let mut core = new_core(HubLimits::default());
    for lease in [A, B] {
        handle(&mut core, Event::Open { lease, acks: Acks::Each, documents: 1 });
    }
    let before = core.memory_bytes();
    let state_vector: Bytes = vec![0; 10_000].into();
    for lease in [A, A, B] {
        handle(&mut core, Event::DeferStep1 { lease, state_vector: state_vector.clone() });
    }
    assert!(core.memory_bytes() >= before + 20_000);
    handle(&mut core, Event::Leave { lease: B });
    assert!((before + 5_000..before + 15_000).contains(&core.memory_bytes()), "{}", core.memory_bytes());
    handle(&mut core, Event::Resync { lease: A, floor: None });
    assert!(core.memory_bytes() < before + 5_000);
}

#[test]
fn clocks_of_a_counting_client_are_counted_and_limited() {
    const CLOCKS_BYTES: usize = 64 * 1024;
    let mut core = new_core(HubLimits::default());
    let state_vector = |clients: u64| -> Bytes {
        let entries = (0..clients).flat_map(|client| [(1 << 31) + client, 1]);
        numbers(&std::iter::once(clients).chain(entries).collect::<Vec<_>>()).into()
    };
    let step1 = |core: &mut Core, lease, clients| {
        handle(core, Event::DeferStep1 { lease, state_vector: state_vector(clients) });
    };
    handle(&mut core, Event::Open { lease: A, acks: Acks::Counted, documents: 1 });
    let before = core.memory_bytes();
    for _ in 0..2 {
        step1(&mut core, A, 4_000);
        assert!(
            (before + 60_000..=before + CLOCKS_BYTES + 100).contains(&core.memory_bytes()),
            "{}",
            core.memory_bytes()
        );
    }
    let step2 = SessionEvent::Update { update: Bytes::from_static(&[0, 0]), origin: Origin::Step2, batch: 1 };
    handle(&mut core, Event::Session(A, step2));
    assert!(core.memory_bytes() < before + 1_000, "not needed after the step 2");
    step1(&mut core, A, 5_000);
    assert!(core.memory_bytes() < before + 1_000, "too many clients");
    handle(&mut core, Event::Leave { lease: A });

    let before = core.memory_bytes();
    for lease in (1..=600).map(LeaseId) {
        handle(&mut core, Event::Open { lease, acks: Acks::Counted, documents: 1 });
        step1(&mut core, lease, 4_000);
    }
    let limit = 16 * 1024 * 1024;
    assert!((before + limit - CLOCKS_BYTES..before + limit + 600_000).contains(&core.memory_bytes()));
    for lease in (1..=600).map(LeaseId) {
        handle(&mut core, Event::Leave { lease });
    }
    assert!(core.memory_bytes() < before + 100_000);
}
