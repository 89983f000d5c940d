//! What becomes of frames when a reader is slow, case by case.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use syncline_protocol::awareness::{AwarenessEntry, encode};
use syncline_protocol::ywebsocket;

use super::taking::MAX_TAKE_BYTES;
use super::*;

const A: LeaseId = LeaseId(1);
const B: LeaseId = LeaseId(2);

fn frame(len: usize) -> Bytes {
    Bytes::from(vec![7; len])
}

fn frames(outbox: &Outbox) -> Vec<usize> {
    outbox.try_frames().expect("open").iter().map(Bytes::len).collect()
}

#[test]
fn over_the_limit_a_lease_falls_behind_and_others_stay_whole() {
    let outbox = Outbox::new(100);
    assert_eq!(outbox.push_document(A, frame(10)), Pushed::First);
    assert_eq!(outbox.push_document(B, frame(80)), Pushed::Queued);
    assert_eq!(outbox.push_document(A, frame(20)), Pushed::Dropped);
    assert_eq!(outbox.push_document(A, frame(1)), Pushed::Dropped, "a lease behind gets nothing until it resyncs");
    assert_eq!(frames(&outbox), [80]);
}

#[test]
fn a_lease_behind_is_reported_once_the_socket_has_taken_everything() {
    let outbox = Outbox::new(100);
    outbox.push_document(B, frame(90));
    outbox.push_document(A, frame(20));
    assert!(outbox.behind_now().is_empty(), "too early");
    assert_eq!(frames(&outbox), [90]);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(!outbox.poll_blocked(&mut cx));
    outbox.leave(LeaseId(3));
    assert!(outbox.behind_now().is_empty(), "taken from here, not yet by the socket");
    assert!(frames(&outbox).is_empty());
    assert_eq!(outbox.behind_now(), [A]);
    assert_eq!(outbox.push_document(A, frame(20)), Pushed::First);
}

#[test]
fn a_lease_that_empties_the_queue_by_falling_behind_is_still_reported() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(60));
    outbox.push_document(A, frame(60));
    assert_eq!(outbox.behind_now(), [A]);
}

/// A task that counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_task_is_woken_by_what_is_sent_and_by_news_and_by_nothing_else() {
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
    assert_eq!(outbox.poll_take(&mut cx, |_, _| ()), Poll::Ready(Taken::Frames));
    assert!(outbox.poll_take(&mut cx, |_, _| ()).is_pending());
    assert!(!outbox.poll_blocked(&mut cx));
    assert_eq!(outbox.push_document(A, frame(1)), Pushed::First);
    assert_eq!(outbox.push_position(A, Position::Ack, frame(1)), Pushed::Queued);
    outbox.send();
    times("frames for a socket that takes nothing", 0);
    outbox.end(A, frame(1));
    times("news for it", 1);
    assert!(!outbox.poll_blocked(&mut cx));
    outbox.cut();
    times("the cut", 1);
    assert!(outbox.poll_blocked(&mut cx));
    assert_eq!(outbox.poll_take(&mut cx, |_, _| ()), Poll::Ready(Taken::Cut));
}

#[test]
fn a_pong_keeps_its_turn_and_its_kind() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(1));
    outbox.push_pong(frame(2));
    let mut taken = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(outbox.poll_take(&mut cx, |kind, frame| taken.push((kind, frame.len()))).is_ready());
    assert_eq!(taken, [(Kind::Message, 1), (Kind::Pong, 2)]);
}

#[test]
fn one_frame_larger_than_the_limit_passes_alone() {
    let outbox = Outbox::new(100);
    assert_eq!(outbox.push_document(A, frame(500)), Pushed::First);
    assert_eq!(outbox.push_answer(A, frame(5)), Pushed::Dropped, "answers do not pile up");
}

