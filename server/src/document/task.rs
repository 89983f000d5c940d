//! The I/O shell around [`Core`]: one Tokio task per open document, which feeds events in and executes
//! effects.
//!
//! Waiting goes one way: sessions wait for this task's inbox, this task waits for the log. The log publishes
//! its durable position as a watched value and never waits. The task ends when its document has been idle (no
//! leases, nothing on its way to the disk) or when the registry closes its inbox; in both cases everything is
//! on disk first.

mod batch;
mod idle;
mod snapshots;
mod turn;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use syncline_protocol::close::Close;
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::native::Cursor;
use tokio::time::sleep_until;
use tracing::{debug, error, warn};

use self::idle::IdleTimers;
use self::snapshots::{PendingSize, SnapshotSchedule};
use super::block_in_place::block_in_place_if;
use super::coalesce::OutgoingFrames;
use super::core::{Core, CoreLimits};
use super::encoder::Encoder;
use super::event::{Effect, Event, SessionEvent};
use super::inbox::{BytePermit, Receiver};
use super::load::{LoadError, Loaded, load};
use super::options::DocumentOptions;
use super::readers::Readers;
use super::usage::Usage;
use crate::ids::LeaseId;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use syncline_log::failpoint::Point;
use syncline_log::{DocumentLog, Log};

/// Records between checkpoints, and so the age of a reader's floor: each checkpoint costs one state vector.
const CHECKPOINT_EVERY: u64 = 256;

/// A load has this many copies of a document: what is stored, and what is built from it.
const LOAD_FACTOR: usize = 2;

/// A message in a document's inbox.
#[derive(Debug)]
pub(crate) enum Envelope {
    /// A session opens the document.
    Open {
        /// Lease of the session.
        lease: LeaseId,
        /// The session's outbox.
        outbox: Arc<Outbox>,
        /// Encodes its frames.
        encoder: Box<dyn Encoder>,
        /// Number of documents the session has open, this one included.
        documents: usize,
    },
    /// Memory is scarce: leave memory if no session has the document open, else free what can be freed once
    /// it is quiet.
    FreeMemory,
    /// The session's socket has drained after frames were dropped.
    Resync {
        /// Lease of the session.
        lease: LeaseId,
    },
    /// The session leaves the document.
    Leave {
        /// Lease of the session.
        lease: LeaseId,
    },
    /// Any other event of a session. The reservation holds a large event's bytes in the inbox's limit.
    Session(LeaseId, SessionEvent, Option<BytePermit>),
}

/// How a document's task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskEnd {
    /// The document was idle, everything is on disk and `try_retire` agreed.
    Retired,
    /// The inbox was closed; everything is on disk, or storage has failed.
    Stopped,
    /// The document could not be loaded; nothing was changed.
    NotLoaded,
}

struct Task {
    name: DocumentName,
    core: Core,
    readers: Readers,
    log: DocumentLog,
    options: Arc<DocumentOptions>,
    metrics: Arc<Metrics>,
    /// Filled by the core, drained by `execute`.
    effects: Vec<Effect>,
    /// Filled and drained by `execute`.
    outgoing: OutgoingFrames,
    snapshots: SnapshotSchedule,
    next_checkpoint: Seq,
    idle: IdleTimers,
    /// The last batch had more than one event.
    is_busy: bool,
    usage: Arc<Usage>,
}

