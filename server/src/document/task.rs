//! The I/O shell around [`Core`]: one Tokio task per open document, which feeds events in and executes
//! effects.
//!
//! Waiting goes one way: sessions wait for this task's inbox, this task waits for the log. The log publishes
//! its durable position as a watched value and never waits. The task ends when its document has been idle (no
//! leases, nothing on its way to the disk) or when the registry closes its inbox; in both cases everything is
//! on disk first.

mod storing;
mod turn;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use syncline_protocol::close::Close;
use syncline_protocol::ids::{DocumentName, Seq};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

use super::apart::apart_if;
use super::core::Core;
use super::event::{Acks, Effect, Event};
use super::frame::Framing;
use super::inbox::{Receiver, Room};
use super::load::{LoadError, Loaded, load};
use super::merge::Unsent;
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
/// Stands for no deadline.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Quiet period after which a document frees memory when memory is scarce.
const PRESSED_QUIET: Duration = Duration::from_secs(1);
/// Pause before a document that could not leave memory tries again, unless an event arrives earlier.
const EXPECTED_IDLE: Duration = Duration::from_millis(100);
/// Records between checkpoints, and so the age of a reader's floor: each checkpoint costs one state vector.
const CHECKPOINT_EVERY: u64 = 256;

/// A message in a document's inbox.
#[derive(Debug)]
pub enum Envelope {
    /// A session opens the document.
    Open {
        /// Lease of the session.
        lease: LeaseId,
        /// The session's outbox.
        outbox: Arc<Outbox>,
        /// How its frames are encoded.
        framing: Framing,
        /// Number of documents the session has open, this one included.
        documents: usize,
    },
    /// Memory is scarce: leave memory if no session has the document open, else free what can be freed once
    /// it is quiet.
    Relieve,
    /// Any other event. The reservation holds a large event's bytes in the inbox's limit.
    Event(Event, Option<Room>),
}

/// How a document's task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
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
    unsent: Unsent,
    records_since_snapshot: u64,
    bytes_since_snapshot: usize,
    snapshot_bytes: usize,
    next_checkpoint: Seq,
    /// Times of the last event and of the last change, and the newest sequence number at that time. Set by
    /// `after_batch`.
    active: Instant,
    changed: Instant,
    seen: Seq,
    storage_failed: bool,
    /// The last batch had more than one event.
    is_busy: bool,
    /// [`Envelope::Relieve`] arrived and has not been acted on.
    is_pressed: bool,
    /// The document could not leave memory: a session holds a lease that it has not used or has not released
    /// yet.
    is_expected: bool,
    usage: Arc<Usage>,
}

/// Loads the document and runs it until it ends. `try_retire` is called when the document has been idle; it
/// must refuse if a session has arrived in the meantime.
pub async fn run(
    name: DocumentName,
    mut inbox: Receiver,
    log: Log,
    options: Arc<DocumentOptions>,
    metrics: Arc<Metrics>,
    usage: Arc<Usage>,
    try_retire: impl Fn(&Receiver) -> bool,
) -> Ended {
    // Rare, large futures are boxed, here and below: every document would pay for the largest one all the
    // time.
    let give_up = options.give_up.clone();
    let loading = Box::pin(Task::load(name.clone(), log, options, Arc::clone(&metrics), usage));
    let mut task = match give_up.run_until_cancelled(loading).await {
        Some(Ok(task)) => task,
        None => return Ended::Stopped,
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
            Box::pin(refuse(&name, &mut inbox, &failure.close(), metrics)).await;
            return Ended::NotLoaded;
        }
    };
    let ended = task.run(&mut inbox, try_retire).await;
    debug!(document = name.as_str(), seq = %task.core.last(), ?ended, "document leaves memory");
    ended
}

