//! The core of a document: acks only after durability, joining, missing updates, storage failure.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::ids::Seq;
use syncline_replica::{HubDocument, HubLimits};
use syncline_server::internals::{Acks, Core, Effect, Event, LeaseId, Message, Origin, Outcome, SessionEvent};
use syncline_tests::document::{durable, handle, new_core};
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update};

pub(super) const A: LeaseId = LeaseId(1);
pub(super) const B: LeaseId = LeaseId(2);

pub(super) fn core() -> Core {
    new_core(HubLimits::default())
}

pub(super) fn change(lease: LeaseId, update: &[u8]) -> Event {
    Event::Session(
        lease,
        SessionEvent::Update { update: Bytes::copy_from_slice(update), origin: Origin::Change, batch: 0 },
    )
}

/// Appends each of `texts` to the text "text"; one update each.
pub(super) fn typed(client: u64, texts: &[&str]) -> (Doc, Vec<Vec<u8>>) {
    let doc = Doc::with_client_id(client);
    let text = doc.get_or_insert_text("text");
    let updates = texts
        .iter()
        .map(|part| {
            let mut txn = doc.transact_mut();
            let end = text.len(&txn);
            text.insert(&mut txn, end, part);
            txn.encode_update_v1()
        })
        .collect();
    (doc, updates)
}

fn text_of(update: &[u8]) -> String {
    let doc = Doc::new();
    let text = doc.get_or_insert_text("text");
    let mut txn = doc.transact_mut();
    txn.apply_update(Update::decode_v1(update).unwrap()).unwrap();
    text.get_string(&txn)
}

fn step2(effects: &[Effect]) -> Bytes {
    effects
        .iter()
        .find_map(|effect| match effect {
            Effect::Diff { frame, .. } => match frame.message() {
                Message::Step2(diff) => Some(diff.to_bytes()),
                _ => None,
            },
            _ => None,
        })
        .expect("a step 2")
}

pub(super) fn acks(effects: &[Effect]) -> Vec<(LeaseId, Outcome)> {
    let acks = |effect: &Effect| match effect {
        Effect::Ack { lease, outcome, count, .. } => vec![(*lease, *outcome); usize::try_from(*count).unwrap()],
        _ => Vec::new(),
    };
    effects.iter().flat_map(acks).collect()
}

pub(super) fn appended(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Append { .. })).count()
}

/// The snapshot, and the effects before it.
fn compact(core: &mut Core) -> (Seq, Bytes, Vec<Effect>) {
    let mut effects = handle(core, Event::Compact);
    let Some(Effect::Snapshot { upto, update }) = effects.pop() else { panic!("the last effect is no snapshot") };
    (upto, update, effects)
}

/// The snapshot's newest record, its text, and the number of records appended again before it.
pub(super) fn snapshot(core: &mut Core) -> (Seq, String, usize) {
    let (upto, state, before) = compact(core);
    (upto, text_of(&state), appended(&before))
}

pub(super) fn asks(effects: &[Effect], of: LeaseId) -> usize {
    let is_ask = |effect: &&Effect| {
        let Effect::Reply { lease, frame } = effect else { return false };
        *lease == of && matches!(frame.message(), Message::Step1(_))
    };
    effects.iter().filter(is_ask).count()
}

#[test]
fn update_is_broadcast_immediately_and_acked_when_durable() {
    let mut core = core();
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    let (_, updates) = typed(1, &["a"]);
    let effects = handle(&mut core, change(A, &updates[0]));
    assert!(matches!(&effects[..], [Effect::Append { seq: Seq(1), .. }, Effect::Broadcast { author: Some(A), .. }]));
    assert!(!core.is_settled());
    assert_eq!(acks(&durable(&mut core, 0)), []);
    let effects = durable(&mut core, 1);
    assert_eq!(acks(&effects), [(A, Outcome::Saved)]);
    let Effect::Ack { echo: Some(echo), .. } = &effects[0] else { panic!("no echo: {effects:?}") };
    let echoed = *echo.message() == Message::Update(updates[0].clone().into());
    assert!(echoed, "{effects:?}");
    assert!(core.is_settled());
}

