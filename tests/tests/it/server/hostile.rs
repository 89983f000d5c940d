//! A misbehaving client harms only itself: its session ends with a code and a reason, none of its data is stored, and a
//! healthy client of the same document is not affected. (Memory bounds: `tests/tests/alone/bombs.rs`.)

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::varint::write_var_bytes;
use syncline_server::auth::OpenToAll;
use syncline_tests::live::{Socket, settings, start, start_with, typed};
use syncline_tests::native_client;

#[tokio::test]
async fn message_over_the_limit_closes_the_session_with_the_limit() {
    let mut config = settings();
    config.session.message_bytes = 64 * 1024;
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    let mut bad = Socket::open(&server, "/doc").await;
    bad.sync(SyncMessage::Step1(&[0])).await;
    bad.sync(SyncMessage::Update(&typed(1, &"x".repeat(200_000)))).await;
    let (code, reason) = bad.receive_close().await;
    assert_eq!(code, 4413);
    assert!(reason.contains("65536"), "{reason}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn invalid_document_names_are_refused_with_a_reason() {
    let server = start(Arc::new(MemoryStore::new())).await;
    for (path, what) in [("/".to_owned(), "empty"), (format!("/{}", "x".repeat(513)), "longer")] {
        let mut bad = Socket::open(&server, &path).await;
        bad.sync(SyncMessage::Step1(&[0])).await;
        let (code, reason) = bad.receive_close().await;
        assert_eq!(code, 4404, "{path}");
        assert!(reason.contains(what), "{reason}");
    }
    for (name, what) in
        [("a\nb", "control"), ("\0session", "empty"), ("", "empty"), ("  ", "blank"), (&*"y".repeat(513), "longer")]
    {
        let mut bad = Socket::open(&server, "/").await;
        bad.send_to(name, HocuspocusMessage::Token { token: "", version: None }).await;
        bad.receive_until(
            |_, message| matches!(message, HocuspocusMessage::PermissionDenied(reason) if reason.contains(what)),
        )
        .await;
        // The socket stays usable for other documents.
        bad.open_document("good", "").await;
    }
    let mut not_utf8 = Socket::open(&server, "/").await;
    // As the first message it does not select a dialect; within a Hocuspocus session it names no document to deny.
    not_utf8.send(vec![4, 0xff, 0xfe, 0xfd, 0xfc, 2, 0, 0]).await;
    not_utf8.open_document("good", "").await;
    not_utf8.send(vec![4, 0xff, 0xfe, 0xfd, 0xfc, 2, 0, 0]).await;
    assert_eq!(not_utf8.receive_close().await.0, 4400);
    assert!(server.open_documents() <= 1, "only the valid document was opened");
    server.stop().await.unwrap();
}

/// Frames without a meaning to the server, or with invalid awareness. The server drops and counts them; the
/// session stays open.
fn meaningless() -> Vec<(&'static str, Vec<u8>)> {
    let mut awareness_bomb = vec![1];
    write_var_bytes(&mut awareness_bomb, &[0xff, 0xff, 0xff, 0x7f]);
    let mut bad_json = vec![1];
    write_var_bytes(&mut bad_json, &[1, 7, 1, 1, b'{']);
    vec![
        ("an empty message", vec![]),
        ("a message type of an application", vec![101, 5, b'h', b'e', b'l', b'l', b'o']),
        ("a message type without a payload", vec![0x7f]),
        ("a sync type that does not exist", vec![0, 9, 0]),
        ("bytes after the message", vec![0, 2, 2, 0, 0, 0]),
        ("awareness that claims 268 million clients", awareness_bomb),
        ("awareness that is not JSON", bad_json),
    ]
}

#[tokio::test]
async fn meaningless_messages_are_ignored_in_every_dialect() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let (mut ignored, mut text) = (0, 0);
    for (what, frame) in meaningless() {
        let mut plain = Socket::open(&server, "/doc").await;
        if frame.first().is_none_or(|first| *first > 3) {
            // Ignored before the first message of the dialect, too.
            plain.send(frame.clone()).await;
            plain.send_text("hello").await;
        }
        plain.join().await;
        plain.send(frame.clone()).await;
        plain.send_text("hello").await;
        text += 1;
        let update = typed(100 + text, "x");
        plain.sync(SyncMessage::Update(&update)).await;
        // One of the frames holds an empty update before its trailing bytes; the echo of that arrives first.
        while plain.receive_sync().await != (2, update.clone()) {}
        let mut hocuspocus = Socket::open(&server, "/").await;
        hocuspocus.open_document("doc", "").await;
        let mut addressed = vec![3, b'd', b'o', b'c'];
        addressed.extend(&frame);
        if !frame.is_empty() {
            hocuspocus.send(addressed).await;
        }
        hocuspocus.send_text("hello").await;
        hocuspocus.send_to("doc", HocuspocusMessage::BroadcastStateless("hello")).await;
        hocuspocus.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&typed(200 + text, "x")))).await;
        hocuspocus
            .receive_until(|_, message| {
                assert!(!matches!(message, HocuspocusMessage::PermissionDenied(_)), "Hocuspocus, {what}: {message:?}");
                *message == HocuspocusMessage::SyncStatus(true)
            })
            .await;
        let mut native = native_client::Native::connect(&server).await;
        native.join(0, "doc").await;
        native.socket.send(vec![15, 0, 1, 2, 3]).await;
        native.save_change(0, 1, &typed(300 + text, "x")).await;
        ignored += 5;
    }
    let metrics = server.metrics();
    let counted = metrics.messages_ignored.get() + metrics.awareness_dropped.get();
    assert!(counted >= ignored, "counted {counted} of {ignored}");
    assert_eq!(metrics.sessions_closed.get(4400), 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn circular_update_closes_its_session_and_no_other() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let mut healthy = Socket::open(&server, "/doc").await;
    healthy.join().await;
    let first = typed(10, "first");
    healthy.sync(SyncMessage::Update(&first)).await;
    assert_eq!(healthy.receive_sync().await, (2, first));
    // Two items, each the origin of the other: the scanner accepts them, but they can never be integrated.
    let circle = [2, 1, 2, 0, 0x84, 1, 0, 1, b'b', 1, 1, 0, 0x84, 2, 0, 1, b'a', 0];
    let mut bad = Socket::open(&server, "/doc").await;
    bad.sync(SyncMessage::Step1(&[0])).await;
    bad.sync(SyncMessage::Update(&circle)).await;
    let (code, reason) = bad.receive_close().await;
    assert_eq!((code, reason.contains("depend on each other")), (4400, true), "{reason}");
    // The healthy session keeps editing a document that has everything except the circular update.
    let second = typed(11, "second");
    healthy.sync(SyncMessage::Update(&second)).await;
    assert_eq!(healthy.receive_sync().await, (2, second));
    let diff = Socket::open(&server, "/doc").await.join().await;
    assert!(diff.windows(5).any(|window| window == b"first") && diff.windows(6).any(|window| window == b"second"));
    server.stop().await.unwrap();
}
