//! Tests of `writer.rs`: whichever task writes, and however little the socket accepts, the output is what was
//! queued, in order. Random runs print their seed; `SYNCLINE_SEED=<seed>` replays one.

#![allow(clippy::print_stdout, reason = "seeds")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::ids::LeaseId;
use crate::outbox::{Budget, Pushed};
use crate::session::Socket as _;

const LEASE: LeaseId = LeaseId(1);
/// Number of random runs.
const RUNS: u64 = 300;
/// Steps per run.
const STEPS: usize = 200;

/// A socket that accepts `room` bytes in total, at most `per_write` per write.
struct SmallSocket(Mutex<SmallSocketState>);

struct SmallSocketState {
    taken: Vec<u8>,
    room: usize,
    per_write: usize,
}

impl SmallSocket {
    fn new(room: usize, per_write: usize) -> Self {
        Self(Mutex::new(SmallSocketState { taken: Vec::new(), room, per_write }))
    }

    fn inner(&self) -> MutexGuard<'_, SmallSocketState> {
        self.0.lock().unwrap()
    }
}

impl Wire for Arc<SmallSocket> {
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut inner = self.inner();
        let before = inner.taken.len();
        let room = inner.room.min(inner.per_write);
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        inner.taken.extend(pieces.iter().flat_map(|piece| piece.iter()).take(room));
        let written = inner.taken.len() - before;
        inner.room -= written;
        Ok(written)
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.inner().room == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn output_equals_queued_frames_however_little_socket_accepts() {
    let payloads: Vec<Bytes> = [5, 40_000, 0, 300, 17_000, 1]
        .into_iter()
        .enumerate()
        .map(|(number, len)| Bytes::from(vec![number as u8; len]))
        .collect();
    let mut expected = Vec::new();
    for payload in &payloads {
        websocket::write_head(&mut expected, Opcode::Binary, payload.len());
        expected.extend_from_slice(payload);
    }
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for (room, per_write) in [(1, 1), (3, 2), (6, 6), (40_011, usize::MAX), (57_000, 9_999), (usize::MAX, usize::MAX)] {
        let socket = Arc::new(SmallSocket::new(room, per_write));
        let outbox = Outbox::with_wire(usize::MAX, Budget::new(usize::MAX), Arc::clone(&socket));
        payloads.iter().for_each(|payload| _ = outbox.push_document(LeaseId(1), payload.clone()));
        // The socket gets room again and again.
        while socket.inner().taken.len() < expected.len() {
            assert!(outbox.poll_write(&mut cx).is_pending());
            assert_eq!(outbox.is_blocked(), socket.inner().taken.len() < expected.len());
            socket.inner().room = room;
        }
        assert!(socket.inner().taken == expected, "room for {room}, {per_write} per write");
        assert_eq!(outbox.written(), expected.len() as u64);
        assert!(outbox.take_has_sent_message() && !outbox.take_has_sent_message());
        outbox.queue_frame(Opcode::Ping, b"?");
        assert!(!outbox.poll_write(&mut cx).is_ready());
    }
}

/// A session's task that counts its wake-ups.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// The writing side of a session.
struct Session {
    socket: Arc<SmallSocket>,
    outbox: Outbox,
    woken: Arc<Woken>,
}

impl Session {
    /// A session whose task has been polled once.
    fn new(room: usize) -> Self {
        let socket = Arc::new(SmallSocket::new(room, usize::MAX));
        let outbox = Outbox::with_wire(1 << 30, Budget::new(usize::MAX), Arc::clone(&socket));
        let session = Self { socket, outbox, woken: Arc::default() };
        assert!(session.poll().is_pending());
        session
    }

    fn poll(&self) -> Poll<Result<Close, Broken>> {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.outbox.poll_write(&mut Context::from_waker(&waker))
    }

    fn push(&self, payload: impl Into<Bytes>) -> Pushed {
        self.outbox.push_document(LEASE, payload.into())
    }

    fn room(&self, room: usize) {
        self.socket.inner().room = room;
    }

