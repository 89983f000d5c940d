//! The shell around [`Core`]: one Tokio task per open document. Inbox in, effects out.
//!
//! Waiting goes one way: sessions wait for this task's inbox, this task waits for the log. The log's answer is a
//! watched number and never waits. A task ends when its document has been idle (nobody holds a lease, nothing is
//! on its way to the disk) or when the registry closes its inbox; both times everything is on disk first.

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

/// A snapshot of a large document waits for more records: it costs each of them at most so many of its bytes.
const SNAPSHOT_BYTES_PER_RECORD: usize = 128;
/// Long after everything.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// When memory is scarce a document drops what it can after so long without a change.
const PRESSED_QUIET: Duration = Duration::from_secs(1);
/// A document that could not leave tries again after so long, or when something comes.
const EXPECTED_IDLE: Duration = Duration::from_millis(100);
/// A reader's floor is at most this many records old: each checkpoint costs one state vector.
const CHECKPOINT_EVERY: u64 = 256;

/// One event on its way to the document.
#[derive(Debug)]
pub enum Envelope {
    /// A session begins; its outbox comes along.
    Open {
        /// Its lease.
        lease: LeaseId,
        /// Where its frames go.
        outbox: Arc<Outbox>,
        /// How they are written.
        framing: Framing,
        /// How many documents the session has open, with this one.
        documents: usize,
    },
    /// Memory is scarce: leave when nobody has the document open, drop what can be dropped when it is quiet.
    Relieve,
    /// Anything else. The room stands for the bytes of a large event in the inbox.
    Event(Event, Option<Room>),
}

/// Why a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything is on disk and `try_retire` agreed.
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
    /// Filled by the core, emptied by `execute`.
    effects: Vec<Effect>,
    /// Filled and emptied by `execute`.
    unsent: Unsent,
    records_since_snapshot: u64,
    bytes_since_snapshot: usize,
    snapshot_bytes: usize,
    next_checkpoint: Seq,
    /// When something was said last, when something changed, and what was the newest record then. By `after_batch`.
    active: Instant,
    changed: Instant,
    seen: Seq,
    storage_failed: bool,
    /// More than one event was waiting when it looked last.
    is_busy: bool,
    /// [`Envelope::Relieve`] came, and nothing has been done about it.
    is_pressed: bool,
    /// A session has a lease that it has not used or has not given back: the document could not leave.
    is_expected: bool,
    usage: Arc<Usage>,
}

/// Loads the document and runs it to its end. `try_retire` is asked when it has been idle: it must refuse when a
/// session has come in the meantime.
pub async fn run(
    name: DocumentName,
    mut inbox: Receiver,
    log: Log,
    options: Arc<DocumentOptions>,
    metrics: Arc<Metrics>,
    usage: Arc<Usage>,
    try_retire: impl Fn(&Receiver) -> bool,
) -> Ended {
    // Rare and large futures are boxed, here and below: each document pays for the largest all the time.
    let give_up = options.give_up.clone();
    let loading = Box::pin(Task::load(name.clone(), log, options, Arc::clone(&metrics), usage));
    let mut task = match give_up.run_until_cancelled(loading).await {
        Some(Ok(task)) => task,
        None => return Ended::Stopped,
        Some(Err(failure)) => {
            match failure {
                LoadError::Deleted => debug!(document = name.as_str(), "a deleted document was asked for"),
                _ => {
                    metrics.loads_failed.inc();
                    error!(document = name.as_str(), %failure, "document could not be loaded; its sessions are refused, nothing was changed")
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

/// Tells whoever waits, and whoever still comes, that the document is not to be had now.
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
                "updates in the log wait for others that never came; every client is asked for them"
            );
        }
        document.count_superseded(options.superseded.clone());
        let last = newest.seq;
        debug!(document = name.as_str(), seq = %last, records, "document loaded");
        let core =
            Core::new(document, newest, options.holds).with_presence_limit(options.presence_bytes).with_tail(tail);
        let mut readers = Readers::new(name.clone(), Arc::clone(&metrics));
        readers.set_checkpoint(core.known());
        // In a box, or it would lie in the future once as it comes and once as it stays.
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
        // The log may have failed before this document was opened.
        self.take_durable().await;
        let mut clock = pin!(sleep_until(self.next_tick()));
        loop {
            tokio::select! {
                // In this order: the disk's answers come no faster than its commits, so events are not starved by them.
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
                    // Moved only when it would ring too late: what it rings for is looked at then.
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

    /// Everything on disk, and a snapshot if it is worth while.
    async fn finish(&mut self) {
        if self.records_since_snapshot >= self.options.compaction.idle_records && !self.options.give_up.is_cancelled() {
            self.compact().await;
        }
        self.settle().await;
    }

    /// When there may be something to do although nothing is said.
    fn next_tick(&self) -> Instant {
        let idle = (self.core.lease_count() == 0).then(|| self.active + self.idle());
        let quiet = self.may_rest().then(|| self.changed + self.quiet());
        idle.into_iter().chain(quiet).min().unwrap_or_else(|| Instant::now() + NEVER)
    }

    /// How long it stays without a lease. One without records has nothing to keep.
    fn idle(&self) -> Duration {
        match self.is_pressed || self.core.last() == Seq::ZERO {
            true if self.is_expected => self.options.idle.min(EXPECTED_IDLE),
            true => Duration::ZERO,
            false => self.options.idle,
        }
    }

    /// True when it has something to give up while nothing changes: deleted content, under pressure also what is kept for those who join.
    fn may_rest(&self) -> bool {
        if self.is_pressed { !self.core.is_minimal() } else { !self.core.is_resting() }
    }

    /// How long nothing changes until it drops what it can.
    fn quiet(&self) -> Duration {
        if self.is_pressed { self.options.quiet.min(PRESSED_QUIET) } else { self.options.quiet }
    }

    fn report_usage(&self) {
        self.usage.report(self.core.memory_bytes(), self.core.is_minimal(), self.active);
    }

    /// Nothing has changed for a while: a snapshot makes the next load short.
    async fn rest(&mut self) {
        if self.records_since_snapshot >= self.options.compaction.idle_records {
            self.compact().await;
        }
        apart_if(self.core.is_large(), || self.core.rest());
        self.unsent = Unsent::default();
        self.report_usage();
    }

    /// The next event of which the core is to hear.
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
                    // A native session says from where it goes on: `Event::Resume`.
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
                // Frames of earlier events in this batch must not come after the diff that contains them.
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
