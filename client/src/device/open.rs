//! An open document: its core, its journal, its subscribers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use syncline_log::{DocumentLog, Record, Snapshot, StoreError, Stored};
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::Channel;
use tokio::sync::{broadcast, oneshot, watch};
use ulid::Ulid;

use super::DeviceError;
use super::connection::REOPEN;
use crate::backoff::Backoff;
use crate::document::core::{Core, Outputs, Write};
use crate::document::journal::{self, Note};
use crate::document::{DocumentStatus, EditStamp, Event, SyncReport, SyncState};
use crate::types::clock::Hlc;

/// Capacity of an event stream; a slower reader loses the oldest events.
const EVENTS: usize = 1024;

/// Called when an edit is on the device's disk, or with the reason why it cannot be stored.
pub(crate) type Done = Box<dyn FnOnce(Result<(), String>) + Send>;

/// A closure that runs on a document in the device's task.
pub(crate) type Work = Box<dyn FnOnce(&mut WorkContext<'_>) + Send>;

/// The context of a [`Work`] closure.
pub(crate) struct WorkContext<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) out: &'a mut Outputs,
    /// Id, time and author for an entry made now.
    pub(crate) stamp: EditStamp,
    pub(crate) device: Ulid,
    pub(crate) hlc: &'a mut Hlc,
    waiting: &'a mut VecDeque<(Seq, Done)>,
}

impl WorkContext<'_> {
    pub(crate) fn when_stored(&mut self, seq: Seq, done: Done) {
        self.waiting.push_back((seq, done));
    }
}

pub(super) struct Open {
    pub(super) core: Core,
    /// Clock of latest-wins maps. Not stored: every write reads the stamps that it must exceed.
    pub(super) hlc: Hlc,
    pub(super) out: Outputs,
    pub(super) log: DocumentLog,
    /// Sequence number of the newest note handed to the log.
    handed: Seq,
    /// Edits that are not stored yet, in the order of their notes.
    waiting: VecDeque<(Seq, Done)>,
    /// The document's channel on the current connection.
    pub(super) channel: Option<Channel>,
    pub(super) status: watch::Sender<DocumentStatus>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) report: Arc<Mutex<Option<SyncReport>>>,
    problems: Vec<String>,
    pub(super) failed: bool,
    /// The note whose storage completes the journal after a failure of the store.
    restored_at: Option<Seq>,
    /// Number of the journal; reports of other journals are ignored.
    pub(super) journal: u64,
    /// Delays before the document is opened again after the server closed it.
    pub(super) backoff: Backoff,
    /// The caller of a running rebase.
    pub(super) rebasing: Option<oneshot::Sender<Result<(), DeviceError>>>,
}

/// Loads a document from its stored journal. Notes that cannot be read are skipped and reported as texts.
pub(crate) fn read(stored: Option<&Stored>) -> (Core, Vec<String>) {
    let mut problems = Vec::new();
    let mut snapshot = journal::Snapshot::default();
    let mut notes = Vec::new();
    if let Some(stored) = stored {
        if let Some(written) = &stored.snapshot {
            match journal::Snapshot::decode(&written.update) {
                Ok(read) => snapshot = read,
                Err(error) => problems.push(format!("the stored snapshot cannot be read: {error}")),
            }
        }
        for record in &stored.records {
            match Note::decode(&record.update) {
                Ok(note) => notes.push(note),
                Err(error) => problems.push(format!("the stored note {} cannot be read: {error}", record.seq)),
            }
        }
    }
    let last = stored.map_or(Seq::ZERO, Stored::last);
    let (core, more) = Core::load(snapshot, notes, last);
    problems.extend(more);
    (core, problems)
}

impl Open {
    pub(super) fn new(core: Core, device: Ulid, log: DocumentLog, problems: Vec<String>) -> Self {
        let status = watch::Sender::new(core.status());
        let handed = core.written();
        Self {
            core,
            hlc: Hlc::new(device.to_string()),
            out: Outputs::default(),
            log,
            handed,
            waiting: VecDeque::new(),
            channel: None,
            status,
            events: broadcast::Sender::new(EVENTS),
            report: Arc::default(),
            problems,
            failed: false,
            restored_at: None,
            journal: 0,
            backoff: Backoff::new(REOPEN),
            rebasing: None,
        }
    }

