//! Random schedules (shuttle) of documents that push and write directly, the session's task that writes and
//! requests diffs, and a socket that has room from time to time. The outbox is the real one; a schedule
//! switches threads between their calls, each of which runs under one lock. In any order, no frame
//! is torn or overtaken, no wake-up is lost, and a reader that fell behind is brought up to date.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Arc, Mutex as Turn};
use shuttle::thread::{self, yield_now};

use super::tests::frames;
use super::*;
use crate::ids::LeaseId;
use crate::outbox::{Budget, Pushed};

/// Number of schedules.
const SCHEDULES: usize = 20_000;
const DOCUMENTS: u64 = 2;
/// The lease of a document that is left again and again.
const LEFT: LeaseId = LeaseId(DOCUMENTS);
/// Changes per document.
const CHANGES: u8 = 12;
/// A reader falls behind at the fourth queued change of this size.
const CHANGE_BYTES: usize = 30;
const LIMIT_BYTES: usize = 100;

/// A socket that accepts as many bytes as it was given room for.
#[derive(Default)]
struct SlowSocket {
    state: Mutex<(Vec<u8>, usize, Option<Waker>)>,
}

impl SlowSocket {
    fn give_room(&self, bytes: usize) {
        let waker = {
            let mut state = self.state.lock().unwrap();
            state.1 = state.1.saturating_add(bytes);
            state.2.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

impl Wire for std::sync::Arc<SlowSocket> {
    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        let room = state.1;
        let written: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter()).take(room).copied().collect();
        if written.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.1 -= written.len();
        state.0.extend(&written);
        Ok(written.len())
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock().unwrap();
        if state.1 > 0 {
            return Poll::Ready(Ok(()));
        }
        state.2 = Some(cx.waker().clone());
        Poll::Pending
    }

    fn shutdown(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Set when the session's task is woken. Not a scheduling point, because it is set while the writer is
/// locked.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct World {
    outbox: Outbox,
    socket: std::sync::Arc<SlowSocket>,
    woken: std::sync::Arc<Woken>,
    /// The newest change of each document; its lock is the document's turn.
    documents: Vec<Turn<u8>>,
    /// Number of threads still running.
    busy: AtomicUsize,
}

impl World {
    /// A document's turns: up to two changes each, then one send.
    fn edit(&self, lease: u64) {
        for _ in 0..CHANGES / 2 {
            let mut newest = self.documents[lease as usize].lock().unwrap();
            let mut is_first = false;
            for _ in 0..2 {
                *newest += 1;
                let change = [&[lease as u8, 0, *newest][..], &[0; CHANGE_BYTES]].concat();
                is_first |= self.outbox.push_document(LeaseId(lease), change.into()) == Pushed::First;
                yield_now();
            }
            if is_first {
                self.send();
            }
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
    }

    /// A document that queues a change in every turn, sends in a task of its own, and whose lease leaves in between.
    fn leave(&self) {
        for _ in 0..CHANGES / 2 {
            let change = [&[DOCUMENTS as u8, 0, 0][..], &[0; CHANGE_BYTES]].concat();
            let is_first = self.outbox.push_document(LEFT, change.into()) == Pushed::First;
            yield_now();
            self.outbox.forget(LEFT);
            yield_now();
            if is_first {
                self.send();
            }
        }
        self.busy.fetch_sub(1, Ordering::SeqCst);
    }

    fn send(&self) {
        if thread_rng().gen_bool(0.5) {
            self.outbox.send()
        } else {
            self.outbox.send_later()
        }
        yield_now();
    }

    /// The session's task: polls the writer before the reader, as in `session::drive`.
    fn run(&self) {
        let waker = Waker::from(std::sync::Arc::clone(&self.woken));
        loop {
            let is_over = self.busy.load(Ordering::SeqCst) == 0;
            if !self.woken.0.swap(false, Ordering::SeqCst) {
                if is_over {
                    return;
                }
                yield_now();
                continue;
            }
            assert!(self.outbox.poll_write(&mut Context::from_waker(&waker)).is_pending());
            yield_now();
            let behind = self.outbox.take_notices().map(|notices| notices.behind).unwrap_or_default();
            for lease in behind.into_iter().filter(|lease| *lease != LEFT) {
                let newest = self.documents[lease.0 as usize].lock().unwrap();
                let diff = vec![lease.0 as u8, 1, *newest];
                if self.outbox.push_reply(lease, Bytes::from(diff)) == Pushed::First {
                    self.send();
                }
            }
        }
    }

    /// Checks frame by frame what the reader of each document received. Returns the number of diffs.
    fn check(&self) -> usize {
        let stream = self.socket.state.lock().unwrap().0.clone();
        let mut known = vec![BTreeSet::new(); self.documents.len()];
        let mut diffs = 0;
        for (_, frame) in frames(&stream) {
            if LeaseId(frame[0].into()) == LEFT {
                continue;
            }
            let known = &mut known[usize::from(frame[0])];
            let (is_diff, number) = (frame[1] == 1, frame[2]);
            let newest = known.last().copied().unwrap_or(0);
            assert!(number > newest || is_diff && number == newest, "{number} was overtaken by {newest}");
            known.extend(if is_diff { 1..=number } else { number..=number });
            diffs += usize::from(is_diff);
        }
        for known in known {
            assert_eq!(known.len(), usize::from(CHANGES), "it has all of them");
        }
        diffs
    }
}

#[test]
fn no_frame_is_lost_or_overtaken_in_any_schedule() {
    let diffs = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&diffs);
    let schedule = move || {
        let socket = std::sync::Arc::<SlowSocket>::default();
        let world = Arc::new(World {
            outbox: Outbox::with_wire(LIMIT_BYTES, Budget::new(usize::MAX), std::sync::Arc::clone(&socket)),
            socket: std::sync::Arc::clone(&socket),
            woken: std::sync::Arc::new(Woken(AtomicBool::new(true))),
            documents: (0..DOCUMENTS).map(|_| Turn::new(0)).collect(),
            busy: AtomicUsize::new(DOCUMENTS as usize + 2),
        });
        let mut threads = Vec::new();
        for lease in 0..DOCUMENTS {
            let world = Arc::clone(&world);
            threads.push(thread::spawn(move || world.edit(lease)));
        }
        let left = Arc::clone(&world);
        threads.push(thread::spawn(move || left.leave()));
        let session = Arc::clone(&world);
        threads.push(thread::spawn(move || session.run()));
        for _ in 0..10 {
            socket.give_room(thread_rng().gen_range(0..80));
            yield_now();
        }
        socket.give_room(usize::MAX);
        world.busy.fetch_sub(1, Ordering::SeqCst);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        counted.fetch_add(world.check(), Ordering::Relaxed);
    };
    shuttle::check_random(schedule, SCHEDULES);
    assert!(diffs.load(Ordering::Relaxed) > SCHEDULES / 10, "hardly any reader fell behind");
}
