//! The I/O shell around [`Core`]: one Tokio task per open document, which feeds events in and executes
//! effects.
//!
//! Waiting goes one way: sessions wait for this task's inbox, this task waits for the log. The log publishes
//! its durable position as a watched value and never waits. The task ends when its document has been idle (no
//! leases, nothing on its way to the disk) or when the registry closes its inbox; in both cases everything is
//! on disk first.

mod batch;
mod storing;
mod turn;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use syncline_protocol::close::Close;
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::native::Cursor;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

use super::block_in_place::block_in_place_if;
use super::coalesce::OutgoingFrames;
use super::core::{Core, CoreLimits};
use super::encoder::Encoder;
use super::event::{Effect, Event, SessionEvent};
use super::inbox::{BytePermit, Receiver};
use super::load::{LoadError, Loaded, load};
use super::options::{Compaction, DocumentOptions};
use super::readers::Readers;
use super::usage::Usage;
use crate::ids::LeaseId;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use syncline_log::failpoint::Point;
use syncline_log::{DocumentLog, Log};

/// The larger the last snapshot, the more records are kept before the next: it may cost each of them at most
/// this many bytes.
const SNAPSHOT_BYTES_PER_RECORD: usize = 128;
/// Used where there is no deadline.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Quiet period after which a document frees memory when memory is scarce.
const QUIET_UNDER_PRESSURE: Duration = Duration::from_secs(1);
/// Pause before a document that could not leave memory tries again, unless an event arrives earlier.
const RETIRE_RETRY: Duration = Duration::from_millis(100);
/// Records between checkpoints, and so the age of a reader's floor: each checkpoint costs one state vector.
const CHECKPOINT_EVERY: u64 = 256;

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
    records_since_snapshot: u64,
    bytes_since_snapshot: usize,
    snapshot_bytes: usize,
    next_checkpoint: Seq,
    /// Times of the last event and of the last change, and the newest sequence number at that time. Set by
    /// `after_batch`.
    active: Instant,
    changed: Instant,
    last_seen: Seq,
    /// The last batch had more than one event.
    is_busy: bool,
    /// [`Envelope::FreeMemory`] arrived and has not been acted on.
    must_free_memory: bool,
    /// The document could not leave memory: a session holds a lease that it has not used or has not released
    /// yet.
    has_unused_lease: bool,
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

