//! Decisions on registers are final, even if a decision that was lost in a crash returns.

use bytes::Bytes;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Cursor, Version};
use syncline_protocol::update::Id;
use syncline_protocol::update::edit::set_key;
use syncline_replica::{HubDocument, REGISTERS, RegisterState, RegisterWrite, Replica};
use syncline_server::internals::{
    Core, CoreLimits, Effect, Event, LeaseId, LoadedDocument, Origin, RecentChanges, SessionEvent,
};
use syncline_tests::document::handle;

const A: LeaseId = LeaseId(1);

/// The document after a start of the server, with this client id and this log.
fn start(client: u64, log: &[Bytes]) -> Core {
    let document = HubDocument::load(client, log).unwrap();
    let newest = Cursor { epoch: Epoch(1), seq: Seq(log.len() as u64) };
    let recent = RecentChanges::after(newest.seq);
    Core::new(LoadedDocument { document, newest, recent }, CoreLimits::default())
}

fn records(core: &mut Core, event: Event) -> Vec<Bytes> {
    let record = |effect| if let Effect::Append { update, .. } = effect { Some(update) } else { None };
    handle(core, event).into_iter().filter_map(record).collect()
}

fn propose(core: &mut Core, id: u128, based_on: Option<Version>) -> Vec<Bytes> {
    // lib0 `Any`: true.
    let (value, register) = (Bytes::from_static(&[120]), "status".to_owned());
    let write = RegisterWrite { register, id, based_on, author: String::new(), at_ms: 0, value };
    records(core, Event::Session(A, SessionEvent::Propose { batch: 1, write: Box::new(write) }))
}

fn change(core: &mut Core, update: &Bytes) -> Vec<Bytes> {
    records(core, Event::Session(A, SessionEvent::Update { update: update.clone(), origin: Origin::Change, batch: 1 }))
}

/// Id of the write that the register holds in a document loaded from this log.
fn status(log: &[Bytes]) -> u128 {
    Replica::load(log.iter().cloned()).unwrap().read_register("status").unwrap().unwrap().version.id
}

#[test]
fn returning_lost_decision_does_not_replace_newer_decision() {
    for (first, second) in [(1, 2), (2, 1)] {
        let lost = propose(&mut start(first, &[]), 10, None);
        let mut core = start(second, &[]);
        let mut log = propose(&mut core, 11, None);
        log.extend(change(&mut core, &lost[0]));
        assert_eq!(status(&log), 11, "clients {first} and {second}");
        // Also if the newer decision was made before the last start, with no write since.
        let mut log = propose(&mut start(second, &[]), 11, None);
        let mut core = start(3, &log);
        log.extend(change(&mut core, &lost[0]));
        assert_eq!(status(&log), 11, "clients {first} and {second}, after a start");
        assert_eq!(change(&mut core, &lost[0]), Vec::<Bytes>::new(), "the decision is known now");
        // And if the document was dormant in between.
        let mut core = start(4, &[]);
        let mut log = propose(&mut core, 11, None);
        assert_eq!(records(&mut core, Event::MakeDormant), Vec::<Bytes>::new());
        log.extend(change(&mut core, &lost[0]));
        assert_eq!(status(&log), 11, "clients {first} and {second}, after the document was dormant");
    }
}

/// Two decisions are lost in a crash. The author of the second write proposes it again before the first
/// decision returns: the write is refused.
#[test]
fn refused_write_stays_refused_when_its_lost_decision_returns() {
    let mut before = start(1, &[]);
    let mut log = propose(&mut before, 10, None);
    let lost = propose(&mut before, 11, Some(Version { number: 1, id: 10 }));
    let refused = propose(&mut before, 12, Some(Version { number: 2, id: 11 }));
    let mut core = start(2, &log);
    assert_eq!(propose(&mut core, 12, Some(Version { number: 2, id: 11 })), Vec::<Bytes>::new(), "refused");
    log.extend(change(&mut core, &lost[0]));
    assert_eq!(status(&log), 11, "the first lost decision conflicts with nothing");
    log.extend(change(&mut core, &refused[0]));
    assert_eq!(status(&log), 11, "the author of the other write received the refusal");
}

