//! A document on this device.
//!
//! ```text
//! status.rs           public types: status, queue entries, events, reports
//! journal.rs          PURE: encoding of the journal's notes and snapshots
//! queue.rs            PURE: the queue of unconfirmed edits and register writes
//! batch.rs            PURE: coalesces the next queued edits into one message
//! core.rs             PURE: the CRDT, the queue, the journal
//! journal_rewrite.rs  PURE: compacts and rewrites the journal
//! apply.rs            PURE: applies remote changes to the CRDT and the journal
//! clock.rs            PURE: corrects stamps of a wrong clock before they are sent
//! sync.rs             PURE: the sync protocol
//! resend.rs           PURE: resends remote changes that the server may have lost
//! rebuild.rs          PURE: rebuilds the CRDT from the journal
//! history.rs          PURE: adopts a new history of the server
//! report.rs           PURE: sync reports, and what both sides changed
//! registers.rs        versioned registers
//! driver.rs           PURE: the above behind one type, for programs with their own store, socket and clock
//! ```
//! The task of [`crate::device`] owns all documents of a device; a [`Document`] only sends it commands.

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
use crate::device::{Command, Commands, DeviceError, WorkContext};
use crate::types::clock::Hlc;
use crate::types::register::RegisterState;
use crate::types::value::Value;

/// Why an edit was not accepted. The document is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// The device's store failed, for example because the disk is full. The device retries in the background; try the
    /// edit again after [`Event::StorageBack`].
    #[error("the edit could not be stored on this device and was undone: {0}")]
    Storage(String),
    /// The change is invalid, with the reason. The same edit fails again.
    #[error("{0}")]
    Rejected(String),
    /// The device was closed.
    #[error("the device is closed")]
    Closed,
}

/// A handle to a document. Handles are cheap to clone. Edits are stored on the device and never wait for the network.
///
/// Use the handles of the shared types ([`Document::text_at`], [`Document::map`], ...), or [`Document::edit`] for
/// direct access to the Yjs document.
///
/// ```
/// use syncline_client::{Device, DeviceConfig, SyncState};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// # let directory = home.path();
/// let config = DeviceConfig { offline: true, ..DeviceConfig::new(directory, "ws://127.0.0.1:1234") };
/// let device = Device::open(config).await?;
/// let document = device.document("page").await?;
/// document.text_at("body").append("Hello").await?; // On this device's disk.
/// let status = document.status();
/// assert_eq!((status.sync, status.pending), (SyncState::Offline, 1));
/// # device.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Document {
    pub(crate) name: DocumentName,
    pub(crate) commands: Commands,
    pub(crate) status: watch::Receiver<DocumentStatus>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) report: Arc<std::sync::Mutex<Option<SyncReport>>>,
    pub(crate) problems: Vec<String>,
}

/// A stream of the events of a document, in order; returned by [`Document::events`].
pub struct Events {
    receiver: broadcast::Receiver<Event>,
}

