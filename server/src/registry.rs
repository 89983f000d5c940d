//! Document name -> the one task that owns it.
//!
//! Architecture invariant: `open` counts the lease and `retire` removes the entry under the same map entry lock.
//! So two tasks for one document cannot exist, and a session never holds a lease on a document that is leaving.
//! The lock is never held across an await, and nothing is locked under it but an inbox.

mod bounds;
mod slot;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::FutureExt;
use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use self::slot::Slot;
use crate::document::event::Event;
use crate::document::frame::Framing;
use crate::document::inbox::{Closed, NotTaken, Receiver, Sender, inbox};
use crate::document::usage::{Memory, Usage};
use crate::document::{self, DocumentOptions, Ended, Envelope};
use crate::ids::{Counter, LeaseId};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use syncline_log::Log;

/// The open documents.
pub struct Registry {
    slots: DashMap<DocumentName, Slot<Handle>>,
    log: Log,
    options: Arc<DocumentOptions>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    lease_ids: Counter,
    generations: AtomicU64,
    memory: Arc<Memory>,
    /// Cancelled by [`Registry::stop`].
    stopping: CancellationToken,
}

/// What the registry has of a document's task.
struct Handle {
    inbox: Sender,
    usage: Arc<Usage>,
}

/// The document's task is gone; the session must end and come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the document was closed")]
pub struct Gone;

impl Gone {
    /// What the session's client is told.
    pub fn close(self) -> Close {
        Close::DocumentReloading
    }
}

impl Registry {
    /// No document is open yet.
    pub fn new(log: Log, options: DocumentOptions, metrics: Arc<Metrics>) -> Arc<Self> {
        // Its own: a copy of the options may have served a registry that was stopped.
        let options = DocumentOptions { give_up: CancellationToken::new(), ..options };
        let memory = Memory::new(options.memory);
        Arc::new(Self {
            slots: DashMap::new(),
            log,
            options: Arc::new(options),
            metrics,
            tasks: TaskTracker::new(),
            lease_ids: Counter::default(),
            generations: AtomicU64::new(0),
            memory,
            stopping: CancellationToken::new(),
        })
    }

    /// A lease on the document, which is loaded if it is not in memory. Never waits: loading happens in the task.
    pub fn open(self: &Arc<Self>, name: &DocumentName) -> Lease {
        let id = LeaseId(self.lease_ids.next());
        let (inbox, generation) = match self.slots.entry(name.clone()) {
            Entry::Occupied(mut slot) => {
                let slot = slot.get_mut();
                let generation = slot.join();
                (slot.task.inbox.clone(), generation)
            }
            Entry::Vacant(vacant) => {
                let (inbox, receiver) = inbox();
                let generation = self.generations.fetch_add(1, Ordering::Relaxed);
                let usage = self.memory.enter();
                let handle = Handle { inbox: inbox.clone(), usage: Arc::clone(&usage) };
                vacant.insert(Slot::first(handle, generation));
                self.spawn(name.clone(), receiver, usage, generation);
                (inbox, generation)
            }
        };
        Lease { id, name: name.clone(), inbox, generation, registry: Arc::clone(self) }
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// How many documents are in memory.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True when no document is in memory.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes that open documents take in memory, as they estimate it.
    pub fn memory_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// How many documents' tasks run. When nothing is on the move as many as documents are in memory.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Ends every document, each with everything on disk that was logged. Sessions must have been ended before. Work that
    /// is not finished at `deadline` is dropped: nobody was told that it was done.
    pub async fn stop(&self, deadline: Instant) {
        self.stopping.cancel();
        self.slots.clear();
        self.tasks.close();
        if timeout_at(deadline, self.tasks.wait()).await.is_err() {
            self.options.give_up.cancel();
            self.tasks.wait().await;
        }
    }

    fn spawn(self: &Arc<Self>, name: DocumentName, inbox: Receiver, usage: Arc<Usage>, generation: u64) {
        let registry = Arc::clone(self);
        self.tasks.spawn(async move {
            let try_retire = |inbox: &Receiver| registry.retire(&name, generation, inbox);
            let task = document::run(
                name.clone(),
                inbox,
                registry.log.clone(),
                Arc::clone(&registry.options),
                Arc::clone(&registry.metrics),
                usage,
                try_retire,
            );
            match std::panic::AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ended::Retired) => {}
                Ok(Ended::Stopped | Ended::NotLoaded) => registry.remove(&name, generation),
                Err(_) => {
                    // Unwinding has closed the sessions; the next one loads from the log.
                    error!(
                        document = name.as_str(),
                        "the document's task failed; its sessions were closed and may come back"
                    );
                    registry.remove(&name, generation);
                }
            }
        });
    }

    /// Removes the entry if nobody holds a lease and nothing waits in the inbox.
    fn retire(&self, name: &DocumentName, generation: u64, inbox: &Receiver) -> bool {
        self.slots.remove_if(name, |_, slot| slot.may_retire(generation, inbox.is_empty())).is_some()
    }

    fn remove(&self, name: &DocumentName, generation: u64) {
        self.slots.remove_if(name, |_, slot| slot.is(generation));
    }

    fn release(&self, name: &DocumentName, generation: u64) {
        if let Some(mut slot) = self.slots.get_mut(name) {
            slot.release(generation);
        }
    }
}

/// A session's right to talk to a document. Dropping it says goodbye.
pub struct Lease {
    id: LeaseId,
    name: DocumentName,
    inbox: Sender,
    generation: u64,
    registry: Arc<Registry>,
}

impl Lease {
    /// Its number.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Its document.
    pub fn document(&self) -> &DocumentName {
        &self.name
    }

    /// Begins: frames for this lease go to `outbox` from now on. `documents`: open documents of the session, this one included.
    pub async fn begin(&self, outbox: Arc<Outbox>, framing: Framing, documents: usize) -> Result<(), Gone> {
        let envelope = Envelope::Open { lease: self.id, outbox, framing, documents };
        self.inbox.send(envelope).await.map_err(|Closed| Gone)
    }

    /// Sends an event of `bytes` payload; waits while the document's inbox is full.
    pub async fn send(&self, event: Event, bytes: usize) -> Result<(), Gone> {
        let room = self.inbox.room(bytes).await.map_err(|Closed| Gone)?;
        self.inbox.send(Envelope::Event(event, room)).await.map_err(|Closed| Gone)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let goodbye = Envelope::Event(Event::Leave { lease: self.id }, None);
        let (registry, name, generation) = (Arc::clone(&self.registry), self.name.clone(), self.generation);
        match self.inbox.try_send(goodbye) {
            Ok(()) | Err(NotTaken::Closed) => registry.release(&name, generation),
            // The count falls only after the goodbye is in the inbox: the document cannot retire before it is read.
            Err(NotTaken::Full(goodbye)) => {
                let sender = self.inbox.clone();
                tokio::spawn(async move {
                    // A closed inbox has nobody left who could miss the goodbye.
                    sender.send(goodbye).await.ok();
                    registry.release(&name, generation);
                });
            }
        }
    }
}
