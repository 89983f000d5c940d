//! What a session gets from its connection: any stream will do, and the authorizer sees the request that began it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_server::Server;
use syncline_server::auth::{Access, AccessRequest, Authorize, Dialect, Grant, OpenToAll};
use syncline_tests::live::{Socket, settings, start_with, typed};
use syncline_tests::native_client::Native;
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;

/// Grants everything and records the requests.
#[derive(Default)]
struct Recorder {
    requests: Mutex<Vec<AccessRequest>>,
    ignores_handshake: bool,
}

impl Recorder {
    fn take(&self) -> AccessRequest {
        self.requests.lock().unwrap().remove(0)
    }
}

impl Authorize for Recorder {
    fn authorize(&self, request: AccessRequest) -> Access {
        self.requests.lock().unwrap().push(request);
        Box::pin(std::future::ready(Ok(Grant::ReadWrite.into())))
    }

    fn reads_handshake(&self) -> bool {
        !self.ignores_handshake
    }
}

async fn recorder(ignores_handshake: bool) -> (Server, Arc<Recorder>) {
    let auth = Arc::new(Recorder { ignores_handshake, ..Recorder::default() });
    (start_with(&settings(), Arc::new(MemoryStore::new()), Arc::clone(&auth) as Arc<dyn Authorize>).await, auth)
}

/// A request with a cookie. An unusual one has a header that leaves it to the HTTP server.
fn request(path: &str, is_usual: bool) -> Request {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    request.headers_mut().insert("cookie", "session=sesame".parse().unwrap());
    if !is_usual {
        request.headers_mut().insert("content-length", "0".parse().unwrap());
    }
    request
}

/// Connects over TCP; returns the client's address, too.
async fn connect(server: &Server, request: Request) -> (Socket, SocketAddr) {
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let address = tcp.local_addr().unwrap();
    (Socket::with_request(tcp, request).await, address)
}

#[tokio::test]
async fn authorizer_sees_query_headers_address_and_dialect() {
    let (server, auth) = recorder(false).await;
    for is_usual in [true, false] {
        for dialect in [Dialect::YWebsocket, Dialect::Hocuspocus, Dialect::Native] {
            let (mut socket, address) =
                connect(&server, request("/doc?token=a%2Bb&room=%E6%96%87&flag", is_usual)).await;
            match dialect {
                Dialect::YWebsocket => _ = socket.join().await,
                Dialect::Hocuspocus => socket.open_document("doc", "t").await,
                Dialect::Native => {
                    let open = |channel, document| {
                        let (cursor, wants_state_vector) = (None, false);
                        ToServer::Open { channel, document, token: "t", cursor, wants_state_vector }
                    };
                    let mut native = Native::over(socket).await;
                    native.send(open(0, "doc")).await;
                    native.receive().await;
                }
            }
            let AccessRequest { document, token, dialect: seen, handshake } = auth.take();
            let expected_token = if dialect == Dialect::YWebsocket { "a+b" } else { "t" };
            assert_eq!((document.as_str(), token.as_deref(), seen), ("doc", Some(expected_token), dialect));
            assert_eq!(handshake.path(), "doc");
            assert_eq!(handshake.query(), "token=a%2Bb&room=%E6%96%87&flag");
            assert_eq!(handshake.parameter("room").as_deref(), Some("文"));
            assert_eq!(handshake.headers().get("cookie").unwrap(), "session=sesame");
            assert_eq!(handshake.address(), address);
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn session_of_many_documents_shows_its_handshake_for_each() {
    let (server, auth) = recorder(false).await;
    let (mut socket, _) = connect(&server, request("/?tenant=7", true)).await;
    for document in ["a", "b"] {
        socket.open_document(document, "").await;
        let request = auth.take();
        assert_eq!((request.document.as_str(), request.handshake.query()), (document, "tenant=7"));
    }
    // A 2.x provider without a token: the URL's token belongs to y-websocket.
    let (mut socket, _) = connect(&server, request("/?token=x", true)).await;
    socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    socket.receive_until(|_, message| matches!(message, HocuspocusMessage::Sync(SyncMessage::Step2(_)))).await;
    let AccessRequest { token, handshake, .. } = auth.take();
    assert_eq!((token, handshake.parameter("token").as_deref()), (None, Some("x")));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn query_is_not_part_of_the_document_name() {
    let (server, auth) = recorder(false).await;
    for (path, token) in
        [("/doc?token=1", Some("1")), ("/doc?", None), ("/doc?/x&token=2#a", Some("2")), ("/doc", None)]
    {
        let (mut socket, _) = connect(&server, request(path, true)).await;
        socket.join().await;
        let seen = auth.take();
        assert_eq!((seen.document.as_str(), seen.token.as_deref()), ("doc", token), "{path}");
    }
    assert_eq!(server.open_documents(), 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn handshake_is_not_kept_for_an_authorizer_that_does_not_read_it() {
    let (server, auth) = recorder(true).await;
    for is_usual in [true, false] {
        let (mut socket, address) = connect(&server, request("/doc?token=x", is_usual)).await;
        socket.join().await;
        let AccessRequest { token, handshake, .. } = auth.take();
        assert_eq!((token, handshake.query(), handshake.headers().len()), (None, "", 0));
        assert_eq!((handshake.path(), handshake.address()), ("doc", address));
    }
    server.stop().await.unwrap();
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
