//! Random histories of two devices and a test server: edits, deletions, proposals, lost connections, refusals, full
//! disks, crashes of either side between any two notes. An accepted edit must reach the server exactly once, and all
//! replicas must end equal. Each run prints its seed; `SYNCLINE_SEED` replays it.

mod server;
mod world;

use syncline_protocol::native::{Channel, Resume, ToClient, ToServer, Version};
use world::{Did, World};
use yrs::{GetString, ReadTxn};

use super::*;

const SEEDS: u64 = 100;
const STEPS: usize = 400;

#[test]
fn accepted_edit_reaches_the_server_once_despite_crashes() {
    let given = std::env::var("SYNCLINE_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = given.map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        println!("SYNCLINE_SEED={seed}");
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        world.settle();
        let read = |txn: &yrs::Transaction<'_>| txn.get_text("text").map_or(String::new(), |text| text.get_string(txn));
        let there = world.server.replica.read(read);
        for did in &world.accepted {
            match did {
                Did::Type(token) if world.doubtful.contains(token) => {}
                Did::Type(token) => assert_eq!(there.matches(token.as_str()).count(), 1, "{token} in {there}"),
                Did::Delete(token) => assert!(!there.contains(token.as_str()), "{token} in {there}"),
            }
        }
        for token in there.split_inclusive('>') {
            assert_eq!(there.matches(token).count(), 1, "{token} in {there}");
        }
        for device in &world.devices {
            assert_eq!(device.text(), there);
            assert_eq!(device.core.queue.iter().count(), 0);
            assert_eq!(device.core.status().sync, SyncState::Synced);
            assert_eq!(device.disk.load().read(read), there, "the journal restores the same text");
        }
    }
}

#[test]
fn retried_entry_does_not_overtake_an_entry_being_stored() {
    let mut world = World::new(0);
    world.connect(0);
    for _ in 0..3 {
        world.deliver(0, true);
        world.deliver(0, true);
    }
    world.edit(0);
    let device = &mut world.devices[0];
    device.store(10, &mut world.accepted);
    let batch = 1;
    let channel = device.channel.unwrap();
    let refused = ToClient::Refused { channel, batch, code: 4403, reason: "no" };
    device.core.received(&refused, 1, 0, &mut device.out).unwrap();
    device.flush();
    device.to_server.clear();
    device.store(10, &mut world.accepted);
    world.edit(0);
    let device = &mut world.devices[0];
    device.core.retry_refused(4, &mut device.out);
    device.flush();
    device.core.received(&ToClient::Ack { channel, batch: 2, seq: Seq(1) }, 1, 0, &mut device.out).unwrap();
    assert_eq!(device.core.queue.iter().count(), 2, "neither has reached the server");
}

#[test]
fn accepted_edit_survives_repeated_failures_of_the_disk() {
    let mut world = World::new(0);
    world.edit(0);
    world.devices[0].store(10, &mut world.accepted);
    for _ in 0..2 {
        world.devices[0].fail_storage();
        world.edit(0);
    }
    world.devices[0].fail_storage();
    assert_eq!(world.devices[0].text(), "<1>");
    assert_eq!(world.devices[0].core.queue.iter().count(), 1);
}

#[test]
fn remote_deletion_survives_undo_of_the_same_local_deletion() {
    let mut world = World::new(0);
    world.edit(0);
    for at in [0, 1] {
        world.connect(at);
    }
    world.devices[0].store(10, &mut world.accepted);
    (0..10).for_each(|_| [0, 1].into_iter().for_each(|at| world.deliver(at, true)));
    assert_eq!([0, 1].map(|at| world.devices[at].text()), ["<1>", "<1>"]);
    world.delete(0);
    world.delete(1);
    world.devices[0].store(10, &mut world.accepted);
    (0..10).for_each(|_| [0, 1].into_iter().for_each(|at| world.deliver(at, true)));
    world.devices[1].fail_storage();
    assert_eq!([0, 1].map(|at| world.devices[at].text()), ["", ""]);
}