/// A device resends what the server may have lost as one merged update, in which writes lose the mark that
/// they belong to a map.
#[test]
fn lost_decisions_are_accepted_from_a_merged_update() {
    let mut before = start(1, &[]);
    let mut lost = propose(&mut before, 10, None);
    lost.extend(propose(&mut before, 11, Some(Version { number: 1, id: 10 })));
    let merged = Bytes::from(yrs::merge_updates_v1(&lost).unwrap());
    for known in 0..2 {
        let mut core = start(2, &lost[..known]);
        let mut log = [&lost[..known], &change(&mut core, &merged)].concat();
        assert_eq!(status(&log), 11, "{known} of them were on disk");
        log.extend(propose(&mut core, 12, Some(Version { number: 2, id: 11 })));
        assert_eq!(status(&log), 12, "{known} of them were on disk");
    }
}

/// The author proposes again before the base of its write has returned: the refusal is final, whatever
/// arrives later.
#[test]
fn write_refused_for_lost_base_stays_refused() {
    let base = Some(Version { number: 1, id: 10 });
    let mut before = start(1, &[]);
    let first = propose(&mut before, 10, None);
    let second = propose(&mut before, 11, base);
    let third = propose(&mut before, 12, Some(Version { number: 2, id: 11 }));

    let mut core = start(2, &[]);
    assert_eq!(propose(&mut core, 11, base), Vec::<Bytes>::new(), "its base is missing");
    let merged = yrs::merge_updates_v1([&first[..], &second, &third].concat()).unwrap();
    let log = change(&mut core, &merged.into());
    assert_eq!(Replica::load(log.iter().cloned()).unwrap().read_register("status").unwrap(), None);
    let again = propose(&mut core, 10, None);
    assert_eq!(
        status(&[log, again].concat()),
        10,
        "the author of the first write has not received the decision and proposes again"
    );

    let mut core = start(3, &[]);
    propose(&mut core, 11, base);
    let mut log = propose(&mut core, 10, None);
    assert_eq!(propose(&mut core, 11, base), Vec::<Bytes>::new(), "refused, although its base is there now");
    for lost in [&second, &third] {
        log.extend(change(&mut core, &lost[0]));
        assert_eq!(status(&log), 10);
    }
}

#[test]
fn returning_lost_decision_without_conflict_is_accepted() {
    let mut before = start(1, &[]);
    let mut lost = propose(&mut before, 10, None);
    lost.extend(propose(&mut before, 11, Some(Version { number: 1, id: 10 })));
    let mut core = start(2, &lost[..1]);
    let log = [&lost[..1], &change(&mut core, &lost[1])].concat();
    assert_eq!(log.len(), 2);
    assert_eq!(status(&log), 11);
    assert_eq!(
        propose(&mut core, 12, Some(Version { number: 1, id: 10 })),
        Vec::<Bytes>::new(),
        "based on the old version"
    );
    assert_eq!(propose(&mut core, 13, Some(Version { number: 2, id: 11 })).len(), 1);
}

/// A client sees the server's client id in a decision, and sends a write that follows the next decision.
#[test]
fn write_that_waits_for_a_decision_is_released_and_checked_with_it() {
    let mut core = start(1, &[]);
    let mut log = propose(&mut core, 10, None);
    let forged = RegisterState {
        version: Version { number: 9, id: 99 },
        ..Replica::load(log.iter().cloned()).unwrap().read_register("status").unwrap().unwrap()
    };
    let own = Id { client: 77, clock: 0 };
    let update = set_key(own, Some(Id { client: 1, clock: 1 }), (REGISTERS, "status"), &forged.encode(), None);
    log.extend(change(&mut core, &update.into()));
    log.extend(propose(&mut core, 11, Some(Version { number: 1, id: 10 })));
    assert_eq!(status(&log), 11, "the decision stays");
    assert_eq!(core.known().clock(77), 1, "what the write waited for is there");
    let mut again = start(2, &log);
    log.extend(propose(&mut again, 12, Some(Version { number: 2, id: 11 })));
    assert_eq!(status(&log), 12);
}