impl Task {
    async fn load(
        name: DocumentName,
        log: Log,
        options: Arc<DocumentOptions>,
        metrics: Arc<Metrics>,
        usage: Arc<Usage>,
    ) -> Result<Box<Self>, LoadError> {
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
            records_since_snapshot: records.saturating_sub(pending_records),
            bytes_since_snapshot: record_bytes.saturating_sub(pending_bytes),
            snapshot_bytes,
            next_checkpoint: Seq(last.0 + CHECKPOINT_EVERY),
            active: Instant::now(),
            changed: Instant::now(),
            last_seen: last,
            is_busy: false,
            must_free_memory: false,
            has_unused_lease: false,
            usage,
        });
        task.report_usage();
        Ok(task)
    }

    async fn run(&mut self, inbox: &mut Receiver, try_retire: impl Fn(&Receiver) -> bool) -> TaskEnd {
        let mut batch = VecDeque::new();
        // Storage may have failed before this document was opened.
        self.update_durable().await;
        let mut timer = pin!(sleep_until(self.next_tick()));
        loop {
            tokio::select! {
                // Biased: durable positions arrive no faster than commits, so they cannot starve events.
                biased;
                _ = self.log.durable_changed() => self.update_durable().await,
                () = inbox.receive(&mut batch), if !self.core.must_wait_for_disk() => {
                    if batch.is_empty() {
                        Box::pin(self.finish()).await;
                        return TaskEnd::Stopped;
                    }
                    self.is_busy = batch.len() > 1;
                    let is_used = self.handle_batch(&mut batch).await;
                    self.end_turn().await;
                    if is_used {
                        self.active = Instant::now();
                        self.has_unused_lease = false;
                    }
                    self.after_batch().await;
                    // Only moved earlier: what the timer is for is checked when it fires.
                    let tick = self.next_tick();
                    if tick < timer.deadline() {
                        timer.as_mut().reset(tick);
                    }
                }
                () = &mut timer => {
                    if self.core.lease_count() == 0 && self.active.elapsed() >= self.idle() {
                        Point::UnloadBegun.pass();
                        Box::pin(self.finish()).await;
                        Point::UnloadSettled.pass();
                        if try_retire(inbox) {
                            return TaskEnd::Retired;
                        }
                        self.active = Instant::now();
                        self.has_unused_lease = true;
                        self.must_free_memory = false;
                    }
                    if self.can_free_memory() && self.changed.elapsed() >= self.quiet() {
                        Box::pin(self.free_memory()).await;
                        self.must_free_memory = false;
                    }
                    timer.as_mut().reset(self.next_tick());
                }
            }
        }
    }

    /// Writes a snapshot if it is worth it, and waits until everything is on disk.
    async fn finish(&mut self) {
        if self.is_worth_compacting(self.options.compaction.idle_records) && !self.options.give_up.is_cancelled() {
            self.compact().await;
        }
        self.settle().await;
    }

    /// True if at least `records` follow the last snapshot. What is pending is written again by each snapshot, in records of its
    /// own: the more it is, the more records are kept before the next.
    fn is_worth_compacting(&self, records: u64) -> bool {
        let pending = self.core.pending_records().max(self.core.pending_bytes() / SNAPSHOT_BYTES_PER_RECORD);
        self.records_since_snapshot >= records.max(pending as u64)
    }

    /// The next time at which there may be work without an event.
    fn next_tick(&self) -> Instant {
        let idle = (self.core.lease_count() == 0).then(|| self.active + self.idle());
        let quiet = self.can_free_memory().then(|| self.changed + self.quiet());
        idle.into_iter().chain(quiet).min().unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// How long the document stays in memory without a lease. One without records leaves immediately.
    fn idle(&self) -> Duration {
        match self.must_free_memory || self.core.last() == Seq::ZERO {
            true if self.has_unused_lease => self.options.idle.min(RETIRE_RETRY),
            true => Duration::ZERO,
            false => self.options.idle,
        }
    }

    /// True if there is memory to free while nothing changes: deleted content, and under memory pressure also
    /// caches for joining clients.
    fn can_free_memory(&self) -> bool {
        if self.must_free_memory { !self.core.is_minimal() } else { !self.core.is_dormant() }
    }

    /// Quiet period after which it frees memory.
    fn quiet(&self) -> Duration {
        if self.must_free_memory { self.options.quiet.min(QUIET_UNDER_PRESSURE) } else { self.options.quiet }
    }

    fn report_usage(&self) {
        self.usage.report(self.core.memory_bytes(), self.core.is_minimal(), self.active);
    }

    /// Frees memory after a quiet period; a snapshot makes the next load fast.
    async fn free_memory(&mut self) {
        if self.is_worth_compacting(self.options.compaction.idle_records) {
            self.compact().await;
        }
        self.handle(Event::MakeDormant);
        self.outgoing = OutgoingFrames::default();
        self.report_usage();
    }

    /// Passes an event to the core. Its effects are executed by `execute` or `end_turn`.
    fn handle(&mut self, event: Event) {
        block_in_place_if(self.core.takes_long(&event), || self.core.handle(event, &mut self.effects));
    }

    async fn after_batch(&mut self) {
        if self.core.last() != self.last_seen {
            (self.last_seen, self.changed) = (self.core.last(), self.active);
        }
        if self.core.last() >= self.next_checkpoint {
            self.next_checkpoint = Seq(self.core.last().0 + CHECKPOINT_EVERY);
            self.readers.set_checkpoint(self.core.known());
        }
        let Compaction { records, bytes, .. } = self.options.compaction;
        let records = records.max((self.snapshot_bytes / SNAPSHOT_BYTES_PER_RECORD) as u64);
        let bytes = bytes.max(self.snapshot_bytes + self.core.pending_bytes());
        if self.is_worth_compacting(records) || self.bytes_since_snapshot >= bytes {
            Box::pin(self.compact()).await;
        }
        self.report_usage();
    }

    async fn update_durable(&mut self) {
        let durable = self.log.durable();
        Point::BeforeAck.pass();
        self.handle(Event::Durable { upto: durable.upto });
        if durable.failed {
            self.handle(Event::StorageFailed);
        }
        self.execute().await;
    }
}

#[cfg(test)]
mod tests;
