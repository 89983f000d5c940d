//! Memory limits for all loaded documents together: unused documents are evicted and quiet ones become dormant;
//! only when neither is enough does the server refuse another document, and what would let an open one grow.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use syncline_log::memory::MemoryStore;
use syncline_protocol::awareness::{AwarenessEntry, AwarenessUpdate, encode};
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use syncline_server::Server;
use syncline_server::auth::OpenToAll;
use syncline_server::config::Config;
use syncline_tests::live::{Incoming, Socket, settings, start_with, typed};
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, Transact, Update};

/// Time limit of every wait, below the time that an unused document stays loaded.
const PATIENCE: Duration = Duration::from_secs(20);

async fn server_with(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = settings();
    // Documents become dormant or are unloaded only when memory is scarce.
    config.idle_unload = Duration::from_secs(3_600);
    change(&mut config);
    start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await
}

/// Opens a document, types `text` into it and waits until it is saved.
async fn write(server: &Server, name: &str, text: &str) -> Socket {
    let mut socket = Socket::open(server, &format!("/{name}")).await;
    socket.join().await;
    let update = typed(1, text);
    socket.sync(SyncMessage::Update(&update)).await;
    while socket.receive_sync().await != (2, update.clone()) {}
    socket
}

/// Waits for the echo of an update. The error has the code and the reason of the close frame.
async fn receive_echo(socket: &mut Socket, update: &[u8]) -> Result<(), (u16, String)> {
    let echo = YWebsocketMessage::Sync(SyncMessage::Update(update)).encode();
    loop {
        match socket.receive().await {
            Incoming::Frame(frame) if frame[..] == echo[..] => return Ok(()),
            Incoming::Frame(_) => {}
            Incoming::Closed { code, reason } => return Err((code, reason)),
            Incoming::Cut => panic!("cut without a close frame"),
        }
    }
}

/// A message with the state of one client.
fn awareness(client: u64, clock: u64, state: &str) -> Vec<u8> {
    let update = encode([AwarenessEntry { client, clock, state }].into_iter());
    YWebsocketMessage::Awareness(&update).encode()
}

fn text_of(update: &[u8]) -> String {
    let doc = Doc::new();
    let text = doc.get_or_insert_text("text");
    doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
    text.get_string(&doc.transact())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("timed out waiting until {what}"));
}

