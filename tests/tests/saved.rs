//! What stock clients call saved is saved: the number of a Hocuspocus provider after a reconnect and in `forceSync()`, and the
//! step 2 that a client of Yjs 14 gets back.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/live.rs"]
mod live;

use std::sync::Arc;

use live::{Socket, start};
use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::Message;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::{awareness, ywebsocket};

/// The update in which client 1 types its letter number `clock`.
fn letter(clock: u8) -> Vec<u8> {
    match clock {
        0 => vec![1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0],
        _ => vec![1, 1, 1, clock, 0x84, 1, clock - 1, 1, b'a', 0],
    }
}

/// The number that a Hocuspocus provider shows, from the messages of the server.
async fn statuses_until_step2(socket: &mut Socket, statuses: &mut usize) {
    socket
        .hear_until(|_, message| {
            *statuses += usize::from(*message == Message::SyncStatus(true));
            matches!(message, Message::Sync(SyncMessage::Step2(_)))
        })
        .await;
}

#[tokio::test]
async fn nothing_is_acknowledged_before_the_step_2_is_on_disk_and_queued_updates_never() {
    let store = Arc::new(MemoryStore::new());
    let server = start(store.clone()).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.say("doc", Message::Token { token: "", version: Some("4.8.0") }).await;
    // Ten letters were typed offline, an eleventh after the step 1. The provider's number is 2: the step 2 and that letter.
    socket.say("doc", Message::Sync(SyncMessage::Step1(&[1, 1, 10]))).await;
    let mut statuses = 0;
    statuses_until_step2(&mut socket, &mut statuses).await;
    socket.say("doc", Message::Sync(SyncMessage::Update(&letter(10)))).await;
    for clock in 0..10 {
        socket.say("doc", Message::Sync(SyncMessage::Update(&letter(clock)))).await;
    }
    // Equal in time to a ping: what the server sent for all of these would have come before this answer.
    let mut reader = Socket::open(&server, "/doc").await;
    while reader.join().await.len() < 15 {}
    socket.say("doc", Message::Sync(SyncMessage::Step2(&[0, 0]))).await;
    socket.say("doc", Message::QueryAwareness).await;
    socket.say("other", Message::Token { token: "", version: None }).await;
    socket
        .hear_until(|at, message| {
            statuses += usize::from(at == "doc" && *message == Message::SyncStatus(true));
            statuses == 2
        })
        .await;
    // Nothing more comes for them: the next status is that of the next edit.
    socket.say("doc", Message::Sync(SyncMessage::Update(&letter(11)))).await;
    socket.hear_until(|_, message| *message == Message::SyncStatus(true)).await;
    socket.enter("end", "").await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn step_1_later_is_answered_and_asked_back() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut socket = Socket::open(&server, "/").await;
    socket.enter("doc", "").await;
    for _ in 0..3 {
        // forceSync(): the number is 1 until the answer to a question of the server has been acknowledged.
        socket.say("doc", Message::Sync(SyncMessage::Step1(&[0]))).await;
        let mut heard = Vec::new();
        socket
            .hear_until(|_, message| {
                match message {
                    Message::Sync(SyncMessage::Step2(_)) => heard.push("step 2"),
                    Message::Sync(SyncMessage::Step1(_)) => heard.push("step 1"),
                    other => panic!("{other:?}"),
                }
                heard.len() == 2
            })
            .await;
        assert_eq!(heard, ["step 2", "step 1"]);
        socket.say("doc", Message::Sync(SyncMessage::Step2(&[0, 0]))).await;
        socket.hear_until(|_, message| *message == Message::SyncStatus(true)).await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn step_2_goes_back_to_clients_of_yjs_14() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let offline = letter(0);
    for (client, is_echoed) in [(1u64, false), (1 << 40, true)] {
        let mut socket = Socket::open(&server, &format!("/doc-{client}")).await;
        socket.join().await;
        let entry = awareness::AwarenessEntry { client, clock: 1, state: "{}" };
        let here = awareness::encode([entry].into_iter());
        socket.send(ywebsocket::Message::Awareness(&here).encode()).await;
        socket.sync(SyncMessage::Step2(&offline)).await;
        let typed = letter(1);
        socket.sync(SyncMessage::Update(&typed)).await;
        if is_echoed {
            assert_eq!(socket.hear_sync().await, (2, offline.clone()));
        }
        assert_eq!(socket.hear_sync().await, (2, typed), "client {client}");
    }
    server.stop().await.unwrap();
}
