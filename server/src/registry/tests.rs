//! Opening, leaving and retiring under random schedules: the registry's own decisions ([`Slot`]) with a map
//! lock, inbox and threads of shuttle, which switches threads at every lock and message and prints a failing
//! schedule. The code around them repeats what `registry.rs` does, in as many steps.

use std::collections::HashMap;

use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

use super::slot::Slot;

/// Number of schedules.
const SCHEDULES: usize = 20_000;
/// Inbox capacity: small, so that it is sometimes full.
const INBOX: usize = 2;

enum Envelope {
    Edit,
    Leave,
}

/// Number of queued events, which tokio's receiver reports itself.
#[derive(Default)]
struct Inbox {
    waiting: AtomicUsize,
}

#[derive(Clone)]
struct Sender {
    events: SyncSender<Envelope>,
    inbox: Arc<Inbox>,
}

#[derive(Default)]
struct Registry {
    slots: Mutex<HashMap<&'static str, Slot<Sender>>>,
    generations: AtomicUsize,
    /// Number of tasks that own the document.
    owners: AtomicUsize,
    /// Number of edits applied by a task.
    applied: AtomicUsize,
}

const NAME: &str = "doc";

impl Registry {
    fn open(self: &Arc<Self>) -> (Sender, u64) {
        let mut slots = self.slots.lock().unwrap();
        if let Some(slot) = slots.get_mut(NAME) {
            let generation = slot.add_lease();
            return (slot.task.clone(), generation);
        }
        let (events, receiver) = sync_channel(INBOX);
        let sender = Sender { events, inbox: Arc::default() };
        let generation = self.generations.fetch_add(1, Ordering::SeqCst) as u64;
        slots.insert(NAME, Slot::with_first_lease(sender.clone(), generation));
        let (registry, inbox) = (Arc::clone(self), Arc::clone(&sender.inbox));
        thread::spawn(move || registry.task(&receiver, &inbox, generation));
        (sender, generation)
    }

    /// A document's task: processes events, and tries to retire whenever its inbox is empty.
    fn task(&self, receiver: &Receiver<Envelope>, inbox: &Inbox, generation: u64) {
        assert_eq!(self.owners.fetch_add(1, Ordering::SeqCst), 0, "two tasks own one document");
        loop {
            if let Ok(envelope) = receiver.try_recv() {
                inbox.waiting.fetch_sub(1, Ordering::SeqCst);
                if let Envelope::Edit = envelope {
                    self.applied.fetch_add(1, Ordering::SeqCst);
                }
                continue;
            }
            let mut slots = self.slots.lock().unwrap();
            let is_empty = inbox.waiting.load(Ordering::SeqCst) == 0;
            if slots.get(NAME).is_some_and(|slot| slot.may_retire(generation, is_empty)) {
                slots.remove(NAME);
                // Its last action, before another session can open the document again.
                assert_eq!(self.owners.fetch_sub(1, Ordering::SeqCst), 1);
                return;
            }
            drop(slots);
            thread::yield_now();
        }
    }

    fn release(&self, generation: u64) {
        if let Some(slot) = self.slots.lock().unwrap().get_mut(NAME) {
            slot.release(generation);
        }
    }
}

impl Sender {
    fn send(&self, envelope: Envelope) {
        self.inbox.waiting.fetch_add(1, Ordering::SeqCst);
        self.events.send(envelope).expect("the task has left under a lease");
    }
}

/// A session: opens, edits, and drops its lease as `Lease::drop` does.
fn session(registry: &Arc<Registry>, edits: usize) {
    let (sender, generation) = registry.open();
    for _ in 0..edits {
        sender.send(Envelope::Edit);
    }
    sender.inbox.waiting.fetch_add(1, Ordering::SeqCst);
    match sender.events.try_send(Envelope::Leave) {
        Ok(()) => registry.release(generation),
        Err(TrySendError::Disconnected(_)) => panic!("the task has left under a lease"),
        Err(TrySendError::Full(leave)) => {
            let registry = Arc::clone(registry);
            thread::spawn(move || {
                sender.events.send(leave).expect("the task has left before a leave");
                registry.release(generation);
            });
        }
    }
}

#[test]
fn document_has_one_owner_and_never_retires_under_a_lease() {
    let check = || {
        let registry = Arc::new(Registry::default());
        let sessions = [2, 1, 0].map(|edits| {
            let registry = Arc::clone(&registry);
            thread::spawn(move || session(&registry, edits))
        });
        sessions.into_iter().for_each(|session| session.join().unwrap());
        // Its task may not have started yet, so waiting for an owner alone could end too early. A task that
        // never retires is caught by the scheduler.
        while !registry.slots.lock().unwrap().is_empty() {
            thread::yield_now();
        }
        assert_eq!(registry.owners.load(Ordering::SeqCst), 0, "a task without an entry");
        assert_eq!(registry.applied.load(Ordering::SeqCst), 3, "an edit was lost");
    };
    shuttle::check_random(check, SCHEDULES);
}