    /// Takes the texts about damaged parts of the journal.
    pub(super) fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    pub(super) fn work(&mut self, work: Work, stamp: EditStamp, device: Ulid) {
        let Self { core, out, hlc, waiting, .. } = self;
        work(&mut WorkContext { core, out, stamp, device, hlc, waiting });
    }

    /// The journal is stored up to `upto`: edits up to there are accepted.
    pub(super) fn stored(&mut self, upto: Seq) {
        while let Some((_, done)) = self.waiting.pop_front_if(|(seq, _)| *seq <= upto) {
            done(Ok(()));
        }
        if self.restored_at.take_if(|restored_at| *restored_at <= upto).is_some() {
            self.out.events.push(Event::StorageBack);
        }
        self.core.stored(upto, &mut self.out);
        self.core.compact(&mut self.out);
    }

    /// The store failed: edits that are not stored are undone.
    pub(super) fn storage_failed(&mut self, reason: &str) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        self.core.storage_failed();
        self.restored_at = None;
        for (_, done) in self.waiting.drain(..) {
            done(Err(reason.to_owned()));
        }
        self.out.events.push(Event::StorageFailed(reason.to_owned()));
    }

    /// The store was opened again: the whole document is written to it.
    pub(super) fn storage_is_back(&mut self, log: DocumentLog, last: Seq) {
        self.log = log;
        self.failed = false;
        self.handed = last;
        self.out.writes.clear();
        self.restored_at = Some(self.core.storage_is_back(last, &mut self.out));
    }

    /// Writes the whole document to a new journal, after note `last`.
    pub(super) fn rewrite(&mut self, last: Seq) {
        self.handed = last;
        self.out.writes.clear();
        self.core.rewrite(last, &mut self.out);
    }

    /// Hands the core's writes to the journal, in order. Waits while more of the document waits for the disk than its share.
    pub(super) async fn write(&mut self, now_ms: u64) {
        let mut records = Vec::new();
        for write in std::mem::take(&mut self.out.writes) {
            match write {
                Write::Note(note) => {
                    self.handed = self.handed.next();
                    records.push(Record { seq: self.handed, time_ms: now_ms, update: note.encode() });
                }
                Write::Snapshot(snapshot) => {
                    self.log.append(std::mem::take(&mut records));
                    let update: Bytes = snapshot.encode();
                    self.log.compact(Snapshot { upto: self.handed, update });
                }
            }
        }
        self.log.append(records);
        self.log.room().await;
    }

    /// Answers the caller of a rebase when it has ended.
    fn answer_rebase(&mut self, sync: &SyncState) {
        let Some(reply) = self.rebasing.take_if(|_| !self.core.is_rebasing()) else { return };
        let failure = match sync {
            SyncState::HistoryChanged => DeviceError::HistoryChanged,
            SyncState::Deleted => DeviceError::Deleted,
            _ => {
                let done = move |stored: Result<(), String>| {
                    drop(reply.send(stored.map_err(|reason| DeviceError::Store(StoreError::Io(reason)))));
                };
                return self.waiting.push_back((self.core.written(), Box::new(done)));
            }
        };
        // The caller may have been cancelled.
        drop(reply.send(Err(failure)));
    }

    /// Publishes status, report and events to subscribers.
    pub(super) fn publish(&mut self) {
        let status = self.core.status();
        self.answer_rebase(&status.sync);
        let events = std::mem::take(&mut self.out.events);
        if events.iter().any(|event| matches!(event, Event::Synced(_)))
            && let Ok(mut report) = self.report.lock()
        {
            *report = self.core.last_report().cloned();
        }
        // Before the events: a subscriber that receives an event sees at least its status.
        self.status.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
        for event in events {
            // An error means that there are no subscribers.
            drop(self.events.send(event));
        }
    }
}

/// Returns the epoch of a journal. It is never compared: the journal belongs to this device only.
pub(super) fn journal_epoch(stored: Option<&Stored>) -> Epoch {
    stored.map_or(Epoch(1), |stored| stored.epoch)
}
