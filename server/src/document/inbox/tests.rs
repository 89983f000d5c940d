//! Tests of `inbox.rs`: order, bounds, closing, and that an empty inbox holds no memory.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::ids::LeaseId;

fn event(number: u64) -> Envelope {
    Envelope::Leave { lease: LeaseId(number) }
}

fn numbers(batch: VecDeque<Envelope>) -> Vec<u64> {
    let number = |envelope| match envelope {
        Envelope::Leave { lease } => lease.0,
        other => panic!("unexpected {other:?}"),
    };
    batch.into_iter().map(number).collect()
}

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn inbox_delivers_all_queued_events_in_order() {
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
async fn full_inbox_makes_senders_wait_in_order() {
    let (sender, mut receiver) = inbox();
    for number in 0..MAX_EVENTS as u64 {
        sender.try_send(event(number)).unwrap();
    }
    assert!(matches!(sender.try_send(event(0)), Err(SendError::Full(_))));
    let (mut first, mut second) = (pin!(sender.send(event(300))), pin!(sender.send(event(301))));
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    let mut batch = VecDeque::new();
    receiver.receive(&mut batch).await;
    assert_eq!(batch.len(), MAX_EVENTS);
    // Waiting senders are served before later ones.
    first.await.unwrap();
    second.await.unwrap();
    sender.try_send(event(302)).unwrap();
    let mut batch = VecDeque::new();
    receiver.receive(&mut batch).await;
    assert_eq!(numbers(batch), [300, 301, 302]);
}

#[tokio::test]
async fn large_events_wait_for_bytes_of_events_in_progress() {
    let (sender, _receiver) = inbox();
    assert!(sender.reserve(SMALL_EVENT_BYTES).await.unwrap().is_none());
    let large = sender.reserve(MAX_BYTES - SMALL_EVENT_BYTES).await.unwrap();
    let mut next = pin!(sender.reserve(SMALL_EVENT_BYTES + 1));
    assert!(poll(next.as_mut()).is_pending());
    drop(large);
    let next = next.await.unwrap();
    // An event larger than the limit passes when the inbox is empty.
    let mut huge = pin!(sender.reserve(usize::MAX));
    assert!(poll(huge.as_mut()).is_pending());
    drop(next);
    assert!(huge.await.unwrap().is_some());
}

#[tokio::test]
async fn receiver_returns_empty_when_all_senders_are_gone() {
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
async fn closed_inbox_rejects_events_and_delivers_queued_ones() {
    let (sender, mut receiver) = inbox();
    for number in 0..MAX_EVENTS as u64 {
        sender.try_send(event(number)).unwrap();
    }
    let mut waits = pin!(sender.send(event(300)));
    assert!(poll(waits.as_mut()).is_pending());
    receiver.close();
    assert_eq!(waits.await, Err(Closed));
    assert!(matches!(sender.try_send(event(301)), Err(SendError::Closed)));
    assert!(matches!(sender.reserve(1 << 20).await, Err(Closed)));
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
async fn empty_inbox_holds_no_memory() {
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
    assert_eq!((batch.capacity(), receiver.0.state().queue.capacity()), (0, 0));
}

#[tokio::test]
async fn busy_receiver_yields_to_other_tasks() {
    let (sender, mut receiver) = inbox();
    let others = tokio::spawn(async {});
    let mut batch = VecDeque::new();
    while !others.is_finished() {
        sender.try_send(event(1)).unwrap();
        receiver.receive(&mut batch).await;
        batch.clear();
    }
}
