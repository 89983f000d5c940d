//! Tests of `outbox.rs`: what happens to frames when a reader is slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use syncline_protocol::awareness::{AwarenessEntry, encode};
use syncline_protocol::ywebsocket::YWebsocketMessage;

use super::queue::MAX_TAKE_BYTES;
use super::*;
use crate::websocket::Opcode;

const A: LeaseId = LeaseId(1);
const B: LeaseId = LeaseId(2);

fn frame(len: usize) -> Bytes {
    Bytes::from(vec![7; len])
}

fn frames(outbox: &Outbox) -> Vec<usize> {
    outbox.try_frames().expect("open").iter().map(Bytes::len).collect()
}

#[test]
fn lease_over_limit_falls_behind_and_others_keep_their_frames() {
    let outbox = Outbox::new(100);
    assert_eq!(outbox.push_document(A, frame(10)), Pushed::First);
    assert_eq!(outbox.push_document(B, frame(80)), Pushed::Queued);
    assert_eq!(outbox.push_document(A, frame(20)), Pushed::Dropped);
    assert_eq!(outbox.push_document(A, frame(1)), Pushed::Dropped, "a lease behind gets nothing until it resyncs");
    assert_eq!(frames(&outbox), [80]);
}

#[test]
fn lease_behind_is_reported_once_socket_has_drained() {
    let outbox = Outbox::new(100);
    outbox.push_document(B, frame(90));
    outbox.push_document(A, frame(20));
    assert!(outbox.behind_now().is_empty(), "too early");
    assert_eq!(frames(&outbox), [90]);
    outbox.lock().unsent.push(frame(1));
    outbox.leave(LeaseId(3));
    assert!(outbox.behind_now().is_empty(), "taken from the outbox, but not yet accepted by the socket");
    outbox.lock().unsent.clear();
    assert!(frames(&outbox).is_empty());
    assert_eq!(outbox.behind_now(), [A]);
    assert_eq!(outbox.push_document(A, frame(20)), Pushed::First);
}

#[test]
fn lease_that_empties_queue_by_falling_behind_is_reported() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(60));
    outbox.push_document(A, frame(60));
    assert_eq!(outbox.behind_now(), [A]);
}

#[test]
fn lease_behind_is_reported_when_leave_of_another_empties_queue() {
    for push in [Outbox::push_document, Outbox::push_echo] {
        let outbox = Outbox::new(100);
        // Its `send` runs later, in a task of its own.
        assert_eq!(push(&outbox, B, frame(90)), Pushed::First);
        assert_eq!(outbox.push_document(A, frame(20)), Pushed::Dropped);
        outbox.forget(B);
        assert_eq!(outbox.behind_now(), [A]);
    }
}

/// A task that counts its wake-ups.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn task_is_woken_only_by_sends_and_notices() {
    let outbox = Outbox::new(100);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let times = |what: &str, expected: usize| {
        assert_eq!(woken.0.swap(0, Ordering::Relaxed), expected, "{what}");
    };
    assert!(outbox.poll_take(&mut cx, |_, _| ()).is_pending());
    assert_eq!(outbox.push_document(A, frame(1)), Pushed::First);
    outbox.push_document(A, frame(1));
    outbox.push_control(frame(1));
    times("three frames, not sent", 0);
    outbox.send();
    outbox.send();
    times("sent", 1);
    assert_eq!(outbox.poll_take(&mut cx, |_, _| ()), Poll::Ready(OutboxOutput::Frames));
    assert!(outbox.poll_take(&mut cx, |_, _| ()).is_pending());
    outbox.lock().unsent.push(frame(1));
    assert!(!outbox.poll_blocked(&mut cx));
    assert_eq!(outbox.push_document(A, frame(1)), Pushed::First);
    assert_eq!(outbox.push_position(A, Position::Ack, frame(1)), Pushed::Queued);
    outbox.send();
    times("frames for a full socket", 0);
    outbox.end_from_document(A, frame(1));
    times("notice", 1);
    assert!(!outbox.poll_blocked(&mut cx));
    outbox.cut();
    times("cut", 1);
    assert!(outbox.poll_blocked(&mut cx));
    assert_eq!(outbox.poll_take(&mut cx, |_, _| ()), Poll::Ready(OutboxOutput::Cut));
}