#[test]
fn register_versions_chain_while_offline() {
    let mut world = World::new(0);
    (0..3).for_each(|_| world.propose(0));
    let bases: Vec<Option<Version>> = world.devices[0]
        .core
        .queue
        .iter()
        .map(|entry| if let What::Proposal(proposed) = &entry.what { proposed.based_on } else { None })
        .collect();
    assert_eq!(bases, [None, Some(Version { number: 1, id: 1 }), Some(Version { number: 2, id: 2 })]);
}

#[test]
fn cursor_at_zero_detects_another_history_after_a_save() {
    let mut world = World::new(0);
    world.connect(0);
    for _ in 0..3 {
        world.deliver(0, true);
    }
    world.devices[0].store(10, &mut world.accepted);
    world.edit(0);
    world.devices[0].store(10, &mut world.accepted);
    world.deliver(0, true);
    let (World { server, devices, .. }, channel) = (&mut world, 1000);
    server.durable = 1;
    server.send_durable(devices);
    world.deliver(0, true);
    world.devices[0].store(10, &mut world.accepted);
    // Killed while its journal has only the cursor at zero; the document is purged meanwhile.
    let device = &mut world.devices[0];
    device.crash();
    assert_eq!(device.core.status().cursor, Some(Cursor { epoch: world::EPOCH, seq: Seq(0) }));
    assert_eq!(device.core.queue.iter().count(), 0, "the edit was saved");
    let now = Cursor { epoch: syncline_protocol::ids::Epoch(8), seq: Seq(0) };
    device.core.connected(channel, "doc", "", 0, &mut device.out);
    let (resume, state_vector) = (Resume::FromCursor, None);
    let opened = ToClient::Opened { channel, cursor: now, read_only: false, resume, state_vector };
    device.core.received(&opened, 1, 0, &mut device.out).unwrap();
    assert_eq!(device.core.status().sync, SyncState::HistoryChanged);
}

/// Both devices store all their writes and receive all messages.
fn exchange_all(world: &mut World) {
    world.devices.iter_mut().for_each(|device| device.store(10, &mut world.accepted));
    (0..10).for_each(|_| [0, 1].into_iter().for_each(|at| world.deliver(at, true)));
}

#[test]
fn rebase_sends_no_remote_changes_of_the_old_history() {
    let mut world = World::new(0);
    [0, 1].into_iter().for_each(|at| world.connect(at));
    exchange_all(&mut world);
    // The first change is known to be saved, the second was only relayed.
    for durable in [true, false] {
        world.edit(1);
        exchange_all(&mut world);
        if durable {
            world.server.durable = world.server.records.len();
            world.server.send_durable(&mut world.devices);
            exchange_all(&mut world);
        }
    }
    let device = &mut world.devices[0];
    assert_eq!(device.text().matches('<').count(), 2);
    device.cut();
    let now = Cursor { epoch: syncline_protocol::ids::Epoch(8), seq: Seq(0) };
    let opened =
        |channel, resume| ToClient::Opened { channel, cursor: now, read_only: false, resume, state_vector: None };
    device.core.connected(1000, "doc", "", 0, &mut device.out);
    device.core.received(&opened(1000, Resume::OtherHistory), 1, 0, &mut device.out).unwrap();
    assert_eq!(device.core.status().sync, SyncState::HistoryChanged);
    assert!(device.core.begin_rebase(1001, "doc", "", &mut device.out));
    device.out.frames.clear();
    device.core.received(&opened(1001, Resume::SendStateVector), 1, 0, &mut device.out).unwrap();
    let is_change = |frame: &Bytes| matches!(ToServer::decode(frame), Ok(ToServer::Change { .. }));
    assert!(!device.out.frames.iter().any(is_change), "changes of the old history are sent to the new one");
}

