//! Updates with missing dependencies in a document: kept, shown when they can be, asked for, bounded.

use bytes::Bytes;
use syncline_protocol::awareness::{AwarenessEntry, encode};
use syncline_protocol::ids::Seq;
use syncline_replica::HubLimits;
use syncline_server::internals::{Acks, Core, Effect, Event, Message, Origin, Outcome, SessionEvent};
use syncline_tests::document::{handle, new_core};

use super::core::{A, B, acks, appended, asks, change, core, snapshot, typed};

#[test]
fn pending_update_is_kept_and_its_author_asked_once() {
    let mut core = core();
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    let (_, updates) = typed(1, &["a", "b", "c"]);
    let effects = handle(&mut core, change(A, &updates[2]));
    assert_eq!(appended(&effects), 1, "the update is logged");
    assert_eq!(asks(&effects, A), 1);
    let effects = handle(&mut core, change(A, &updates[1]));
    assert_eq!((appended(&effects), asks(&effects, A)), (1, 0), "asking for every update could loop forever");
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::Broadcast { .. })),
        "a pending update is not broadcast to clients that could not keep it"
    );
    let effects = handle(&mut core, change(A, &updates[0]));
    let broadcast: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Broadcast { frame, author } => Some((frame.message().clone(), *author)),
            _ => None,
        })
        .collect();
    let update = |number: usize| Message::Update(updates[number].clone().into());
    let by_a = |number: usize| (update(number), Some(A));
    assert_eq!(broadcast, [by_a(0), by_a(1), by_a(2)], "each is broadcast when it can be integrated");
    assert_eq!(snapshot(&mut core), (Seq(3), "abc".to_owned(), 0));
}

#[test]
fn clients_of_yjs_14_get_what_is_pending() {
    let mut core = core();
    let (_, updates) = typed(1, &["a", "b", "c"]);
    let pending_for = |effects: &[Effect]| {
        let pending = effects.iter().filter_map(|effect| match effect {
            Effect::Pending { lease, frame } => Some((*lease, frame.message().clone())),
            _ => None,
        });
        pending.collect::<Vec<_>>()
    };
    let announce = |client: u64| {
        let entry = AwarenessEntry { client, clock: 1, state: "{}" };
        SessionEvent::Awareness { update: encode([entry].into_iter()).into() }
    };
    for lease in [A, B] {
        handle(&mut core, Event::Open { lease, acks: Acks::Each, documents: 1 });
    }
    let b = Message::Update(updates[1].clone().into());
    assert!(pending_for(&handle(&mut core, change(A, &updates[1]))).is_empty());
    assert!(pending_for(&handle(&mut core, Event::Session(A, announce(7)))).is_empty(), "an id of Yjs 13");
    let announced = handle(&mut core, Event::Session(B, announce(1 << 40)));
    assert_eq!(pending_for(&announced), [(B, b)], "when it has announced itself");
    let effects = handle(&mut core, change(A, &updates[2]));
    assert_eq!(pending_for(&effects), [(B, Message::Update(updates[2].clone().into()))]);
}

#[test]
fn integrated_pending_update_is_not_sent_to_its_author() {
    let mut core = core();
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    handle(&mut core, Event::Open { lease: B, acks: Acks::Each, documents: 1 });
    let (_, updates) = typed(1, &["a", "b", "c"]);
    handle(&mut core, change(A, &updates[1]));
    handle(&mut core, change(B, &updates[2]));
    handle(&mut core, Event::Leave { lease: B });
    let effects = handle(&mut core, change(A, &updates[0]));
    let authors: Vec<_> = effects
        .iter()
        .filter_map(|effect| if let Effect::Broadcast { author, .. } = effect { Some(*author) } else { None })
        .collect();
    assert_eq!(authors, [Some(A), Some(A), None], "a lease that has left is not an author");
}