#[test]
fn known_update_is_not_logged_again_and_acked_with_first_copy() {
    let mut core = core();
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    handle(&mut core, Event::Open { lease: B, acks: Acks::Each, documents: 1 });
    let (_, updates) = typed(1, &["a"]);
    handle(&mut core, change(A, &updates[0]));
    let effects = handle(&mut core, change(B, &updates[0]));
    assert_eq!(appended(&effects), 0);
    assert!(effects.is_empty(), "neither broadcast nor acked: the record is not durable yet");
    assert_eq!(acks(&durable(&mut core, 1)), [(A, Outcome::Saved), (B, Outcome::Saved)]);
    assert_eq!(acks(&handle(&mut core, change(B, &updates[0]))), [(B, Outcome::Saved)], "acked immediately");
}

#[test]
fn empty_step_2_is_acked_without_echo() {
    let mut core = core();
    let event = Event::Session(
        A,
        SessionEvent::Update { update: Bytes::from_static(&[0, 0]), origin: Origin::Step2, batch: 0 },
    );
    let effects = handle(&mut core, event);
    assert!(matches!(&effects[..], [Effect::Ack { lease: A, outcome: Outcome::Saved, echo: None, .. }]));
}

#[test]
fn joiner_gets_deletions_even_if_state_vectors_are_equal() {
    let mut core = core();
    let (doc, updates) = typed(1, &["hello"]);
    handle(&mut core, change(A, &updates[0]));
    let before = doc.transact().state_vector().encode_v1();
    let text = doc.get_or_insert_text("text");
    let delete = {
        let mut txn = doc.transact_mut();
        text.remove_range(&mut txn, 0, 4);
        txn.encode_update_v1()
    };
    assert_eq!(doc.transact().state_vector().encode_v1(), before, "deletions do not advance a state vector");
    let effects = handle(&mut core, change(A, &delete));
    assert_eq!(appended(&effects), 1);
    let effects = handle(&mut core, Event::Session(B, SessionEvent::Step1 { state_vector: before.into() }));
    let stale = Doc::new();
    let stale_text = stale.get_or_insert_text("text");
    for update in [&updates[0][..], &step2(&effects)] {
        stale.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
    }
    assert_eq!(stale_text.get_string(&stale.transact()), "o");
}

#[test]
fn joiners_at_same_seq_share_one_encoding_until_next_change() {
    let mut core = core();
    let (_, updates) = typed(1, &[&"a".repeat(1_000), "b"]);
    handle(&mut core, change(A, &updates[0]));
    let nothing = Bytes::from(StateVector::default().encode_v1());
    let join = |core: &mut Core, lease| {
        handle(core, Event::Session(lease, SessionEvent::Step1 { state_vector: nothing.clone() }))
    };
    let (first, second) = (step2(&join(&mut core, A)), step2(&join(&mut core, B)));
    assert_eq!(first.as_ptr(), second.as_ptr());
    handle(&mut core, change(A, &updates[1]));
    assert_eq!(text_of(&step2(&join(&mut core, B))).len(), 1_001);
}

#[test]
fn storage_failure_refuses_unacked_and_new_edits_but_not_reads() {
    let mut core = core();
    let (_, updates) = typed(1, &["a", "b"]);
    handle(&mut core, change(A, &updates[0]));
    assert_eq!(acks(&handle(&mut core, Event::StorageFailed)), [(A, Outcome::Refused)]);
    assert!(handle(&mut core, Event::StorageFailed).is_empty(), "refused once");
    assert!(handle(&mut core, Event::Compact).is_empty(), "the log takes no snapshot");
    let effects = handle(&mut core, change(A, &updates[1]));
    assert_eq!((acks(&effects), appended(&effects)), (vec![(A, Outcome::Refused)], 0));
    assert!(core.is_settled(), "no ack is outstanding");
    let effects = handle(
        &mut core,
        Event::Session(B, SessionEvent::Step1 { state_vector: StateVector::default().encode_v1().into() }),
    );
    assert_eq!(text_of(&step2(&effects)), "a");
}

