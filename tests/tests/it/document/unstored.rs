//! Acknowledgements of many updates, and updates that a document could not store because too much is pending.

use syncline_replica::HubLimits;
use syncline_server::internals::{Acks, Core, Effect, Event, LeaseId, Origin, Outcome, SessionEvent};
use syncline_tests::document::{handle, new_core};

use super::core::{A, B, acks, typed};

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

/// The number of acknowledgements of A.
fn saved(effects: &[Effect]) -> usize {
    acks(effects).into_iter().filter(|ack| *ack == (A, Outcome::Saved)).count()
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
