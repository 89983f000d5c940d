//! The native dialect over real sockets: resuming from a cursor, durability, grants, and how far each refusal reaches.

use std::sync::Arc;

use syncline_log::memory::{Fault, MemoryStore};
use syncline_log::sled::SledStore;
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Cursor, Resume, ToClient, ToServer, VERSION};
use syncline_protocol::sync::SyncMessage;
use syncline_tests::live::{self, GrantByToken, Socket, settings, start, start_with, typed};
use syncline_tests::native_client::{Native, ServerMessage};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update};

/// An author that types and deletes, so that its delete set grows.
struct Typist {
    doc: Doc,
    text: yrs::TextRef,
}

impl Typist {
    fn new(client: u64) -> Self {
        let doc = Doc::with_client_id(client);
        let text = doc.get_or_insert_text("text");
        Self { doc, text }
    }

    fn insert(&self, text: &str) -> Vec<u8> {
        let mut txn = self.doc.transact_mut();
        self.text.insert(&mut txn, 0, text);
        txn.encode_update_v1()
    }

    /// One update with a delete set of about 10 KB.
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

/// Creates a document with a delete set of about 10 KB. Returns its author, a cursor at its end, and the author's
/// session.
async fn document_with_history(server: &syncline_server::Server) -> (Typist, Cursor, Native) {
    let typist = Typist::new(1);
    let mut author = Native::connect(server).await;
    let (epoch, _) = author.join(0, "doc").await;
    let history = typist.history();
    assert!(history.len() > 10_000, "{}", history.len());
    let seq = author.save_change(0, 1, &history).await;
    author.wait_for_durable(seq).await;
    (typist, Cursor { epoch, seq }, author)
}

#[tokio::test]
async fn resume_without_missed_changes_costs_few_bytes() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (_, cursor, _author) = document_with_history(&server).await;
    let mut back = Native::connect(&server).await;
    assert_eq!(back.open_at(0, "doc", Some(cursor)).await, (cursor, Resume::FromCursor));
    back.wait_for_durable(cursor.seq).await;
    assert_eq!(back.receive_pending().await, [], "no message follows when no change was missed");
    assert!(back.sent_bytes + back.received_bytes < 200, "sent {}, received {}", back.sent_bytes, back.received_bytes);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn resume_sends_exactly_the_missed_changes_and_then_live_ones() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (typist, cursor, mut author) = document_with_history(&server).await;
    let missed = [typist.insert("x"), typist.insert("y")];
    author.change(0, 2, &missed[0]).await;
    let seq = author.save_change(0, 3, &missed[1]).await;

