//! The queue between the documents and the log's thread: fair to every document, bounded for each and in total.
//!
//! Each document has a queue of its own, and a commit takes from the documents in turn. So a document whose changes come
//! faster than the disk can write them waits for itself: the others' changes are in the next commit.
//!
//! Pushing never waits. A document asks [`DocumentQueue::has_room`] before it takes its next event, and one event is the
//! most by which it exceeds its limit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use syncline_protocol::ids::Epoch;
use tokio::sync::oneshot;

use super::handle::{Document, lock};
use super::store::{Record, Snapshot, StoreError};

/// Bytes that all documents together may have queued or being committed before documents stop taking events.
pub const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Bytes that one document may have queued or being committed before it stops taking events.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;
/// What a document may have queued even when all documents together have [`MAX_QUEUED_BYTES`].
const DOCUMENT_SHARE_BYTES: usize = 64 << 10;
/// A commit takes no further command once it has this many bytes, because later commands wait for it.
const MAX_COMMIT_BYTES: usize = 512 << 10;
/// What a commit takes of every document before it takes more of any.
const FIRST_TURN_BYTES: usize = 16 << 10;
/// Counted for each command and each record in addition to its update.
const OVERHEAD_BYTES: usize = 64;

/// A change of a document for the log's thread.
pub(crate) enum Command {
    Append { epoch: Epoch, records: Vec<Record> },
    Compact { snapshot: Snapshot },
    Delete { reply: oneshot::Sender<Result<(), StoreError>> },
}

impl Command {
    fn bytes(&self) -> usize {
        let content = match self {
            Self::Append { records, .. } => records.iter().map(|record| record.update.len() + OVERHEAD_BYTES).sum(),
            Self::Compact { snapshot } => snapshot.update.len(),
            Self::Delete { .. } => 0,
        };
        OVERHEAD_BYTES + content
    }
}

/// What one document has queued.
#[derive(Default)]
pub(crate) struct DocumentQueue {
    commands: Mutex<Commands>,
    /// Bytes that are queued or being committed. Raised by [`Queue::push`], lowered by [`Queue::release`].
    bytes: AtomicUsize,
}

#[derive(Default)]
struct Commands {
    waiting: VecDeque<Command>,
    /// The document is in [`Ready::documents`], or in the hands of [`Queue::take`].
    is_ready: bool,
}

/// The queue's part that all documents share.
#[derive(Default)]
pub(crate) struct Queue {
    ready: Mutex<Ready>,
    /// Signalled when a document becomes ready while the log's thread waits, and when the queue is closed.
    arrived: Condvar,
    /// Bytes of all documents that are queued or being committed.
    bytes: AtomicUsize,
    /// Set under the lock of `ready`, so that no document becomes ready after the log's thread has ended.
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Ready {
    /// Documents with queued commands, in the order of their turns.
    documents: VecDeque<Arc<Document>>,
    /// The log's thread waits for [`Queue::arrived`].
    is_awaited: bool,
}

impl Queue {
    /// Queues a command. Returns it when the queue is closed.
    pub(crate) fn push(&self, document: &Arc<Document>, command: Command) -> Result<(), Command> {
        let bytes = command.bytes();
        let mut commands = lock(&document.queue.commands);
        let mut ready = if commands.is_ready { None } else { Some(lock(&self.ready)) };
        if self.is_closed() {
            return Err(command);
        }
        document.queue.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        commands.waiting.push_back(command);
        commands.is_ready = true;
        let must_wake = ready.as_mut().is_some_and(|ready| {
            ready.documents.push_back(Arc::clone(document));
            std::mem::take(&mut ready.is_awaited)
        });
        drop((commands, ready));
        if must_wake {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Whether the document may take its next event.
    pub(crate) fn has_room(&self, document: &Document) -> bool {
        let own = document.queue.bytes.load(Ordering::Relaxed);
        own < DOCUMENT_SHARE_BYTES || (own < MAX_DOCUMENT_BYTES && self.queued_bytes() < MAX_QUEUED_BYTES)
    }

    /// Bytes that are queued or being committed.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Stops counting the bytes that a commit has taken of a document. Called when the commit is done.
    pub(crate) fn release(&self, document: &Document, bytes: usize) {
        document.queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Accepts no more documents. What is queued is still taken.
    pub(crate) fn close(&self) {
        let ready = lock(&self.ready);
        self.is_closed.store(true, Ordering::Relaxed);
        drop(ready);
        self.arrived.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Blocks until something is queued. False: the queue is closed and empty.
    pub(crate) fn wait(&self) -> bool {
        let mut ready = lock(&self.ready);
        while ready.documents.is_empty() && !self.is_closed() {
            ready.is_awaited = true;
            ready = self.arrived.wait(ready).unwrap_or_else(PoisonError::into_inner);
        }
        ready.is_awaited = false;
        !ready.documents.is_empty()
    }

    /// Takes the commands of one commit: first a little of every document, so that a small change waits for no large one,
    /// then from the documents in turn. `add` gets each command and its bytes.
    pub(crate) fn take(&self, mut add: impl FnMut(&Arc<Document>, Command, usize)) {
        let turns = std::mem::take(&mut lock(&self.ready).documents);
        let mut left = MAX_COMMIT_BYTES;
        let (mut unserved, mut served) = (VecDeque::new(), VecDeque::new());
        for document in turns {
            let (before, mut share) = (left, FIRST_TURN_BYTES.min(left));
            while let Some((command, bytes)) = document.queue.next(|bytes| bytes <= share) {
                (share, left) = (share - bytes, left - bytes);
                add(&document, command, bytes);
            }
            // The others have their turns first.
            let turn = if left < before { &mut served } else { &mut unserved };
            turn.extend((!document.queue.is_done()).then_some(document));
        }
        while left > 0
            && let Some(document) = unserved.pop_front().or_else(|| served.pop_front())
        {
            if let Some((command, bytes)) = document.queue.next(|_| true) {
                left = left.saturating_sub(bytes);
                add(&document, command, bytes);
            }
            served.extend((!document.queue.is_done()).then_some(document));
        }
        let mut ready = lock(&self.ready);
        unserved.append(&mut ready.documents);
        unserved.append(&mut served);
        ready.documents = unserved;
    }
}

impl DocumentQueue {
    /// Takes the first command if its bytes are `wanted`.
    fn next(&self, wanted: impl FnOnce(usize) -> bool) -> Option<(Command, usize)> {
        let mut commands = lock(&self.commands);
        let command = commands.waiting.pop_front_if(|command| wanted(command.bytes()))?;
        let bytes = command.bytes();
        Some((command, bytes))
    }

    /// Whether nothing is queued. The document is then no longer ready.
    fn is_done(&self) -> bool {
        let mut commands = lock(&self.commands);
        let is_done = commands.waiting.is_empty();
        if is_done {
            // A quiet document keeps no memory for its queue.
            *commands = Commands::default();
        }
        is_done
    }
}

/// The documents' end of the queue. When the last clone is dropped, the queue is closed.
pub(crate) struct Sender(Arc<Queue>);

impl Sender {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self(queue)
    }
}

impl std::ops::Deref for Sender {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.0
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.close();
    }
}