/// Brings device 0 to fetch a new history on channel 1001. Returns the cursor of the new history.
fn fetching(world: &mut World) -> Cursor {
    let now = Cursor { epoch: syncline_protocol::ids::Epoch(8), seq: Seq(3) };
    world.connect(0);
    world.edit(0);
    (0..10).for_each(|_| world.deliver(0, true));
    world.devices[0].store(10, &mut world.accepted);
    (0..10).for_each(|_| world.deliver(0, true));
    world.server.durable = world.server.records.len();
    world.server.send_durable(&mut world.devices);
    (0..10).for_each(|_| world.deliver(0, true));
    world.edit(0);
    let device = &mut world.devices[0];
    device.store(10, &mut world.accepted);
    device.cut();
    device.core.connected(1000, "doc", "", 0, &mut device.out);
    device.core.received(&opened(1000, now, Resume::OtherHistory), 1, 0, &mut device.out).unwrap();
    assert!(device.core.begin_rebase(1001, "doc", "", &mut device.out));
    device.core.received(&opened(1001, now, Resume::SendStateVector), 1, 0, &mut device.out).unwrap();
    now
}

fn opened(channel: Channel, cursor: Cursor, resume: Resume) -> ToClient<'static> {
    ToClient::Opened { channel, cursor, read_only: false, resume, state_vector: None }
}

fn typed(words: &str) -> Bytes {
    let mut history = Replica::default();
    let (_, update) = history
        .edit(|txn| {
            let text = yrs::WriteTxn::get_or_insert_text(txn, "text");
            yrs::Text::insert(&text, txn, 0, words);
        })
        .unwrap();
    update
}

#[test]
fn new_history_is_adopted_when_it_is_on_the_server_disk() {
    let mut world = World::new(0);
    let now = fetching(&mut world);
    let (device, history) = (&mut world.devices[0], typed("old "));
    // The device fell behind after the first part: the second part is what it missed, the third is not stored.
    let [others, newest] = ["others ", "newest "].map(typed);
    for message in [
        ToClient::Diff { channel: 1001, seq: now.seq, update: &history },
        ToClient::Diff { channel: 1001, seq: now.seq, update: &others },
        ToClient::Change { channel: 1001, seq: now.seq.next(), update: &newest },
    ] {
        device.core.received(&message, 1, 0, &mut device.out).unwrap();
    }
    for (durable, adopted) in [(2, false), (3, true)] {
        let durable = ToClient::Durable { channel: 1001, seq: Seq(durable) };
        device.core.received(&durable, 1, 0, &mut device.out).unwrap();
        assert_eq!(device.text().contains("old "), adopted, "a crash of the server would lose the rest");
    }
    assert!(device.text().contains("others ") && !device.text().contains("newest "), "{}", device.text());
    assert_eq!(device.core.status().cursor, Some(now));
}

#[test]
fn history_replaced_right_after_adoption_is_noticed() {
    let mut world = World::new(0);
    let now = fetching(&mut world);
    let (device, history) = (&mut world.devices[0], typed("old "));
    for message in [
        ToClient::Diff { channel: 1001, seq: now.seq, update: &history },
        ToClient::Durable { channel: 1001, seq: now.seq },
    ] {
        device.core.received(&message, 1, 0, &mut device.out).unwrap();
    }
    device.flush();
    device.store(10, &mut world.accepted);
    // No message in between: the server was stopped, and its history was replaced by another one.
    let other = Cursor { epoch: syncline_protocol::ids::Epoch(9), seq: Seq::ZERO };
    device.core.connected(1002, "doc", "", 0, &mut device.out);
    device.core.received(&opened(1002, other, Resume::SendStateVector), 1, 0, &mut device.out).unwrap();
    assert_eq!(device.core.status().sync, SyncState::HistoryChanged, "the rebased edit would stay pending forever");
}

#[test]
fn interdependent_edits_lost_by_a_server_crash_are_restored() {
    let mut world = World::new(0);
    [0, 1].into_iter().for_each(|at| world.connect(at));
    exchange_all(&mut world);
    // Each device types after the text that the other one has just typed.
    for at in [0, 1, 0] {
        world.edit(at);
        exchange_all(&mut world);
    }
    world.server.crash(&mut world.devices);
    // The other device does not reconnect.
    world.connect(0);
    exchange_all(&mut world);
    let there = |txn: &yrs::Transaction<'_>| txn.get_text("text").map_or(String::new(), |text| text.get_string(txn));
    assert_eq!(world.server.replica.pending().len(), 0, "two batches depend on each other");
    assert_eq!(world.server.replica.read(there), world.devices[0].text());
}
