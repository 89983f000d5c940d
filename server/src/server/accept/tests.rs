//! Tokens are secrets: nothing that a client sends in its query or its headers is in the log, at any level.

use std::io;
use std::sync::{Arc, Mutex};

use syncline_log::memory::MemoryStore;
use syncline_tests::raw_websocket::{BINARY, Frame, RawSocket, Received, upgrade_request};
use tracing::Level;
use tracing::subscriber::set_default;

use crate::auth::{Access, AccessRequest, Authorize};
use crate::config::RawConfig;
use crate::{Listener, Server};

const SECRET: &str = "sesame";

/// Logs every request and denies it.
struct Denying;

impl Authorize for Denying {
    fn authorize(&self, request: AccessRequest) -> Access {
        assert_eq!(request.token.as_deref(), Some(SECRET));
        assert_eq!(request.handshake.headers().get("cookie").unwrap(), SECRET);
        tracing::info!(?request, "denied");
        Box::pin(std::future::ready(Err("not today".to_owned())))
    }
}

/// The log lines of a test.
#[derive(Clone, Default)]
struct LogBuffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for LogBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn secrets_of_the_handshake_are_not_logged() {
    let log = LogBuffer::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(Level::TRACE).with_writer(move || writer.clone());
    let subscribed = set_default(subscriber.finish());
    let config = RawConfig::default().check().unwrap();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let server = Server::start(listener, &config, Arc::new(MemoryStore::new()), Arc::new(Denying));
    let secrets = format!("Cookie: {SECRET}\r\nAuthorization: Bearer {SECRET}\r\nX-Token: {SECRET}\r\n");
    let path = format!("/notes?token={SECRET}");
    let good = upgrade_request(&path).replace("Host:", &format!("{secrets}Host:"));
    for (head, status) in [
        (good.clone(), "101"),
        (good.replace("Host:", "Content-Length: 0\r\nHost:"), "101"),
        (good.replace("Host:", "Origin: https://other.example\r\nHost:"), "403"),
        (good.replace("Version: 13", "Version: 12"), "426"),
        (good.replace("Upgrade: websocket\r\n", ""), "404"),
        (good.replace("Cookie:", "Cookie"), "400"),
    ] {
        let mut socket = RawSocket::connect(server.address()).await;
        socket.write(head.as_bytes()).await;
        let answer = socket.read_head().await;
        assert_eq!(answer.split_whitespace().nth(1), Some(status), "{answer}");
        if status == "101" {
            socket.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
            let closed = Received::Close { code: Some(4403), reason: "not today".into() };
            assert_eq!(socket.receive_close().await, closed);
        }
    }
    server.stop().await.unwrap();
    drop(subscribed);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for line in ["denied", "session started", "session closed by the server", "web page refused", "x-token"] {
        assert!(log.contains(line), "{line} is missing: {log}");
    }
    assert!(!log.contains(SECRET), "{log}");
    let refused = log.lines().find(|line| line.contains("web page refused")).unwrap();
    assert!(refused.contains("address") && refused.contains("127.0.0.1 ") && !refused.contains("peer"), "{refused}");
}