/// A y-websocket message with the states of clients.
fn awareness(entries: &[(u64, u64, &str)]) -> AwarenessFrame {
    let entries = entries.iter().map(|&(client, clock, state)| AwarenessEntry { client, clock, state });
    let update = encode(entries);
    let bytes = ywebsocket::Message::Awareness(&update).encode().into();
    AwarenessFrame { bytes, update_bytes: update.len(), length: UpdateLength::Prefixed }
}

#[test]
fn awareness_that_waits_becomes_one_frame_of_newest_states() {
    let outbox = Outbox::new(1000);
    assert_eq!(outbox.push_awareness(A, awareness(&[(1, 1, "1"), (2, 1, "2")])), Pushed::First);
    outbox.push_document(A, frame(10));
    assert_eq!(outbox.push_awareness(B, awareness(&[(1, 1, "of b")])), Pushed::Queued);
    assert_eq!(outbox.push_awareness(A, awareness(&[(2, 1, "null")])), Pushed::Queued);
    assert_eq!(outbox.push_awareness(A, awareness(&[(3, 9, "3"), (1, 2, "one")])), Pushed::Queued);
    let expected =
        [awareness(&[(1, 2, "one"), (2, 1, "null"), (3, 9, "3")]).bytes, frame(10), awareness(&[(1, 1, "of b")]).bytes];
    assert_eq!(outbox.try_frames().unwrap(), expected);
    assert_eq!(outbox.lock().bytes, 0);
}

#[test]
fn awareness_of_a_slow_reader_is_bounded_by_the_states_it_holds() {
    let outbox = Outbox::new(2_000);
    for clock in 0..10_000 {
        for client in 0..5 {
            assert_ne!(outbox.push_awareness(A, awareness(&[(client, clock, "\"a state\"")])), Pushed::Dropped);
        }
        assert!(outbox.lock().bytes <= 2_000);
    }
    let newest: Vec<_> = (0..5).map(|client| (client, 9_999, "\"a state\"")).collect();
    assert_eq!(outbox.try_frames().unwrap(), [awareness(&newest).bytes]);
}

#[test]
fn awareness_over_the_limit_makes_its_reader_resync() {
    let outbox = Outbox::new(500);
    let pushed: Vec<_> = (0..100).map(|client| outbox.push_awareness(A, awareness(&[(client, 1, "12345")]))).collect();
    assert_eq!(pushed.last(), Some(&Pushed::Dropped));
    assert_eq!(outbox.behind_now(), [A]);
    assert_eq!(outbox.lock().bytes, 0);
    let large = "1".repeat(600);
    assert_eq!(outbox.push_awareness(A, awareness(&[(1, 2, &large)])), Pushed::First, "alone it passes");
}

#[test]
fn acks_are_kept_until_the_reader_is_hopeless() {
    let outbox = Outbox::new(100);
    for _ in 0..400 {
        outbox.push_control(frame(1));
    }
    assert_eq!(outbox.try_frames(), Err(Taken::Close(Close::TooSlow)));
    let outbox = Outbox::new(100);
    for _ in 0..150 {
        outbox.push_control(frame(1));
    }
    assert_eq!(frames(&outbox).len(), 150);
}

#[test]
fn a_limit_may_be_as_large_as_numbers_go() {
    let outbox = Outbox::new(usize::MAX);
    for _ in 0..400 {
        outbox.push_document(A, frame(1));
        outbox.push_control(frame(1));
    }
    assert_eq!(frames(&outbox).len(), 800);
}

#[test]
fn a_large_answer_that_waits_does_not_make_small_ones_too_many() {
    let outbox = Outbox::new(100);
    outbox.push_answer(A, frame(10_000));
    for _ in 0..150 {
        assert_eq!(outbox.push_control(frame(1)), Pushed::Queued);
    }
}

