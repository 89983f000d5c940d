//! Healthy clients: one types, the other reads, and in the end both have the same text.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use yrs::updates::decoder::Decode;
use yrs::{Doc, GetString, OffsetKind, Options, Text, TextRef, Transact, Update};

use syncline_tests::PATIENCE;
use syncline_tests::raw_websocket::{BINARY, Frame, PING, PONG, RawSocket, Received};

/// A document kept in sync with a session.
pub(super) struct Mirror {
    socket: RawSocket,
    doc: Doc,
    text: TextRef,
}

impl Mirror {
    fn new(socket: RawSocket) -> Self {
        let client_id = yrs::block::ClientID::new(rand::random::<u64>() >> 11);
        let doc = Doc::with_options(Options { client_id, offset_kind: OffsetKind::Utf16, ..Options::default() });
        let text = doc.get_or_insert_text("text");
        Self { socket, doc, text }
    }

    async fn join(server: SocketAddr, path: &str) -> Self {
        Self::join_over(RawSocket::open(server, path).await).await
    }

    /// Joins and waits for the complete document.
    pub(super) async fn join_over(socket: RawSocket) -> Self {
        let mut mirror = Self::new(socket);
        mirror.send(SyncMessage::Step1(&[0])).await;
        while mirror.receive().await != Some(1) {}
        mirror
    }

    async fn send(&mut self, message: SyncMessage<'_>) {
        self.socket.send(Frame::new(BINARY, YWebsocketMessage::Sync(message).encode())).await;
    }

    /// Receives one frame; returns its type if it is a sync message.
    async fn receive(&mut self) -> Option<u8> {
        self.receive_sync().await.map(|payload| payload[1])
    }

    /// Receives one frame; returns it if it is a sync message.
    async fn receive_sync(&mut self) -> Option<Vec<u8>> {
        let payload = match self.socket.receive().await {
            Received::Frame { opcode: PING, payload } => {
                self.socket.send(Frame::new(PONG, payload)).await;
                return None;
            }
            Received::Frame { payload, .. } => payload,
            closed => panic!("the session of a healthy client was closed: {closed:?}"),
        };
        match YWebsocketMessage::decode(&payload).unwrap() {
            YWebsocketMessage::Sync(SyncMessage::Step1(_)) => {}
            YWebsocketMessage::Sync(SyncMessage::Step2(update) | SyncMessage::Update(update)) => {
                self.doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
            }
            _ => return None,
        }
        Some(payload.to_vec())
    }

    fn text(&self) -> String {
        self.text.get_string(&self.doc.transact())
    }

    /// Receives until the text satisfies `wanted`.
    pub(super) async fn until(&mut self, wanted: impl Fn(&str) -> bool) {
        let wait = async {
            while !wanted(&self.text()) {
                self.receive().await;
            }
        };
        tokio::time::timeout(PATIENCE * 3, wait).await.expect("both clients have the same text in time");
    }

    /// Sends a change and returns the message, which the server echoes once it is on disk.
    async fn edit(&mut self, change: impl FnOnce(&TextRef, &mut yrs::TransactionMut<'_>)) -> Vec<u8> {
        let update = {
            let mut txn = self.doc.transact_mut();
            change(&self.text, &mut txn);
            txn.encode_update_v1()
        };
        self.send(SyncMessage::Update(&update)).await;
        YWebsocketMessage::Sync(SyncMessage::Update(&update)).encode()
    }

    /// Receives until this message has been echoed.
    async fn wait_for_echo(&mut self, sent: &[u8]) {
        while self.receive_sync().await.as_deref() != Some(sent) {}
    }
}

/// A client that writes and waits until each edit is on disk.
pub(super) struct Writer(Mirror);

impl Writer {
    /// Joins after others have written, so that every replica orders its text behind theirs and it deletes
    /// only its own. (If two clients write into an empty document at the same time, either may come first.)
    pub(super) async fn begin(server: SocketAddr, path: &str) -> Self {
        let mut mirror = Mirror::join(server, path).await;
        mirror.until(|text| !text.is_empty()).await;
        Self(mirror)
    }

    /// Appends this many characters and deletes all but one of them: much more data passes than remains.
    /// Others may insert text before it.
    pub(super) async fn replace_most(&mut self, characters: u32) {
        let sent = self.0.edit(|text, txn| text.insert(txn, text.len(txn), &"x".repeat(characters as usize))).await;
        self.0.wait_for_echo(&sent).await;
        let all_but_one = |text: &TextRef, txn: &mut yrs::TransactionMut<'_>| {
            text.remove_range(txn, text.len(txn) - characters + 1, characters - 1);
        };
        let sent = self.0.edit(all_but_one).await;
        self.0.wait_for_echo(&sent).await;
    }

    /// The text that a new client reads now.
    pub(super) async fn text_now(server: SocketAddr) -> String {
        Mirror::join(server, "/busy").await.text()
    }
}

/// Two clients that edit one document during an attack.
pub(super) struct Pair {
    stop: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<(Mirror, Mirror, Vec<Duration>)>,
    server: SocketAddr,
    path: &'static str,
}

/// Latencies measured by the pair.
pub(super) struct Report {
    edits: usize,
    p50: Duration,
    p99: Duration,
    worst: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { edits, p50, p99, worst } = self;
        write!(f, "{edits} edits of a healthy pair arrived after p50 {p50:.1?}, p99 {p99:.1?}, at worst {worst:.1?}")
    }
}

impl Pair {
    pub(super) async fn begin(server: SocketAddr, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut one, mut other) = (Mirror::join(server, path).await, Mirror::join(server, path).await);
        let until = Arc::clone(&stop);
        let work = tokio::spawn(async move {
            let mut latencies = Vec::new();
            while !until.load(Ordering::Relaxed) || latencies.is_empty() {
                let mark = format!("<{}>", latencies.len());
                let sent = Instant::now();
                let sent_message = one.edit(|text, txn| text.insert(txn, 0, &mark)).await;
                other.until(|text| text.contains(&mark)).await;
                latencies.push(sent.elapsed());
                // It also reads the changes of others.
                one.wait_for_echo(&sent_message).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            (one, other, latencies)
        });
        Self { stop, work, server, path }
    }

    /// Ends the edits; both clients and a new one must have the same text.
    pub(super) async fn end(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let (mut one, mut other, mut latencies) = self.work.await.unwrap();
        one.edit(|text, txn| text.insert(txn, 0, "<the end>")).await;
        one.until(|text| text.contains("<the end>")).await;
        other.until(|text| text.contains("<the end>")).await;
        let newcomer = Mirror::join(self.server, self.path).await;
        let expected = newcomer.text();
        let is_lost = |number: &usize| !expected.contains(&format!("<{number}>"));
        let lost: Vec<_> = (0..latencies.len()).filter(is_lost).collect();
        assert!(lost.is_empty(), "edits are lost: {lost:?}");
        one.until(|text| text == expected).await;
        other.until(|text| text == expected).await;
        latencies.sort_unstable();
        let at = |part: usize| latencies[(latencies.len() * part / 100).min(latencies.len() - 1)];
        Report { edits: latencies.len(), p50: at(50), p99: at(99), worst: at(100) }
    }
}