#[test]
fn snapshot_appends_pending_updates_again() {
    let mut core = core();
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    let (_, updates) = typed(1, &["a", "b", "c"]);
    handle(&mut core, change(A, &updates[0]));
    handle(&mut core, change(A, &updates[2]));
    assert_eq!(snapshot(&mut core), (Seq(2), "a".to_owned(), 1));
    assert_eq!(core.last(), Seq(3));
}

#[test]
fn pending_updates_are_bounded_and_other_authors_unaffected() {
    let limits = HubLimits { pending_entries: 3, ..HubLimits::default() };
    let mut core = new_core(limits);
    handle(&mut core, Event::Open { lease: A, acks: Acks::Each, documents: 1 });
    handle(&mut core, Event::Open { lease: B, acks: Acks::Each, documents: 1 });
    let (_, lost) = typed(1, &["0", "1", "2", "3", "4", "5"]);
    let (_, healthy) = typed(2, &["a"; 20]);
    handle(&mut core, change(A, &lost[5]));
    for update in &healthy {
        let effects = handle(&mut core, change(B, update));
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Close { .. })), "{effects:?}");
    }
    handle(&mut core, change(A, &lost[4]));
    handle(&mut core, change(A, &lost[3]));
    let effects = handle(&mut core, change(A, &lost[2]));
    assert!(effects.is_empty(), "not logged, not acknowledged, and the step 2 is on its way: {effects:?}");
    handle(&mut core, change(A, &lost[1]));
    let all = yrs::merge_updates_v1(&lost).unwrap();
    let (last, origin) = (core.last().next(), Origin::Step2);
    handle(&mut core, Event::Session(A, SessionEvent::Update { update: all.into(), origin, batch: 0 }));
    let saved = acks(&handle(&mut core, Event::Durable { upto: last }));
    assert_eq!(saved.iter().filter(|ack| **ack == (A, Outcome::Saved)).count(), 3 + 1, "{saved:?}");
}

#[test]
fn step_2_without_room_for_its_pending_part_is_refused_and_the_other_part_applied() {
    let mut core = new_core(HubLimits { pending_entries: 0, ..HubLimits::default() });
    for lease in [A, B] {
        handle(&mut core, Event::Open { lease, acks: Acks::Each, documents: 1 });
    }
    let (_, own) = typed(1, &["own"]);
    let (_, foreign) = typed(2, &["lost", "late"]);
    let both = yrs::merge_updates_v1([&own[0], &foreign[1]]).unwrap();
    let update = SessionEvent::Update { update: both.into(), origin: Origin::Step2, batch: 0 };
    let effects = handle(&mut core, Event::Session(A, update));
    assert_eq!(acks(&effects), [(A, Outcome::TooManyPending)], "not acknowledged");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Close { .. })), "and not closed");
    assert_eq!(snapshot(&mut core), (Seq(1), "own".to_owned(), 0));
}

#[test]
fn hocuspocus_counter_is_lowered_for_updates_that_were_not_kept() {
    let mut core = new_core(HubLimits { pending_entries: 0, ..HubLimits::default() });
    let send = |core: &mut _, update: Vec<u8>, origin| {
        let update = SessionEvent::Update { update: update.into(), origin, batch: 0 };
        let mut effects = handle(core, Event::Session(A, update));
        let upto = core.last();
        effects.extend(handle(core, Event::Durable { upto }));
        acks(&effects).into_iter().filter(|ack| *ack == (A, Outcome::Saved)).count()
    };
    handle(&mut core, Event::Open { lease: A, acks: Acks::Counted, documents: 1 });
    let step1 = || Event::Session(A, SessionEvent::Step1 { state_vector: vec![0].into() });
    handle(&mut core, step1());
    assert_eq!(send(&mut core, vec![0, 0], Origin::Step2), 1);
    let (_, updates) = typed(1, &["a", "b", "c"]);
    assert_eq!(send(&mut core, updates[1].clone(), Origin::Change), 0, "there is no room");
    let all = || yrs::merge_updates_v1(&updates[..2]).unwrap();
    assert_eq!(send(&mut core, all(), Origin::Step2), 1, "the reply to a question of the server has the update");
    handle(&mut core, step1());
    assert_eq!(send(&mut core, vec![0, 0], Origin::Step2), 1, "and it is not counted twice");
}