#[test]
fn undecodable_update_closes_its_session_and_changes_nothing() {
    let mut core = core();
    let effects = handle(&mut core, change(A, &[1, 1]));
    assert!(matches!(&effects[..], [Effect::Close { lease: A, close: Close::BadMessage(_) }]), "{effects:?}");
    assert_eq!(core.last(), Seq::ZERO);
}

#[test]
fn resync_sends_diff_from_known_state_of_reader() {
    let mut core = core();
    let (_, updates) = typed(1, &["a", "b", "c"]);
    handle(&mut core, change(A, &updates[0]));
    let floor = core.known();
    handle(&mut core, change(A, &updates[1]));
    handle(&mut core, change(A, &updates[2]));
    let diff = step2(&handle(&mut core, Event::Resync { lease: B, floor: Some(Arc::new(floor)) }));
    let reader = Doc::new();
    let text = reader.get_or_insert_text("text");
    for update in [&updates[0][..], &diff] {
        reader.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
    }
    assert_eq!(text.get_string(&reader.transact()), "abc");
    assert!(diff.len() < compact(&mut core).1.len(), "only what the reader missed");
}

/// Nested arrays: `levels` types, each the child of the one before; the one at clock 0 is the child of a
/// root.
fn nested_arrays(client: u64, first_clock: u64, levels: u64) -> Vec<u8> {
    use syncline_protocol::varint::write_var_uint;
    let mut update = vec![1];
    write_var_uint(&mut update, levels);
    write_var_uint(&mut update, client);
    write_var_uint(&mut update, first_clock);
    for clock in first_clock..first_clock + levels {
        update.push(7);
        if clock == 0 {
            update.extend([1, 1, b'a']);
        } else {
            update.push(0);
            write_var_uint(&mut update, client);
            write_var_uint(&mut update, clock - 1);
        }
        update.push(0);
    }
    update.push(0);
    update
}

#[test]
fn deeply_nested_types_are_accepted_deleted_and_compacted() {
    let mut core = core();
    for part in 0..100 {
        let effects = handle(&mut core, change(A, &nested_arrays(1, part * 400, 400)));
        assert_eq!(appended(&effects), 1, "part {part}");
    }
    let before = compact(&mut core).1.len();
    // Deleting the root deletes all of them.
    assert_eq!(appended(&handle(&mut core, change(B, &[0, 1, 1, 1, 0, 1]))), 1);
    let (_, state, _) = compact(&mut core);
    // One deleted item, one GC range, and the same in the delete set.
    assert!(state.len() < 40, "{} of {before} bytes are left", state.len());
    let loaded = HubDocument::load(1, std::slice::from_ref(&state)).unwrap();
    assert_eq!(loaded.state_vector()[..], [1, 1, 0xc0, 0xb8, 0x02], "client 1 has 40,000 clocks");
}

#[test]
fn wide_documents_do_not_hit_depth_limit() {
    let mut core = core();
    let doc = Doc::with_client_id(1);
    let map = doc.get_or_insert_map("map");
    for number in 0..12_000 {
        let update = {
            let mut txn = doc.transact_mut();
            let inner: yrs::MapRef =
                yrs::Map::insert(&map, &mut txn, format!("key{number}"), yrs::MapPrelim::default());
            yrs::Map::insert(&inner, &mut txn, "x", number);
            txn.encode_update_v1()
        };
        let effects = handle(&mut core, change(A, &update));
        assert_eq!(appended(&effects), 1, "update {number}");
    }
}

#[test]
fn circular_update_is_refused_and_other_sessions_continue() {
    // The origin of client 1's item is client 2's item, and vice versa.
    let circle = [2, 1, 2, 0, 0x84, 1, 0, 1, b'b', 1, 1, 0, 0x84, 2, 0, 1, b'a', 0];
    let mut core = core();
    let effects = handle(&mut core, change(A, &circle));
    assert!(matches!(&effects[..], [Effect::Close { lease: A, close: Close::BadMessage(_) }]), "{effects:?}");
    let (_, updates) = typed(3, &["fine"]);
    assert_eq!(appended(&handle(&mut core, change(B, &updates[0]))), 1);
}

