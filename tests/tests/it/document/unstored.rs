//! Updates that a document could not store because too much is pending: nothing is called saved that is not, their
//! author is asked for them, and what is owed for them is paid once they are stored.

use syncline_protocol::ids::Seq;
use syncline_replica::HubLimits;
use syncline_server::internals::{Acks, Core, Effect, Event, LeaseId, Message, Origin, Outcome, SessionEvent};
use syncline_tests::document::{handle, new_core};

use super::core::{A, B, acks, asks, typed};

const EMPTY: [u8; 2] = [0, 0];

/// A core with room for `entries` pending entries. A has it open with `acks`, and B as in y-websocket.
fn core_for(entries: usize, acks: Acks) -> Core {
    let mut core = new_core(HubLimits { pending_entries: entries, ..HubLimits::default() });
    handle(&mut core, Event::Open { lease: A, acks, documents: 1 });
    handle(&mut core, Event::Open { lease: B, acks: Acks::Each, documents: 1 });
    core
}

/// The effects of an update, with those of the disk, which has it immediately.
fn send(core: &mut Core, lease: LeaseId, update: &[u8], origin: Origin) -> Vec<Effect> {
    let update = SessionEvent::Update { update: update.to_vec().into(), origin, batch: 0 };
    let mut effects = handle(core, Event::Session(lease, update));
    let upto = core.last();
    effects.extend(handle(core, Event::Durable { upto }));
    effects
}

fn change(core: &mut Core, update: &[u8]) -> Vec<Effect> {
    send(core, A, update, Origin::Change)
}

fn step1(core: &mut Core) -> Vec<Effect> {
    handle(core, Event::Session(A, SessionEvent::Step1 { state_vector: vec![0].into() }))
}

/// The number of acknowledgements of A.
fn saved(effects: &[Effect]) -> usize {
    acks(effects).into_iter().filter(|ack| *ack == (A, Outcome::Saved)).count()
}

/// The number of empty updates that are echoed.
fn empty_echoes(effects: &[Effect]) -> u64 {
    let empty = Message::Update(EMPTY.to_vec().into());
    let echoes = effects.iter().map(|effect| match effect {
        Effect::Ack { echo: Some(echo), count, .. } if *echo.message() == empty => *count,
        _ => 0,
    });
    echoes.sum()
}

fn merged(updates: &[Vec<u8>]) -> Vec<u8> {
    yrs::merge_updates_v1(updates).unwrap()
}

#[test]
fn echoes_wait_while_an_earlier_update_is_not_stored() {
    let mut core = core_for(0, Acks::Each);
    let (_, lost) = typed(1, &["a", "b"]);
    let (_, own) = typed(2, &["c"]);
    let effects = change(&mut core, &lost[1]);
    assert_eq!((saved(&effects), asks(&effects, A)), (0, 1), "there is no room, and the client is asked");
    for update in [&EMPTY[..], &own[0], &EMPTY] {
        assert_eq!(saved(&change(&mut core, update)), 0, "its echo would acknowledge the update before it");
    }
    assert_eq!(acks(&send(&mut core, B, &EMPTY, Origin::Change)), [(B, Outcome::Saved)], "others are not affected");
    let effects = send(&mut core, A, &merged(&[merged(&lost), own[0].clone()]), Origin::Step2);
    assert_eq!(empty_echoes(&effects), 2, "the step 2 has the update: every empty update is echoed");
    assert_eq!(saved(&change(&mut core, &own[0])), 1);
}

#[test]
fn echoes_wait_while_a_step_2_is_not_stored() {
    let mut core = core_for(0, Acks::Each);
    let (_, lost) = typed(1, &["a", "b"]);
    assert_eq!(saved(&send(&mut core, A, &lost[1], Origin::Step2)), 0);
    assert_eq!(saved(&change(&mut core, &EMPTY)), 0);
    assert_eq!(empty_echoes(&send(&mut core, A, &merged(&lost), Origin::Step2)), 1);
}

#[test]
fn client_that_answers_with_changes_is_asked_each_time_and_acknowledged() {
    let mut core = core_for(0, Acks::Each);
    assert_eq!(saved(&change(&mut core, &EMPTY)), 1, "its answer to the first step 1");
    for client in [1, 2] {
        let (_, updates) = typed(client, &["a", "b"]);
        assert_eq!(asks(&change(&mut core, &updates[1]), A), 1, "client {client}");
        assert_eq!(saved(&change(&mut core, &EMPTY)), 0);
        assert_eq!(empty_echoes(&change(&mut core, &merged(&updates))), 1, "it has what was not stored");
        assert_eq!(empty_echoes(&change(&mut core, &EMPTY)), 1);
    }
}

#[test]
fn change_with_only_a_part_of_what_was_not_stored_acknowledges_nothing() {
    let mut core = core_for(0, Acks::Each);
    let (_, updates) = typed(1, &["a", "b", "c"]);
    change(&mut core, &updates[2]);
    assert_eq!(saved(&change(&mut core, &updates[0])), 0);
    assert_eq!(saved(&change(&mut core, &updates[1])), 0);
    assert_eq!(saved(&change(&mut core, &updates[2])), 1, "now all of it is stored");
}

