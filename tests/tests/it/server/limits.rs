//! Limits on the resources of clients. Each test reaches one limit and checks its close code, its metric, and
//! that a healthy client is not affected.

use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::MemoryStore;
use syncline_protocol::sync::SyncMessage;
use syncline_server::Server;
use syncline_server::auth::OpenToAll;
use syncline_server::config::{Config, Limits};
use syncline_tests::PATIENCE;
use syncline_tests::live::{Socket, settings, start_with, typed};
use syncline_tests::raw_websocket::{BINARY, CONTINUATION, Frame, PING, PONG, RawSocket, Received, message_of};

async fn server_with(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = settings();
    change(&mut config);
    start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await
}

async fn limited(change: impl FnOnce(&mut Limits)) -> Server {
    server_with(|config| change(&mut config.limits)).await
}

/// Waits until `condition` holds; `what` names the condition in the panic message.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("timed out waiting until {what}"));
}

/// Sends an update of `client` and checks its echo.
async fn assert_echoed(socket: &mut Socket, client: u64) {
    let update = typed(client, "x");
    socket.sync(SyncMessage::Update(&update)).await;
    assert_eq!(socket.receive_sync().await, (2, update));
}

#[tokio::test]
async fn connection_over_the_limit_is_refused_until_another_closes() {
    for per_address in [false, true] {
        let server = limited(|limits| {
            if per_address {
                limits.connections_per_address = 2;
            } else {
                limits.connections = 2;
            }
        })
        .await;
        let mut first = Socket::open(&server, "/doc").await;
        first.join().await;
        let second = Socket::open(&server, "/doc").await;
        until("both sessions are open", || server.gate().sessions() == 2).await;
        let (code, reason) = Socket::open(&server, "/doc").await.receive_close().await;
        assert_eq!((code, reason.contains("address")), (4529, per_address), "{reason}");
        assert_eq!(server.metrics().connections_refused.get(), 1);
        drop(second);
        until("one session has ended", || server.gate().sessions() == 1).await;
        Socket::open(&server, "/doc").await.join().await;
        assert_echoed(&mut first, 10).await;
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn silent_sockets_are_dropped_to_admit_new_ones() {
    let server = limited(|limits| limits.unfinished = 8).await;
    let mut healthy = Socket::open(&server, "/doc").await;
    healthy.join().await;
    // Half of them stop in the middle of their headers; half are upgraded and silent.
    let mut silent = Vec::new();
    for number in 0..20 {
        silent.push(if number % 2 == 0 {
            let mut socket = RawSocket::connect(server.address()).await;
            socket.write(b"GET /doc HTTP/1.1\r\nHost: x\r\nX-").await;
            socket
        } else {
            RawSocket::open(server.address(), "/doc").await
        });
    }
    until("the dropped sockets are counted", || server.metrics().unfinished_cut.get() >= 12).await;
    assert_eq!(silent[0].receive().await, Received::End);
    // An established session stays open, and a new one is admitted.
    assert_echoed(&mut healthy, 10).await;
    let mut late = Socket::open(&server, "/doc").await;
    late.join().await;
    assert!(server.gate().unfinished() <= 8);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn connection_over_its_rate_is_throttled_and_loses_nothing() {
    let server = limited(|limits| limits.rate.messages = 20).await;
    let mut busy = Socket::open(&server, "/busy").await;
    busy.join().await;
    let mut updates = Vec::new();
    while server.metrics().pauses.get() == 0 {
        let update = typed(updates.len() as u64 + 10, "x");
        busy.sync(SyncMessage::Update(&update)).await;
        updates.push(update);
        // Lets the server's tasks run; they share this thread.
        tokio::task::yield_now().await;
    }
    assert!(updates.len() >= 500, "a burst of at least 500 passes, not {}", updates.len());
    let mut healthy = Socket::open(&server, "/healthy").await;
    healthy.join().await;
    assert_echoed(&mut healthy, 10).await;
    for update in updates {
        assert_eq!(busy.receive_sync().await, (2, update));
    }
    assert_eq!(server.metrics().floods.get(), 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn message_flood_closes_its_session() {
    // The rate of one connection, and the common rate of all connections of an address.
    for per_address in [false, true] {
        let server = limited(|limits| {
            let rate = if per_address { &mut limits.rate_per_address } else { &mut limits.rate };
            rate.messages = 1;
        })
        .await;
        let mut flooding = RawSocket::open(server.address(), "/doc").await;
        flooding.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
        // One read takes in messages for minutes of the rate.
        flooding.write(&Frame::new(PONG, "").encode().repeat(3_000)).await;
        let Received::Close { code, reason } = flooding.receive_close().await else { panic!("no close frame") };
        assert_eq!((code, reason.contains("too many messages")), (Some(4529), true), "{reason}");
        assert_eq!(server.metrics().floods.get(), 1);
        let mut neighbour = Socket::open(&server, "/doc").await;
        if per_address {
            // The address is over its rate: its next connection is throttled, not closed.
            neighbour.sync(SyncMessage::Step1(&[0])).await;
            until("the new connection is throttled", || server.metrics().pauses.get() > 1).await;
            assert_eq!(server.metrics().floods.get(), 1);
        } else {
            neighbour.join().await;
        }
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn endless_message_closes_its_session() {
    let server = server_with(|config| {
        config.session.tick = Duration::from_millis(20);
        config.session.message_time = Duration::from_millis(200);
    })
    .await;
    let mut healthy = Socket::open(&server, "/doc").await;
    healthy.join().await;
    let mut endless = RawSocket::open(server.address(), "/doc").await;
    endless.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
    // It sends a fragment and a pong now and then, but never completes a message.
    let mut opcode = BINARY;
    let send = async {
        loop {
            endless.send(Frame::new(std::mem::replace(&mut opcode, CONTINUATION), [0]).open()).await;
            endless.send(Frame::new(PONG, "alive")).await;
            if let Ok(received) = tokio::time::timeout(Duration::from_millis(10), endless.receive_close()).await {
                break received;
            }
        }
    };
    let closed = tokio::time::timeout(PATIENCE, send).await.expect("its session ends");
    assert!(matches!(closed, Received::Close { code: Some(4504), .. }), "{closed:?}");
    assert_eq!(server.metrics().partial_refused.get(), 1);
    // A client that was silent for as long is not affected.
    assert_echoed(&mut healthy, 10).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn message_without_new_bytes_closes_its_session_despite_pings() {
    let server = server_with(|config| {
        config.session.tick = Duration::from_millis(20);
        config.session.message_time = Duration::from_millis(400);
    })
    .await;
    let mut stopped = RawSocket::open(server.address(), "/doc").await;
    stopped.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
    // So many bytes extend the time limit of the message by four minutes.
    stopped.send(Frame::new(BINARY, &message_of(10, 1_100_000)[..1_000_000]).open()).await;
    // Pings arrive in two parts, with a timer tick between them.
    let ping = Frame::new(PING, "alive").encode();
    let send = async {
        for part in ping.chunks(6).cycle() {
            stopped.write(part).await;
            if let Ok(received) = tokio::time::timeout(Duration::from_millis(30), stopped.receive_close()).await {
                return received;
            }
        }
        unreachable!("pings are sent until the session ends")
    };
    let closed = tokio::time::timeout(PATIENCE, send).await.expect("its session ends");
    assert!(matches!(closed, Received::Close { code: Some(4504), .. }), "{closed:?}");
    assert_eq!(server.metrics().partial_refused.get(), 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn stalled_messages_are_cut_for_one_that_arrives() {
    let server = limited(|limits| limits.partial_bytes = 1_300_000).await;
    let mut stalled = Vec::new();
    for number in 0..3 {
        let mut socket = RawSocket::open(server.address(), "/doc").await;
        let beginning = Frame::new(BINARY, &message_of(100 + number, 400_000)[..380_000]).open();
        for frame in [Frame::new(BINARY, [0, 0, 1, 0]), beginning] {
            socket.send(frame).await;
            // Answered when everything before it was read.
            socket.send(Frame::new(PING, "read")).await;
            while !matches!(socket.receive().await, Received::Frame { opcode: PONG, .. }) {}
        }
        stalled.push(socket);
    }
    assert_eq!(server.metrics().partial_refused.get(), 0, "three messages fit");
    let mut uploading = RawSocket::open(server.address(), "/doc").await;
    uploading.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
    let message = message_of(10, 800_000);
    for piece in Frame::new(BINARY, message.clone()).encode().chunks(40_000) {
        uploading.write(piece).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    loop {
        match uploading.receive().await {
            Received::Frame { payload, .. } if payload == message => break,
            Received::Frame { .. } => {}
            end => panic!("the upload was interrupted: {end:?}"),
        }
    }
    // Two had to make room; the third may stay.
    assert_eq!(server.metrics().partial_refused.get(), 2);
    for mut socket in stalled.into_iter().take(2) {
        let closed = socket.receive_close().await;
        assert!(matches!(closed, Received::Close { code: Some(4529), .. }), "{closed:?}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn unfinished_messages_of_all_sessions_share_one_limit() {
    let server = limited(|limits| limits.partial_bytes = 1_200_000).await;
    let mut healthy = Socket::open(&server, "/doc").await;
    healthy.join().await;
    let mut partial = Vec::new();
    for number in 0..4 {
        let mut socket = RawSocket::open(server.address(), "/doc").await;
        socket.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
        let message = message_of(100 + number, 400_000);
        socket.send(Frame::new(BINARY, &message[..380_000]).open()).await;
        partial.push((socket, message));
    }
    until("one session exceeds the limit", || server.metrics().partial_refused.get() > 0).await;
    let mut ended = 0;
    for (mut socket, message) in partial {
        socket.send(Frame::new(CONTINUATION, &message[380_000..])).await;
        loop {
            match socket.receive().await {
                Received::Frame { payload, .. } if payload == message => break,
                Received::Frame { .. } => {}
                Received::Close { code, .. } => {
                    assert_eq!(code, Some(4529));
                    ended += 1;
                    break;
                }
                Received::End => panic!("cut without a close frame"),
            }
        }
    }
    assert_eq!(ended, 1, "three partial messages fit");
    // The memory of the refused message is available again.
    let mut later = RawSocket::open(server.address(), "/doc").await;
    let message = message_of(200, 900_000);
    later.send(Frame::new(BINARY, message.clone())).await;
    while later.receive().await != (Received::Frame { opcode: BINARY, payload: message.clone() }) {}
    server.stop().await.unwrap();
}