/// Loads the document and runs it until it ends. `try_retire` is called when the document has been idle; it
/// must refuse if a session has arrived in the meantime.
pub(crate) async fn run(
    name: DocumentName,
    mut inbox: Receiver,
    log: Log,
    options: Arc<DocumentOptions>,
    metrics: Arc<Metrics>,
    usage: Arc<Usage>,
    try_retire: impl Fn(&Receiver) -> bool,
) -> TaskEnd {
    // Rare, large futures are boxed, here and below: every document would pay for the largest one all the
    // time.
    let give_up = options.give_up.clone();
    let loading = Box::pin(Task::load(name.clone(), log, options, Arc::clone(&metrics), usage));
    let mut task = match give_up.run_until_cancelled(loading).await {
        Some(Ok(task)) => task,
        None => return TaskEnd::Stopped,
        Some(Err(failure)) => {
            match failure {
                LoadError::Deleted => debug!(document = name.as_str(), "refused to open a deleted document"),
                LoadError::NoRoom(_) => {
                    metrics.documents_refused.inc();
                    debug!(document = name.as_str(), "document refused: memory limit for open documents reached");
                }
                _ => {
                    metrics.loads_failed.inc();
                    error!(
                        document = name.as_str(), %failure,
                        "document could not be loaded; its sessions are refused, nothing was changed"
                    )
                }
            }
            Box::pin(refuse_sessions(&mut inbox, &failure.close(), metrics)).await;
            return TaskEnd::NotLoaded;
        }
    };
    let ended = task.run(&mut inbox, try_retire).await;
    debug!(document = name.as_str(), seq = %task.core.last(), ?ended, "document leaves memory");
    ended
}

/// Closes all sessions that are waiting for the document or arrive later: it is unavailable.
async fn refuse_sessions(inbox: &mut Receiver, close: &Close, metrics: Arc<Metrics>) {
    inbox.close();
    let mut readers = Readers::new(metrics);
    let mut batch = VecDeque::new();
    loop {
        inbox.receive(&mut batch).await;
        if batch.is_empty() {
            return readers.close_all(close);
        }
        for envelope in batch.drain(..) {
            if let Envelope::Open { lease, outbox, encoder, .. } = envelope {
                readers.add(lease, outbox, encoder);
            }
        }
    }
}

/// Fills `batch` with the next events, unless it still has earlier ones.
async fn receive(inbox: &mut Receiver, batch: &mut VecDeque<Envelope>) {
    if batch.is_empty() {
        inbox.receive(batch).await;
    }
}

impl Task {
    async fn load(
        name: DocumentName,
        log: Log,
        options: Arc<DocumentOptions>,
        metrics: Arc<Metrics>,
        usage: Arc<Usage>,
    ) -> Result<Box<Self>, LoadError> {
        // Until its memory is reported.
        let _reservation = usage.reserve(options.hub_limits.bytes.saturating_mul(LOAD_FACTOR)).await?;
        let Loaded { document: mut loaded, records, record_bytes, snapshot_bytes } =
            load(&log, &name, &options.draw).await?;
        if loaded.document.pending_len() > 0 {
            warn!(
                document = name.as_str(),
                pending = loaded.document.pending_len(),
                "the log contains pending updates with missing dependencies; every client is asked for them"
            );
        }
        loaded.document.count_superseded(options.superseded.clone());
        let Cursor { epoch, seq: last } = loaded.newest;
        debug!(document = name.as_str(), seq = %last, records, "document loaded");
        let (pending_records, pending_bytes) = (loaded.document.pending_len() as u64, loaded.document.pending_bytes());
        let limits = CoreLimits { hub: options.hub_limits, awareness_bytes: options.awareness_bytes };
        let core = Core::new(loaded, limits);
        let mut readers = Readers::new(Arc::clone(&metrics));
        readers.set_checkpoint(core.known());
        // Boxed, or the future would hold it twice: once being built, once in use.
        let task = Box::new(Self {
            log: log.document(name.clone(), epoch, last),
            core,
            readers,
            name,
            options,
            metrics,
            effects: Vec::new(),
            outgoing: OutgoingFrames::default(),
            // What is pending stays in the records.
            snapshots: SnapshotSchedule::new(
                records.saturating_sub(pending_records),
                record_bytes.saturating_sub(pending_bytes),
                snapshot_bytes,
            ),
            next_checkpoint: Seq(last.0 + CHECKPOINT_EVERY),
            idle: IdleTimers::new(last),
            is_busy: false,
            usage,
        });
        task.report_usage();
        Ok(task)
    }

