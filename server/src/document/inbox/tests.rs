//! An inbox: order, bounds, ends, and that it holds nothing when it is empty.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::document::event::Event;
use crate::ids::LeaseId;

fn event(number: u64) -> Envelope {
    Envelope::Event(Event::Leave { lease: LeaseId(number) }, None)
}

fn numbers(batch: VecDeque<Envelope>) -> Vec<u64> {
    let number = |envelope| match envelope {
        Envelope::Event(event, _) => event.lease().0,
        Envelope::Relieve => panic!("nobody asked"),
        Envelope::Open { lease, .. } => lease.0,
    };
    batch.into_iter().map(number).collect()
}

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn events_come_in_order_and_all_at_once() {
    let (sender, mut receiver) = inbox();
    let other = sender.clone();
    for number in 0..10 {
        let sender = if number % 3 == 0 { &other } else { &sender };
        sender.send(event(number)).await.unwrap();
    }
    assert!(!receiver.is_empty());
    let mut batch = VecDeque::new();
    receiver.receive(&mut batch).await;
    assert_eq!(numbers(batch), (0..10).collect::<Vec<_>>());
    assert!(receiver.is_empty());
}

#[tokio::test]
async fn a_full_inbox_makes_senders_wait_and_keeps_their_order() {
    let (sender, mut receiver) = inbox();
    for number in 0..MAX_EVENTS as u64 {
        sender.try_send(event(number)).unwrap();
    }
    assert!(matches!(sender.try_send(event(0)), Err(NotTaken::Full(_))));
    let (mut first, mut second) = (pin!(sender.send(event(300))), pin!(sender.send(event(301))));
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    let mut batch = VecDeque::new();
    receiver.receive(&mut batch).await;
    assert_eq!(batch.len(), MAX_EVENTS);
    // Those who wait come first.
    first.await.unwrap();
    second.await.unwrap();
    sender.try_send(event(302)).unwrap();
    let mut batch = VecDeque::new();
    receiver.receive(&mut batch).await;
    assert_eq!(numbers(batch), [300, 301, 302]);
}

#[tokio::test]
async fn large_events_wait_for_the_bytes_of_those_in_work() {
    let (sender, _receiver) = inbox();
    assert!(sender.room(SMALL_EVENT_BYTES).await.unwrap().is_none());
    let large = sender.room(MAX_BYTES - SMALL_EVENT_BYTES).await.unwrap();
    let mut next = pin!(sender.room(SMALL_EVENT_BYTES + 1));
    assert!(poll(next.as_mut()).is_pending());
    drop(large);
    let next = next.await.unwrap();
    // One that is larger than the inbox passes alone.
    let mut huge = pin!(sender.room(usize::MAX));
    assert!(poll(huge.as_mut()).is_pending());
    drop(next);
    assert!(huge.await.unwrap().is_some());
}

#[tokio::test]
async fn a_receiver_hears_that_all_senders_are_gone() {
    let (sender, mut receiver) = inbox();
    let other = sender.clone();
    let task = tokio::spawn(async move {
        let mut batch = VecDeque::new();
        receiver.receive(&mut batch).await;
        let first = numbers(std::mem::take(&mut batch));
        receiver.receive(&mut batch).await;
        (first, batch.len())
    });
    tokio::task::yield_now().await;
    drop(sender);
    other.send(event(1)).await.unwrap();
    drop(other);
    assert_eq!(task.await.unwrap(), (vec![1], 0));
}

#[tokio::test]
async fn a_closed_inbox_takes_nothing_and_gives_what_it_has() {
    let (sender, mut receiver) = inbox();
    for number in 0..MAX_EVENTS as u64 {
        sender.try_send(event(number)).unwrap();
    }
    let mut waits = pin!(sender.send(event(300)));
    assert!(poll(waits.as_mut()).is_pending());
    receiver.close();
    assert_eq!(waits.await, Err(Closed));
    assert!(matches!(sender.try_send(event(301)), Err(NotTaken::Closed)));
    assert!(matches!(sender.room(1 << 20).await, Err(Closed)));
    let mut batch = VecDeque::new();
    receiver.receive(&mut batch).await;
    assert_eq!(batch.len(), MAX_EVENTS);
    batch.clear();
    receiver.receive(&mut batch).await;
    assert!(batch.is_empty());
    drop(receiver);
    assert_eq!(sender.send(event(302)).await, Err(Closed));
}

#[tokio::test]
async fn nothing_that_waits_takes_no_memory() {
    let (sender, mut receiver) = inbox();
    let mut batch = VecDeque::new();
    for number in 0..100 {
        sender.send(event(number)).await.unwrap();
    }
    receiver.receive(&mut batch).await;
    batch.clear();
    sender.send(event(100)).await.unwrap();
    receiver.receive(&mut batch).await;
    batch.clear();
    assert!(poll(pin!(receiver.receive(&mut batch))).is_pending());
    assert_eq!((batch.capacity(), receiver.0.state().waiting.capacity()), (0, 0));
}

#[tokio::test]
async fn a_receiver_that_never_rests_lets_others_have_their_turn() {
    let (sender, mut receiver) = inbox();
    let others = tokio::spawn(async {});
    let mut batch = VecDeque::new();
    while !others.is_finished() {
        sender.try_send(event(1)).unwrap();
        receiver.receive(&mut batch).await;
        batch.clear();
    }
}
