//! One document on this device.
//!
//! ```text
//! status.rs     what an app can see: entries, events, reports
//! journal.rs    PURE: notes on the device's disk, to bytes and back
//! queue.rs      PURE: what is not confirmed yet
//! batch.rs      PURE: what leaves the queue next, as one message
//! core.rs       PURE: the CRDT, the queue, the journal
//! journal_rewrite.rs    PURE: the journal written anew
//! apply.rs     PURE: changes by others, into the CRDT and the journal
//! clock.rs      PURE: stamps made by a wrong clock, moved before they are sent
//! sync.rs       PURE: the talk with the server
//! resend.rs      PURE: changes by others that the server may have lost
//! rebuild.rs    PURE: the CRDT from the journal
//! history.rs    PURE: when the server has another history
//! report.rs     PURE: what a sync did, what both sides changed
//! registers.rs  versioned registers, read
//! driver.rs    PURE: all of that behind one type, for programs that bring their own store, socket and time
//! ```
//! The task that owns all documents of a device is [`crate::device`]'s; a [`Document`] only sends it commands.

mod apply;
mod batch;
mod clock;
pub(crate) mod core;
pub mod driver;
#[doc(hidden)]
pub mod fuzzing;
mod history;
pub(crate) mod journal;
mod journal_rewrite;
mod queue;
mod rebuild;
mod registers;
mod report;
mod resend;
pub(crate) mod status;
mod status_view;
pub(crate) mod sync;

use std::sync::Arc;

use syncline_protocol::ids::DocumentName;
use thiserror::Error;
use tokio::sync::{broadcast, oneshot, watch};
use ulid::Ulid;
use yrs::{GetString, ReadTxn, Transaction, TransactionMut};

pub use self::status::{DocumentStatus, Entry, EntryKind, EntryState, Event, Export, SyncReport, SyncState};
use crate::device::{Command, Commands, DeviceError, Step};
use crate::types::clock::Hlc;
use crate::types::register::RegisterState;
use crate::types::value::Value;

/// Why an edit was not accepted. The document is as it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// The device cannot write, for example because its disk is full. Try again when it can.
    #[error("the edit could not be stored on this device, nothing was changed: {0}")]
    Storage(String),
    /// The change itself cannot be.
    #[error("{0}")]
    Rejected(String),
    /// The device was closed.
    #[error("the device is closed")]
    Closed,
}

/// A handle to one document. Cheap to clone; editing never waits for the network.
#[derive(Clone)]
pub struct Document {
    pub(crate) name: DocumentName,
    pub(crate) commands: Commands,
    pub(crate) status: watch::Receiver<DocumentStatus>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) report: Arc<std::sync::Mutex<Option<SyncReport>>>,
    pub(crate) problems: Vec<String>,
}

