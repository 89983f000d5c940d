//! Versioned registers and deletion over real sockets: exactly one of two proposals on one version is accepted, a
//! retried proposal gets the same answer, and a deleted document stays deleted.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use syncline_log::memory::MemoryStore;
use syncline_log::sled::SledStore;
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::native::{Cursor, Proposal, Resume, ToServer, Version};
use syncline_protocol::sync::SyncMessage;
use syncline_server::cli::delete::{delete, purge};
use syncline_tests::live::{Socket, start, typed};
use syncline_tests::native_client::{Native, ServerMessage};
use yrs::updates::decoder::Decode;
use yrs::{Doc, Map, Out, ReadTxn, Transact, Update};

fn version(number: u64, id: u128) -> Option<Version> {
    Some(Version { number, id })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_of_two_proposals_on_one_version_is_accepted() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = start(Arc::new(MemoryStore::new())).await;
    let (mut a, mut b) = (Native::connect(&server).await, Native::connect(&server).await);
    a.join(0, "doc").await;
    b.join(0, "doc").await;
    let mut base = None;
    let mut next_client = 100;
    for round in 1..=200 {
        let batch = round * 10;
        let (first_id, second_id) = (random.random::<u128>(), random.random::<u128>());
        for socket in [&mut a, &mut b] {
            for before in 0..random.random_range(0..3) {
                next_client += 1;
                socket.change(0, batch - 5 + before, &typed(next_client, "between")).await;
            }
        }
        tokio::join!(a.propose(0, batch, first_id, base), b.propose(0, batch, second_id, base));
        let ((a_accepted, a_register), (b_accepted, b_register)) =
            tokio::join!(a.wait_for_decision(batch), b.wait_for_decision(batch));
        assert!(a_accepted != b_accepted, "seed {seed}, round {round}: {a_accepted} {b_accepted}");
        let id = if a_accepted { first_id } else { second_id };
        let won = version(round, id);
        assert_eq!((a_register.map(|it| it.version), b_register.map(|it| it.version)), (won, won));
        base = won;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn retried_accepted_proposal_is_accepted_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Arc::new(SledStore::open(dir.path()).unwrap())).await;
    let mut author = Native::connect(&server).await;
    author.join(0, "doc").await;
    author.propose(0, 1, 11, None).await;
    let (accepted, register) = author.wait_for_decision(1).await;
    assert!(accepted);
    let state = register.unwrap();
    assert_eq!((Some(state.version), &*state.author, state.at_ms), (version(1, 11), "Ana", 1 << 40));
    server.stop().await.unwrap();

    let server = start(Arc::new(SledStore::open(dir.path()).unwrap())).await;
    let mut author = Native::connect(&server).await;
    author.join(0, "doc").await;
    author.propose(0, 1, 11, None).await;
    assert_eq!(author.wait_for_decision(1).await, (true, Some(state.clone())), "no second version");
    author.propose(0, 2, 12, None).await;
    assert_eq!(author.wait_for_decision(2).await, (false, Some(state)));
    author.propose(0, 3, 13, version(1, 11)).await;
    let (accepted, register) = author.wait_for_decision(3).await;
    assert_eq!((accepted, register.unwrap().version), (true, Version { number: 2, id: 13 }));
    author.propose(0, 4, 11, None).await;
    let (accepted, register) = author.wait_for_decision(4).await;
    assert_eq!((accepted, register.unwrap().version.number), (true, 2), "a retry of an older version is accepted, too");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn register_reaches_readers_first_and_decision_waits_for_the_disk() {
    let store = Arc::new(MemoryStore::new());
    let server = start(store.clone()).await;
    let (mut first, mut second) = (Native::connect(&server).await, Native::connect(&server).await);
    first.join(0, "doc").await;
    second.join(0, "doc").await;
    let mut plain = Socket::open(&server, "/doc").await;
    plain.join().await;
    store.hold();
    first.propose(0, 1, 1, None).await;
    let ServerMessage::Change { update, seq: Seq(1), .. } = first.receive().await else {
        panic!("the proposer did not receive the change")
    };
    assert!(matches!(second.receive().await, ServerMessage::Change { .. }));
    assert_eq!(plain.receive_sync().await, (2, update.clone()));
    let doc = Doc::new();
    doc.transact_mut().apply_update(Update::decode_v1(&update).unwrap()).unwrap();
    let txn = doc.transact();
    let Some(Out::Any(any)) = txn.get_map("syncline:registers").unwrap().get(&txn, "status") else { panic!() };
    assert_eq!(syncline_replica::RegisterState::from_any(&any).unwrap().version.id, 1);
    // The proposal that the second one loses to is not on disk yet, so its refusal waits as well.
    second.propose(0, 1, 2, None).await;
    assert_eq!((first.receive_pending().await, second.receive_pending().await), (vec![], vec![]));
    store.release();
    let (accepted, _) = first.wait_for_decision(1).await;
    let (second_accepted, register) = second.wait_for_decision(1).await;
    assert_eq!((accepted, second_accepted, register.unwrap().version.id), (true, false, 1));
    drop(txn);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn invalid_proposal_closes_its_document() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let long = "x".repeat(257);
    let large = [&[116, 0x81, 0x80, 0x04][..], &[0; 65_537]].concat();
    let deep = [&[117, 1].repeat(100)[..], &[126]].concat();
    let fine = Proposal { register: "r", id: 1, based_on: None, author: "a", at_ms: 1, value: &[126] };
    for bad in [
        Proposal { register: &long, ..fine },
        Proposal { author: &long, ..fine },
        Proposal { value: &large, ..fine },
        Proposal { value: &deep, ..fine },
        Proposal { value: &[], ..fine },
        Proposal { value: &[126, 126], ..fine },
        Proposal { value: &[118, 0xff, 0xff, 0xff, 0x7f], ..fine },
    ] {
        let mut session = Native::connect(&server).await;
        session.join(0, "doc").await;
        session.send(ToServer::Propose { channel: 0, batch: 1, proposal: bad }).await;
        session.receive_until(|message| matches!(message, ServerMessage::Closed { channel: 0, code: 4400, .. })).await;
        // The session stays open.
        session.join(1, "doc").await;
    }
    // The deepest allowed value is accepted, and the scanner accepts the document when a peer sends it back.
    let deep = [&[117, 1].repeat(99)[..], &[126]].concat();
    let mut session = Native::connect(&server).await;
    session.join(0, "doc").await;
    session.send(ToServer::Propose { channel: 0, batch: 1, proposal: Proposal { value: &deep, ..fine } }).await;
    assert!(session.wait_for_decision(1).await.0);
    let mut plain = Socket::open(&server, "/doc").await;
    let diff = plain.join().await;
    plain.sync(SyncMessage::Update(&diff)).await;
    assert_eq!(plain.receive_sync().await, (2, diff));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn deleted_document_stays_deleted_and_purged_one_starts_anew() {
    let dir = tempfile::tempdir().unwrap();
    let name = DocumentName::parse("doc").unwrap();
    let server = start(Arc::new(SledStore::open(dir.path()).unwrap())).await;
    let mut author = Native::connect(&server).await;
    let (epoch, _) = author.join(0, "doc").await;
    let seq = author.save_change(0, 1, &typed(1, "a")).await;
    server.stop().await.unwrap();

    delete(dir.path(), &name, &mut Vec::new()).unwrap();
    let server = start(Arc::new(SledStore::open(dir.path()).unwrap())).await;
    let mut session = Native::connect(&server).await;
    session.join(1, "other").await;
    for _ in 0..2 {
        let cursor = Some(Cursor { epoch, seq });
        session.send(ToServer::Open { channel: 0, document: "doc", token: "", cursor, wants_state_vector: true }).await;
        let update = typed(2, "b");
        session.change(0, 1, &update).await;
        let closed = session.receive().await;
        assert!(matches!(closed, ServerMessage::Closed { channel: 0, code: 4410, .. }), "{closed:?}");
    }
    session.save_change(1, 1, &typed(3, "c")).await;
    let mut plain = Socket::open(&server, "/doc").await;
    plain.sync(SyncMessage::Step1(&[0])).await;
    assert_eq!(plain.receive_close().await.0, 4410);
    server.stop().await.unwrap();

    purge(dir.path(), &name, &mut Vec::new()).unwrap();
    let server = start(Arc::new(SledStore::open(dir.path()).unwrap())).await;
    let mut session = Native::connect(&server).await;
    assert_eq!(session.open_at(0, "doc", Some(Cursor { epoch, seq })).await.1, Resume::OtherHistory);
    let (anew, diff) = session.join(0, "doc").await;
    assert!(anew != epoch && diff == [0, 0]);
    server.stop().await.unwrap();
}

/// One valid frame of every client message.
fn frames() -> Vec<Vec<u8>> {
    let update = typed(5, "hostile");
    let proposal =
        Proposal { register: "r", id: 1, based_on: version(1, 1), author: "a", at_ms: 1, value: &[119, 1, b'x'] };
    let cursor = Some(Cursor { epoch: syncline_protocol::ids::Epoch(1), seq: Seq(1) });
    let open =
        |channel, cursor| ToServer::Open { channel, document: "doc", token: "", cursor, wants_state_vector: true };
    let messages = [
        open(0, None),
        open(1, cursor),
        ToServer::StateVector { channel: 0, state_vector: &[1, 5, 3] },
        ToServer::Change { channel: 0, batch: 1, update: &update },
        ToServer::Propose { channel: 0, batch: 2, proposal },
        ToServer::Presence { channel: 0, update: &[1, 5, 0, 2, b'{', b'}'] },
        ToServer::Leave { channel: 1 },
        ToServer::Ping,
        ToServer::Hello { version: 9, device: 1 },
    ];
    messages.iter().map(ToServer::encode).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_bytes_harm_no_other_session() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = start(Arc::new(MemoryStore::new())).await;
    let (mut author, mut reader) = (Native::connect(&server).await, Native::connect(&server).await);
    author.join(0, "doc").await;
    reader.join(0, "doc").await;
    let frames = frames();
    for round in 1..=300 {
        let mut bad = Native::connect(&server).await;
        if random.random_bool(0.7) {
            bad.socket.send(frames[0].clone()).await;
        }
        for _ in 0..random.random_range(1..6) {
            let mut frame = frames[random.random_range(0..frames.len())].clone();
            for _ in 0..random.random_range(0..4) {
                match (random.random_range(0..3), frame.len()) {
                    (0, len) if len > 0 => frame[random.random_range(0..len)] = random.random(),
                    (1, len) if len > 0 => frame.truncate(random.random_range(0..len)),
                    (_, len) => frame.insert(random.random_range(0..=len), random.random()),
                }
            }
            bad.socket.send(frame).await;
        }
        let update = typed(10_000 + round, "x");
        author.change(0, round, &update).await;
        author.wait_for_ack(round).await;
        reader
            .receive_until(
                |message| matches!(message, ServerMessage::Change { update: received, .. } if *received == update),
            )
            .await;
    }
    server.stop().await.unwrap();
}
