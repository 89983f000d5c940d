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

#[cfg(debug_assertions)]
mod panics {
    use syncline_server::Server;

    use super::live::typed;
    use super::*;

    /// A letter that panics within the CRDT library, half applied: see `replica/src/fault.rs`.
    const POISON: &str = "this letter panics";

    /// Ends a session by that letter; `others` hear what comes next, on a document without it.
    async fn poison(server: &Server, others: &mut [Socket], next: u64) {
        let mut offender = Socket::open(server, "/doc").await;
        offender.join().await;
        offender.sync(SyncMessage::Update(&typed(next, POISON))).await;
        assert_eq!(offender.hear_close().await.0, 4400);
        let update = typed(next + 1, "goes on");
        others[0].sync(SyncMessage::Update(&update)).await;
        for other in others {
            // A diff first: loading may have freed what had waited.
            while other.hear_sync().await != (2, update.clone()) {}
        }
    }

    #[tokio::test]
    async fn a_panic_within_the_crdt_ends_the_session_that_caused_it_and_no_other() {
        syncline_replica::fault::panic_on(POISON.as_bytes());
        let server = start(Arc::new(MemoryStore::new())).await;
        let mut neighbour = Socket::open(&server, "/another").await;
        neighbour.join().await;
        let mut others = [Socket::open(&server, "/doc").await, Socket::open(&server, "/doc").await];
        for other in &mut others {
            other.join().await;
        }
        others[0].sync(SyncMessage::Update(&TEXT)).await;
        for other in &mut others {
            assert_eq!(other.hear_sync().await, (2, TEXT.to_vec()));
        }
        for time in 1..=3 {
            poison(&server, &mut others, 10 * time).await;
            assert_eq!(server.metrics().reloads.get(), time);
        }
        neighbour.sync(SyncMessage::Update(&TEXT)).await;
        assert_eq!(neighbour.hear_sync().await, (2, TEXT.to_vec()));
        let state = Socket::open(&server, "/doc").await.join().await;
        let count = |text: &str| state.windows(text.len()).filter(|window| *window == text.as_bytes()).count();
        assert_eq!((count("goes on"), count(POISON)), (3, 0), "it is loaded from its log, which has none of it");
        server.stop().await.unwrap();
    }
}