/// What happens to a document, in order.
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// The next event; `None` when the device was closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Event::Lagged(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Document {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// What this device had stored of it and cannot read any more, in words; told once, to who opened it first.
    pub fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Changes the document. When this returns, the change is on the device's disk; the network is not waited for.
    /// The closure runs in the device's task: keep it short.
    ///
    /// # Errors
    /// When it could not be stored, or cannot be at all. The document is then as it was.
    pub async fn edit<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<R, EditError> {
        self.edit_entry(change).await.map(|(result, _)| result)
    }

    /// The same, and tells the entry's id in the queue; `None` when the closure changed nothing.
    ///
    /// # Errors
    /// As [`Document::edit`].
    pub async fn edit_entry<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<(R, Option<Ulid>), EditError> {
        self.edit_stamped(move |_, txn| change(txn)).await
    }

    /// The same; the closure is told when and by whom.
    pub(crate) async fn edit_stamped<R: Send + 'static>(
        &self,
        change: impl FnOnce(&Stamp, &mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<(R, Option<Ulid>), EditError> {
        self.edit_timed(move |stamp, _, txn| change(stamp, txn)).await
    }

    /// The same, with the clock of this document's latest-wins maps: all handles share it, it lives with the document in
    /// the device's task.
    pub(crate) async fn edit_timed<R: Send + 'static>(
        &self,
        change: impl FnOnce(&Stamp, &mut Hlc, &mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<(R, Option<Ulid>), EditError> {
        let (reply, answer) = oneshot::channel();
        let work = move |step: &mut Step<'_>| {
            let stamp = step.stamp.clone();
            match step.core.edit(stamp.id.0, stamp.at_ms, |txn| change(&stamp, step.hlc, txn), step.out) {
                Ok((result, Some(seq))) => step.when_stored(
                    seq,
                    Box::new(move |stored| {
                        // Whoever asked may have gone.
                        drop(reply.send(stored.map(|()| (result, Some(stamp.id))).map_err(EditError::Storage)));
                    }),
                ),
                Ok((result, None)) => drop(reply.send(Ok((result, None)))),
                Err(rejected) => drop(reply.send(Err(EditError::Rejected(rejected.to_string())))),
            }
        };
        let failed = |error: DeviceError| match error {
            DeviceError::Closed => EditError::Closed,
            other => EditError::Storage(other.to_string()),
        };
        self.commands.write(&self.name, Box::new(work)).await.map_err(failed)?;
        answer.await.unwrap_or(Err(EditError::Closed))
    }

    /// Looks at the document. The closure runs in the device's task: keep it short.
    ///
    /// # Errors
    /// When the device was closed.
    pub async fn read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Transaction<'_>) -> R + Send + 'static,
    ) -> Result<R, DeviceError> {
        self.ask(move |step| step.core.read(look)).await
    }

    /// A root text, empty if there is none.
    ///
    /// # Errors
    /// When the device was closed.
    pub async fn text(&self, root: &str) -> Result<String, DeviceError> {
        let root = root.to_owned();
        self.read(move |txn| txn.get_text(root.as_str()).map_or(String::new(), |text| text.get_string(txn))).await
    }

    /// Queues a write to a versioned register, based on what is known here now. The server takes one of two writes with
    /// the same base and refuses the other: [`Event::Decided`] tells.
    ///
    /// # Errors
    /// As [`Document::edit`].
    pub async fn propose(&self, register: &str, value: Value) -> Result<Ulid, EditError> {
        let bytes = value.to_any().map_err(|error| EditError::Rejected(error.to_string()))?;
        let bytes = registers::encode(&bytes);
        let (reply, answer) = oneshot::channel();
        let register = register.to_owned();
        let work = move |step: &mut Step<'_>| {
            let stamp = step.stamp.clone();
            let seq = match step.core.propose(stamp.id.0, stamp.at_ms, register, stamp.author, bytes, step.out) {
                Ok(seq) => seq,
                Err(rejected) => return drop(reply.send(Err(EditError::Rejected(rejected.to_string())))),
            };
            let done = move |stored: Result<(), String>| {
                drop(reply.send(stored.map(|()| stamp.id).map_err(EditError::Storage)));
            };
            step.when_stored(seq, Box::new(done));
        };
        self.commands.write(&self.name, Box::new(work)).await.map_err(|error| EditError::Storage(error.to_string()))?;
        answer.await.unwrap_or(Err(EditError::Closed))
    }

    /// A versioned register as the server decided last; `None`: never written.
    ///
    /// # Errors
    /// When the device was closed.
    pub async fn register(&self, register: &str) -> Result<Option<RegisterState>, DeviceError> {
        let register = register.to_owned();
        self.read(move |txn| registers::state(txn, &register)).await
    }

    /// The document at a glance.
    pub fn status(&self) -> DocumentStatus {
        self.status.borrow().clone()
    }

    /// The same, to wait on.
    pub fn watch(&self) -> watch::Receiver<DocumentStatus> {
        self.status.clone()
    }

    /// What happens from now on.
    pub fn events(&self) -> Events {
        Events { receiver: self.events.subscribe() }
    }

    /// What the last sync did.
    pub fn last_report(&self) -> Option<SyncReport> {
        self.report.lock().map_or(None, |report| report.clone())
    }

    /// What the server has not confirmed, oldest first.
    ///
    /// # Errors
    /// When the device was closed.
    pub async fn queue(&self) -> Result<Vec<Entry>, DeviceError> {
        self.ask(|step| step.core.entries(step.device)).await
    }

    /// Everything, as one v1 update.
    ///
    /// # Errors
    /// When the device was closed, or the document cannot be encoded.
    pub async fn state(&self) -> Result<Vec<u8>, DeviceError> {
        self.ask(|step| step.core.state()).await?.map_err(DeviceError::Broken)
    }

    /// The document to take elsewhere: whole, and what the server lacks of it.
    ///
    /// # Errors
    /// When the device was closed, or the document cannot be encoded.
    pub async fn export(&self) -> Result<Export, DeviceError> {
        self.ask(|step| step.core.export()).await?.map_err(DeviceError::Broken)
    }

    /// Waits until everything the server had is here.
    ///
    /// # Errors
    /// When that cannot come by waiting: closed, deleted, refused, another history.
    pub async fn wait_until_synced(&self) -> Result<(), DeviceError> {
        self.wait(|status| status.sync == SyncState::Synced).await
    }

    /// Waits until the server has everything of this device on its disk.
    ///
    /// # Errors
    /// As [`Document::wait_until_synced`], and when the server refused something.
    pub async fn wait_until_saved(&self) -> Result<(), DeviceError> {
        self.wait(|status| status.pending + status.sent == 0).await?;
        match self.status().refused {
            0 => Ok(()),
            count => Err(DeviceError::Refused(format!("the server refused {count} entries; they are kept here"))),
        }
    }

    async fn wait(&self, is_good: impl Fn(&DocumentStatus) -> bool) -> Result<(), DeviceError> {
        let mut status = self.status.clone();
        let bad = |status: &DocumentStatus| match &status.sync {
            SyncState::HistoryChanged => Some(DeviceError::HistoryChanged),
            SyncState::Deleted => Some(DeviceError::Deleted),
            SyncState::Refused(reason) => Some(DeviceError::Refused(reason.clone())),
            SyncState::Offline | SyncState::Syncing | SyncState::Synced => None,
        };
        let found = status.wait_for(|status| is_good(status) || bad(status).is_some()).await;
        let found = found.map_err(|_| DeviceError::Closed)?;
        if is_good(&found) { Ok(()) } else { Err(bad(&found).unwrap_or(DeviceError::Closed)) }
    }

    /// After [`Event::HistoryChanged`]: takes the server's history and puts what this device had not saved upon it, by
    /// content. Returns when that is on the device's disk; sending it follows.
    ///
    /// # Errors
    /// When the history has not changed, or the connection or the device's disk fails meanwhile.
    pub async fn rebase(&self) -> Result<(), DeviceError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Rebase { document: self.name.clone(), reply }).await?;
        answer.await.map_err(|_| DeviceError::Closed)?
    }

    /// Forgets what the server has not confirmed, and takes its history as it is.
    ///
    /// # Errors
    /// When the device was closed.
    pub async fn discard(&self) -> Result<(), DeviceError> {
        self.ask(|step| step.core.discard(step.out)).await?;
        self.commands.send(Command::Reopen { document: self.name.clone() }).await
    }

    /// Lets go of the document: it is no longer synced. What is queued stays on the device.
    pub async fn close(&self) {
        drop(self.commands.send(Command::CloseDocument { document: self.name.clone() }).await);
    }

    async fn ask<R: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Step<'_>) -> R + Send + 'static,
    ) -> Result<R, DeviceError> {
        let (reply, answer) = oneshot::channel();
        let work = move |step: &mut Step<'_>| drop(reply.send(look(step)));
        self.commands.look(&self.name, Box::new(work)).await?;
        answer.await.map_err(|_| DeviceError::Closed)
    }
}

/// When and by whom an edit is made.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub(crate) id: Ulid,
    pub(crate) at_ms: u64,
    pub(crate) device: Ulid,
    pub(crate) author: String,
}
