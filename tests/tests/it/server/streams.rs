//! What a session gets from its connection: any stream will do.

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::OpenToAll;
use syncline_tests::live::{Socket, settings, start_with, typed};
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;

/// A request with a cookie. An unusual one has a header that leaves it to the HTTP server.
fn request(path: &str, is_usual: bool) -> Request {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    request.headers_mut().insert("cookie", "session=sesame".parse().unwrap());
    if !is_usual {
        request.headers_mut().insert("content-length", "0".parse().unwrap());
    }
    request
}

/// A session of y-websocket over Unix-domain sockets, through the server's own handshake and through that of its HTTP
/// server, edits with a session over TCP.
#[tokio::test]
async fn session_over_another_kind_of_stream_is_served() {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    let mut over_tcp = Socket::open(&server, "/doc").await;
    over_tcp.join().await;
    for (client, is_usual) in [(1, true), (2, false)] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.connections().serve(theirs, ([127, 0, 0, 1], 0).into());
        let mut over_unix = Socket::with_request(ours, request("/doc", is_usual)).await;
        over_unix.join().await;
        // Larger than the socket's buffer: the rest is written when the client reads.
        let (small, large) = (typed(client, "small"), typed(client + 10, &"x".repeat(1 << 20)));
        over_unix.sync(SyncMessage::Update(&small)).await;
        while over_tcp.receive_sync().await != (2, small.clone()) {}
        over_tcp.sync(SyncMessage::Update(&large)).await;
        while over_unix.receive_sync().await != (2, large.clone()) {}
        while over_tcp.receive_sync().await != (2, large.clone()) {}
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    server.connections().serve(theirs, ([127, 0, 0, 1], 0).into());
    let mut answer = [0; 15];
    tokio::io::AsyncWriteExt::write_all(&mut ours, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::io::AsyncReadExt::read_exact(&mut ours, &mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.connections().serve(theirs, ([127, 0, 0, 1], 0).into());
    let mut open = Socket::with_request(ours, request("/doc", true)).await;
    open.join().await;
    server.stop().await.unwrap();
    assert_eq!(open.receive_close().await.0, 1012, "the server's stop reaches every stream");
}
