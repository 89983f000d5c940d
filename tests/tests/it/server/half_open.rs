//! A peer that vanishes without FIN, reset or pong. The server detects it within a configured time and removes
//! its leases and its awareness; a peer that only answers pings, or is in the middle of a long message, stays connected.

use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::MemoryStore;
use syncline_protocol::awareness::{AwarenessEntry, AwarenessUpdate, encode};
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use syncline_server::Server;
use syncline_server::auth::OpenToAll;
use syncline_server::config::Config;
use syncline_tests::live::{Incoming, Socket, settings, start_with, typed};
use syncline_tests::proxy::Proxy;
use syncline_tests::raw_websocket::{BINARY, Frame, RawSocket, Received, message_of};
use tokio::net::{TcpSocket, TcpStream};

/// Time limit of every wait in a test; only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(20);
/// The client whose awareness appears and is then removed.
const CLIENT: u64 = 77;

/// The default intervals divided by fifty: pings are sent far more often than the allowed silence.
async fn server(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = settings();
    config.idle_unload = Duration::ZERO;
    config.session.tick = Duration::from_millis(100);
    config.session.silence = Duration::from_millis(1_200);
    change(&mut config);
    start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("timed out waiting until {what}"));
}

async fn through(proxy: &Proxy, server: &Server, path: &str) -> Socket {
    Socket::over(TcpStream::connect(proxy.address()).await.unwrap(), server, path).await
}

async fn announce(socket: &mut Socket) {
    let state = "{\"name\":\"gone soon\"}";
    let awareness = encode([AwarenessEntry { client: CLIENT, clock: 1, state }].into_iter());
    socket.send(YWebsocketMessage::Awareness(&awareness).encode()).await;
}

