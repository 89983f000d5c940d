//! An update that breaks its document inside the CRDT library: whom it harms, and how the document comes back.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/live.rs"]
mod live;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use live::{Socket, UnreadableStore, start};
use syncline_log::memory::MemoryStore;
use syncline_protocol::sync::SyncMessage;

/// Client 1 types "a".
const TEXT: [u8; 14] = [1, 1, 1, 0, 4, 1, 4, b't', b'e', b'x', b't', 1, b'a', 0];
/// Client 2 types "b" into that letter, as if it were a type.
const INTO_THE_LETTER: [u8; 11] = [1, 1, 2, 0, 4, 0, 1, 0, 1, b'b', 0];

#[tokio::test]
async fn a_broken_document_that_cannot_be_loaded_is_refused_until_it_can() {
    let store = Arc::new(UnreadableStore::default());
    let server = start(store.clone()).await;
    let mut author = Socket::open(&server, "/doc").await;
    author.join().await;
    author.sync(SyncMessage::Update(&TEXT)).await;
    assert_eq!(author.hear_sync().await, (2, TEXT.to_vec()));

    store.unreadable.store(true, Ordering::Relaxed);
    let mut offender = Socket::open(&server, "/doc").await;
    offender.join().await;
    offender.sync(SyncMessage::Update(&INTO_THE_LETTER)).await;
    assert_eq!(offender.hear_close().await.0, 4400);
    assert_eq!(author.hear_close().await.0, 4503);
    let mut early = Socket::open(&server, "/doc").await;
    early.sync(SyncMessage::Step1(&[0])).await;
    assert!(matches!(early.hear_close().await.0, 4500 | 4503), "refused, not left waiting");

    store.unreadable.store(false, Ordering::Relaxed);
    loop {
        // The task that lost the document may still be on its way out.
        let mut again = Socket::open(&server, "/doc").await;
        again.sync(SyncMessage::Step1(&[0])).await;
        match again.hear().await {
            live::Heard::Frame(_) => break assert_eq!(again.join().await, TEXT),
            live::Heard::Closed { code, .. } => assert!(matches!(code, 4500 | 4503)),
            live::Heard::Cut => panic!("cut"),
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_update_that_waits_to_break_the_document_does_not_harm_the_author_it_waits_for() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut offender = Socket::open(&server, "/doc").await;
    offender.join().await;
    offender.sync(SyncMessage::Update(&INTO_THE_LETTER)).await;
    while offender.hear_sync().await != (2, INTO_THE_LETTER.to_vec()) {}

    let mut author = Socket::open(&server, "/doc").await;
    author.join().await;
    author.sync(SyncMessage::Update(&TEXT)).await;
    while author.hear_sync().await != (2, TEXT.to_vec()) {}
    let mut joiner = Socket::open(&server, "/doc").await;
    assert_eq!(joiner.join().await, TEXT, "what was saved is there");
    assert_eq!(server.metrics().reloads.get(), 1);
    server.stop().await.unwrap();
}
