//! How a connection on the public socket becomes a session. The server answers the usual handshake itself and
//! passes every other request to its HTTP server; both give a client the same session. (Invalid handshakes:
//! `rfc6455.rs`; endless heads: `limits.rs`.)

use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_server::Config;
use syncline_server::auth::OpenToAll;
use syncline_server::config::AllowedOrigins;
use syncline_tests::live::{settings, start, start_with};
use syncline_tests::raw_websocket::{BINARY, Frame, RawSocket, Received, upgrade_request};
use syncline_tests::websocket_case::update;

/// Checks that the socket is a session: sends an update and receives its echo.
async fn assert_is_session(socket: &mut RawSocket, client: usize) {
    let message = update(client);
    socket.send(Frame::new(BINARY, message.clone())).await;
    expect_message(socket, message).await;
}

/// Receives frames until `message` arrives.
async fn expect_message(socket: &mut RawSocket, message: Vec<u8>) {
    let wanted = Received::Frame { opcode: BINARY, payload: message };
    loop {
        match socket.receive().await {
            received if received == wanted => return,
            Received::Frame { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn handshake_head_in_pieces_is_accepted() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let request = upgrade_request("/doc");
    for size in [1, 2, 3, 7, request.len() - 1] {
        let mut socket = RawSocket::connect(server.address()).await;
        for piece in request.as_bytes().chunks(size) {
            socket.write(piece).await;
            // Lets the server's tasks run; they share this thread.
            tokio::task::yield_now().await;
        }
        assert!(socket.read_head().await.starts_with("HTTP/1.1 101 "), "{size}");
        assert_is_session(&mut socket, 30 + size).await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn frames_after_the_handshake_head_reach_the_session() {
    let server = start(Arc::new(MemoryStore::new())).await;
    // The frames arrive complete with the head, partly, and larger than one read with the rest in a later segment.
    for (len, cut) in [(40, 0), (41, 5), (70_000, 40_000)] {
        let (first, second) = (update(len), update(len + 1));
        let frames = [Frame::new(BINARY, first.clone()).encode(), Frame::new(BINARY, second.clone()).encode()].concat();
        let (now, later) = frames.split_at(frames.len() - cut);
        let mut socket = RawSocket::connect(server.address()).await;
        socket.write(&[upgrade_request("/doc").as_bytes(), now].concat()).await;
        assert!(socket.read_head().await.starts_with("HTTP/1.1 101 "));
        socket.write(later).await;
        expect_message(&mut socket, first).await;
        expect_message(&mut socket, second).await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn connection_that_requested_a_page_can_still_be_upgraded() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let upgrade = upgrade_request("/doc");
    let health = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    // The upgrade is sent after the response to the page, and then in the same segment together with the first frame.
    for in_one_segment in [false, true] {
        let mut socket = RawSocket::connect(server.address()).await;
        let first = update(60 + usize::from(in_one_segment));
        let rest = [upgrade.as_bytes(), &Frame::new(BINARY, first.clone()).encode()].concat();
        let now = if in_one_segment { &rest[..] } else { b"" };
        socket.write(&[health.as_bytes(), now].concat()).await;
        assert!(socket.read_head().await.starts_with("HTTP/1.1 200 "));
        assert_eq!(socket.read_body(6).await, b"alive\n");
        if !in_one_segment {
            socket.write(&rest).await;
        }
        assert!(socket.read_head().await.starts_with("HTTP/1.1 101 "));
        expect_message(&mut socket, first).await;
        assert_is_session(&mut socket, 80).await;
    }
    // A Content-Length passes the request to the HTTP server, which reads the body.
    let mut socket = RawSocket::connect(server.address()).await;
    socket
        .write(upgrade.replace("Upgrade: websocket\r\n", "Upgrade: websocket\r\nContent-Length: 0\r\n").as_bytes())
        .await;
    assert!(socket.read_head().await.starts_with("HTTP/1.1 101 "));
    assert_is_session(&mut socket, 81).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn malformed_request_is_refused_immediately() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let good = upgrade_request("/doc");
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    for (what, head, status) in [
        ("the beginning of TLS", "\u{16}\u{3}\u{1}\u{2}".to_owned(), "400"),
        ("an invalid method", "G\0T / HTTP/1.1\r\n".to_owned(), "400"),
        ("another protocol's version", "GET / HTTP/7.0\r\n\r\n".to_owned(), "400"),
        ("a header without a colon", good.replace("Host:", "Host"), "400"),
        ("an invalid key", good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="), "400"),
        ("a head without an end", good.replace("\r\n\r\n", &format!("\r\n{long}")), "431"),
        ("a head that is too long", good.replace("Host:", &format!("{long}Host:")), "431"),
    ] {
        let mut socket = RawSocket::connect(server.address()).await;
        socket.write(head.as_bytes()).await;
        let answer = socket.read_head().await;
        assert_eq!(answer.split_whitespace().nth(1), Some(status), "{what}: {answer}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn first_offered_subprotocol_is_selected() {
    let server = start(Arc::new(MemoryStore::new())).await;
    for (more, is_usual) in [("", true), ("Content-Length: 0\r\n", false)] {
        let mut socket = RawSocket::connect(server.address()).await;
        let offer = format!("{more}Sec-WebSocket-Protocol: yjs, other\r\nHost:");
        socket.write(upgrade_request("/doc").replace("Host:", &offer).as_bytes()).await;
        let head = socket.read_head().await.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nsec-websocket-protocol: yjs\r\n"), "{head}");
        assert_eq!(head.contains("\r\ndate:"), !is_usual, "only the HTTP server sends a Date header: {head}");
    }
    server.stop().await.unwrap();
}

/// The upgrade request of a page of `origin`. `is_usual`: without the Content-Length that passes it to the HTTP server.
fn page_request(address: std::net::SocketAddr, origin: &str, is_usual: bool) -> String {
    let more = if is_usual { "" } else { "Content-Length: 0\r\n" };
    let request = upgrade_request("/doc");
    let host = request.lines().find(|line| line.starts_with("Host:")).unwrap();
    request.replace(host, &format!("{more}Host: {address}\r\nOrigin: {origin}"))
}

#[tokio::test]
async fn cross_origin_page_is_refused_on_both_handshake_paths() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let own = format!("http://{}", server.address());
    for is_usual in [true, false] {
        for origin in ["https://evil.example", "null", "http://localhost:5173", "http://127.0.0.1"] {
            let mut socket = RawSocket::connect(server.address()).await;
            socket.write(page_request(server.address(), origin, is_usual).as_bytes()).await;
            let head = socket.read_head().await;
            assert!(head.starts_with("HTTP/1.1 403 ") && head.contains("text/plain"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let reason = String::from_utf8(socket.read_body(length.parse().unwrap()).await).unwrap();
            assert!(reason.contains(&format!("--allow-origin {origin}")), "{reason}");
            // The connection stays usable: the refused request leaves no bytes behind.
            socket.write(page_request(server.address(), &own, is_usual).as_bytes()).await;
            assert!(socket.read_head().await.starts_with("HTTP/1.1 101 "));
            assert_is_session(&mut socket, 90).await;
        }
    }
    assert_eq!(server.open_documents(), 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn allowed_origin_is_accepted_on_both_handshake_paths() {
    let origins = vec!["http://localhost:5173".to_owned(), "capacitor://localhost".to_owned()];
    let config = Config { allow_origin: AllowedOrigins::new(&origins).unwrap(), ..settings() };
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    for is_usual in [true, false] {
        for (origin, status) in [(origins[0].as_str(), "101"), (&origins[1], "101"), ("http://localhost:5174", "403")] {
            let mut socket = RawSocket::connect(server.address()).await;
            socket.write(page_request(server.address(), origin, is_usual).as_bytes()).await;
            let head = socket.read_head().await;
            assert_eq!(head.split_whitespace().nth(1), Some(status), "{origin}: {head}");
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn unsupported_websocket_version_is_answered_with_426_and_version_13() {
    let server = start(Arc::new(MemoryStore::new())).await;
    for version in ["12", "8", "14", "x", "13, 8"] {
        let mut socket = RawSocket::connect(server.address()).await;
        let request =
            upgrade_request("/doc").replace("Sec-WebSocket-Version: 13", &format!("Sec-WebSocket-Version: {version}"));
        socket.write(request.as_bytes()).await;
        let head = socket.read_head().await.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 426 ") && head.contains("\r\nsec-websocket-version: 13\r\n"), "{head}");
        assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    }
    server.stop().await.unwrap();
}