#[test]
fn hocuspocus_client_is_refused_an_update_and_owed_its_status() {
    let mut core = core_for(0, Acks::Counted);
    step1(&mut core);
    assert_eq!(saved(&send(&mut core, A, &EMPTY, Origin::Step2)), 1);
    let (_, lost) = typed(1, &["a", "b"]);
    let (_, own) = typed(2, &["c"]);
    let effects = change(&mut core, &lost[1]);
    assert_eq!((acks(&effects), asks(&effects, A)), (vec![(A, Outcome::TooManyPending)], 1));
    assert_eq!(acks(&change(&mut core, &own[0])), [(A, Outcome::Saved)], "in the order of its messages");
    assert_eq!(saved(&send(&mut core, A, &merged(&lost), Origin::Step2)), 1, "the status of the refused update");
    assert_eq!(saved(&send(&mut core, A, &EMPTY, Origin::Step2)), 0);
}

#[test]
fn hocuspocus_client_that_answers_with_changes_gets_one_status_for_each_message() {
    let mut core = core_for(0, Acks::Counted);
    send(&mut core, A, &EMPTY, Origin::Step2);
    for client in [1, 2] {
        let (_, updates) = typed(client, &["a", "b"]);
        let effects = change(&mut core, &updates[1]);
        assert_eq!((acks(&effects), asks(&effects, A)), (vec![(A, Outcome::TooManyPending)], 1));
        let effects = change(&mut core, &merged(&updates));
        assert_eq!(acks(&effects), [(A, Outcome::Saved)]);
        assert_eq!(asks(&effects, A), 1, "another client would answer with a step 2, which is owed a status");
        let effects = change(&mut core, &EMPTY);
        assert_eq!((acks(&effects), asks(&effects, A)), (vec![(A, Outcome::Saved)], 0));
    }
}

#[test]
fn refusal_keeps_its_place_behind_acknowledgements_that_wait_for_the_disk() {
    let mut core = core_for(0, Acks::Counted);
    step1(&mut core);
    send(&mut core, A, &EMPTY, Origin::Step2);
    let (_, own) = typed(2, &["c"]);
    let (_, lost) = typed(1, &["a", "b"]);
    for update in [&own[0], &lost[1]] {
        let update = SessionEvent::Update { update: update.clone().into(), origin: Origin::Change, batch: 0 };
        assert_eq!(acks(&handle(&mut core, Event::Session(A, update))), []);
    }
    let upto = Seq(1);
    let both = [(A, Outcome::Saved), (A, Outcome::TooManyPending)];
    assert_eq!(acks(&handle(&mut core, Event::Durable { upto })), both);
}

#[test]
fn refused_step_2_ends_no_acknowledgements_and_is_asked_for_when_there_is_room() {
    let mut core = core_for(1, Acks::Counted);
    let (_, filling) = typed(7, &["x", "y"]);
    send(&mut core, B, &filling[1], Origin::Change);
    let (_, lost) = typed(1, &["a", "b"]);
    let (_, own) = typed(2, &["c", "d", "e"]);
    step1(&mut core);
    assert_eq!(saved(&change(&mut core, &own[0])), 0, "before the step 2");
    let effects = send(&mut core, A, &lost[1], Origin::Step2);
    let refused = [(A, Outcome::Saved), (A, Outcome::TooManyPending)];
    assert_eq!(acks(&effects), refused, "the change before it is stored");
    assert_eq!(asks(&effects, A), 0, "its answer would be the same");
    assert_eq!(saved(&change(&mut core, &own[1])), 1, "a later change is on disk");
    let effects = send(&mut core, B, &filling[0], Origin::Change);
    assert_eq!(asks(&effects, A), 1, "less is pending");
    assert_eq!(saved(&send(&mut core, A, &merged(&lost), Origin::Step2)), 1, "the status of the refused step 2");
    assert_eq!(saved(&change(&mut core, &own[2])), 1);
}

#[test]
fn refused_step_2_of_a_full_document_ends_no_acknowledgements() {
    let mut core = new_core(HubLimits { bytes: 200, ..HubLimits::default() });
    handle(&mut core, Event::Open { lease: A, acks: Acks::Counted, documents: 1 });
    step1(&mut core);
    let (_, long) = typed(1, &[&"x".repeat(300)]);
    assert_eq!(saved(&send(&mut core, A, &long[0], Origin::Step2)), 0);
    let (_, short) = typed(2, &["c"]);
    assert_eq!(saved(&change(&mut core, &short[0])), 1);
}

#[test]
fn storage_failure_refuses_what_was_held_back() {
    let mut core = core_for(0, Acks::Each);
    let (_, lost) = typed(1, &["a", "b"]);
    let (_, own) = typed(2, &["c"]);
    change(&mut core, &lost[1]);
    let update = SessionEvent::Update { update: own[0].clone().into(), origin: Origin::Change, batch: 0 };
    handle(&mut core, Event::Session(A, update));
    assert_eq!(acks(&handle(&mut core, Event::StorageFailed)), [(A, Outcome::Refused)]);
}

/// A client that never answers the server's step 1 and repeats what the document has.
#[test]
fn repeated_known_changes_leave_one_effect_for_all_their_acknowledgements() {
    for read_only in [false, true] {
        let mut core = core_for(0, Acks::Counted);
        let (_, updates) = typed(1, &["a"]);
        send(&mut core, B, &updates[0], Origin::Change);
        let event = |update: &[u8], origin| {
            let (update, batch) = (update.to_vec(), 0);
            Event::Session(
                A,
                if read_only {
                    SessionEvent::Refused { batch, update: Some(update.into()), origin }
                } else {
                    SessionEvent::Update { update: update.into(), origin, batch }
                },
            )
        };
        for _ in 0..100_000 {
            assert!(handle(&mut core, event(&updates[0], Origin::Change)).is_empty());
        }
        let effects = handle(&mut core, event(&EMPTY, Origin::Step2));
        assert!(effects.len() < 10, "{} effects", effects.len());
        assert_eq!(saved(&effects), 100_001);
    }
}