    let mut back = Native::connect(&server).await;
    assert_eq!(back.open_at(0, "doc", Some(cursor)).await, (Cursor { seq, ..cursor }, Resume::FromCursor));
    let ((), tail) =
        back.receive_first(|message| (*message == ServerMessage::Durable { channel: 0, seq }).then_some(())).await;
    let change = |seq: u64, update: &[u8]| ServerMessage::Change { channel: 0, seq: Seq(seq), update: update.to_vec() };
    assert_eq!(tail, [change(cursor.seq.0 + 1, &missed[0]), change(seq.0, &missed[1])]);
    assert!(back.received_bytes < 300, "the delete set is not sent: received {}", back.received_bytes);
    let next = typist.insert("z");
    author.change(0, 4, &next).await;
    assert_eq!(back.receive().await, change(seq.0 + 1, &next));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn cursor_older_than_the_tail_is_asked_for_a_state_vector() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let typist = Typist::new(1);
    let mut author = Native::connect(&server).await;
    let (epoch, _) = author.join(0, "doc").await;
    let first = typist.insert("first ");
    author.save_change(0, 1, &first).await;
    for batch in 2..600 {
        author.change(0, batch, &typist.insert("x")).await;
    }
    let last = author.wait_for_ack(599).await;
    let mut back = Native::connect(&server).await;
    let old = Cursor { epoch, seq: Seq(1) };
    assert_eq!(back.open_at(3, "doc", Some(old)).await.1, Resume::SendStateVector);
    assert_eq!(back.receive_pending().await, [], "no changes before the client sends its state vector");
    let state_vector = [1, 1, 6];
    back.send(ToServer::StateVector { channel: 3, state_vector: &state_vector }).await;
    let ServerMessage::Diff { channel: 3, seq, update } = back.receive().await else { panic!("no diff") };
    assert_eq!((seq, back.receive().await), (last, ServerMessage::Durable { channel: 3, seq: last }));
    assert_eq!(text_of([&first[..], &update]), "x".repeat(598) + "first ");
    // A cursor within the recent changes resumes from them.
    let mut near = Native::connect(&server).await;
    let cursor = Cursor { epoch, seq: Seq(last.0 - 10) };
    assert_eq!(near.open_at(0, "doc", Some(cursor)).await.1, Resume::FromCursor);
    let (_, tail) = near.receive_first(|message| matches!(message, ServerMessage::Durable { .. }).then_some(())).await;
    assert_eq!(tail.len(), 10);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn cursor_of_another_history_exchanges_nothing_until_reopened() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (typist, cursor, mut author) = document_with_history(&server).await;
    let other = Cursor { epoch: Epoch(cursor.epoch.0 ^ 1), ..cursor };
    let ahead = Cursor { seq: cursor.seq.next(), ..cursor };
    for wrong in [other, ahead] {
        let mut back = Native::connect(&server).await;
        let open =
            ToServer::Open { channel: 2, document: "doc", token: "", cursor: Some(wrong), wants_state_vector: true };
        back.send(open).await;
        // Sent before the answer to Open arrives.
        back.change(2, 1, &typed(66, "from another history")).await;
        let expected = ServerMessage::Opened {
            channel: 2,
            cursor,
            read_only: false,
            resume: Resume::OtherHistory,
            state_vector: None,
        };
        assert_eq!(back.receive().await, expected);
        // Later messages on the channel are ignored, and it receives no changes.
        back.change(2, 2, &typed(66, "from another history")).await;
        back.send(ToServer::StateVector { channel: 2, state_vector: &[0] }).await;
        assert_eq!(back.receive_pending().await, []);
        author.save_change(0, 2, &[0, 0]).await;
        assert_eq!(back.receive_pending().await, []);
        // The channel number is free again.
        let (_, diff) = back.join(2, "doc").await;
        assert!(!diff.windows(7).any(|window| window == b"another"));
    }
    // A cursor at sequence number 0 has no history that could differ.
    let mut fresh = Native::connect(&server).await;
    let nothing = Cursor { epoch: other.epoch, seq: Seq::ZERO };
    assert_ne!(fresh.open_at(0, "doc", Some(nothing)).await.1, Resume::OtherHistory);
    drop(typist);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn cursor_survives_a_server_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Arc::new(SledStore::open(dir.path()).unwrap())).await;
    let (typist, cursor, mut author) = document_with_history(&server).await;
    let missed = typist.insert("missed");
    let seq = author.save_change(0, 2, &missed).await;
    server.stop().await.unwrap();

    let server = start(Arc::new(SledStore::open(dir.path()).unwrap())).await;
    let mut back = Native::connect(&server).await;
    assert_eq!(back.open_at(0, "doc", Some(cursor)).await, (Cursor { seq, ..cursor }, Resume::FromCursor));
    assert_eq!(back.receive().await, ServerMessage::Change { channel: 0, seq, update: missed });
    assert_eq!(back.receive().await, ServerMessage::Durable { channel: 0, seq });
    let mut other = Native::connect(&server).await;
    let now = Cursor { seq, ..cursor };
    assert_eq!(other.open_at(0, "doc", Some(now)).await, (now, Resume::FromCursor));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn change_reaches_readers_before_the_disk_and_durable_follows() {
    let store = Arc::new(MemoryStore::new());
    let server = start(store.clone()).await;
    let (mut author, mut reader) = (Native::connect(&server).await, Native::connect(&server).await);
    author.join(0, "doc").await;
    reader.join(0, "doc").await;
    store.hold();
    let update = typed(1, "a");
    author.change(0, 1, &update).await;
    assert_eq!(reader.receive().await, ServerMessage::Change { channel: 0, seq: Seq(1), update });
    tokio::task::spawn_blocking({
        let store = store.clone();
        move || store.wait_until_held()
    })
    .await
    .unwrap();
    // A client that joins now receives the change, and no Durable for it.
    let mut joiner = Native::connect(&server).await;
    joiner.join(0, "doc").await;
    assert_eq!(
        (reader.receive_pending().await, author.receive_pending().await),
        (vec![], vec![]),
        "the change is not on disk yet"
    );
    store.release();
    assert_eq!(reader.receive().await, ServerMessage::Durable { channel: 0, seq: Seq(1) });
    assert_eq!(joiner.receive().await, ServerMessage::Durable { channel: 0, seq: Seq(1) });
    author.receive_until(|message| *message == ServerMessage::Ack { channel: 0, batch: 1, seq: Seq(1) }).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn storage_failure_refuses_changes_but_not_reads() {
    let store = Arc::new(MemoryStore::new());
    let server = start(store.clone()).await;
    let mut author = Native::connect(&server).await;
    author.join(0, "doc").await;
    author.save_change(0, 1, &typed(1, "kept")).await;
    store.fault_at(1, Fault::Fail);
    for batch in 2..5 {
        author.change(0, batch, &typed(batch, "lost")).await;
        author.receive_until(|message| *message == ServerMessage::Refused { channel: 0, batch, code: 4507 }).await;
    }
    author.propose(0, 5, 1, None).await;
    author.receive_until(|message| *message == ServerMessage::Refused { channel: 0, batch: 5, code: 4507 }).await;
    let mut reader = Native::connect(&server).await;
    let (_, diff) = reader.join(0, "doc").await;
    assert!(diff.windows(4).any(|window| window == b"kept"), "reads still work");
    let messages = author.receive_pending().await;
    assert!(
        !messages.iter().any(|message| matches!(message, ServerMessage::Ack { .. } | ServerMessage::Decided { .. })),
        "{messages:?}"
    );
    assert!(server.stop().await.is_err());
}

#[tokio::test]
async fn grant_covers_one_document_and_a_refusal_one_change() {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(GrantByToken)).await;
    let mut session = Native::connect(&server).await;
    let open =
        |channel, document, token| ToServer::Open { channel, document, token, cursor: None, wants_state_vector: true };
    session.send(open(0, "denied", "")).await;
    assert_eq!(
        session.receive().await,
        ServerMessage::Closed { channel: 0, code: 4403, reason: "this token opens nothing".into() }
    );
    session.send(open(0, "read", "read")).await;
    let opened = session.receive().await;
    assert!(matches!(opened, ServerMessage::Opened { read_only: true, state_vector: Some(_), .. }), "{opened:?}");
    session.change(0, 1, &typed(1, "a")).await;
    assert_eq!(session.receive().await, ServerMessage::Refused { channel: 0, batch: 1, code: 4403 });
    session.propose(0, 2, 1, None).await;
    assert_eq!(session.receive().await, ServerMessage::Refused { channel: 0, batch: 2, code: 4403 });
    session.send(open(1, "write", "write")).await;
    assert!(matches!(session.receive().await, ServerMessage::Opened { channel: 1, read_only: false, .. }));
    session.save_change(1, 1, &typed(1, "a")).await;
    session.send(open(2, "", "write")).await;
    assert!(matches!(session.receive().await, ServerMessage::Closed { channel: 2, code: 4404, .. }));
    session.send(open(1, "again", "write")).await;
    assert_eq!(session.socket.receive_close().await.0, 4400, "the channel number is in use");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn closed_document_closes_only_its_own_channel() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut session = Native::connect(&server).await;
    session.join(0, "broken").await;
    session.join(1, "fine").await;
    // Two items, each the origin of the other.
    let circle = [2, 1, 2, 0, 0x84, 1, 0, 1, b'b', 1, 1, 0, 0x84, 2, 0, 1, b'a', 0];
    session.change(0, 1, &circle).await;
    // Sent before the client knows that the channel is closed: ignored, and not a protocol error.
    session.change(0, 2, &typed(9, "too late")).await;
    assert!(matches!(session.receive().await, ServerMessage::Closed { channel: 0, code: 4400, .. }));
    session.save_change(1, 1, &typed(1, "a")).await;
    let (_, diff) = session.join(0, "broken").await;
    assert_eq!(diff, [0, 0]);
    session.save_change(0, 1, &typed(2, "b")).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn left_channel_number_can_be_reused_for_another_document() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (mut session, mut author) = (Native::connect(&server).await, Native::connect(&server).await);
    author.join(0, "old").await;
    for round in 0..50 {
        session.join(5, "old").await;
        author.change(0, round + 1, &typed(100 + round, "of the old document")).await;
        session.send(ToServer::Leave { channel: 5 }).await;
        session.join(5, "new").await;
        author.wait_for_ack(round + 1).await;
        let messages = session.receive_pending().await;
        assert!(!messages.iter().any(|message| matches!(message, ServerMessage::Change { .. })), "{messages:?}");
        session.send(ToServer::Leave { channel: 5 }).await;
    }
    let mut limited = settings();
    limited.session.documents = 2;
    server.stop().await.unwrap();
    let server = start_with(&limited, Arc::new(MemoryStore::new()), Arc::new(syncline_server::auth::OpenToAll)).await;
    let mut session = Native::connect(&server).await;
    session.join(0, "a").await;
    session.join(1, "b").await;
    session
        .send(ToServer::Open { channel: 2, document: "c", token: "", cursor: None, wants_state_vector: false })
        .await;
    assert!(matches!(session.receive().await, ServerMessage::Closed { channel: 2, code: 4529, .. }));
    session.send(ToServer::Leave { channel: 0 }).await;
    session.join(2, "c").await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn readers_of_every_dialect_see_each_others_changes_and_awareness() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut native = Native::connect(&server).await;
    native.join(0, "doc").await;
    let mut plain = Socket::open(&server, "/doc").await;
    plain.join().await;
    let mut hocus = Socket::open(&server, "/").await;
    hocus.send_to("doc", HocuspocusMessage::Token { token: "", version: None }).await;
    hocus.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    let is_diff = |message: &HocuspocusMessage<'_>| matches!(message, HocuspocusMessage::Sync(SyncMessage::Step2(_)));
    hocus.receive_until(|_, message| is_diff(message)).await;

    let updates = [typed(1, "native"), typed(2, "plain"), typed(3, "hocus")];
    let is = |message: &HocuspocusMessage<'_>, update: &[u8]| {
        *message == HocuspocusMessage::Sync(SyncMessage::Update(update))
    };
    native.change(0, 1, &updates[0]).await;
    assert_eq!(plain.receive_sync().await, (2, updates[0].clone()));
    hocus.receive_until(|_, message| is(message, &updates[0])).await;
    plain.sync(SyncMessage::Update(&updates[1])).await;
    native
        .receive_until(|message| matches!(message, ServerMessage::Change { update, .. } if *update == updates[1]))
        .await;
    hocus.receive_until(|_, message| is(message, &updates[1])).await;
    hocus.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&updates[2]))).await;
    native
        .receive_until(|message| matches!(message, ServerMessage::Change { update, .. } if *update == updates[2]))
        .await;
    native.wait_for_durable(Seq(3)).await;

    let here = [1, 7, 0, 2, b'{', b'}'];
    native.send(ToServer::Presence { channel: 0, update: &here }).await;
    hocus.receive_until(|_, message| matches!(message, HocuspocusMessage::Awareness(update) if *update == here)).await;
    native.receive_until(|message| *message == ServerMessage::Presence { channel: 0, update: here.to_vec() }).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn hello_of_any_version_gets_ours_and_silence_gets_a_heartbeat() {
    let mut config = settings();
    config.session.tick = std::time::Duration::from_millis(5);
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(syncline_server::auth::OpenToAll)).await;
    for version in [0, 1, 99] {
        let mut socket = Socket::open(&server, "/any/path").await;
        socket.send(ToServer::Hello { version, device: 1 }.encode()).await;
        let live::Incoming::Frame(frame) = socket.receive().await else { panic!() };
        let welcome = ToClient::decode(&frame).unwrap();
        assert!(
            matches!(welcome, ToClient::Welcome { version: VERSION, time_ms: 1.., max_message_bytes: 68_157_440 }),
            "{welcome:?}"
        );
        assert_eq!(socket.receive().await, live::Incoming::Frame(ToClient::Pong.encode().into()));
    }
    let mut twice = Native::connect(&server).await;
    twice.send(ToServer::Hello { version: 1, device: 1 }).await;
    assert_eq!(twice.socket.receive_close().await.0, 4400);
    server.stop().await.unwrap();
}
