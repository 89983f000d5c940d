//! The native dialect over real sockets: what a cursor costs and means, what is durable, and who is harmed by what.

use std::sync::Arc;

use syncline_log::memory::{Fault, MemoryStore};
use syncline_log::sled::SledStore;
use syncline_protocol::hocuspocus;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Cursor, Resume, ToClient, ToServer, VERSION};
use syncline_protocol::sync::SyncMessage;
use syncline_tests::live::{self, ByWord, Socket, settings, start, start_with, typed};
use syncline_tests::native_client::{Native, Said};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update};

/// An editor who types and deletes: after `edits` of them the delete set has as many ranges.
struct Scribe {
    doc: Doc,
    text: yrs::TextRef,
}

impl Scribe {
    fn new(client: u64) -> Self {
        let doc = Doc::with_client_id(client);
        let text = doc.get_or_insert_text("text");
        Self { doc, text }
    }

    fn types(&self, what: &str) -> Vec<u8> {
        let mut txn = self.doc.transact_mut();
        self.text.insert(&mut txn, 0, what);
        txn.encode_update_v1()
    }

    /// One update with about 10 KB of delete set.
    fn history(&self) -> Vec<u8> {
        let mut txn = self.doc.transact_mut();
        for _ in 0..3_000 {
            self.text.insert(&mut txn, 0, "ab");
            self.text.remove_range(&mut txn, 0, 1);
        }
        drop(txn);
        self.doc.transact().encode_state_as_update_v1(&StateVector::default())
    }
}

fn text_of<'a>(updates: impl IntoIterator<Item = &'a [u8]>) -> String {
    let doc = Doc::new();
    let text = doc.get_or_insert_text("text");
    for update in updates {
        doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
    }
    text.get_string(&doc.transact())
}

/// A document with a delete set of about 10 KB, and a cursor at its end.
async fn document_with_a_past(server: &syncline_server::Server) -> (Scribe, Cursor, Native) {
    let scribe = Scribe::new(1);
    let mut author = Native::begin(server).await;
    let (epoch, _) = author.join(0, "doc").await;
    let history = scribe.history();
    assert!(history.len() > 10_000, "{}", history.len());
    let seq = author.change_saved(0, 1, &history).await;
    author.durable(seq).await;
    (scribe, Cursor { epoch, seq }, author)
}

