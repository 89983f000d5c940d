//! Tests of `readers.rs`: gaps, positions, awareness, echoes, and the number of writes to a socket.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::Notify;
use yrs::{Doc, Text, Transact};

use super::*;
use crate::dialect::{NativeEncoder, YWebsocketEncoder};
use crate::outbox::{Budget, OutboxOutput, Wire};
use syncline_protocol::ids::Epoch;
use syncline_replica::Crdt;

const READER: LeaseId = LeaseId(1);
const AUTHOR: LeaseId = LeaseId(2);

fn change(seq: u64, update: Vec<u8>) -> [Change; 1] {
    [Change { frame: Frame::at(Seq(seq), Message::Update(update.into())), author: Some(AUTHOR) }]
}

#[tokio::test]
async fn change_that_overtakes_resync_does_not_close_gap() {
    let mut readers = Readers::new(Arc::default());
    let outbox = Arc::new(Outbox::new(100));
    readers.add(READER, Arc::clone(&outbox), Box::new(YWebsocketEncoder));
    let mut crdt = Crdt::default();
    readers.push_diff(READER, &Frame::new(Message::Step2(crdt.encode().unwrap().into())));
    outbox.frames().await;

    // The first frame waits for the socket, the second exceeds the limit: both are dropped, and a checkpoint
    // covers them.
    let doc = Doc::with_client_id(7);
    let text = doc.get_or_insert_text("text");
    for letter in ["a", "b"] {
        let mut txn = doc.transact_mut();
        text.insert(&mut txn, 0, &letter.repeat(60));
        let update = txn.encode_update_v1();
        crdt.apply(&update).unwrap();
        readers.broadcast(&change(0, update));
    }
    readers.set_checkpoint(crdt.known());
    assert_eq!(outbox.behind_now(), [READER]);

    // The socket has drained and the session requests the diff, but a change arrives before the request.
    readers.broadcast(&change(0, vec![0, 0]));
    let floor = readers.floor(READER);
    let diff = crdt.diff_since(floor.as_deref().unwrap_or(&Known::default())).unwrap();
    assert!(diff.len() > 60, "the diff must contain the dropped frames: {diff:?}");
}

#[tokio::test]
async fn durable_position_is_withheld_over_gap_and_sent_after_diff() {
    let mut readers = Readers::new(Arc::default());
    let outbox = Arc::new(Outbox::new(100));
    readers.add(READER, Arc::clone(&outbox), Box::new(NativeEncoder::new(0)));
    let diff = Frame::at(Seq(1), Message::Step2(Bytes::from_static(&[0, 0]).into()));
    readers.push_opened(READER, Cursor { epoch: Epoch(1), seq: Seq(1) }, false, Resume::SendStateVector, None);
    readers.push_durable(None, Seq(1));
    readers.push_diff(READER, &diff);
    assert_eq!(outbox.frames().await.len(), 2, "opened and the diff: no position before it was a reader");
    for seq in [2, 3] {
        readers.broadcast(&change(seq, vec![0; 80]));
    }
    assert_eq!(outbox.behind_now(), [READER]);
    // The session requests the diff; both changes become durable before the request arrives.
    readers.push_durable(None, Seq(3));
    readers.push_diff(READER, &diff);
    assert_eq!(outbox.frames().await.len(), 1, "the diff alone");
    readers.push_durable(Some(READER), Seq(3));
    assert_eq!(outbox.frames().await.len(), 1);
}

#[tokio::test]
async fn awareness_is_not_sent_before_reply_to_native_session() {
    let mut readers = Readers::new(Arc::default());
    let outbox = Arc::new(Outbox::new(100));
    readers.add(READER, Arc::clone(&outbox), Box::new(NativeEncoder::new(0)));
    let awareness = Frame::new(Message::Awareness(Bytes::from_static(&[0])));
    readers.push_awareness(&awareness);
    readers.push_opened(READER, Cursor { epoch: Epoch(1), seq: Seq(1) }, false, Resume::SendStateVector, None);
    readers.push_awareness(&awareness);
    let frames = outbox.frames().await;
    assert_eq!(frames.iter().map(|frame| frame[0]).collect::<Vec<_>>(), [17, 24]);
}

#[tokio::test]
async fn echo_of_empty_update_is_not_replaced_by_newer_one() {
    let mut readers = Readers::new(Arc::default());
    let outbox = Arc::new(Outbox::new(10));
    readers.add(READER, Arc::clone(&outbox), Box::new(YWebsocketEncoder));
    let echo = |update: &'static [u8]| Frame::new(Message::Update(Bytes::from_static(update)));
    for update in [&[0, 0][..], &[9; 20], &[8; 20], &[0, 0]] {
        readers.push_acks(READER, (0, Seq(1)), (Outcome::Saved, 1), Some(&echo(update)));
    }
    let frames = outbox.frames().await;
    let lens: Vec<usize> = frames.iter().map(Bytes::len).collect();
    assert_eq!(lens, [5, 23, 5], "the empty ones look the same: if one were left out, the other would stand for both");
}

#[tokio::test]
async fn acks_of_many_updates_are_sent_each_or_close_a_session_to_which_too_many_are_due() {
    let mut readers = Readers::new(Arc::default());
    let outbox = Arc::new(Outbox::new(1_000_000));
    readers.add(READER, Arc::clone(&outbox), Box::new(YWebsocketEncoder));
    let empty = Frame::new(Message::Update(Bytes::from_static(&[0, 0])));
    readers.push_acks(READER, (0, Seq(1)), (Outcome::Saved, 3), Some(&empty));
    assert_eq!(outbox.frames().await.len(), 3);
    readers.push_acks(READER, (0, Seq(1)), (Outcome::Saved, u64::MAX), Some(&empty));
    assert_eq!(outbox.try_frames(), Err(OutboxOutput::Close(Close::TooSlow)));
}