#[test]
fn pong_keeps_its_place_and_kind() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(1));
    outbox.push_pong(frame(2));
    let mut taken = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(outbox.poll_take(&mut cx, |kind, frame| taken.push((kind, frame.len()))).is_ready());
    assert_eq!(taken, [(Opcode::Binary, 1), (Opcode::Pong, 2)]);
}

#[test]
fn frame_larger_than_limit_passes_if_queue_is_empty() {
    let outbox = Outbox::new(100);
    assert_eq!(outbox.push_document(A, frame(500)), Pushed::First);
    assert_eq!(outbox.push_reply(A, frame(5)), Pushed::Dropped, "replies do not pile up");
}

/// A y-websocket message with the states of several clients.
fn awareness(entries: &[(u64, u64, &str)]) -> AwarenessFrame {
    let entries = entries.iter().map(|&(client, clock, state)| AwarenessEntry { client, clock, state });
    let update = encode(entries);
    let bytes = YWebsocketMessage::Awareness(&update).encode().into();
    AwarenessFrame { bytes, update_bytes: update.len(), length: UpdateLength::Prefixed }
}

#[test]
fn queued_awareness_becomes_one_frame_of_newest_states() {
    let outbox = Outbox::new(1000);
    assert_eq!(outbox.push_awareness(A, awareness(&[(1, 1, "1"), (2, 1, "2")])), Pushed::First);
    outbox.push_document(A, frame(10));
    assert_eq!(outbox.push_awareness(B, awareness(&[(1, 1, "of b")])), Pushed::Queued);
    assert_eq!(outbox.push_awareness(A, awareness(&[(2, 1, "null")])), Pushed::Queued);
    assert_eq!(outbox.push_awareness(A, awareness(&[(3, 9, "3"), (1, 2, "one")])), Pushed::Queued);
    let expected =
        [awareness(&[(1, 2, "one"), (2, 1, "null"), (3, 9, "3")]).bytes, frame(10), awareness(&[(1, 1, "of b")]).bytes];
    assert_eq!(outbox.try_frames().unwrap(), expected);
    assert_eq!(outbox.lock().queue.bytes(), 0);
}

#[test]
fn awareness_for_slow_reader_is_bounded_by_its_states() {
    let outbox = Outbox::new(2_000);
    for clock in 0..10_000 {
        for client in 0..5 {
            assert_ne!(outbox.push_awareness(A, awareness(&[(client, clock, "\"a state\"")])), Pushed::Dropped);
        }
        assert!(outbox.lock().queue.bytes() <= 2_000);
    }
    let newest: Vec<_> = (0..5).map(|client| (client, 9_999, "\"a state\"")).collect();
    assert_eq!(outbox.try_frames().unwrap(), [awareness(&newest).bytes]);
}

#[test]
fn awareness_over_limit_makes_reader_resync() {
    let outbox = Outbox::new(500);
    let pushed: Vec<_> = (0..100).map(|client| outbox.push_awareness(A, awareness(&[(client, 1, "12345")]))).collect();
    assert_eq!(pushed.last(), Some(&Pushed::Dropped));
    assert_eq!(outbox.behind_now(), [A]);
    assert_eq!(outbox.lock().queue.bytes(), 0);
    let large = "1".repeat(600);
    assert_eq!(outbox.push_awareness(A, awareness(&[(1, 2, &large)])), Pushed::First, "passes if the queue is empty");
}

#[test]
fn acks_are_kept_until_session_is_closed_as_too_slow() {
    let outbox = Outbox::new(100);
    for _ in 0..400 {
        outbox.push_control(frame(1));
    }
    assert_eq!(outbox.try_frames(), Err(OutboxOutput::Close(Close::TooSlow)));
    let outbox = Outbox::new(100);
    for _ in 0..150 {
        outbox.push_control(frame(1));
    }
    assert_eq!(frames(&outbox).len(), 150);
}

#[test]
fn largest_limit_does_not_overflow() {
    let outbox = Outbox::new(usize::MAX);
    for _ in 0..400 {
        outbox.push_document(A, frame(1));
        outbox.push_control(frame(1));
    }
    assert_eq!(frames(&outbox).len(), 800);
}