#[tokio::test]
async fn who_missed_nothing_costs_little_in_both_directions() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (_, cursor, _author) = document_with_a_past(&server).await;
    let mut back = Native::begin(&server).await;
    assert_eq!(back.open_at(0, "doc", Some(cursor)).await, (cursor, Resume::FromCursor));
    back.durable(cursor.seq).await;
    assert_eq!(back.hear_all().await, [], "nothing follows when nothing came");
    assert!(back.sent + back.heard < 200, "sent {}, heard {}", back.sent, back.heard);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn who_missed_a_little_gets_exactly_that_and_then_every_change() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (scribe, cursor, mut author) = document_with_a_past(&server).await;
    let missed = [scribe.types("x"), scribe.types("y")];
    author.change(0, 2, &missed[0]).await;
    let seq = author.change_saved(0, 3, &missed[1]).await;

    let mut back = Native::begin(&server).await;
    assert_eq!(back.open_at(0, "doc", Some(cursor)).await, (Cursor { seq, ..cursor }, Resume::FromCursor));
    let ((), tail) = back.hear_for(|said| (*said == Said::Durable { channel: 0, seq }).then_some(())).await;
    let change = |seq: u64, update: &[u8]| Said::Change { channel: 0, seq: Seq(seq), update: update.to_vec() };
    assert_eq!(tail, [change(cursor.seq.0 + 1, &missed[0]), change(seq.0, &missed[1])]);
    assert!(back.heard < 300, "without the delete set: {}", back.heard);
    let next = scribe.types("z");
    author.change(0, 4, &next).await;
    assert_eq!(back.hear().await, change(seq.0 + 1, &next));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_cursor_from_before_the_tail_is_asked_for_a_state_vector() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let scribe = Scribe::new(1);
    let mut author = Native::begin(&server).await;
    let (epoch, _) = author.join(0, "doc").await;
    let first = scribe.types("first ");
    author.change_saved(0, 1, &first).await;
    for batch in 2..600 {
        author.change(0, batch, &scribe.types("x")).await;
    }
    let last = author.acked(599).await;
    let mut back = Native::begin(&server).await;
    let old = Cursor { epoch, seq: Seq(1) };
    assert_eq!(back.open_at(3, "doc", Some(old)).await.1, Resume::SendStateVector);
    assert_eq!(back.hear_all().await, [], "no reader before its state vector");
    let state_vector = [1, 1, 6];
    back.say(ToServer::StateVector { channel: 3, state_vector: &state_vector }).await;
    let Said::Diff { channel: 3, seq, update } = back.hear().await else { panic!("no diff") };
    assert_eq!((seq, back.hear().await), (last, Said::Durable { channel: 3, seq: last }));
    assert_eq!(text_of([&first[..], &update]), "x".repeat(598) + "first ");
    // Some of it is in the tail.
    let mut near = Native::begin(&server).await;
    let cursor = Cursor { epoch, seq: Seq(last.0 - 10) };
    assert_eq!(near.open_at(0, "doc", Some(cursor)).await.1, Resume::FromCursor);
    let (_, tail) = near.hear_for(|said| matches!(said, Said::Durable { .. }).then_some(())).await;
    assert_eq!(tail.len(), 10);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn with_another_history_nothing_is_exchanged_until_it_is_opened_anew() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (scribe, cursor, mut author) = document_with_a_past(&server).await;
    let other = Cursor { epoch: Epoch(cursor.epoch.0 ^ 1), ..cursor };
    let ahead = Cursor { seq: cursor.seq.next(), ..cursor };
    for wrong in [other, ahead] {
        let mut back = Native::begin(&server).await;
        let open =
            ToServer::Open { channel: 2, document: "doc", token: "", cursor: Some(wrong), wants_state_vector: true };
        back.say(open).await;
        // Sent in the hope that all is well.
        back.change(2, 1, &typed(66, "from another history")).await;
        let expected =
            Said::Opened { channel: 2, cursor, read_only: false, resume: Resume::OtherHistory, state_vector: None };
        assert_eq!(back.hear().await, expected);
        // What it says all the same is not taken, and it hears of nothing.
        back.change(2, 2, &typed(66, "from another history")).await;
        back.say(ToServer::StateVector { channel: 2, state_vector: &[0] }).await;
        assert_eq!(back.hear_all().await, []);
        author.change_saved(0, 2, &[0, 0]).await;
        assert_eq!(back.hear_all().await, []);
        // The number is free.
        let (_, diff) = back.join(2, "doc").await;
        assert!(!diff.windows(7).any(|window| window == b"another"));
    }
    // An empty history is the beginning of any.
    let mut fresh = Native::begin(&server).await;
    let nothing = Cursor { epoch: other.epoch, seq: Seq::ZERO };
    assert_ne!(fresh.open_at(0, "doc", Some(nothing)).await.1, Resume::OtherHistory);
    drop(scribe);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_cursor_outlives_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Arc::new(SledStore::open(dir.path()).unwrap())).await;
    let (scribe, cursor, mut author) = document_with_a_past(&server).await;
    let missed = scribe.types("missed");
    let seq = author.change_saved(0, 2, &missed).await;
    server.stop().await.unwrap();

    let server = start(Arc::new(SledStore::open(dir.path()).unwrap())).await;
    let mut back = Native::begin(&server).await;
    assert_eq!(back.open_at(0, "doc", Some(cursor)).await, (Cursor { seq, ..cursor }, Resume::FromCursor));
    assert_eq!(back.hear().await, Said::Change { channel: 0, seq, update: missed });
    assert_eq!(back.hear().await, Said::Durable { channel: 0, seq });
    let mut other = Native::begin(&server).await;
    let now = Cursor { seq, ..cursor };
    assert_eq!(other.open_at(0, "doc", Some(now)).await, (now, Resume::FromCursor));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_reader_sees_a_change_before_the_disk_has_it_and_its_position_after() {
    let store = Arc::new(MemoryStore::new());
    let server = start(store.clone()).await;
    let (mut author, mut reader) = (Native::begin(&server).await, Native::begin(&server).await);
    author.join(0, "doc").await;
    reader.join(0, "doc").await;
    store.hold();
    let update = typed(1, "a");
    author.change(0, 1, &update).await;
    assert_eq!(reader.hear().await, Said::Change { channel: 0, seq: Seq(1), update });
    tokio::task::spawn_blocking({
        let store = store.clone();
        move || store.wait_until_held()
    })
    .await
    .unwrap();
    // Who joins now gets it, and is told that it is not on disk.
    let mut joiner = Native::begin(&server).await;
    joiner.join(0, "doc").await;
    assert_eq!((reader.hear_all().await, author.hear_all().await), (vec![], vec![]), "the disk still waits");
    store.release();
    assert_eq!(reader.hear().await, Said::Durable { channel: 0, seq: Seq(1) });
    assert_eq!(joiner.hear().await, Said::Durable { channel: 0, seq: Seq(1) });
    author.hear_until(|said| *said == Said::Ack { channel: 0, batch: 1, seq: Seq(1) }).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn after_a_storage_failure_changes_are_refused_and_reads_go_on() {
    let store = Arc::new(MemoryStore::new());
    let server = start(store.clone()).await;
    let mut author = Native::begin(&server).await;
    author.join(0, "doc").await;
    author.change_saved(0, 1, &typed(1, "kept")).await;
    store.fault_at(1, Fault::Fail);
    for batch in 2..5 {
        author.change(0, batch, &typed(batch, "lost")).await;
        author.hear_until(|said| *said == Said::Refused { channel: 0, batch, code: 4507 }).await;
    }
    author.propose(0, 5, 1, None).await;
    author.hear_until(|said| *said == Said::Refused { channel: 0, batch: 5, code: 4507 }).await;
    let mut reader = Native::begin(&server).await;
    let (_, diff) = reader.join(0, "doc").await;
    assert!(diff.windows(4).any(|window| window == b"kept"), "reading goes on");
    let said = author.hear_all().await;
    assert!(!said.iter().any(|said| matches!(said, Said::Ack { .. } | Said::Decided { .. })), "{said:?}");
    assert!(server.stop().await.is_err());
}

#[tokio::test]
async fn rights_are_of_one_document_and_a_refusal_of_one_change() {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(ByWord)).await;
    let mut session = Native::begin(&server).await;
    let open =
        |channel, document, token| ToServer::Open { channel, document, token, cursor: None, wants_state_vector: true };
    session.say(open(0, "denied", "")).await;
    assert_eq!(
        session.hear().await,
        Said::Closed { channel: 0, code: 4403, reason: "this token opens nothing".into() }
    );
    session.say(open(0, "read", "read")).await;
    let opened = session.hear().await;
    assert!(matches!(opened, Said::Opened { read_only: true, state_vector: Some(_), .. }), "{opened:?}");
    session.change(0, 1, &typed(1, "a")).await;
    assert_eq!(session.hear().await, Said::Refused { channel: 0, batch: 1, code: 4403 });
    session.propose(0, 2, 1, None).await;
    assert_eq!(session.hear().await, Said::Refused { channel: 0, batch: 2, code: 4403 });
    session.say(open(1, "write", "write")).await;
    assert!(matches!(session.hear().await, Said::Opened { channel: 1, read_only: false, .. }));
    session.change_saved(1, 1, &typed(1, "a")).await;
    session.say(open(2, "", "write")).await;
    assert!(matches!(session.hear().await, Said::Closed { channel: 2, code: 4404, .. }));
    session.say(open(1, "again", "write")).await;
    assert_eq!(session.socket.hear_close().await.0, 4400, "a number in use");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_document_that_closes_takes_only_its_own_channel() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut session = Native::begin(&server).await;
    session.join(0, "broken").await;
    session.join(1, "fine").await;
    // Two items, each with the other for its origin.
    let circle = [2, 1, 2, 0, 0x84, 1, 0, 1, b'b', 1, 1, 0, 0x84, 2, 0, 1, b'a', 0];
    session.change(0, 1, &circle).await;
    // Sent before the end of the channel is heard of: nobody's, and no offence.
    session.change(0, 2, &typed(9, "too late")).await;
    assert!(matches!(session.hear().await, Said::Closed { channel: 0, code: 4400, .. }));
    session.change_saved(1, 1, &typed(1, "a")).await;
    let (_, diff) = session.join(0, "broken").await;
    assert_eq!(diff, [0, 0]);
    session.change_saved(0, 1, &typed(2, "b")).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_number_that_was_left_may_be_another_documents() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (mut session, mut author) = (Native::begin(&server).await, Native::begin(&server).await);
    author.join(0, "old").await;
    for round in 0..50 {
        session.join(5, "old").await;
        author.change(0, round + 1, &typed(100 + round, "of the old document")).await;
        session.say(ToServer::Leave { channel: 5 }).await;
        session.join(5, "new").await;
        author.acked(round + 1).await;
        let said = session.hear_all().await;
        assert!(!said.iter().any(|said| matches!(said, Said::Change { .. })), "{said:?}");
        session.say(ToServer::Leave { channel: 5 }).await;
    }
    let mut limited = settings();
    limited.session.documents = 2;
    server.stop().await.unwrap();
    let server = start_with(&limited, Arc::new(MemoryStore::new()), Arc::new(syncline_server::auth::OpenToAll)).await;
    let mut session = Native::begin(&server).await;
    session.join(0, "a").await;
    session.join(1, "b").await;
    session.say(ToServer::Open { channel: 2, document: "c", token: "", cursor: None, wants_state_vector: false }).await;
    assert!(matches!(session.hear().await, Said::Closed { channel: 2, code: 4529, .. }));
    session.say(ToServer::Leave { channel: 0 }).await;
    session.join(2, "c").await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn readers_of_every_dialect_see_each_others_changes_and_presence() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut native = Native::begin(&server).await;
    native.join(0, "doc").await;
    let mut plain = Socket::open(&server, "/doc").await;
    plain.join().await;
    let mut hocus = Socket::open(&server, "/").await;
    hocus.say("doc", hocuspocus::Message::Token { token: "", version: None }).await;
    hocus.say("doc", hocuspocus::Message::Sync(SyncMessage::Step1(&[0]))).await;
    let is_diff =
        |message: &hocuspocus::Message<'_>| matches!(message, hocuspocus::Message::Sync(SyncMessage::Step2(_)));
    hocus.hear_until(|_, message| is_diff(message)).await;

    let updates = [typed(1, "native"), typed(2, "plain"), typed(3, "hocus")];
    let is = |message: &hocuspocus::Message<'_>, update: &[u8]| {
        *message == hocuspocus::Message::Sync(SyncMessage::Update(update))
    };
    native.change(0, 1, &updates[0]).await;
    assert_eq!(plain.hear_sync().await, (2, updates[0].clone()));
    hocus.hear_until(|_, message| is(message, &updates[0])).await;
    plain.sync(SyncMessage::Update(&updates[1])).await;
    native.hear_until(|said| matches!(said, Said::Change { update, .. } if *update == updates[1])).await;
    hocus.hear_until(|_, message| is(message, &updates[1])).await;
    hocus.say("doc", hocuspocus::Message::Sync(SyncMessage::Update(&updates[2]))).await;
    native.hear_until(|said| matches!(said, Said::Change { update, .. } if *update == updates[2])).await;
    native.durable(Seq(3)).await;

    let here = [1, 7, 0, 2, b'{', b'}'];
    native.say(ToServer::Presence { channel: 0, update: &here }).await;
    hocus.hear_until(|_, message| matches!(message, hocuspocus::Message::Awareness(update) if *update == here)).await;
    native.hear_until(|said| *said == Said::Presence { channel: 0, update: here.to_vec() }).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn any_version_is_answered_with_ours_and_silence_with_a_heartbeat() {
    let mut config = settings();
    config.session.tick = std::time::Duration::from_millis(5);
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(syncline_server::auth::OpenToAll)).await;
    for version in [0, 1, 99] {
        let mut socket = Socket::open(&server, "/any/path").await;
        socket.send(ToServer::Hello { version, device: 1 }.encode()).await;
        let live::Heard::Frame(frame) = socket.hear().await else { panic!() };
        let welcome = ToClient::decode(&frame).unwrap();
        assert!(
            matches!(welcome, ToClient::Welcome { version: VERSION, time_ms: 1.., max_message_bytes: 68_157_440 }),
            "{welcome:?}"
        );
        assert_eq!(socket.hear().await, live::Heard::Frame(ToClient::Pong.encode().into()));
    }
    let mut twice = Native::begin(&server).await;
    twice.say(ToServer::Hello { version: 1, device: 1 }).await;
    assert_eq!(twice.socket.hear_close().await.0, 4400);
    server.stop().await.unwrap();
}