#[test]
fn what_one_update_leaves_pending_is_one_frame_for_each_client_of_yjs_14() {
    let mut core = new_core(HubLimits::default());
    let announce = SessionEvent::Awareness {
        update: encode([AwarenessEntry { client: 1 << 40, clock: 1, state: "{}" }].into_iter()).into(),
    };
    let pending = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Pending { .. })).count();
    for lease in [A, B] {
        handle(&mut core, Event::Open { lease, acks: Acks::Each, documents: 1 });
    }
    let seconds: Vec<_> = (1..=20).map(|client| typed(client, &["lost", "late"]).1[1].clone()).collect();
    let many = yrs::merge_updates_v1(&seconds).unwrap();
    handle(&mut core, change(A, &many));
    assert_eq!(pending(&handle(&mut core, Event::Session(B, announce))), 1, "all that is pending");
    let more: Vec<_> = (21..=40).map(|client| typed(client, &["lost", "late"]).1[1].clone()).collect();
    let more = yrs::merge_updates_v1(&more).unwrap();
    assert_eq!(pending(&handle(&mut core, change(A, &more))), 1);
}

/// What a client of Yjs 14 sends at its next connection after it has received letters of client 1 behind a gap: a skip, and the
/// letters "bc" as one struct.
fn shown_pending() -> Bytes {
    Bytes::from_static(&[1, 2, 1, 0, 10, 1, 0x84, 1, 0, 2, b'b', b'c', 0])
}

/// A document in which the letters "b" and "c" of client 1 are pending, and are on disk.
fn core_with_pending(limits: HubLimits) -> Core {
    let mut core = new_core(limits);
    for lease in [A, B] {
        handle(&mut core, Event::Open { lease, acks: Acks::Each, documents: 1 });
    }
    let (_, updates) = typed(1, &["a", "b", "c"]);
    for update in &updates[1..] {
        assert_eq!(appended(&handle(&mut core, change(A, update))), 1);
    }
    let upto = core.last();
    handle(&mut core, Event::Durable { upto });
    core
}

#[test]
fn reader_that_sends_what_is_pending_attempts_no_write() {
    let mut core = core_with_pending(HubLimits::default());
    let refused = |update: Bytes| {
        Event::Session(B, SessionEvent::Refused { batch: 0, update: Some(update), origin: Origin::Step2 })
    };
    assert_eq!(acks(&handle(&mut core, refused(shown_pending()))), [(B, Outcome::Saved)]);
    let (_, other) = typed(2, &["new"]);
    assert_eq!(acks(&handle(&mut core, refused(other[0].clone().into()))), [(B, Outcome::Forbidden)]);
}

#[test]
fn what_is_pending_can_be_sent_to_a_full_document() {
    let mut core = core_with_pending(HubLimits { bytes: 100, ..HubLimits::default() });
    let (_, letters) = typed(2, &[&"x".repeat(70)]);
    assert_eq!(appended(&handle(&mut core, change(B, &letters[0]))), 1);
    let upto = core.last();
    handle(&mut core, Event::Durable { upto });
    let update = SessionEvent::Update { update: shown_pending(), origin: Origin::Step2, batch: 0 };
    assert_eq!(acks(&handle(&mut core, Event::Session(B, update))), [(B, Outcome::Saved)]);
}

#[test]
fn what_is_pending_can_be_sent_after_a_storage_failure() {
    let mut core = core_with_pending(HubLimits::default());
    handle(&mut core, Event::StorageFailed);
    let update = SessionEvent::Update { update: shown_pending(), origin: Origin::Step2, batch: 0 };
    assert_eq!(acks(&handle(&mut core, Event::Session(B, update))), [(B, Outcome::Unneeded)]);
}
