//! Native readers: missed changes, pending updates, and the order of durable positions.

use bytes::Bytes;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Cursor, Resume};
use syncline_replica::{HubDocument, HubLimits};
use syncline_server::internals::{
    Acks, Core, CoreLimits, Effect, Event, LeaseId, LoadedDocument, Message, Origin, RecentChanges, SessionEvent,
};
use syncline_tests::document::{EPOCH, durable, handle, new_core};
use yrs::{Doc, Text, Transact};

const A: LeaseId = LeaseId(1);
const N: LeaseId = LeaseId(2);

fn core() -> Core {
    new_core(HubLimits::default())
}

fn at(seq: u64) -> Cursor {
    Cursor { epoch: EPOCH, seq: Seq(seq) }
}

fn change(update: &[u8]) -> Event {
    Event::Session(A, SessionEvent::Update { update: Bytes::copy_from_slice(update), origin: Origin::Change, batch: 1 })
}

/// Appends each part to the text; one update each.
fn typed(client: u64, parts: &[&str]) -> Vec<Vec<u8>> {
    let doc = Doc::with_client_id(client);
    let text = doc.get_or_insert_text("text");
    let type_one = |part: &&str| {
        let mut txn = doc.transact_mut();
        let end = text.len(&txn);
        text.insert(&mut txn, end, part);
        txn.encode_update_v1()
    };
    parts.iter().map(type_one).collect()
}

/// The reply to a native session that opens the document: how it continues, the changes it is sent, the
/// durable position.
type Answer = (Resume, Vec<Vec<u8>>, Option<u64>);

/// A native session opens the document and resumes.
fn open(core: &mut Core, cursor: Option<Cursor>, wants_state_vector: bool) -> Vec<Effect> {
    let opened = handle(core, Event::Open { lease: N, acks: Acks::Batches, documents: 1 });
    assert!(opened.is_empty(), "the reply follows its cursor: {opened:?}");
    let cursor = cursor.map(Box::new);
    handle(core, Event::Session(N, SessionEvent::Resume { cursor, wants_state_vector, read_only: false }))
}

fn resume(core: &mut Core, cursor: Option<Cursor>) -> Answer {
    let effects = open(core, cursor, false);
    let Some(Effect::Opened { resume, .. }) = effects.first() else { panic!("{effects:?}") };
    let mut missed = Vec::new();
    let mut durable = None;
    for effect in &effects[1..] {
        match effect {
            Effect::Missed { lease: N, frame } => {
                assert_eq!(durable, None, "the position must come after the frames it covers");
                let Message::Update(update) = frame.message() else { panic!() };
                missed.push(update.to_vec());
            }
            Effect::Durable { lease: Some(N), seq } => durable = Some(seq.0),
            other => panic!("{other:?}"),
        }
    }
    let answer = (*resume, missed, durable);
    handle(core, Event::Leave { lease: N });
    answer
}

#[test]
fn pending_update_enters_tail_when_it_is_integrated() {
    let mut core = core();
    let updates = typed(1, &["a", "b", "c"]);
    handle(&mut core, change(&updates[0]));
    handle(&mut core, change(&updates[2]));
    durable(&mut core, 2);
    assert_eq!(resume(&mut core, Some(at(1))), (Resume::FromCursor, vec![], Some(2)), "pending: not sent");
    handle(&mut core, change(&updates[1]));
    durable(&mut core, 3);
    let integrated = vec![updates[1].clone(), updates[2].clone()];
    // Position 2 was sent when the pending update was durable; its receiver does not have that update.
    for cursor in [1, 2] {
        assert_eq!(resume(&mut core, Some(at(cursor))), (Resume::FromCursor, integrated.clone(), Some(3)));
    }
    assert_eq!(resume(&mut core, Some(at(3))), (Resume::FromCursor, vec![], Some(3)));
    assert_eq!(resume(&mut core, Some(at(0))).1.len(), 3);
}