/// Receives until the awareness of [`CLIENT`] appears (`here`) or is removed.
async fn receive_awareness(socket: &mut Socket, here: bool) {
    let wait = async {
        loop {
            let Incoming::Frame(frame) = socket.receive().await else { panic!("the healthy peer was disconnected") };
            if let Ok(YWebsocketMessage::Awareness(update)) = YWebsocketMessage::decode(&frame)
                && let Ok(entries) = AwarenessUpdate::scan(update, &Default::default())
                && entries.iter().any(|entry| entry.client == CLIENT && entry.is_null() != here)
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("awareness arrives in time");
}

#[tokio::test]
async fn vanished_peer_is_detected_and_healthy_peers_stay_connected() {
    let server = server(|_| {}).await;
    let proxy = Proxy::start(server.address()).await;
    let mut healthy = Socket::open(&server, "/shared").await;
    healthy.join().await;
    let mut vanishing = through(&proxy, &server, "/shared").await;
    vanishing.join().await;
    announce(&mut vanishing).await;
    receive_awareness(&mut healthy, true).await;
    // A Hocuspocus peer with a document of its own vanishes too.
    let mut alone = through(&proxy, &server, "/").await;
    alone.send_to("alone", HocuspocusMessage::Token { token: "", version: None }).await;
    alone.send_to("alone", HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    alone.receive_until(|_, message| matches!(message, HocuspocusMessage::Sync(SyncMessage::Step2(_)))).await;
    assert_eq!((server.gate().sessions(), server.open_documents()), (3, 2));

    proxy.freeze(true);
    receive_awareness(&mut healthy, false).await;
    let end = async {
        until("its lease is released and its document is unloaded", || server.open_documents() == 1).await;
        until("both vanished peers are counted", || server.metrics().vanished.get() == 2).await;
        // A peer that reappears on the same connection receives a close frame with the reason.
        proxy.freeze(false);
        for socket in [&mut vanishing, &mut alone] {
            let (code, reason) = socket.receive_close().await;
            assert_eq!((code, reason.contains("too long")), (4504, true), "{reason}");
        }
        until("both sessions have ended", || server.gate().sessions() == 1).await;
    };
    // Meanwhile the healthy peer sends only pongs, which its WebSocket sends while it receives.
    let receive = async { while !matches!(healthy.receive().await, Incoming::Closed { .. } | Incoming::Cut) {} };
    tokio::select! {
        () = receive => panic!("a peer that answers pings was disconnected"),
        () = end => {}
    }
    let update = typed(5, "still here");
    healthy.sync(SyncMessage::Update(&update)).await;
    while healthy.receive_sync().await != (2, update.clone()) {}
    server.stop().await.unwrap();
}

#[tokio::test]
async fn vanished_peer_under_traffic_is_detected_by_the_write_stall() {
    // The silence limit is out of reach, so only the stalled write reveals the vanished peer.
    let server = server(|config| {
        config.session.silence = Duration::from_secs(3_600);
        config.session.write_stall = Duration::from_millis(500);
    })
    .await;
    let mut healthy = Socket::open(&server, "/busy").await;
    healthy.join().await;
    // This end never reads again, and its receive buffer is small.
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(4096).unwrap();
    let mut vanishing = Socket::over(narrow.connect(server.address()).await.unwrap(), &server, "/busy").await;
    vanishing.join().await;
    announce(&mut vanishing).await;
    receive_awareness(&mut healthy, true).await;
    let letters = "x".repeat(100_000);
    let mut client = 100;
    let gone = loop {
        client += 1;
        healthy.sync(SyncMessage::Update(&typed(client, &letters))).await;
        let mut saw_removal = false;
        loop {
            let Incoming::Frame(frame) = healthy.receive().await else { panic!("the healthy peer was disconnected") };
            match YWebsocketMessage::decode(&frame) {
                Ok(YWebsocketMessage::Sync(SyncMessage::Update(_))) => break,
                Ok(YWebsocketMessage::Awareness(update)) => {
                    let entries = AwarenessUpdate::scan(update, &Default::default()).unwrap();
                    saw_removal |= entries.iter().any(|entry| entry.client == CLIENT && entry.is_null());
                }
                _ => {}
            }
        }
        if saw_removal || client == 200 {
            break saw_removal;
        }
    };
    if !gone {
        receive_awareness(&mut healthy, false).await;
    }
    until("its session has ended", || server.gate().sessions() == 1).await;
    assert_eq!(server.metrics().vanished.get(), 1);
    drop(vanishing);
    server.stop().await.unwrap();
}

/// Announces a y-websocket client and then sends the first part of `message`, in one frame: what the client would send
/// meanwhile, such as pongs, waits behind the rest.
async fn begin(server: &Server, message: &[u8], part: usize) -> (RawSocket, Vec<u8>) {
    let mut socket = RawSocket::open(server.address(), "/upload").await;
    socket.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
    let mut bytes = Frame::new(BINARY, message).encode();
    let rest = bytes.split_off(part);
    socket.write(&bytes).await;
    (socket, rest)
}

#[tokio::test]
async fn message_that_arrives_for_longer_than_the_silence_limit_is_accepted() {
    let server = server(|_| {}).await;
    let message = message_of(10, 100_000);
    let (mut socket, rest) = begin(&server, &message, 10_000).await;
    for piece in rest.chunks(3_000) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        socket.write(piece).await;
    }
    loop {
        match socket.receive().await {
            Received::Frame { payload, .. } if payload == message => break,
            Received::Frame { .. } => {}
            end => panic!("the upload was interrupted: {end:?}"),
        }
    }
    assert_eq!(server.metrics().vanished.get(), 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn peer_that_vanishes_within_a_message_is_detected() {
    let server = server(|_| {}).await;
    let (mut socket, _) = begin(&server, &message_of(10, 100_000), 50_000).await;
    let closed = socket.receive_close().await;
    assert!(matches!(closed, Received::Close { code: Some(4504), .. }), "{closed:?}");
    assert_eq!(server.metrics().vanished.get(), 1);
    server.stop().await.unwrap();
}