    fn taken(&self) -> Vec<u8> {
        self.socket.inner().taken.clone()
    }
}

/// The frames that a server wrote to `stream`, as opcode and payload. Panics if the last one is incomplete.
pub(super) fn frames(mut stream: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, len, ..] = *stream {
        assert_eq!(first & 0xf0, 0x80, "expected a header after {} frames", frames.len());
        let (head, len) = match len {
            126 => (4, usize::from(u16::from_be_bytes([stream[2], stream[3]]))),
            127 => (10, u64::from_be_bytes(stream[2..10].try_into().unwrap()) as usize),
            len => (2, usize::from(len)),
        };
        frames.push((first & 0xf, stream[head..head + len].to_vec()));
        stream = &stream[head + len..];
    }
    frames
}

#[test]
fn direct_writes_and_task_writes_keep_order() {
    let replayed = std::env::var("SYNCLINE_SEED").ok().map(|seed| seed.parse().expect("SYNCLINE_SEED is a number"));
    let runs = if replayed.is_some() { 1 } else { RUNS };
    for _ in 0..runs {
        let seed = replayed.unwrap_or_else(rand::random);
        println!("SYNCLINE_SEED={seed}");
        check_order(&mut StdRng::seed_from_u64(seed));
    }
}

/// Pushes numbered frames of various lengths, and pings, in random order with everything else.
fn check_order(random: &mut StdRng) {
    let session = Session::new(random.random_range(0..5_000));
    let (mut pushed, mut pinged, mut must_send) = (0_u32, 0, false);
    for _ in 0..STEPS {
        match random.random_range(0..10) {
            0..5 => {
                let len = [4, 4, 130, 3_000, 17_000][random.random_range(0..5)];
                let mut payload = vec![0; len];
                payload[..4].copy_from_slice(&pushed.to_be_bytes());
                pushed += 1;
                must_send |= session.push(payload) == Pushed::First;
            }
            // A document sends at the end of its turn; the session's task may be polled before.
            5 | 6 if must_send => {
                must_send = false;
                session.outbox.send();
            }
            7 => {
                pinged += 1;
                session.outbox.queue_frame(Opcode::Ping, b"?");
                assert!(session.poll().is_pending());
            }
            8 => session.room([0, 1, 100, 40_000][random.random_range(0..4)]),
            _ => assert!(session.poll().is_pending()),
        }
    }
    session.room(usize::MAX);
    session.outbox.send();
    while session.woken.times() > 0 || session.outbox.is_blocked() {
        assert!(session.poll().is_pending());
    }
    let frames = frames(&session.taken());
    let (pings, messages): (Vec<_>, Vec<_>) = frames.into_iter().partition(|(opcode, _)| *opcode == 9);
    assert_eq!(pings.len(), pinged);
    let numbers: Vec<_> = messages.iter().map(|(_, at)| u32::from_be_bytes(at[..4].try_into().unwrap())).collect();
    assert_eq!(numbers, (0..pushed).collect::<Vec<_>>());
}

#[test]
fn direct_write_is_one_write_and_wakes_no_task() {
    let session = Session::new(usize::MAX);
    assert_eq!([session.push("one"), session.push("two")], [Pushed::First, Pushed::Queued]);
    assert!(session.taken().is_empty(), "not sent yet");
    session.outbox.send();
    assert_eq!(session.taken(), b"\x82\x03one\x82\x03two");
    assert_eq!(session.push("three"), Pushed::First, "everything pushed before was accepted by the socket");
    session.outbox.send();
    assert_eq!(session.woken.times(), 0);
    assert!(session.outbox.take_has_sent_message());
}

#[test]
fn task_writes_rest_and_all_later_frames_until_socket_drains() {
    let session = Session::new(4);
    session.push("one");
    session.outbox.send();
    assert_eq!(session.woken.times(), 1);
    session.room(usize::MAX);
    session.push("two");
    session.outbox.send();
    assert_eq!(session.taken(), b"\x82\x03on", "nothing may overtake the rest");
    assert_eq!(session.woken.times(), 0, "it was woken already");
    assert!(session.poll().is_pending());
    assert_eq!(session.taken(), b"\x82\x03one\x82\x03two");
    session.push("three");
    session.outbox.send();
    assert_eq!(session.taken().len(), 17, "direct writes resume");
}

#[test]
fn full_socket_leaves_direct_write_to_the_task() {
    let session = Session::new(0);
    session.push("one");
    session.outbox.send();
    assert_eq!(session.woken.times(), 1);
    assert!(session.poll().is_pending());
    assert!(session.outbox.is_blocked() && session.taken().is_empty());
    session.room(usize::MAX);
    assert!(session.poll().is_pending());
    assert_eq!(session.taken(), b"\x82\x03one");
}