#[test]
fn the_newest_echo_outlives_falling_behind() {
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
fn answers_are_still_sent_before_the_first_reason_to_close() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(2));
    outbox.push_control(frame(1));
    outbox.close(Close::ServerStopping);
    outbox.close(Close::TooSlow);
    assert_eq!(outbox.push_control(frame(3)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [1]);
    assert_eq!(outbox.news().unwrap().closing, Some(Close::ServerStopping));
    assert_eq!(outbox.try_frames(), Err(Taken::Close(Close::ServerStopping)));
}

#[test]
fn a_position_comes_behind_what_was_queued_before_it_and_the_newest_replaces_the_waiting() {
    let outbox = Outbox::new(1_000_000);
    outbox.push_document(A, frame(MAX_TAKE_BYTES));
    outbox.push_position(A, Position::Durable, frame(1));
    outbox.push_position(A, Position::Durable, frame(2));
    outbox.push_document(A, frame(MAX_TAKE_BYTES));
    outbox.push_position(A, Position::Durable, frame(3));
    outbox.push_document(A, frame(10));
    outbox.push_position(A, Position::Durable, frame(4));
    assert_eq!(frames(&outbox), [MAX_TAKE_BYTES, 2], "its turn has come, though more is queued");
    assert_eq!(frames(&outbox), [MAX_TAKE_BYTES], "the newest speaks of the frame behind this");
    assert_eq!(frames(&outbox), [10, 4]);
    assert!(frames(&outbox).is_empty());
}

#[test]
fn a_durable_position_goes_with_the_frames_that_were_dropped_and_an_ack_stays() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(60));
    outbox.push_position(A, Position::Durable, frame(1));
    outbox.push_position(A, Position::Ack, frame(2));
    outbox.push_position(B, Position::Durable, frame(3));
    assert_eq!(outbox.push_document(A, frame(60)), Pushed::Dropped);
    assert_eq!(outbox.push_position(A, Position::Durable, frame(4)), Pushed::Dropped, "of frames that it will not get");
    assert_eq!(frames(&outbox), [2, 3]);
}

#[test]
fn a_lease_that_a_document_ended_is_said_once_and_reported() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(10));
    outbox.end(A, frame(1));
    outbox.lose(A, frame(2));
    assert_eq!(outbox.push_document(A, frame(3)), Pushed::Dropped);
    assert_eq!(outbox.push_control_of(A, frame(4)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [10, 1]);
    assert_eq!(outbox.news().unwrap().ended, [A]);
    outbox.lose(B, frame(5));
    outbox.end(B, frame(6));
    assert_eq!(frames(&outbox), [5]);
    assert!(outbox.lock().over.is_empty(), "nothing is remembered of them");
}

#[test]
fn a_lease_that_was_left_gets_nothing_more() {
    let outbox = Outbox::new(100);
    outbox.push_document(A, frame(10));
    outbox.push_position(A, Position::Ack, frame(1));
    outbox.leave(A);
    assert_eq!(outbox.push_document(A, frame(10)), Pushed::Dropped);
    assert_eq!(outbox.push_position(A, Position::Ack, frame(1)), Pushed::Dropped);
    outbox.push_document(B, frame(20));
    assert_eq!(frames(&outbox), [20]);
    outbox.forget(A);
    assert!(outbox.lock().over.is_empty());
}