/// After a failure no record becomes durable: an ack that depends on one would keep the document in
/// memory forever.
#[test]
fn reader_with_nothing_new_gets_immediate_ack_after_storage_failure() {
    let mut core = core();
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    handle(&mut core, Event::Open { lease: B, acks: Acks::Each, documents: 1 });
    let (_, updates) = typed(1, &["a"]);
    handle(&mut core, change(A, &updates[0]));
    handle(&mut core, Event::StorageFailed);
    assert!(core.is_settled());
    let known = Event::Session(
        B,
        SessionEvent::Refused { batch: 7, update: Some(updates[0].clone().into()), origin: Origin::Step2 },
    );
    let effects = handle(&mut core, known);
    assert!(matches!(effects[..], [Effect::Ack { lease: B, batch: 7, outcome: Outcome::Unneeded, .. }]), "{effects:?}");
    assert!(core.is_settled());
}

/// A Hocuspocus client that has freed space in its own copy calls `forceSync()`.
#[test]
fn session_is_asked_again_on_resync_after_its_reply_was_refused() {
    let mut core = new_core(HubLimits { bytes: 200, ..HubLimits::default() });
    handle(&mut core, Event::Open { lease: A, acks: Acks::Counted, documents: 1 });
    let sync = || Event::Session(A, SessionEvent::Step1 { state_vector: Bytes::from_static(&[0]) });
    let step2 = |update: &[u8]| {
        let update = Bytes::copy_from_slice(update);
        Event::Session(A, SessionEvent::Update { update, origin: Origin::Step2, batch: 0 })
    };
    handle(&mut core, sync());
    handle(&mut core, step2(&[0, 0]));
    let (doc, updates) = typed(1, &["hello", &"x".repeat(300), "y"]);
    handle(&mut core, change(A, &updates[0]));
    let full = Outcome::Full(syncline_replica::Full::Bytes);
    assert_eq!(acks(&handle(&mut core, change(A, &updates[1]))), [(A, full)]);
    // It is pending on the refused update: the session is asked, and its reply is refused, too.
    assert_eq!(asks(&handle(&mut core, change(A, &updates[2])), A), 1);
    let everything = doc.transact().encode_state_as_update_v1(&StateVector::default());
    assert_eq!(acks(&handle(&mut core, step2(&everything))), [(A, full)]);
    doc.get_or_insert_text("text").remove_range(&mut doc.transact_mut(), 5, 300);
    assert_eq!(asks(&handle(&mut core, sync()), A), 1, "the server lacks updates");
    let everything = doc.transact().encode_state_as_update_v1(&StateVector::default());
    assert_eq!(acks(&handle(&mut core, step2(&everything))), []);
    assert_eq!(snapshot(&mut core).1, "helloy");
}

/// Two writers set the same key at the same time. Each client deletes the entry that loses, and none sends that deletion before its
/// next step 2.
#[test]
fn derived_deletion_is_not_refused_after_a_storage_failure() {
    let mut core = core();
    let reader = Doc::with_client_id(3);
    for client in [1, 2] {
        let doc = Doc::with_client_id(client);
        let map = doc.get_or_insert_map("map");
        let mut txn = doc.transact_mut();
        yrs::Map::insert(&map, &mut txn, "key", client as i64);
        let update = txn.encode_update_v1();
        assert_eq!(appended(&handle(&mut core, change(A, &update))), 1);
        reader.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
    }
    let known = reader.transact().state_vector();
    let step2 = Bytes::from(reader.transact().encode_diff_v1(&known));
    assert_eq!(step2[..], [0, 1, 1, 1, 0, 1], "only the deletion");
    handle(&mut core, Event::StorageFailed);
    let update = SessionEvent::Update { update: step2, origin: Origin::Step2, batch: 0 };
    assert_eq!(acks(&handle(&mut core, Event::Session(B, update))), [(B, Outcome::Unneeded)]);
}