#[test]
fn queued_large_reply_does_not_count_as_control_frames() {
    let outbox = Outbox::new(100);
    outbox.push_reply(A, frame(10_000));
    for _ in 0..150 {
        assert_eq!(outbox.push_control(frame(1)), Pushed::Queued);
    }
}

#[test]
fn newest_echo_survives_falling_behind() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(60));
    outbox.push_echo(A, frame(50));
    outbox.push_echo(B, frame(9));
    assert_eq!(outbox.push_document(A, frame(1)), Pushed::Dropped);
    outbox.push_echo(A, frame(40));
    assert_eq!(frames(&outbox), [9, 40]);
    outbox.push_echo(A, frame(1));
    outbox.forget(A);
    assert!(frames(&outbox).is_empty());
}

#[test]
fn replies_are_sent_before_first_close_reason() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(2));
    outbox.push_control(frame(1));
    outbox.close(Close::ServerStopping);
    outbox.close(Close::TooSlow);
    assert_eq!(outbox.push_control(frame(3)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [1]);
    assert_eq!(outbox.take_notices().unwrap().closing, Some(Close::ServerStopping));
    assert_eq!(outbox.try_frames(), Err(OutboxOutput::Close(Close::ServerStopping)));
}

#[test]
fn position_follows_frames_before_it_and_newest_replaces_queued_one() {
    let outbox = Outbox::new(1_000_000);
    outbox.push_document(A, frame(MAX_TAKE_BYTES));
    outbox.push_position(A, Position::Durable, frame(1));
    outbox.push_position(A, Position::Durable, frame(2));
    outbox.push_document(A, frame(MAX_TAKE_BYTES));
    outbox.push_position(A, Position::Durable, frame(3));
    outbox.push_document(A, frame(10));
    outbox.push_position(A, Position::Durable, frame(4));
    assert_eq!(frames(&outbox), [MAX_TAKE_BYTES, 2], "it is due, although more is queued");
    assert_eq!(frames(&outbox), [MAX_TAKE_BYTES], "the newest refers to the frame behind this one");
    assert_eq!(frames(&outbox), [10, 4]);
    assert!(frames(&outbox).is_empty());
}

#[test]
fn durable_position_is_dropped_with_frames_and_ack_is_kept() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(60));
    outbox.push_position(A, Position::Durable, frame(1));
    outbox.push_position(A, Position::Ack, frame(2));
    outbox.push_position(B, Position::Durable, frame(3));
    assert_eq!(outbox.push_document(A, frame(60)), Pushed::Dropped);
    assert_eq!(outbox.push_position(A, Position::Durable, frame(4)), Pushed::Dropped, "refers to dropped frames");
    assert_eq!(frames(&outbox), [2, 3]);
}

#[test]
fn lease_ended_by_document_is_announced_once_and_reported() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(10));
    outbox.end_from_document(A, frame(1));
    outbox.end_from_session(A, frame(2));
    assert_eq!(outbox.push_document(A, frame(3)), Pushed::Dropped);
    assert_eq!(outbox.push_control_of(A, frame(4)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [10, 1]);
    assert_eq!(outbox.take_notices().unwrap().ended, [A]);
    outbox.end_from_session(B, frame(5));
    outbox.end_from_document(B, frame(6));
    assert_eq!(frames(&outbox), [5]);
    assert!(!outbox.lock().leases.has_any_ended(), "ended leases are not kept");
}

#[test]
fn lease_that_was_left_gets_nothing_more() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(10));
    outbox.push_position(A, Position::Ack, frame(1));
    outbox.leave(A);
    assert_eq!(outbox.push_document(A, frame(10)), Pushed::Dropped);
    assert_eq!(outbox.push_position(A, Position::Ack, frame(1)), Pushed::Dropped);
    outbox.push_document(B, frame(20));
    assert_eq!(frames(&outbox), [20]);
    outbox.forget(A);
    assert!(!outbox.lock().leases.has_any_ended());
}