#[test]
fn a_diff_larger_than_the_limit_is_not_thrown_away_by_what_comes_after_it() {
    let outbox = Outbox::new(100);
    // As a document brings a reader up to date: the diff, then who is here.
    assert_eq!(outbox.push_answer(A, frame(300)), Pushed::First);
    assert_eq!(outbox.push_answer(A, frame(20)), Pushed::Queued, "else it would be brought up to date for ever");
    assert_eq!(outbox.push_document(A, frame(60)), Pushed::Queued, "an answer takes no room from changes");
    assert_eq!(outbox.push_document(A, frame(60)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [300, 20]);
    assert_eq!(outbox.lock().bytes, 0);
}

#[test]
fn a_client_cannot_pile_up_answers() {
    let outbox = Outbox::new(100);
    let pushed: Vec<_> = (0..10).map(|_| outbox.push_answer(A, frame(300))).collect();
    assert_eq!(pushed[..3], [Pushed::First, Pushed::Queued, Pushed::Dropped]);
    assert_eq!(outbox.push_answer(B, frame(300)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [300, 300]);
}

#[test]
fn outboxes_hold_little_while_all_together_hold_too_much() {
    const LIMIT_BYTES: usize = 1_000_000;
    let budget = Budget::new(300_000);
    let line: Weak<dyn Line> = Weak::<Nowhere>::new();
    let outbox = || Outbox::with_line(LIMIT_BYTES, Arc::clone(&budget), Weak::clone(&line));
    let [first, second, third] = [outbox(), outbox(), outbox()];
    third.push_document(A, frame(60_000));
    assert_eq!(budget.used_bytes(), 0, "who holds little is not counted");
    first.push_answer(A, Pieces::shared(frame(500_000)));
    for (outbox, frames) in [(&first, 20), (&second, 7)] {
        (0..frames).for_each(|_| assert_ne!(outbox.push_document(A, frame(10_000)), Pushed::Dropped));
    }
    assert!((300_001..=400_000).contains(&budget.used_bytes()), "{}", budget.used_bytes());
    assert_eq!(third.push_document(A, frame(10_000)), Pushed::Dropped, "more than a little");
    assert_eq!(third.behind_now(), [A], "nothing of it waits any more");
    assert_eq!(first.push_document(A, frame(10_000)), Pushed::Dropped);
    assert!(budget.used_bytes() < 200_001, "what waited went with it: {}", budget.used_bytes());
    assert_eq!(second.push_document(A, frame(10_000)), Pushed::Queued, "there is room again");
    // Taken, and nobody knows that it was written.
    assert_eq!(frames(&second).len(), 8);
    assert_eq!(budget.used_bytes(), 131_072);
    assert!(!second.hoards(), "there is room");
    drop(second);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_second_answer_is_put_off_while_memory_is_scarce() {
    let budget = Budget::new(100_000);
    let line: Weak<dyn Line> = Weak::<Nowhere>::new();
    let outbox = Outbox::with_line(1_000_000, Arc::clone(&budget), line);
    assert_eq!(outbox.push_answer(A, frame(300_000)), Pushed::First, "one is what it came for");
    assert!(outbox.hoards());
    assert_eq!(outbox.push_answer(B, frame(300_000)), Pushed::Dropped);
    assert_eq!(frames(&outbox), [300_000]);
    assert_eq!(outbox.push_answer(B, frame(300_000)), Pushed::Dropped, "the first may not be written yet");
    assert!(outbox.try_frames().is_ok(), "it is");
    assert_eq!((outbox.behind_now(), budget.used_bytes()), (vec![B], 0));
    // The presence behind a difference of the same document: without it the reader would be resynced for ever.
    assert_eq!(outbox.push_answer(B, frame(300_000)), Pushed::First);
    assert_eq!(outbox.push_answer(B, frame(300_000)), Pushed::Queued);
}

#[test]
fn of_questions_that_wait_the_newest_is_enough_and_large_ones_end_the_session() {
    let outbox = Outbox::new(100);
    for len in [70, 80, 90] {
        assert_ne!(outbox.push_question(A, frame(len)), Pushed::Dropped);
    }
    assert_eq!(frames(&outbox), [90]);
    let pushed: Vec<_> = (0..40).map(|lease| outbox.push_question(LeaseId(lease), frame(1 << 20))).collect();
    assert_eq!(pushed.iter().filter(|pushed| **pushed == Pushed::Dropped).count(), 23, "17 are more than 16 MiB");
    assert_eq!(outbox.try_frames(), Err(Taken::Close(Close::TooSlow)));
}

struct Nowhere;
impl Line for Nowhere {
    fn send(&self, _: &Outbox) {}
}
