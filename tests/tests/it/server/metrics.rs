//! `/metrics`: counts of refusals and closed sessions, served only on its own port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::{Fault, MemoryStore};
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::OpenToAll;
use syncline_server::{Listener, Server};
use syncline_tests::live::{GrantByToken, Socket, settings, start_with, typed};
use syncline_tests::native_client::Native;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

async fn metrics_port(server: &Server) -> SocketAddr {
    server.serve_metrics(Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap())
}

/// The value of a sample, or 0 if the page does not have it.
fn value(page: &str, sample: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Polls until `sample` reaches `wanted`: a session is counted when it ends, shortly after its client receives
/// the close.
async fn until(address: SocketAddr, sample: &str, wanted: f64) {
    let mut page = String::new();
    for _ in 0..1_000 {
        page = get(address, "/metrics").await.1;
        if value(&page, sample) >= wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{sample} did not reach {wanted} in\n{page}");
}

#[tokio::test]
async fn metrics_count_updates_and_session_closes_by_code() {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    let port = metrics_port(&server).await;
    let mut editor = Socket::open(&server, "/doc").await;
    editor.join().await;
    editor.sync(SyncMessage::Update(&typed(1, "a"))).await;
    until(port, "syncline_updates_total", 1.0).await;
    until(port, "syncline_log_commits_total", 1.0).await;
    let mut hostile = Socket::open(&server, "/doc").await;
    hostile.sync(SyncMessage::Update(&[1])).await;
    assert_eq!(hostile.receive_close().await.0, 4400);
    let mut greedy = Socket::open(&server, "/doc").await;
    greedy.send(vec![0; settings().session.message_bytes + 1]).await;
    assert_eq!(greedy.receive_close().await.0, 4413);
    for code in [4400, 4413] {
        until(port, &format!("syncline_sessions_closed_total{{code=\"{code}\"}}"), 1.0).await;
    }
    let (_, page) = get(port, "/metrics").await;
    assert_eq!(value(&page, "syncline_sessions_total"), 3.0, "{page}");
    assert_eq!(value(&page, "syncline_documents_open"), 1.0);
    assert!(value(&page, "syncline_log_commit_seconds_total") > 0.0);
    assert_eq!((value(&page, "syncline_storage_failed"), value(&page, "syncline_log_waiting_bytes")), (0.0, 0.0));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn metrics_count_refusals_that_close_no_session_by_code() {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(GrantByToken)).await;
    let port = metrics_port(&server).await;
    let mut native = Native::connect(&server).await;
    let open = |token| ToServer::Open { channel: 1, document: "doc", token, cursor: None, wants_state_vector: false };
    native.send(open("a stranger's")).await;
    let mut editor = Socket::open(&server, "/").await;
    editor.send_to("doc", HocuspocusMessage::Token { token: "read", version: None }).await;
    editor.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&typed(1, "a")))).await;
    editor.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(false)).await;
    until(port, "syncline_documents_closed_total{code=\"4403\"}", 1.0).await;
    until(port, "syncline_edits_refused_total{code=\"4403\"}", 1.0).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn metrics_report_a_failed_disk() {
    let store = Arc::new(MemoryStore::new());
    store.fault_at(1, Fault::Fail);
    let server = start_with(&settings(), store, Arc::new(OpenToAll)).await;
    let port = metrics_port(&server).await;
    let mut editor = Socket::open(&server, "/").await;
    editor.open_document("doc", "").await;
    editor.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&typed(1, "a")))).await;
    editor.receive_until(|_, message| *message == HocuspocusMessage::SyncStatus(false)).await;
    until(port, "syncline_storage_failed", 1.0).await;
    until(port, "syncline_edits_refused_total{code=\"4507\"}", 1.0).await;
    server.stop().await.unwrap_err();
}

#[tokio::test]
async fn metrics_are_served_only_on_their_own_port() {
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    let port = metrics_port(&server).await;
    assert_eq!(get(port, "/doc").await.0, 404);
    assert_eq!(get(server.address(), "/metrics").await.0, 404);
    // More silent connections than the port accepts at the same time: each one releases its slot when it ends.
    for _ in 0..20 {
        drop(TcpStream::connect(port).await.unwrap());
    }
    let page = tokio::time::timeout(Duration::from_secs(20), get(port, "/metrics")).await;
    assert_eq!(page.expect("a slot is free").0, 200);
    server.stop().await.unwrap();
    assert!(TcpStream::connect(port).await.is_err(), "the port is closed after the stop");
}
