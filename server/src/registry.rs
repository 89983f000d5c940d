//! Maps each document name to the one task that owns the document.
//!
//! Architecture invariant: `open` counts the lease and `retire` removes the entry under the same map entry
//! lock. So a document never has two tasks, and a session never holds a lease on a document that is leaving
//! memory. The lock is never held across an await, and the only lock taken under it is that of an inbox.

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
use crate::document::encoder::Encoder;
use crate::document::event::SessionEvent;
use crate::document::inbox::{Closed, Receiver, SendError, Sender, inbox};
use crate::document::usage::{Memory, Usage};
use crate::document::{self, DocumentOptions, Envelope, TaskEnd};
use crate::ids::{Counter, LeaseId};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use syncline_log::Log;

/// The open documents and their tasks.
pub struct Registry {
    slots: DashMap<DocumentName, Slot<TaskHandle>>,
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

/// The registry's side of a document's task.
struct TaskHandle {
    inbox: Sender,
    usage: Arc<Usage>,
}

/// The document's task has ended; the session must end and the client reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the document was closed")]
pub struct DocumentGone;

impl DocumentGone {
    /// The close reason for the session's client.
    pub fn close(self) -> Close {
        Close::DocumentReloading
    }
}

impl Registry {
    /// A registry without open documents.
    pub fn new(log: Log, options: DocumentOptions, metrics: Arc<Metrics>) -> Arc<Self> {
        // Own token: the options may be copied from those of a registry that was stopped.
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

    /// Takes a lease on the document, which is loaded if it is not in memory. Never waits: loading happens in
    /// the task.
    pub fn open(self: &Arc<Self>, name: &DocumentName) -> Lease {
        let id = LeaseId(self.lease_ids.next());
        let (inbox, generation) = match self.slots.entry(name.clone()) {
            Entry::Occupied(mut slot) => {
                let slot = slot.get_mut();
                let generation = slot.add_lease();
                (slot.task.inbox.clone(), generation)
            }
            Entry::Vacant(vacant) => {
                let (inbox, receiver) = inbox();
                let generation = self.generations.fetch_add(1, Ordering::Relaxed);
                let usage = self.memory.enter();
                let handle = TaskHandle { inbox: inbox.clone(), usage: Arc::clone(&usage) };
                vacant.insert(Slot::with_first_lease(handle, generation));
                self.spawn(name.clone(), receiver, usage, generation);
                (inbox, generation)
            }
        };
        Lease { id, name: name.clone(), inbox, generation, registry: Arc::clone(self) }
    }

    /// Counters of the server.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Number of documents in memory.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if no document is in memory.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Estimated memory of the open documents, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Number of running document tasks. Equals [`Registry::len`] except while documents open or close.
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    /// Stops every document after its logged edits are on disk. All sessions must have ended before. Work
    /// that is not finished at `deadline` is dropped; none of it was acknowledged.
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
                Ok(TaskEnd::Retired) => {}
                Ok(TaskEnd::Stopped | TaskEnd::NotLoaded) => registry.remove(&name, generation),
                Err(_) => {
                    // Unwinding has closed the sessions; the next lease loads the document from the log.
                    error!(
                        document = name.as_str(),
                        "the document's task panicked; its sessions were closed and can reconnect"
                    );
                    registry.remove(&name, generation);
                }
            }
        });
    }

    /// Removes the entry if there is no lease and the inbox is empty.
    fn retire(&self, name: &DocumentName, generation: u64, inbox: &Receiver) -> bool {
        self.slots.remove_if(name, |_, slot| slot.may_retire(generation, inbox.is_empty())).is_some()
    }

    fn remove(&self, name: &DocumentName, generation: u64) {
        self.slots.remove_if(name, |_, slot| slot.has_generation(generation));
    }

    fn release(&self, name: &DocumentName, generation: u64) {
        if let Some(mut slot) = self.slots.get_mut(name) {
            slot.release(generation);
        }
    }
}

/// A session's access to a document. Dropping it sends `Leave`.
pub struct Lease {
    id: LeaseId,
    name: DocumentName,
    inbox: Sender,
    generation: u64,
    registry: Arc<Registry>,
}

impl Lease {
    /// Unique number of the lease.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// Name of the document.
    pub fn document(&self) -> &DocumentName {
        &self.name
    }

    /// Opens the document: from now on frames for this lease go to `outbox`. `documents` is the number of
    /// documents the session has open, this one included.
    pub async fn begin(
        &self,
        outbox: Arc<Outbox>,
        encoder: Box<dyn Encoder>,
        documents: usize,
    ) -> Result<(), DocumentGone> {
        let envelope = Envelope::Open { lease: self.id, outbox, encoder, documents };
        self.inbox.send(envelope).await.map_err(|Closed| DocumentGone)
    }

    /// Sends an event with a payload of `bytes`; waits while the document's inbox is full.
    pub async fn send(&self, event: SessionEvent, bytes: usize) -> Result<(), DocumentGone> {
        let permit = self.inbox.reserve(bytes).await.map_err(|Closed| DocumentGone)?;
        self.inbox.send(Envelope::Session(self.id, event, permit)).await.map_err(|Closed| DocumentGone)
    }

    /// Asks for what the session missed while its socket was full; waits while the document's inbox is full.
    pub async fn resync(&self) -> Result<(), DocumentGone> {
        self.inbox.send(Envelope::Resync { lease: self.id }).await.map_err(|Closed| DocumentGone)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let leave = Envelope::Leave { lease: self.id };
        let (registry, name, generation) = (Arc::clone(&self.registry), self.name.clone(), self.generation);
        match self.inbox.try_send(leave) {
            Ok(()) | Err(SendError::Closed) => registry.release(&name, generation),
            // The lease is released only once `Leave` is in the inbox: the document cannot retire before it
            // has read it.
            Err(SendError::Full(leave)) => {
                let sender = self.inbox.clone();
                tokio::spawn(async move {
                    // If the inbox is closed the document is gone, and needs no `Leave`.
                    sender.send(leave).await.ok();
                    registry.release(&name, generation);
                });
            }
        }
    }
}