#[test]
fn diff_larger_than_limit_is_not_dropped_by_later_frames() {
    let outbox = Outbox::new(100);
    // As a document brings a reader up to date: the diff, then all awareness states.
    assert_eq!(outbox.push_reply(A, frame(300)), Pushed::First);
    assert_eq!(outbox.push_reply(A, frame(20)), Pushed::Queued, "or it would be resynced forever");
    assert_eq!(outbox.push_document(A, frame(60)), Pushed::Queued, "a reply takes no room from changes");
    assert_eq!(outbox.push_document(A, frame(60)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [300, 20]);
    assert_eq!(outbox.lock().queue.bytes(), 0);
}

#[test]
fn client_cannot_pile_up_replies() {
    let outbox = Outbox::new(100);
    let pushed: Vec<_> = (0..10).map(|_| outbox.push_reply(A, frame(300))).collect();
    assert_eq!(pushed[..3], [Pushed::First, Pushed::Queued, Pushed::Dropped]);
    assert_eq!(outbox.push_reply(B, frame(300)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [300, 300]);
}

#[test]
fn outboxes_hold_little_while_budget_is_exceeded() {
    const LIMIT_BYTES: usize = 1_000_000;
    let budget = Budget::new(300_000);
    let outbox = || Outbox::with_wire(LIMIT_BYTES, Arc::clone(&budget), NullSocket);
    let [first, second, third] = [outbox(), outbox(), outbox()];
    third.push_document(A, frame(60_000));
    assert_eq!(budget.used_bytes(), 0, "an outbox that holds little is not counted");
    first.push_reply(A, Pieces::shared(frame(500_000)));
    for (outbox, frames) in [(&first, 20), (&second, 7)] {
        (0..frames).for_each(|_| assert_ne!(outbox.push_document(A, frame(10_000)), Pushed::Dropped));
    }
    assert!((300_001..=400_000).contains(&budget.used_bytes()), "{}", budget.used_bytes());
    assert_eq!(third.push_document(A, frame(10_000)), Pushed::Dropped, "over the reduced limit");
    assert_eq!(third.behind_now(), [A], "its queue is empty");
    assert_eq!(first.push_document(A, frame(10_000)), Pushed::Dropped);
    assert!(budget.used_bytes() < 200_001, "its queued frames were dropped: {}", budget.used_bytes());
    assert_eq!(second.push_document(A, frame(10_000)), Pushed::Queued, "there is room again");
    // Taken, but not known to be written.
    assert_eq!(frames(&second).len(), 8);
    assert_eq!(budget.used_bytes(), 131_072);
    assert!(!second.exceeds_scarce_limit(), "the budget is no longer exceeded");
    drop(second);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn second_reply_is_dropped_while_memory_is_scarce() {
    let budget = Budget::new(100_000);
    let outbox = Outbox::with_wire(1_000_000, Arc::clone(&budget), NullSocket);
    assert_eq!(outbox.push_reply(A, frame(300_000)), Pushed::First, "the first one is accepted");
    assert!(outbox.exceeds_scarce_limit());
    assert_eq!(outbox.push_reply(B, frame(300_000)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [300_000]);
    assert_eq!(outbox.push_reply(B, frame(300_000)), Pushed::Dropped, "the first may not have been written yet");
    assert!(outbox.try_frames().is_ok(), "now it has");
    assert_eq!((outbox.behind_now(), budget.used_bytes()), (vec![B], 0));
    // The awareness states behind a diff of the same document: without them the reader would be resynced
    // forever.
    assert_eq!(outbox.push_reply(B, frame(300_000)), Pushed::First);
    assert_eq!(outbox.push_reply(B, frame(300_000)), Pushed::Queued);
}

#[test]
fn newest_step_1_replaces_queued_one_and_too_many_bytes_close_session() {
    let outbox = Outbox::new(100);
    for len in [70, 80, 90] {
        assert_ne!(outbox.push_step1(A, frame(len)), Pushed::Dropped);
    }
    assert_eq!(frames(&outbox), [90]);
    let pushed: Vec<_> = (0..40).map(|lease| outbox.push_step1(LeaseId(lease), frame(1 << 20))).collect();
    assert_eq!(pushed.iter().filter(|pushed| **pushed == Pushed::Dropped).count(), 23, "17 exceed 16 MiB");
    assert_eq!(outbox.try_frames(), Err(OutboxOutput::Close(Close::TooSlow)));
}

/// Never written to: these tests take the frames.
struct NullSocket;

impl Wire for NullSocket {
    fn try_write(&self, _: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::WouldBlock.into())
    }

    fn poll_writable(&self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Pending
    }

    fn shutdown(&self) -> std::io::Result<()> {
        Ok(())
    }
}
