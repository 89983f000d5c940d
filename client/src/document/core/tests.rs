//! Random histories of two devices and a small server: edits, deletions, proposals, lost connections, refusals, full disks, crashes
//! of either side between any two notes. Whatever happens, an accepted edit reaches the server exactly once, and in
//! the end all have the same. Prints its seed; `SYNCLINE_SEED` replays it.

mod server;
mod world;

use syncline_protocol::native::{Channel, Resume, ToClient, ToServer, Version};
use world::{Did, World};
use yrs::{GetString, ReadTxn};

use super::*;

const SEEDS: u64 = 100;
const STEPS: usize = 400;

#[test]
fn an_accepted_edit_reaches_the_server_exactly_once_whatever_crashes() {
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
            assert_eq!(device.disk.load().read(read), there, "as its journal tells it");
        }
    }
}

#[test]
fn what_was_refused_and_is_tried_again_does_not_overtake_what_is_being_stored() {
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
fn what_was_accepted_outlives_a_disk_that_fails_again_while_it_is_written_anew() {
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
fn a_deletion_by_others_outlives_the_same_deletion_here_that_was_not_stored() {
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
fn version_numbers_chain_offline() {
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
fn a_cursor_at_zero_is_no_beginning_when_something_was_saved() {
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
    server.tell_durable(devices);
    world.deliver(0, true);
    world.devices[0].store(10, &mut world.accepted);
    // Killed before its journal knew more than that it was in step at the beginning; the document is purged meanwhile.
    let device = &mut world.devices[0];
    device.crash();
    assert_eq!(device.core.status().cursor, Some(Cursor { epoch: world::EPOCH, seq: Seq(0) }));
    assert_eq!(device.core.queue.iter().count(), 0, "it was saved");
    let now = Cursor { epoch: syncline_protocol::ids::Epoch(8), seq: Seq(0) };
    device.core.connected(channel, "doc", "", 0, &mut device.out);
    let (resume, state_vector) = (Resume::FromCursor, None);
    let opened = ToClient::Opened { channel, cursor: now, read_only: false, resume, state_vector };
    device.core.received(&opened, 1, 0, &mut device.out).unwrap();
    assert_eq!(device.core.status().sync, SyncState::HistoryChanged);
}

/// Two devices store everything and hear everything.
fn calm(world: &mut World) {
    world.devices.iter_mut().for_each(|device| device.store(10, &mut world.accepted));
    (0..10).for_each(|_| [0, 1].into_iter().for_each(|at| world.deliver(at, true)));
}

#[test]
fn a_rebase_brings_no_change_by_others_of_the_history_before() {
    let mut world = World::new(0);
    [0, 1].into_iter().for_each(|at| world.connect(at));
    calm(&mut world);
    // One change is known to be saved, the next was only relayed.
    for durable in [true, false] {
        world.edit(1);
        calm(&mut world);
        if durable {
            world.server.durable = world.server.records.len();
            world.server.tell_durable(&mut world.devices);
            calm(&mut world);
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
    assert!(!device.out.frames.iter().any(is_change), "the new history is told what the old one was");
}

/// A device that learned of a new history and fetches it, on channel 1001; and what the server says then.
fn fetching(world: &mut World) -> Cursor {
    let now = Cursor { epoch: syncline_protocol::ids::Epoch(8), seq: Seq(3) };
    world.connect(0);
    world.edit(0);
    (0..10).for_each(|_| world.deliver(0, true));
    world.devices[0].store(10, &mut world.accepted);
    (0..10).for_each(|_| world.deliver(0, true));
    world.server.durable = world.server.records.len();
    world.server.tell_durable(&mut world.devices);
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
fn a_new_history_is_taken_when_all_of_it_is_on_the_servers_disk() {
    let mut world = World::new(0);
    let now = fetching(&mut world);
    let (device, history) = (&mut world.devices[0], typed("old "));
    // It fell behind after the first piece: the second is what it missed, the third is not stored.
    let [others, news] = ["others ", "news "].map(typed);
    for message in [
        ToClient::Diff { channel: 1001, seq: now.seq, update: &history },
        ToClient::Diff { channel: 1001, seq: now.seq, update: &others },
        ToClient::Change { channel: 1001, seq: now.seq.next(), update: &news },
    ] {
        device.core.received(&message, 1, 0, &mut device.out).unwrap();
    }
    for (durable, taken) in [(2, false), (3, true)] {
        let durable = ToClient::Durable { channel: 1001, seq: Seq(durable) };
        device.core.received(&durable, 1, 0, &mut device.out).unwrap();
        assert_eq!(device.text().contains("old "), taken, "a crash of the server would lose the rest");
    }
    assert!(device.text().contains("others ") && !device.text().contains("news "), "{}", device.text());
    assert_eq!(device.core.status().cursor, Some(now));
}

#[test]
fn a_history_that_is_replaced_just_after_it_was_taken_is_noticed() {
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
    // Nothing was said between: the server stopped, and another history was put in the place of this one.
    let other = Cursor { epoch: syncline_protocol::ids::Epoch(9), seq: Seq::ZERO };
    device.core.connected(1002, "doc", "", 0, &mut device.out);
    device.core.received(&opened(1002, other, Resume::SendStateVector), 1, 0, &mut device.out).unwrap();
    assert_eq!(device.core.status().sync, SyncState::HistoryChanged, "the edit upon it would wait for ever");
}

#[test]
fn what_a_crash_of_the_server_took_comes_back_though_edits_of_both_depend_on_each_other() {
    let mut world = World::new(0);
    [0, 1].into_iter().for_each(|at| world.connect(at));
    calm(&mut world);
    // Each goes on from what the other typed just before.
    for at in [0, 1, 0] {
        world.edit(at);
        calm(&mut world);
    }
    world.server.crash(&mut world.devices);
    // The other never comes back.
    world.connect(0);
    calm(&mut world);
    let there = |txn: &yrs::Transaction<'_>| txn.get_text("text").map_or(String::new(), |text| text.get_string(txn));
    assert_eq!(world.server.replica.held().len(), 0, "each batch waits for the other");
    assert_eq!(world.server.replica.read(there), world.devices[0].text());
}