impl Events {
    /// Waits for the next event; `None` after the device was closed. Cancel-safe. If more than 1,024 events are unread,
    /// the oldest are dropped and [`Event::Lagged`] is returned in their place.
    pub async fn next(&mut self) -> Option<Event> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Event::Lagged(count)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Document {
    /// Returns the document's name.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Takes the list of stored items that could not be read when the document was opened, as texts for a log; the rest
    /// of the document was recovered. Empty if the journal was intact. Only the first handle opened after the damage
    /// was found has the list.
    pub fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    /// Changes the document in one Yjs transaction and returns the closure's result. When this returns, the change is on
    /// the device's disk; it does not wait for the network. The closure runs in the device's task: keep it short.
    ///
    /// # Errors
    /// [`EditError`]: the device cannot write, the closure panicked, the change is too large for a message to the
    /// server, or the device was closed. The document is unchanged then.
    pub async fn edit<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<R, EditError> {
        self.edit_entry(change).await.map(|(result, _)| result)
    }

    /// Like [`Document::edit`], and also returns the id of the queue entry; `None` if the closure changed nothing.
    ///
    /// # Errors
    /// As [`Document::edit`].
    pub async fn edit_entry<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<(R, Option<Ulid>), EditError> {
        self.edit_stamped(move |_, txn| change(txn)).await
    }

    /// Like [`Document::edit_entry`]; the closure also gets the entry's id, time and author.
    pub(crate) async fn edit_stamped<R: Send + 'static>(
        &self,
        change: impl FnOnce(&EditStamp, &mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<(R, Option<Ulid>), EditError> {
        self.edit_timed(move |stamp, _, txn| change(stamp, txn)).await
    }

    /// Like [`Document::edit_stamped`]; the closure also gets the clock of this document's latest-wins maps. All handles
    /// share it: it belongs to the document in the device's task.
    pub(crate) async fn edit_timed<R: Send + 'static>(
        &self,
        change: impl FnOnce(&EditStamp, &mut Hlc, &mut TransactionMut<'_>) -> R + Send + 'static,
    ) -> Result<(R, Option<Ulid>), EditError> {
        let (reply, answer) = oneshot::channel();
        let work = move |context: &mut WorkContext<'_>| {
            let stamp = context.stamp.clone();
            match context.core.edit(stamp.id.0, stamp.at_ms, |txn| change(&stamp, context.hlc, txn), context.out) {
                Ok((result, Some(seq))) => context.when_stored(
                    seq,
                    Box::new(move |stored| {
                        // The caller may have been cancelled.
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

    /// Reads the document in one Yjs transaction and returns the closure's result. The closure runs in the device's
    /// task: keep it short.
    ///
    /// # Errors
    /// [`DeviceError::Closed`] after the device was closed.
    pub async fn read<R: Send + 'static>(
        &self,
        look: impl FnOnce(&Transaction<'_>) -> R + Send + 'static,
    ) -> Result<R, DeviceError> {
        self.ask(move |context| context.core.read(look)).await
    }

    /// Reads the content of the root text named `root`; empty if there is none. To edit it, use the handle that
    /// [`Document::text_at`] returns, as [`Document::list`] and [`Document::map`] do.
    ///
    /// # Errors
    /// [`DeviceError::Closed`] after the device was closed.
    pub async fn text(&self, root: &str) -> Result<String, DeviceError> {
        let root = root.to_owned();
        self.read(move |txn| txn.get_text(root.as_str()).map_or(String::new(), |text| text.get_string(txn))).await
    }

    /// Queues a write to a versioned register, based on the version known on this device. Returns the id of its queue
    /// entry. The server accepts one of two writes based on the same version and rejects the other;
    /// [`Event::Decided`] reports the decision.
    ///
    /// # Errors
    /// As [`Document::edit`]; also if the name, the author or the value is too large.
    pub async fn propose(&self, register: &str, value: Value) -> Result<Ulid, EditError> {
        let bytes = value.to_any().map_err(|error| EditError::Rejected(error.to_string()))?;
        let bytes = registers::encode(&bytes);
        let (reply, answer) = oneshot::channel();
        let register = register.to_owned();
        let work = move |context: &mut WorkContext<'_>| {
            let stamp = context.stamp.clone();
            let seq = match context.core.propose(stamp.id.0, stamp.at_ms, register, stamp.author, bytes, context.out) {
                Ok(seq) => seq,
                Err(rejected) => return drop(reply.send(Err(EditError::Rejected(rejected.to_string())))),
            };
            let done = move |stored: Result<(), String>| {
                drop(reply.send(stored.map(|()| stamp.id).map_err(EditError::Storage)));
            };
            context.when_stored(seq, Box::new(done));
        };
        self.commands.write(&self.name, Box::new(work)).await.map_err(|error| EditError::Storage(error.to_string()))?;
        answer.await.unwrap_or(Err(EditError::Closed))
    }

    /// Returns the state of a versioned register that the server decided last; `None` if it was never written.
    ///
    /// # Errors
    /// [`DeviceError::Closed`] after the device was closed.
    pub async fn register(&self, register: &str) -> Result<Option<RegisterState>, DeviceError> {
        let register = register.to_owned();
        self.read(move |txn| registers::state(txn, &register)).await
    }

    /// Returns a snapshot of the sync state and of the queue's counters.
    pub fn status(&self) -> DocumentStatus {
        self.status.borrow().clone()
    }

    /// Returns a channel that follows [`Document::status`]. It changes on every edit, confirmation and remote change.
    pub fn watch(&self) -> watch::Receiver<DocumentStatus> {
        self.status.clone()
    }

    /// Subscribes to the events of the document from now on.
    pub fn events(&self) -> Events {
        Events { receiver: self.events.subscribe() }
    }

    /// Returns the report of the last completed sync; `None` if there was none since the document was opened.
    pub fn last_report(&self) -> Option<SyncReport> {
        self.report.lock().map_or(None, |report| report.clone())
    }

    /// Returns the entries that the server has not confirmed, oldest first.
    ///
    /// # Errors
    /// [`DeviceError::Closed`] after the device was closed.
    pub async fn queue(&self) -> Result<Vec<Entry>, DeviceError> {
        self.ask(|context| context.core.entries(context.device)).await
    }

    /// Returns the whole document as one Yjs v1 update.
    ///
    /// # Errors
    /// [`DeviceError::Closed`] after the device was closed, [`DeviceError::Broken`] if the document cannot be encoded.
    pub async fn state(&self) -> Result<Vec<u8>, DeviceError> {
        self.ask(|context| context.core.state()).await?.map_err(DeviceError::Broken)
    }

    /// Exports the document for use elsewhere: all of it, and separately the edits that the server has not confirmed.
    ///
    /// # Errors
    /// [`DeviceError::Closed`] after the device was closed, [`DeviceError::Broken`] if the document cannot be encoded.
    pub async fn export(&self) -> Result<Export, DeviceError> {
        self.ask(|context| context.core.export()).await?.map_err(DeviceError::Broken)
    }

    /// Waits until the document is [`SyncState::Synced`]: it contains every change that the server had. Waits without a
    /// limit while there is no connection.
    ///
    /// # Errors
    /// If waiting cannot succeed: [`DeviceError::Closed`], [`DeviceError::Deleted`], [`DeviceError::Refused`] or
    /// [`DeviceError::HistoryChanged`].
    pub async fn wait_until_synced(&self) -> Result<(), DeviceError> {
        self.wait(|status| status.sync == SyncState::Synced).await
    }

    /// Waits until every edit of this device is on the server's disk. Waits without a limit while there is no connection.
    ///
    /// # Errors
    /// As [`Document::wait_until_synced`]; [`DeviceError::Refused`] also if the server refused entries.
    pub async fn wait_until_saved(&self) -> Result<(), DeviceError> {
        self.wait(|status| status.pending + status.sent == 0).await?;
        match self.status().refused {
            0 => Ok(()),
            count => {
                Err(DeviceError::Refused(format!("the server did not accept {count} entries; they stay in the queue")))
            }
        }
    }

    async fn wait(&self, is_done: impl Fn(&DocumentStatus) -> bool) -> Result<(), DeviceError> {
        let mut status = self.status.clone();
        let failure = |status: &DocumentStatus| match &status.sync {
            SyncState::HistoryChanged => Some(DeviceError::HistoryChanged),
            SyncState::Deleted => Some(DeviceError::Deleted),
            SyncState::Refused(reason) => Some(DeviceError::Refused(reason.clone())),
            SyncState::Offline | SyncState::Syncing | SyncState::Synced => None,
        };
        let found = status.wait_for(|status| is_done(status) || failure(status).is_some()).await;
        let found = found.map_err(|_| DeviceError::Closed)?;
        if is_done(&found) { Ok(()) } else { Err(failure(&found).unwrap_or(DeviceError::Closed)) }
    }

    /// After [`Event::HistoryChanged`]: adopts the server's history and applies this device's unsaved edits to it, by
    /// content. Conflicts are reported by [`Event::Rebased`]. Returns when the result is on the device's disk; it is
    /// sent to the server afterwards.
    ///
    /// # Errors
    /// [`DeviceError::Refused`] if the history has not changed or there is no connection; another [`DeviceError`] if
    /// the connection or the device's disk fails meanwhile.
    pub async fn rebase(&self) -> Result<(), DeviceError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Rebase { document: self.name.clone(), reply }).await?;
        answer.await.map_err(|_| DeviceError::Closed)?
    }

    /// Drops all edits that the server has not confirmed, and adopts the server's history.
    ///
    /// # Errors
    /// [`DeviceError::Closed`] after the device was closed.
    pub async fn discard(&self) -> Result<(), DeviceError> {
        self.ask(|context| context.core.discard(context.out)).await?;
        self.commands.send(Command::Reopen { document: self.name.clone() }).await
    }

    /// Closes the document on this device: it is not synced any more, and all handles to it fail. Queued edits stay in
    /// the device's store. [`crate::Device::document`] opens it again.
    pub async fn close(&self) {
        drop(self.commands.send(Command::CloseDocument { document: self.name.clone() }).await);
    }

    async fn ask<R: Send + 'static>(
        &self,
        look: impl FnOnce(&mut WorkContext<'_>) -> R + Send + 'static,
    ) -> Result<R, DeviceError> {
        let (reply, answer) = oneshot::channel();
        let work = move |context: &mut WorkContext<'_>| drop(reply.send(look(context)));
        self.commands.look(&self.name, Box::new(work)).await?;
        answer.await.map_err(|_| DeviceError::Closed)
    }
}

/// Id, time, device and author of an edit.
#[derive(Debug, Clone)]
pub(crate) struct EditStamp {
    pub(crate) id: Ulid,
    pub(crate) at_ms: u64,
    pub(crate) device: Ulid,
    pub(crate) author: String,
}
