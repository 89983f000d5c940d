//! Valid updates that would make a document too large or be too much work: refused with a reason, and nobody else notices.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/hostile_updates.rs"]
mod hostile_updates;
#[path = "support/live.rs"]
mod live;
#[path = "support/native_client.rs"]
mod native_client;
#[path = "support/scanner_fixtures.rs"]
mod scanner_fixtures;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hostile_updates::{by_turns, holes, letters, line, passing, spread};
use live::{Heard, Socket, settings, start, start_with, typed};
use native_client::{Native, Said};
use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::Message;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::Cursor;
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::conflicts;
use syncline_replica::{CrdtError, GrowthLimits, HeldLimits, Replica, Taken};
use syncline_server::Server;
use syncline_server::auth::OpenToAll;
use syncline_server::document::core::Core;
use syncline_server::document::event::{Effect, Event, Origin};
use syncline_server::ids::LeaseId;
use syncline_server::limits::Limits;

async fn limited(change: impl FnOnce(&mut Limits)) -> Server {
    let mut config = settings();
    change(&mut config.limits);
    start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await
}

/// An update that deletes all `line` of `client`.
fn deletion(client: u8, count: u8) -> Vec<u8> {
    vec![0, 1, client, 1, 0, count]
}

#[tokio::test]
async fn a_full_document_is_read_and_deleted_from_but_not_added_to() {
    let server = limited(|limits| limits.document_bytes = 200).await;
    let mut writer = Socket::open(&server, "/doc").await;
    writer.join().await;
    let text = line(7, 100);
    writer.sync(SyncMessage::Update(&text)).await;
    assert_eq!(writer.hear_sync().await, (2, text));
    // y-websocket has no word for "refused".
    writer.sync(SyncMessage::Update(&line(8, 100))).await;
    let (code, reason) = writer.hear_close().await;
    assert_eq!((code, reason.contains("largest size")), (4414, true), "{reason}");
    // Hocuspocus and native have.
    let mut hocuspocus = Socket::open(&server, "/").await;
    hocuspocus.say("doc", Message::Token { token: "", version: None }).await;
    hocuspocus.say("doc", Message::Sync(SyncMessage::Update(&line(9, 100)))).await;
    hocuspocus.hear_until(|_, message| matches!(message, Message::SyncStatus(false))).await;
    let mut native = Native::begin(&server).await;
    native.join(1, "doc").await;
    native.say(ToServer::Change { channel: 1, batch: 1, update: &line(10, 100) }).await;
    native.hear_until(|said| matches!(said, Said::Refused { batch: 1, code: 4414, .. })).await;
    // Deleting makes room again; all the time it can be read.
    let mut reader = Socket::open(&server, "/doc").await;
    assert!(reader.join().await.len() > 100);
    reader.sync(SyncMessage::Update(&deletion(7, 90))).await;
    assert_eq!(reader.hear_sync().await, (2, deletion(7, 90)));
    let more = line(11, 60);
    reader.sync(SyncMessage::Update(&more)).await;
    assert_eq!(reader.hear_sync().await, (2, more));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_document_takes_only_so_many_clients() {
    let server = limited(|limits| limits.document_clients = 10).await;
    let mut writer = Socket::open(&server, "/doc").await;
    writer.join().await;
    for client in 1..=10 {
        writer.sync(SyncMessage::Update(&typed(client, "x"))).await;
        assert_eq!(writer.hear_sync().await.0, 2);
    }
    writer.sync(SyncMessage::Update(&typed(11, "x"))).await;
    let (code, reason) = writer.hear_close().await;
    assert_eq!((code, reason.contains("writers")), (4414, true), "{reason}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn client_ids_that_collide_over_many_messages_are_refused() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut bad = Socket::open(&server, "/doc").await;
    bad.join().await;
    let mut taken = 0;
    for client in 0..20_000u64 {
        // What a table of 2^21 places tells apart only at the top.
        bad.sync(SyncMessage::Update(&letters(&[(client << 21, 0, None, None)]))).await;
        match bad.hear().await {
            Heard::Frame(_) => taken += 1,
            Heard::Closed { code, reason } => {
                assert_eq!((code, reason.contains("collide")), (4400, true), "{reason}");
                break;
            }
            Heard::Cut => panic!("cut without a close frame"),
        }
    }
    assert!((64..100).contains(&taken), "{taken} were taken");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn presence_of_one_connection_is_bounded() {
    let server = limited(|limits| limits.presence_bytes = 100_000).await;
    let mut healthy = Socket::open(&server, "/doc").await;
    healthy.join().await;
    let mut greedy = Socket::open(&server, "/doc").await;
    greedy.join().await;
    let state = format!("\"{}\"", "x".repeat(40_000));
    let show = |client: u64, clock: u64, state: &str| {
        let entry = syncline_protocol::awareness::AwarenessEntry { client, clock, state };
        let update = syncline_protocol::awareness::encode([entry].into_iter());
        syncline_protocol::ywebsocket::Message::Awareness(&update).encode()
    };
    for client in 0..3u64 {
        greedy.send(show(client, 1, &state)).await;
    }
    // One that grew over the limit leaves for the others, and is back when it is small again.
    greedy.send(show(1, 2, &format!("\"{}\"", "y".repeat(70_000)))).await;
    greedy.send(show(1, 3, "\"small\"")).await;
    let update = typed(10, "x");
    greedy.sync(SyncMessage::Update(&update)).await;
    let mut shown = Vec::new();
    let mut is_delivered = false;
    while !is_delivered || shown.last() != Some(&(1, 3, 7)) {
        let live::Heard::Frame(frame) = healthy.hear().await else { panic!("closed") };
        match syncline_protocol::ywebsocket::Message::decode(&frame).unwrap() {
            syncline_protocol::ywebsocket::Message::Awareness(update) => {
                let update = syncline_protocol::awareness::AwarenessUpdate::scan(update, &Default::default()).unwrap();
                shown.extend(update.iter().map(|entry| (entry.client, entry.clock, entry.state.len())));
            }
            syncline_protocol::ywebsocket::Message::Sync(SyncMessage::Update(sent)) => {
                assert_eq!(sent, update, "the document goes on");
                is_delivered = true;
            }
            _ => {}
        }
    }
    let last = |client: u64| shown.iter().rev().find(|(of, ..)| *of == client).copied();
    assert_eq!(last(0), Some((0, 1, 40_002)));
    assert_eq!(last(1), Some((1, 3, 7)), "the newest of {shown:?}");
    assert_eq!(last(2), None, "over the limit of one connection");
    assert!(server.metrics().awareness_dropped.get() >= 2);
    server.stop().await.unwrap();
}

/// 10,000 letters in one gap (60 KB) are 27 s of work for yrs.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn quadratic_work_is_refused_also_in_pieces_that_wait_for_each_other() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut healthy = Socket::open(&server, "/healthy").await;
    healthy.join().await;
    let mut bad = Socket::open(&server, "/doc").await;
    bad.join().await;
    let text = line(7, 20_000);
    bad.sync(SyncMessage::Update(&text)).await;
    assert_eq!(bad.hear_sync().await.0, 2);
    bad.sync(SyncMessage::Update(&spread(8, 0, 10_000, 7))).await;
    let (code, reason) = bad.hear_close().await;
    assert_eq!((code, reason.contains("apart from each other")), (4400, true), "{reason}");
    // What waits for the line would all be set free by it.
    let mut sly = Socket::open(&server, "/held").await;
    sly.join().await;
    for piece in 0..100 {
        sly.sync(SyncMessage::Update(&spread(8 + piece, 0, 100, 7))).await;
    }
    let (code, reason) = sly.hear_close().await;
    assert_eq!((code, reason.contains("apart from each other")), (4400, true), "{reason}");
    let update = typed(10, "x");
    healthy.sync(SyncMessage::Update(&update)).await;
    assert_eq!(healthy.hear_sync().await, (2, update));
    server.stop().await.unwrap();
}

/// Gives an update to a document that may ask twice whether to go on. How often it asked, and what came of it.
fn hurried(replica: &mut Replica, update: Vec<u8>) -> (usize, Result<Taken, CrdtError>) {
    let mut asked = 0;
    let mut go_on = || {
        asked += 1;
        asked < 3
    };
    let taken = replica.take_while(&update.into(), &HeldLimits::default(), &mut go_on);
    (asked, taken)
}

fn document_of(update: Vec<u8>) -> Replica {
    let mut replica = Replica::default();
    replica.limit_growth(GrowthLimits::default());
    assert_eq!(replica.take(&update.into(), &HeldLimits::default()), Ok(Taken::Changed));
    replica
}

/// 20 letters (105 bytes) that pass a million others each took yrs 22 s, and no count of conflicts sees them.
#[test]
fn letters_that_pass_a_whole_document_are_stopped_midway() {
    let text = || document_of(by_turns((1, 2), 60_000));
    assert_eq!(hurried(&mut text(), passing(9, 300, 1)), (3, Err(CrdtError::TooMuchWork)));
    // Less is not asked about, and neither is the same in a small document.
    assert_eq!(hurried(&mut text(), passing(9, 10, 1)), (0, Ok(Taken::Changed)));
    assert_eq!(hurried(&mut document_of(by_turns((1, 2), 1_000)), passing(9, 300, 1)), (0, Ok(Taken::Changed)));
}

/// Each of 500,000 deletions in a text of 8 MB took 1.6 ms, together thirteen minutes.
#[test]
fn deletions_that_cut_a_long_text_are_stopped_midway() {
    let mut text = document_of(line(1, 4_000_000));
    assert_eq!(hurried(&mut text, holes(1, 2_000)), (3, Err(CrdtError::TooMuchWork)));
    let mut text = document_of(line(1, 4_000_000));
    assert_eq!(hurried(&mut text, holes(1, 50)), (0, Ok(Taken::Changed)));
}

/// A thousand updates of 4 KB that came last first took 6 to 14 s when the first came.
#[test]
fn what_waited_in_the_worst_order_is_set_free_in_one_go() {
    let mut replica = document_of(line(1, 9));
    let letter = |number: u64| {
        let left = if number == 0 { (1, 0) } else { (9, number - 1) };
        Bytes::from(letters(&[(9, number, Some(left), None)]))
    };
    for number in (1..1_000).rev() {
        assert_eq!(replica.take(&letter(number), &HeldLimits::default()), Ok(Taken::Held));
    }
    let began = Instant::now();
    assert_eq!(replica.take(&letter(0), &HeldLimits::default()), Ok(Taken::Changed));
    println!("a thousand set free in {:?}", began.elapsed());
    assert_eq!(replica.held().len(), 0);
    assert_eq!(replica.take_freed().len(), 999);
}

#[test]
fn what_waits_and_would_be_too_much_work_is_not_kept() {
    let mut replica = document_of(by_turns((1, 2), 60_000));
    let waits = |client: u64, count: u64| {
        Bytes::from(letters(&(0..count).map(|clock| (client, clock, Some((7, clock)), None)).collect::<Vec<_>>()))
    };
    assert_eq!(replica.take(&waits(8, 1_000), &HeldLimits::default()), Ok(Taken::Held));
    assert_eq!(replica.take(&waits(9, 1_000), &HeldLimits::default()), Ok(Taken::NoRoom));
    assert_eq!(replica.take(&waits(8, 1_000), &HeldLimits::default()), Ok(Taken::Known), "it is kept already");
}

/// What is stopped midway ends its session and nothing else: the document is loaded again without it.
#[test]
fn a_document_that_had_enough_is_loaded_again() {
    let (bad, good, mut effects) = (LeaseId(1), LeaseId(2), Vec::new());
    let cursor = Cursor { epoch: Epoch(1), seq: Seq::ZERO };
    let mut core = Core::new(Replica::default(), cursor, HeldLimits::default());
    let text = Bytes::from(line(1, 4_000_000));
    let change = |lease, update| Event::Update { lease, update, origin: Origin::Change, batch: 1 };
    core.handle(change(good, text.clone()), &mut effects);
    effects.clear();
    core.handle_while(change(bad, holes(1, 2_000).into()), &mut effects, &mut || false);
    let [Effect::Close { lease, close }, Effect::Reload] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((*lease, close.code(), close.reason().contains("more work")), (bad, 4400, true), "{}", close.reason());
    core.restore(Replica::load([text].into_iter()).unwrap());
    effects.clear();
    core.handle(change(good, letters(&[(5, 0, Some((1, 9)), None)]).into()), &mut effects);
    assert!(matches!(effects[0], Effect::Append { .. }), "{effects:?}");
}

/// The same over sockets: who is in the document goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_edits_beside_too_much_work_goes_on() {
    let server = limited(|limits| limits.work = Duration::from_secs(2)).await;
    let mut good = Socket::open(&server, "/doc").await;
    good.join().await;
    let text = line(1, 4_000_000);
    good.sync(SyncMessage::Update(&text)).await;
    assert_eq!(good.hear_sync().await.0, 2);
    let mut bad = Socket::open(&server, "/doc").await;
    bad.join().await;
    bad.sync(SyncMessage::Update(&holes(1, 400_000))).await;
    let (code, reason) = bad.hear_close().await;
    assert_eq!((code, reason.contains("more work")), (4400, true), "{reason}");
    let edit = letters(&[(5, 0, Some((1, 9)), None)]);
    good.sync(SyncMessage::Update(&edit)).await;
    // A diff first: the document was loaded again.
    while good.hear_sync().await != (2, edit.clone()) {}
    server.stop().await.unwrap();
}

#[test]
fn real_documents_are_far_from_the_limits_of_work() {
    let limits = GrowthLimits::default();
    let (mut most, mut steps) = (0, 0);
    for vector in [scanner_fixtures::yjs_vectors(), scanner_fixtures::whole_documents()].into_iter().flatten() {
        for update in vector.updates.iter().chain(&vector.others) {
            let summary = syncline_protocol::update::scan_update(update, &Default::default()).unwrap();
            let found = conflicts([&update[..]].into_iter(), &|_| 0, summary.structs);
            most = most.max(found.meetings);
            steps = steps.max(found.items * summary.structs);
        }
    }
    println!("at most {most} meetings, {steps} steps");
    assert!(most * 10 < limits.meetings && steps * 10 < limits.steps, "{most} meetings, {steps} steps");
}

/// The worst update known into a document of a million items: how long the document, and how long another, is held up.
/// `cargo test --release -p syncline-tests --test growth -- --ignored --nocapture one_update`.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement of a minute: how long others wait is printed, and held against no clock"]
async fn one_update_into_a_large_hostile_document() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (mut healthy, mut beside, mut bad) = (
        Socket::open(&server, "/healthy").await,
        Socket::open(&server, "/doc").await,
        Socket::open(&server, "/doc").await,
    );
    healthy.join().await;
    bad.join().await;
    let (began, text) = (Instant::now(), by_turns((1, 2), 1_000_000));
    bad.sync(SyncMessage::Update(&text)).await;
    assert_eq!(bad.hear_sync().await.0, 2);
    println!("a document of {} bytes was taken in {:?}", text.len(), began.elapsed());
    beside.join().await;
    let attack = passing(9, 20_000, 1);
    let began = Instant::now();
    bad.sync(SyncMessage::Update(&attack)).await;
    let closed = tokio::spawn(async move {
        loop {
            if let Heard::Closed { code, reason } = bad.next().await {
                return (code, reason, began.elapsed());
            }
        }
    });
    let neighbour = tokio::spawn(async move {
        let update = typed(3, "x");
        beside.sync(SyncMessage::Update(&update)).await;
        let echo = syncline_protocol::ywebsocket::Message::Sync(SyncMessage::Update(&update)).encode();
        loop {
            match beside.next().await {
                Heard::Frame(frame) if frame[..] == echo[..] => return format!("saved after {:?}", began.elapsed()),
                Heard::Frame(_) => {}
                other => return format!("{other:?} after {:?}", began.elapsed()),
            }
        }
    });
    let (mut worst, mut number) = (Duration::ZERO, 10);
    while !neighbour.is_finished() {
        let (update, sent) = (typed(number, "x"), Instant::now());
        healthy.sync(SyncMessage::Update(&update)).await;
        assert_eq!(healthy.hear_sync().await, (2, update));
        (worst, number) = (worst.max(sent.elapsed()), number + 1);
    }
    let (code, reason, after) = closed.await.unwrap();
    println!("{} bytes: closed with {code} {reason:?} after {after:?}", attack.len());
    println!("an edit beside it in the same document: {}", neighbour.await.unwrap());
    println!("{} edits of another document meanwhile, the slowest {worst:?}", number - 10);
    server.stop().await.unwrap();
}