/// A socket that accepts everything and counts frames and writes.
#[derive(Default)]
struct Counted {
    frames: AtomicUsize,
    writes: AtomicUsize,
    written: Arc<Notify>,
}

impl Wire for Arc<Counted> {
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        // Short frames: each is its length after a byte, without a longer header.
        let (mut frames, mut rest) = (0, &bytes[..]);
        while let [_, len, after @ ..] = rest {
            assert!(*len < 126);
            (frames, rest) = (frames + 1, &after[usize::from(*len)..]);
        }
        self.frames.fetch_add(frames, Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.written.notify_one();
        Ok(bytes.len())
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Counted {
    fn frames_and_writes(&self) -> (usize, usize) {
        (self.frames.swap(0, Ordering::Relaxed), self.writes.swap(0, Ordering::Relaxed))
    }
}

#[tokio::test]
async fn frames_of_one_turn_are_one_write_per_reader() {
    let mut readers = Readers::new(Arc::default());
    let sockets = [READER, AUTHOR].map(|lease| {
        let socket = Arc::new(Counted::default());
        readers.add(
            lease,
            Arc::new(Outbox::with_wire(1_000, Budget::new(usize::MAX), Arc::clone(&socket))),
            Box::new(YWebsocketEncoder),
        );
        readers.push_diff(lease, &Frame::new(Message::Step2(Bytes::from_static(&[0, 0]).into())));
        socket
    });
    readers.send(false);
    assert_eq!(sockets.each_ref().map(|socket| socket.frames_and_writes()), [(1, 1), (1, 1)]);
    readers.broadcast(&change(1, vec![0, 0]));
    readers.push_awareness(&Frame::new(Message::Awareness(Bytes::from_static(&[0]))));
    let echo = Frame::new(Message::Update(Bytes::from_static(&[0, 0])));
    for _ in 0..16 {
        readers.push_acks(AUTHOR, (0, Seq(1)), (Outcome::Saved, 1), Some(&echo));
    }
    assert_eq!(sockets.each_ref().map(|socket| socket.frames_and_writes()), [(0, 0), (0, 0)]);
    readers.send(false);
    assert_eq!(sockets.each_ref().map(|socket| socket.frames_and_writes()), [(2, 1), (17, 1)]);
    readers.broadcast(&change(2, vec![0, 0]));
    readers.send(false);
    assert_eq!(sockets.each_ref().map(|socket| socket.frames_and_writes()), [(1, 1), (0, 0)], "not its own change");
    readers.broadcast(&change(3, vec![0, 0]));
    readers.send(true);
    assert_eq!(sockets[0].frames_and_writes(), (1, 1), "few readers are written to directly");
}

#[tokio::test]
async fn crowd_of_readers_is_served_outside_the_documents_turn() {
    let mut readers = Readers::new(Arc::default());
    let written = Arc::new(Notify::new());
    let sockets: Vec<_> = (0..1_000)
        .map(|number| {
            let socket = Arc::new(Counted { written: Arc::clone(&written), ..Counted::default() });
            readers.add(
                LeaseId(number + 10),
                Arc::new(Outbox::with_wire(1_000, Budget::new(usize::MAX), Arc::clone(&socket))),
                Box::new(YWebsocketEncoder),
            );
            readers.push_diff(LeaseId(number + 10), &Frame::new(Message::Step2(Bytes::from_static(&[0, 0]).into())));
            socket
        })
        .collect();
    let count = || sockets.iter().map(|socket| socket.frames.load(Ordering::Relaxed)).sum::<usize>();
    readers.send(false);
    assert!((1..=SENDS_PER_TURN).contains(&count()));
    while count() < sockets.len() {
        written.notified().await;
    }
    assert!(sockets.iter().all(|socket| socket.frames_and_writes() == (1, 1)));
    // A busy document leaves sending to the sessions.
    readers.broadcast(&change(1, vec![0, 0]));
    readers.send(true);
    tokio::task::yield_now().await;
    assert!(sockets.iter().all(|socket| socket.frames_and_writes() == (0, 0)));
    let waiting = readers.readers.values().map(|reader| reader.outbox.try_frames().unwrap().len());
    assert_eq!(waiting.sum::<usize>(), sockets.len());
}

#[tokio::test]
async fn floors_of_slow_readers_are_bounded() {
    const CLIENTS: u64 = 100_000;
    let mut readers = Readers::new(Arc::default());
    let known = |clock: u64| (0..CLIENTS).map(|client| (client, clock)).collect::<Known>();
    let mut outboxes = Vec::new();
    for number in 0..20 {
        let (lease, outbox) = (LeaseId(number), Arc::new(Outbox::new(100)));
        readers.add(lease, Arc::clone(&outbox), Box::new(YWebsocketEncoder));
        readers.push_diff(lease, &Frame::at(Seq(1), Message::Step2(Bytes::from_static(&[0, 0]).into())));
        outbox.frames().await;
        readers.set_checkpoint(known(number));
        // It accepts this change, which proves that it has everything before, and accepts no other.
        readers.broadcast(&change(number + 2, vec![0; 10]));
        outboxes.push(outbox);
    }
    let floors = (0..20).filter(|&number| readers.floor(LeaseId(number)).is_some()).count();
    assert!((1..=6).contains(&floors), "{floors}");
}