/// Closes all sessions that are waiting for the document or arrive later: it is unavailable.
async fn refuse(name: &DocumentName, inbox: &mut Receiver, close: &Close, metrics: Arc<Metrics>) {
    inbox.close();
    let mut readers = Readers::new(name.clone(), metrics);
    let mut batch = VecDeque::new();
    loop {
        inbox.receive(&mut batch).await;
        if batch.is_empty() {
            return readers.close_all(close);
        }
        for envelope in batch.drain(..) {
            if let Envelope::Open { lease, outbox, framing, .. } = envelope {
                readers.add(lease, outbox, framing);
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
        let Loaded { mut document, newest, tail, records, record_bytes, snapshot_bytes } =
            load(&log, &name, &options.draw).await?;
        if document.pending().len() > 0 {
            warn!(
                document = name.as_str(),
                waiting = document.pending().len(),
                "the log contains pending updates with missing dependencies; every client is asked for them"
            );
        }
        document.count_superseded(options.superseded.clone());
        let last = newest.seq;
        debug!(document = name.as_str(), seq = %last, records, "document loaded");
        let core =
            Core::new(document, newest, options.holds).with_presence_limit(options.presence_bytes).with_tail(tail);
        let mut readers = Readers::new(name.clone(), Arc::clone(&metrics));
        readers.set_checkpoint(core.known());
        // Boxed, or the future would hold it twice: once being built, once in use.
        let task = Box::new(Self {
            log: log.document(name.clone(), newest.epoch, last),
            core,
            readers,
            name,
            options,
            metrics,
            effects: Vec::new(),
            unsent: Unsent::default(),
            records_since_snapshot: records,
            bytes_since_snapshot: record_bytes,
            snapshot_bytes,
            next_checkpoint: Seq(last.0 + CHECKPOINT_EVERY),
            active: Instant::now(),
            changed: Instant::now(),
            seen: last,
            storage_failed: false,
            is_busy: false,
            is_pressed: false,
            is_expected: false,
            usage,
        });
        task.report_usage();
        Ok(task)
    }

    async fn run(&mut self, inbox: &mut Receiver, try_retire: impl Fn(&Receiver) -> bool) -> Ended {
        let mut batch = VecDeque::new();
        let mut is_used = false;
        // Storage may have failed before this document was opened.
        self.take_durable().await;
        let mut clock = pin!(sleep_until(self.next_tick()));
        loop {
            tokio::select! {
                // Biased: durable positions arrive no faster than commits, so they cannot starve events.
                biased;
                _ = self.log.durable_changed() => self.take_durable().await,
                () = inbox.receive(&mut batch), if !self.core.must_wait_for_disk() => {
                    if batch.is_empty() {
                        Box::pin(self.finish()).await;
                        return Ended::Stopped;
                    }
                    self.is_busy = batch.len() > 1;
                    while let Some((event, _room)) = self.next(&mut batch) {
                        self.take(event).await;
                        is_used = true;
                    }
                    self.end_turn().await;
                    if std::mem::take(&mut is_used) {
                        self.active = Instant::now();
                        self.is_expected = false;
                    }
                    self.after_batch().await;
                    // Only moved earlier: what the timer is for is checked when it fires.
                    let tick = self.next_tick();
                    if tick < clock.deadline() {
                        clock.as_mut().reset(tick);
                    }
                }
                () = &mut clock => {
                    if self.core.lease_count() == 0 && self.active.elapsed() >= self.idle() {
                        Point::UnloadBegun.pass();
                        Box::pin(self.finish()).await;
                        Point::UnloadSettled.pass();
                        if try_retire(inbox) {
                            return Ended::Retired;
                        }
                        self.active = Instant::now();
                        self.is_expected = true;
                        self.is_pressed = false;
                    }
                    if self.may_rest() && self.changed.elapsed() >= self.quiet() {
                        Box::pin(self.rest()).await;
                        self.is_pressed = false;
                    }
                    clock.as_mut().reset(self.next_tick());
                }
            }
        }
    }

    /// Writes a snapshot if it is worth it, and waits until everything is on disk.
    async fn finish(&mut self) {
        if self.records_since_snapshot >= self.options.compaction.idle_records && !self.options.give_up.is_cancelled() {
            self.compact().await;
        }
        self.settle().await;
    }

    /// The next time at which there may be work without an event.
    fn next_tick(&self) -> Instant {
        let idle = (self.core.lease_count() == 0).then(|| self.active + self.idle());
        let quiet = self.may_rest().then(|| self.changed + self.quiet());
        idle.into_iter().chain(quiet).min().unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// How long the document stays in memory without a lease. One without records leaves immediately.
    fn idle(&self) -> Duration {
        match self.is_pressed || self.core.last() == Seq::ZERO {
            true if self.is_expected => self.options.idle.min(EXPECTED_IDLE),
            true => Duration::ZERO,
            false => self.options.idle,
        }
    }

    /// True if there is memory to free while nothing changes: deleted content, and under memory pressure also
    /// caches for joining clients.
    fn may_rest(&self) -> bool {
        if self.is_pressed { !self.core.is_minimal() } else { !self.core.is_resting() }
    }

    /// Quiet period after which it frees memory.
    fn quiet(&self) -> Duration {
        if self.is_pressed { self.options.quiet.min(PRESSED_QUIET) } else { self.options.quiet }
    }

    fn report_usage(&self) {
        self.usage.report(self.core.memory_bytes(), self.core.is_minimal(), self.active);
    }

    /// Frees memory after a quiet period; a snapshot makes the next load fast.
    async fn rest(&mut self) {
        if self.records_since_snapshot >= self.options.compaction.idle_records {
            self.compact().await;
        }
        apart_if(self.core.is_large(), || self.core.rest());
        self.unsent = Unsent::default();
        self.report_usage();
    }

    /// The next event for the core.
    fn next(&mut self, batch: &mut VecDeque<Envelope>) -> Option<(Event, Option<Room>)> {
        loop {
            match batch.pop_front()? {
                Envelope::Open { lease, outbox, framing, documents } => {
                    self.core.share_presence(lease, documents);
                    let is_native = matches!(framing, Framing::Native { .. });
                    let is_counted = matches!(framing, Framing::Hocuspocus { .. });
                    self.readers.add(lease, outbox, framing);
                    if !is_native {
                        let acks = if is_counted { Acks::Counted } else { Acks::Each };
                        return Some((Event::Open { lease, acks }, None));
                    }
                    // A native session sends its cursor next: `Event::Resume`.
                }
                Envelope::Relieve => self.is_pressed = true,
                Envelope::Event(event, room) => return Some((event, room)),
            }
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Resync { lease } => {
                self.metrics.resyncs.inc();
                // Frames of earlier events in this batch must not follow the diff that contains them.
                self.execute().await;
                let floor = self.readers.floor(lease);
                apart_if(self.core.is_large(), || self.core.resync(lease, floor.as_deref(), &mut self.effects));
            }
            Event::Leave { lease } => {
                self.execute().await;
                self.readers.remove(lease);
                self.core.handle(event, &mut self.effects);
            }
            Event::Step1 { ref state_vector, .. } => {
                let takes_long = self.core.is_large() && !self.core.has_answer(state_vector);
                apart_if(takes_long, || self.core.handle(event, &mut self.effects));
            }
            event => self.core.handle(event, &mut self.effects),
        }
    }

    async fn after_batch(&mut self) {
        self.metrics.awareness_dropped.inc_by(self.core.take_dropped_states() as u64);
        if self.core.last() != self.seen {
            (self.seen, self.changed) = (self.core.last(), self.active);
        }
        if self.core.last() >= self.next_checkpoint {
            self.next_checkpoint = Seq(self.core.last().0 + CHECKPOINT_EVERY);
            self.readers.set_checkpoint(self.core.known());
        }
        let Compaction { records, bytes, .. } = self.options.compaction;
        let records = records.max((self.snapshot_bytes / SNAPSHOT_BYTES_PER_RECORD) as u64);
        if self.records_since_snapshot >= records || self.bytes_since_snapshot >= bytes.max(self.snapshot_bytes) {
            Box::pin(self.compact()).await;
        }
        self.report_usage();
    }

    async fn take_durable(&mut self) {
        let durable = self.log.durable();
        Point::BeforeAck.pass();
        self.core.durable(durable.upto, &mut self.effects);
        if durable.failed && !self.storage_failed {
            self.storage_failed = true;
            self.core.storage_failed(&mut self.effects);
        }
        self.execute().await;
    }
}