/// While a document is busy with one session's work, another on the same thread answers. Printed, not held against a
/// clock: `cargo test --release -p syncline-tests --test growth -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement of a minute: how long others wait is printed, and held against no clock"]
async fn another_document_answers_while_one_is_busy() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut healthy = Socket::open(&server, "/healthy").await;
    healthy.join().await;
    let mut bad = Socket::open(&server, "/doc").await;
    bad.join().await;
    bad.sync(SyncMessage::Update(&line(7, 40_000))).await;
    // Each piece is below what is refused; together they are too much.
    for piece in 0..200 {
        bad.sync(SyncMessage::Update(&spread(8, piece * 150, 150, 7))).await;
    }
    let (mut worst, began, mut number) = (Duration::ZERO, Instant::now(), 10);
    let closed = tokio::spawn(async move { bad.hear_close().await });
    while !closed.is_finished() && began.elapsed() < Duration::from_secs(60) {
        let update = typed(number, "x");
        let sent = Instant::now();
        healthy.sync(SyncMessage::Update(&update)).await;
        assert_eq!(healthy.hear_sync().await, (2, update));
        (worst, number) = (worst.max(sent.elapsed()), number + 1);
    }
    let closed = closed.await.unwrap();
    println!(
        "closed with {closed:?} after {:?}; {} edits beside it, the slowest {worst:?}",
        began.elapsed(),
        number - 10
    );
}