#[test]
fn large_queue_is_left_to_the_task() {
    let session = Session::new(usize::MAX);
    session.push(vec![0; 20_000]);
    session.outbox.send();
    assert!(session.taken().is_empty());
    assert_eq!(session.woken.times(), 1);
    assert!(session.poll().is_pending());
    assert_eq!(session.taken().len(), 20_004);
}

#[test]
fn nothing_is_written_directly_after_close() {
    let session = Session::new(usize::MAX);
    let closed = session.outbox.close_socket(websocket::close_frame(None, ""));
    assert!(closed.now_or_never().is_some_and(|closed| closed.is_ok()));
    session.push("one");
    session.outbox.send();
    assert_eq!(session.taken(), websocket::close_frame(None, ""));
    // Nor when the session is closing: its task sends the close frame, after the queued replies.
    let session = Session::new(usize::MAX);
    session.outbox.push_control("one".into());
    session.outbox.close(Close::ServerStopping);
    session.outbox.send();
    assert!(session.taken().is_empty());
    assert!(matches!(session.poll(), Poll::Ready(Ok(Close::ServerStopping))));
    assert_eq!(session.taken(), b"\x82\x03one");
}

/// A connection whose other end is closed.
struct FailedSocket;

impl Wire for FailedSocket {
    fn try_write(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn socket_is_closed_when_its_session_ends_though_documents_hold_the_outbox() {
    let session = Session::new(1);
    session.push("one");
    session.outbox.send();
    assert_eq!(Arc::strong_count(&session.socket), 2);
    session.outbox.disconnect();
    assert_eq!(Arc::strong_count(&session.socket), 1);
    assert!(!session.outbox.is_blocked(), "unsent bytes are freed");
    session.push("two");
    session.outbox.send();
    assert_eq!(session.taken(), b"\x82");
}

#[test]
fn session_ends_when_its_socket_fails() {
    let outbox = Outbox::with_wire(100, Budget::new(usize::MAX), FailedSocket);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    assert!(outbox.poll_write(&mut cx).is_pending());
    outbox.push_document(LEASE, "one".into());
    outbox.send();
    assert_eq!(woken.times(), 1);
    assert!(matches!(outbox.poll_write(&mut cx), Poll::Ready(Err(Broken))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_pushes_arrive_complete_through_small_socket_buffer() {
    const TASKS: u32 = 4;
    const FRAMES: u32 = 3_000;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let client = socket.connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let (_read, wire) = accepted.unwrap().0.split();
    let outbox = Arc::new(Outbox::with_wire(1 << 30, Budget::new(usize::MAX), wire));
    let session = tokio::spawn({
        let outbox = Arc::clone(&outbox);
        async move {
            let closed = poll_fn(|cx| outbox.poll_write(cx)).await;
            assert!(matches!(closed, Ok(Close::ServerStopping)));
            outbox.close_socket(websocket::close_frame(None, "")).await.unwrap();
            outbox.disconnect();
        }
    });
    let pushing = (0..TASKS).map(|task| {
        let outbox = Arc::clone(&outbox);
        tokio::spawn(async move {
            for number in 0..FRAMES {
                let mut payload = vec![0; 8 + (number as usize * 7) % 500];
                payload[..4].copy_from_slice(&task.to_be_bytes());
                payload[4..8].copy_from_slice(&number.to_be_bytes());
                if outbox.push_control(payload.into()) == Pushed::First {
                    tokio::task::yield_now().await;
                    outbox.send();
                }
            }
        })
    });
    let pushing: Vec<_> = pushing.collect();
    let ending = tokio::spawn(async move {
        for pushing in pushing {
            pushing.await.unwrap();
        }
        outbox.close(Close::ServerStopping);
    });
    let mut stream = Vec::new();
    client.unwrap().read_to_end(&mut stream).await.unwrap();
    ending.await.unwrap();
    session.await.unwrap();
    let mut next = [0; TASKS as usize];
    for (opcode, payload) in frames(&stream).into_iter().filter(|(opcode, _)| *opcode != 8) {
        assert_eq!(opcode, 2);
        let [task, number] = [0, 4].map(|at| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()));
        assert_eq!(number, next[task as usize]);
        next[task as usize] += 1;
    }
    assert_eq!(next, [FRAMES; TASKS as usize]);
}