    async fn run(&mut self, inbox: &mut Receiver, try_retire: impl Fn(&Receiver) -> bool) -> TaskEnd {
        let mut batch = VecDeque::new();
        // Storage may have failed before this document was opened.
        self.update_durable();
        let mut timer = pin!(sleep_until(self.idle.next_tick(&self.core, &self.options)));
        loop {
            let may_take_events = self.may_take_events();
            tokio::select! {
                // Biased: durable positions arrive no faster than commits, so they cannot starve events.
                biased;
                _ = self.log.changed() => self.update_durable(),
                () = receive(inbox, &mut batch), if may_take_events => {
                    if batch.is_empty() {
                        Box::pin(self.finish()).await;
                        return TaskEnd::Stopped;
                    }
                    self.is_busy = batch.len() > 1;
                    let is_used = self.handle_batch(&mut batch);
                    self.end_turn();
                    if is_used {
                        self.idle.note_used();
                    }
                    self.after_batch();
                    // Only moved earlier: what the timer is for is checked when it fires.
                    let tick = self.idle.next_tick(&self.core, &self.options);
                    if tick < timer.deadline() {
                        timer.as_mut().reset(tick);
                    }
                }
                () = &mut timer, if batch.is_empty() => {
                    if self.idle.may_leave(&self.core, &self.options) {
                        Point::UnloadBegun.pass();
                        Box::pin(self.finish()).await;
                        Point::UnloadSettled.pass();
                        if try_retire(inbox) {
                            return TaskEnd::Retired;
                        }
                        self.idle.note_stays();
                    }
                    if self.idle.may_free_memory(&self.core, &self.options) {
                        self.free_memory();
                        self.idle.note_freed();
                    }
                    timer.as_mut().reset(self.idle.next_tick(&self.core, &self.options));
                }
            }
        }
    }

    /// Writes a snapshot if it is worth it, and waits until everything is on disk.
    async fn finish(&mut self) {
        if self.is_worth_compacting() && !self.options.give_up.is_cancelled() {
            self.compact();
        }
        self.update_durable();
        while !self.core.is_settled() {
            self.log.changed().await;
            self.update_durable();
        }
    }

    /// True if a snapshot is worth making while the document is not in use.
    fn is_worth_compacting(&self) -> bool {
        self.snapshots.is_worth_it_when_idle(&self.options.compaction, self.pending_size())
    }

    fn pending_size(&self) -> PendingSize {
        PendingSize { records: self.core.pending_records(), bytes: self.core.pending_bytes() }
    }

    /// Replaces the records by one snapshot.
    fn compact(&mut self) {
        self.handle(Event::Compact);
        self.execute();
    }

    fn report_usage(&self) {
        self.usage.report(self.core.memory_bytes(), self.core.is_minimal(), self.idle.used());
    }

    /// Frees memory after a quiet period; a snapshot makes the next load fast.
    fn free_memory(&mut self) {
        if self.is_worth_compacting() {
            self.compact();
        }
        self.handle(Event::MakeDormant);
        self.outgoing = OutgoingFrames::default();
        self.report_usage();
    }

    /// Passes an event to the core. Its effects are executed by `execute` or `end_turn`.
    fn handle(&mut self, event: Event) {
        block_in_place_if(self.core.takes_long(&event), || self.core.handle(event, &mut self.effects));
    }

    fn after_batch(&mut self) {
        self.idle.note_last(self.core.last());
        if self.core.last() >= self.next_checkpoint {
            self.next_checkpoint = Seq(self.core.last().0 + CHECKPOINT_EVERY);
            self.readers.set_checkpoint(self.core.known());
        }
        // A snapshot queues as much as the document has.
        if self.snapshots.is_due(&self.options.compaction, self.pending_size()) && self.log.has_room() {
            self.compact();
        }
        self.report_usage();
    }

    fn update_durable(&mut self) {
        let durable = self.log.durable();
        Point::BeforeAck.pass();
        self.handle(Event::Durable { upto: durable.upto });
        if durable.failed {
            self.handle(Event::StorageFailed);
        }
        self.execute();
    }
}

#[cfg(test)]
mod tests;