#[test]
fn durable_positions_follow_acks_and_reach_native_readers_only() {
    let mut core = core();
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    let updates = typed(1, &["a", "b"]);
    handle(&mut core, change(&updates[0]));
    assert!(!durable(&mut core, 1).iter().any(|effect| matches!(effect, Effect::Durable { .. })), "no native reader");
    open(&mut core, Some(at(1)), false);
    handle(&mut core, change(&updates[1]));
    assert!(durable(&mut core, 1).is_empty(), "the position has not changed");
    let effects = durable(&mut core, 2);
    assert!(
        matches!(
            &effects[..],
            [Effect::Ack { batch: 1, seq: Seq(2), .. }, Effect::Durable { lease: None, seq: Seq(2) }]
        ),
        "{effects:?}"
    );
}

#[test]
fn joining_or_resuming_client_gets_durable_position_only() {
    let mut core = core();
    let updates = typed(1, &["a", "b"]);
    handle(&mut core, change(&updates[0]));
    handle(&mut core, change(&updates[1]));
    durable(&mut core, 1);
    assert_eq!(resume(&mut core, Some(at(1))), (Resume::FromCursor, vec![updates[1].clone()], Some(1)));
    assert_eq!(resume(&mut core, None), (Resume::SendStateVector, vec![], None));
    open(&mut core, None, false);
    let effects = handle(&mut core, Event::Session(N, SessionEvent::Step1 { state_vector: Bytes::from_static(&[0]) }));
    assert!(
        matches!(&effects[..], [Effect::Diff { .. }, Effect::Durable { lease: Some(N), seq: Seq(1) }]),
        "{effects:?}"
    );
}

#[test]
fn cursor_of_another_history_ends_the_lease() {
    let mut core = core();
    let updates = typed(1, &["a"]);
    handle(&mut core, change(&updates[0]));
    for wrong in [Cursor { epoch: Epoch(2), seq: Seq(1) }, at(2)] {
        let effects = open(&mut core, Some(wrong), true);
        assert!(
            matches!(&effects[..], [Effect::Opened { resume: Resume::OtherHistory, state_vector: None, .. }]),
            "{effects:?}"
        );
        let update = Bytes::from(typed(9, &["other"]).remove(0));
        assert!(
            handle(&mut core, Event::Session(N, SessionEvent::Update { update, origin: Origin::Change, batch: 1 }))
                .is_empty()
        );
        assert!(
            handle(&mut core, Event::Session(N, SessionEvent::Step1 { state_vector: Bytes::from_static(&[0]) }))
                .is_empty()
        );
        assert_eq!(core.last(), Seq(1));
        handle(&mut core, Event::Leave { lease: N });
    }
    let beginning = Cursor { epoch: Epoch(2), seq: Seq::ZERO };
    assert_eq!(resume(&mut core, Some(beginning)).0, Resume::FromCursor);
}

#[test]
fn records_appended_again_by_snapshot_are_not_sent() {
    let mut core = core();
    let updates = typed(1, &["a", "b", "c"]);
    handle(&mut core, change(&updates[0]));
    handle(&mut core, change(&updates[2]));
    handle(&mut core, Event::Compact);
    durable(&mut core, 3);
    assert_eq!(core.last(), Seq(3));
    assert_eq!(resume(&mut core, Some(at(2))), (Resume::FromCursor, vec![], Some(3)));
}

#[test]
fn tail_of_loaded_document_is_unused_if_updates_were_pending() {
    let updates: Vec<Bytes> = typed(1, &["a", "b", "c"]).into_iter().map(Bytes::from).collect();
    let load = |order: [usize; 3]| {
        let records: Vec<Bytes> = order.iter().map(|&number| updates[number].clone()).collect();
        let tail = RecentChanges::of(Seq::ZERO, (1..).map(Seq).zip(&records).take(3).collect::<Vec<_>>().into_iter());
        let document = HubDocument::load(1, &records).unwrap();
        Core::new(LoadedDocument { document, newest: at(3), recent: tail }, CoreLimits::default())
    };
    let mut in_order = load([0, 1, 2]);
    assert_eq!(resume(&mut in_order, Some(at(2))), (Resume::FromCursor, vec![updates[2].to_vec()], Some(3)));
    let mut had_pending = load([0, 2, 1]);
    // Record 2 was sent to readers together with record 3: from the records alone, a client at position 2
    // would never receive it.
    assert_eq!(resume(&mut had_pending, Some(at(2))).0, Resume::SendStateVector);
    assert_eq!(resume(&mut had_pending, Some(at(3))), (Resume::FromCursor, vec![], Some(3)));
}
