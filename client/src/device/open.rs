//! One open document: its core, its journal, those who watch it.

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
use crate::document::{DocumentStatus, Event, Stamp, SyncReport, SyncState};
use crate::types::clock::Hlc;

/// Events kept for slow readers of a stream.
const EVENTS: usize = 1024;

/// Told when what was done is on the device's disk, or never will be (why).
pub(crate) type Done = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Something done with a document, in the device's task.
pub(crate) type Work = Box<dyn FnOnce(&mut Step<'_>) + Send>;

/// What a piece of work may use.
pub(crate) struct Step<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) out: &'a mut Outputs,
    /// For an entry made now.
    pub(crate) stamp: Stamp,
    pub(crate) device: Ulid,
    pub(crate) hlc: &'a mut Hlc,
    waiting: &'a mut VecDeque<(Seq, Done)>,
}

impl Step<'_> {
    pub(crate) fn when_stored(&mut self, seq: Seq, done: Done) {
        self.waiting.push_back((seq, done));
    }
}

pub(super) struct Open {
    pub(super) core: Core,
    /// For latest-wins maps. Needs no store: every write has read what it must exceed.
    pub(super) hlc: Hlc,
    pub(super) out: Outputs,
    pub(super) log: DocumentLog,
    /// The newest note handed to the log.
    handed: Seq,
    /// In the order of their notes.
    waiting: VecDeque<(Seq, Done)>,
    /// Its channel on this connection.
    pub(super) channel: Option<Channel>,
    pub(super) status: watch::Sender<DocumentStatus>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) report: Arc<Mutex<Option<SyncReport>>>,
    problems: Vec<String>,
    pub(super) failed: bool,
    /// When this note is stored the journal is whole again after a fault.
    whole_at: Option<Seq>,
    /// Which journal: others' reports are not for this one.
    pub(super) journal: u64,
    /// When to open it again after the server closed it.
    pub(super) backoff: Backoff,
    /// Who waits for the new history.
    pub(super) rebasing: Option<oneshot::Sender<Result<(), DeviceError>>>,
}

/// What a journal holds, read back. Notes that cannot be read are told and left out.
pub(crate) fn read(stored: Option<&Stored>) -> (Core, Vec<String>) {
    let mut problems = Vec::new();
    let mut snapshot = journal::Snapshot::default();
    let mut notes = Vec::new();
    if let Some(stored) = stored {
        if let Some(written) = &stored.snapshot {
            match journal::Snapshot::decode(&written.update) {
                Ok(read) => snapshot = read,
                Err(error) => problems.push(format!("its snapshot cannot be read: {error}")),
            }
        }
        for record in &stored.records {
            match Note::decode(&record.update) {
                Ok(note) => notes.push(note),
                Err(error) => problems.push(format!("note {} cannot be read: {error}", record.seq)),
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
            whole_at: None,
            journal: 0,
            backoff: Backoff::new(REOPEN),
            rebasing: None,
        }
    }

    /// What could not be read, once.
    pub(super) fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    pub(super) fn work(&mut self, work: Work, stamp: Stamp, device: Ulid) {
        let Self { core, out, hlc, waiting, .. } = self;
        work(&mut Step { core, out, stamp, device, hlc, waiting });
    }

    /// The journal has come this far: what waited for it is accepted.
    pub(super) fn stored(&mut self, upto: Seq) {
        while let Some((_, done)) = self.waiting.pop_front_if(|(seq, _)| *seq <= upto) {
            done(Ok(()));
        }
        if self.whole_at.take_if(|whole_at| *whole_at <= upto).is_some() {
            self.out.events.push(Event::StorageBack);
        }
        self.core.stored(upto, &mut self.out);
        self.core.compact(&mut self.out);
    }

    /// The journal takes no more: what waited for it is taken back.
    pub(super) fn storage_failed(&mut self, why: &str) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        self.core.storage_failed();
        self.whole_at = None;
        for (_, done) in self.waiting.drain(..) {
            done(Err(why.to_owned()));
        }
        self.out.events.push(Event::StorageFailed(why.to_owned()));
    }

    /// The store was opened again: everything goes into it as it is here.
    pub(super) fn storage_is_back(&mut self, log: DocumentLog, last: Seq) {
        self.log = log;
        self.failed = false;
        self.handed = last;
        self.out.writes.clear();
        self.whole_at = Some(self.core.storage_is_back(last, &mut self.out));
    }

    /// Writes everything anew, behind note `last`.
    pub(super) fn rewrite(&mut self, last: Seq) {
        self.handed = last;
        self.out.writes.clear();
        self.core.rewrite(last, &mut self.out);
    }

    /// Hands what the core wrote to the journal, in order.
    pub(super) async fn write(&mut self, now_ms: u64) {
        let mut records = Vec::new();
        for write in std::mem::take(&mut self.out.writes) {
            match write {
                Write::Note(note) => {
                    self.handed = self.handed.next();
                    records.push(Record { seq: self.handed, time_ms: now_ms, update: note.encode() });
                }
                Write::Snapshot(snapshot) => {
                    self.log.append(std::mem::take(&mut records)).await;
                    let update: Bytes = snapshot.encode();
                    self.log.compact(Snapshot { upto: self.handed, update }).await;
                }
            }
        }
        self.log.append(records).await;
    }

    /// Answers who waits for a rebase, when there is an answer.
    fn answer_rebase(&mut self, sync: &SyncState) {
        let Some(reply) = self.rebasing.take_if(|_| !self.core.is_rebasing()) else { return };
        let failure = match sync {
            SyncState::HistoryChanged => DeviceError::HistoryChanged,
            SyncState::Deleted => DeviceError::Deleted,
            _ => {
                let done = move |stored: Result<(), String>| {
                    drop(reply.send(stored.map_err(|why| DeviceError::Store(StoreError::Io(why)))));
                };
                return self.waiting.push_back((self.core.written(), Box::new(done)));
            }
        };
        // Whoever asked may have gone.
        drop(reply.send(Err(failure)));
    }

    /// Tells those who watch.
    pub(super) fn publish(&mut self) {
        let status = self.core.status();
        self.answer_rebase(&status.sync);
        let events = std::mem::take(&mut self.out.events);
        if events.iter().any(|event| matches!(event, Event::Synced(_)))
            && let Ok(mut report) = self.report.lock()
        {
            *report = self.core.last_report().cloned();
        }
        // Before the events: whoever hears of one finds the status that it brought.
        self.status.send_if_modified(|shown| {
            let changed = *shown != status;
            *shown = status;
            changed
        });
        for event in events {
            // Nobody needs to listen.
            drop(self.events.send(event));
        }
    }
}

/// The identity of a journal's history. Nobody compares it: the journal is this device's own.
pub(super) fn journal_epoch(stored: Option<&Stored>) -> Epoch {
    stored.map_or(Epoch(1), |stored| stored.epoch)
}