#[tokio::test]
async fn empty_document_is_unloaded_with_its_last_session() {
    let server = server_with(|_| {}).await;
    drop(write(&server, "kept", "kept").await);
    let mut visitors = Vec::new();
    for number in 0..20 {
        let mut socket = Socket::open(&server, &format!("/empty{number}")).await;
        socket.join().await;
        visitors.push(socket);
    }
    assert_eq!(server.open_documents(), 21);
    // One of them has two readers: it stays loaded until both have left.
    let mut second = Socket::open(&server, "/empty0").await;
    second.join().await;
    drop(visitors);
    until("the empty documents are unloaded", || server.open_documents() == 2).await;
    second.sync(SyncMessage::Update(&typed(2, "hello"))).await;
    while second.receive_sync().await != (2, typed(2, "hello")) {}
    drop(second);
    until("its session has ended", || server.gate().sessions() == 0).await;
    assert_eq!(server.open_documents(), 2, "a document with records stays loaded");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn least_recently_used_documents_are_evicted_and_open_ones_stay() {
    let server = server_with(|config| config.limits.open_documents = 4).await;
    let mut used = write(&server, "used", "used").await;
    for number in 0..20 {
        drop(write(&server, &format!("left{number}"), "left").await);
        assert!(server.open_documents() <= 4);
    }
    assert!(server.metrics().documents_evicted.get() >= 16);
    assert_eq!(server.metrics().documents_refused.get(), 0);
    // The document with a session was never evicted.
    used.sync(SyncMessage::Update(&typed(2, "still "))).await;
    while used.receive_sync().await != (2, typed(2, "still ")) {}
    let mut again = Socket::open(&server, "/left0").await;
    assert_eq!(text_of(&again.join().await), "left");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn another_document_is_refused_when_all_loaded_ones_are_in_use() {
    let server = server_with(|config| config.limits.open_documents = 2).await;
    let mut first = write(&server, "first", "one").await;
    let _second = write(&server, "second", "two").await;
    let mut third = Socket::open(&server, "/third").await;
    third.sync(SyncMessage::Step1(&[0])).await;
    let (code, reason) = third.receive_close().await;
    assert_eq!(code, 4529, "{reason}");
    assert!(reason.contains("open documents"), "{reason}");
    assert_eq!(server.metrics().documents_refused.get(), 1);
    // A loaded document accepts more sessions.
    let mut reader = Socket::open(&server, "/first").await;
    assert_eq!(text_of(&reader.join().await), "one");
    first.sync(SyncMessage::Update(&typed(2, "more "))).await;
    assert_eq!(reader.receive_sync().await, (2, typed(2, "more ")));
    // When one document is unused, another can be opened.
    drop((first, reader));
    let mut third = Socket::open(&server, "/third").await;
    third.join().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn open_documents_become_dormant_when_memory_is_scarce() {
    const LIMIT: usize = 2_000_000;
    let server = server_with(|config| config.limits.open_bytes = LIMIT).await;
    let text = "some text ".repeat(10_000);
    let mut writers = Vec::new();
    // A tree is estimated at twice its bytes or more.
    for number in 0..15 {
        writers.push(write(&server, &format!("doc{number}"), &text).await);
    }
    until("enough documents are dormant", || server.open_bytes() < LIMIT).await;
    assert!(server.metrics().documents_evicted.get() > 0);
    assert_eq!(server.open_documents(), 15, "all documents stay open");
    for (number, writer) in writers.iter_mut().enumerate() {
        let update = typed(2, "new ");
        writer.sync(SyncMessage::Update(&update)).await;
        while writer.receive_sync().await != (2, update.clone()) {}
        let mut reader = Socket::open(&server, &format!("/doc{number}")).await;
        assert_eq!(text_of(&reader.join().await).len(), text.len() + 4);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn thousand_documents_of_one_session_open_slowly_and_none_is_refused() {
    let server = server_with(|config| {
        config.session.documents = 2_000;
        config.limits.opens_per_second = 30;
    })
    .await;
    let mut socket = Socket::open(&server, "/any").await;
    let names: Vec<_> = (0..1_000).map(|number| format!("doc{number}")).collect();
    for name in &names {
        socket.send_to(name, HocuspocusMessage::Token { token: "", version: None }).await;
    }
    let mut open = 0;
    socket
        .receive_until(|_, message| {
            open += usize::from(matches!(message, HocuspocusMessage::Authenticated(_)));
            open == names.len()
        })
        .await;
    assert!(server.metrics().open_pauses.get() >= 50, "{}", server.metrics().open_pauses.get());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn awareness_of_one_session_is_bounded_across_its_documents() {
    const DOCUMENTS: usize = 40;
    let server = server_with(|_| ()).await;
    let mut socket = Socket::open(&server, "/any").await;
    let large = format!("\"{}\"", "x".repeat(900_000));
    let small = format!("\"{}\"", "x".repeat(3_000));
    for number in 0..DOCUMENTS {
        let name = format!("doc{number}");
        socket.send_to(&name, HocuspocusMessage::Token { token: "", version: None }).await;
        // The n-th document gets 2 MiB / n: from the third on, the large state exceeds its share.
        for (client, state) in [(1, &large), (2, &small)] {
            let update = encode([AwarenessEntry { client, clock: 1, state }].into_iter());
            socket.send_to(&name, HocuspocusMessage::Awareness(&update)).await;
        }
    }
    let dropped = DOCUMENTS as u64 - 2;
    until("all states have arrived", || server.metrics().awareness_dropped.get() >= dropped).await;
    let mut observer = Socket::open(&server, "/any").await;
    let last = format!("doc{}", DOCUMENTS - 1);
    observer.send_to(&last, HocuspocusMessage::Token { token: "", version: None }).await;
    observer
        .receive_until(|_, message| match message {
            HocuspocusMessage::Awareness(update) => {
                let shown = AwarenessUpdate::scan(update, &Default::default()).unwrap();
                shown.iter().any(|entry| entry.client == 2 && entry.state == small)
            }
            _ => false,
        })
        .await;
    assert_eq!(server.metrics().awareness_dropped.get(), dropped, "the small state is accepted in every document");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn documents_that_load_together_stay_within_the_memory_limit() {
    const DOCUMENTS: usize = 16;
    const DOCUMENT_BYTES: usize = 1_000_000;
    const LIMIT: usize = 4_000_000;
    let store = Arc::new(MemoryStore::new());
    let mut config = settings();
    let server = start_with(&config, Arc::clone(&store) as _, Arc::new(OpenToAll)).await;
    for number in 0..DOCUMENTS {
        write(&server, &format!("large{number}"), &"x".repeat(DOCUMENT_BYTES)).await;
    }
    server.stop().await.unwrap();
    config.limits.open_bytes = LIMIT;
    let server = start_with(&config, store, Arc::new(OpenToAll)).await;
    let mut sockets = Vec::new();
    for number in 0..DOCUMENTS {
        sockets.push(Socket::open(&server, &format!("/large{number}")).await);
    }
    let opens = sockets.into_iter().map(|mut socket| async {
        socket.sync(SyncMessage::Step1(&[0])).await;
        loop {
            match socket.receive().await {
                Incoming::Frame(frame) if frame.len() > DOCUMENT_BYTES => return Ok(socket),
                Incoming::Frame(_) => {}
                Incoming::Closed { code, .. } => return Err(code),
                Incoming::Cut => panic!("cut without a close frame"),
            }
        }
    });
    let (open, refused): (Vec<_>, Vec<_>) = join_all(opens).await.into_iter().partition(Result::is_ok);
    assert!(server.open_bytes() <= LIMIT + DOCUMENT_BYTES * 3 / 2, "{}", server.open_bytes());
    assert!((3..=5).contains(&open.len()), "{} documents are open", open.len());
    assert!(refused.iter().all(|refused| matches!(refused, Err(4529))));
    // When the others have left, a document can be opened.
    drop((open, refused));
    let mut again = Socket::open(&server, "/large0").await;
    assert_eq!(text_of(&again.join().await).len(), DOCUMENT_BYTES);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn many_small_documents_load_together_while_little_memory_is_left() {
    const DOCUMENTS: usize = 200;
    let store = Arc::new(MemoryStore::new());
    let mut config = settings();
    let server = start_with(&config, Arc::clone(&store) as _, Arc::new(OpenToAll)).await;
    for number in 0..DOCUMENTS {
        write(&server, &format!("small{number}"), "small").await;
    }
    server.stop().await.unwrap();
    config.limits.open_bytes = 2_500_000;
    let server = start_with(&config, store, Arc::new(OpenToAll)).await;
    let mut large = write(&server, "large", &"x".repeat(1_000_000)).await;
    let names: Vec<_> = (0..DOCUMENTS).map(|number| format!("/small{number}")).collect();
    let opens = names.iter().map(|name| async {
        let mut socket = Socket::open(&server, name).await;
        assert_eq!(text_of(&socket.join().await), "small");
        socket
    });
    let open = join_all(opens).await;
    assert_eq!(server.metrics().documents_refused.get(), 0);
    large.join().await;
    drop(open);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn awareness_does_not_grow_beyond_the_memory_limit() {
    const DOCUMENTS: usize = 12;
    const LIMIT: usize = 4_000_000;
    const STATE_BYTES: usize = 900_000;
    let server = server_with(|config| config.limits.open_bytes = LIMIT).await;
    let mut sockets = Vec::new();
    for number in 0..DOCUMENTS {
        let mut socket = Socket::open(&server, &format!("/doc{number}")).await;
        socket.join().await;
        sockets.push(socket);
    }
    let large = format!("\"{}\"", "x".repeat(STATE_BYTES));
    for socket in &mut sockets {
        for client in [1, 2] {
            socket.send(awareness(client, 1, &large)).await;
        }
        socket.join().await;
    }
    assert!(server.open_bytes() <= LIMIT * 9 / 8 + 2 * STATE_BYTES, "{}", server.open_bytes());
    let dropped = server.metrics().awareness_dropped.get();
    assert!(dropped >= 2 * DOCUMENTS as u64 - 7, "{dropped} states were dropped");
    // Clients that leave make room again.
    for socket in &mut sockets {
        socket.send(awareness(1, 2, "null")).await;
        socket.send(awareness(2, 2, "null")).await;
    }
    until("the states are removed", || server.open_bytes() < STATE_BYTES).await;
    let mut reader = Socket::open(&server, &format!("/doc{}", DOCUMENTS - 1)).await;
    reader.join().await;
    let last = sockets.last_mut().unwrap();
    last.send(awareness(1, 3, "{}")).await;
    while reader.receive().await != Incoming::Frame(awareness(1, 3, "{}").into()) {}
    server.stop().await.unwrap();
}

#[tokio::test]
async fn open_documents_do_not_grow_beyond_the_memory_limit() {
    const DOCUMENTS: usize = 20;
    const LIMIT: usize = 2_000_000;
    const TEXT_BYTES: usize = 300_000;
    let server = server_with(|config| config.limits.open_bytes = LIMIT).await;
    let mut sockets = Vec::new();
    for number in 0..DOCUMENTS {
        let mut socket = Socket::open(&server, &format!("/doc{number}")).await;
        socket.join().await;
        sockets.push(socket);
    }
    let update = typed(1, &"x".repeat(TEXT_BYTES));
    let (mut written, mut refused) = (Vec::new(), 0);
    for mut socket in sockets {
        socket.sync(SyncMessage::Update(&update)).await;
        match receive_echo(&mut socket, &update).await {
            Ok(()) => written.push(socket),
            Err((code, reason)) => {
                assert_eq!((code, reason.contains("memory limit")), (4529, true), "{reason}");
                refused += 1;
            }
        }
    }
    assert!(server.open_bytes() <= LIMIT * 9 / 8 + 2 * TEXT_BYTES, "{}", server.open_bytes());
    assert!(refused >= 8, "{refused} were refused");
    assert_eq!(server.metrics().documents_refused.get(), 0);
    // What is open can be read, and content can be deleted.
    for socket in &mut written {
        let deletion = vec![0, 1, 1, 1, 0, 100];
        socket.sync(SyncMessage::Update(&deletion)).await;
        while socket.receive_sync().await != (2, deletion.clone()) {}
        assert_eq!(text_of(&socket.join().await).len(), TEXT_BYTES - 100);
    }
    server.stop().await.unwrap();
}
