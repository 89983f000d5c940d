//! State shared by the writers, the readers and the observer of a run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::link::Target;
use super::plan::Plan;

/// One run. Many tasks write the counters; the observer reads them.
pub struct Run {
    /// The edits to send.
    pub plan: Arc<Plan>,
    /// The document and its server.
    pub target: Target,
    /// Maximum number of edits per second.
    pub rate: Option<f64>,
    /// Number of an edit that is not sent, to prove that the checks fail.
    pub leave_out: Option<usize>,
    /// Permits for edits in flight, which have not reached every reader; `None`: no limit.
    pub window: Option<Semaphore>,
    /// Number of edits that have arrived at the first reader without a gap. Written by that reader.
    pub first_reader: watch::Sender<u32>,
    /// True when all tasks should end. Written by the observer.
    pub stop: watch::Sender<bool>,
    /// Number of edits received, summed over all readers.
    pub arrivals: AtomicU64,
    /// Number of edits sent.
    pub sent: AtomicU64,
    /// Time of the last arrival, in nanoseconds since the start.
    pub last_arrival_ns: AtomicU64,
    begin: Instant,
    /// Time at which each edit was sent, in nanoseconds since the start; 0: not sent.
    sent_ns: Vec<AtomicU64>,
    /// Number of readers that lack each edit.
    lacking: Vec<AtomicU32>,
}

impl Run {
    /// `in_flight`: maximum number of edits in flight; 0: no limit.
    pub fn new(plan: Arc<Plan>, target: Target, readers: usize, in_flight: usize) -> Self {
        Self {
            target,
            rate: None,
            leave_out: None,
            window: (in_flight > 0).then(|| Semaphore::new(in_flight)),
            first_reader: watch::Sender::new(0),
            stop: watch::Sender::new(false),
            arrivals: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            last_arrival_ns: AtomicU64::new(0),
            begin: Instant::now(),
            sent_ns: plan.edits.iter().map(|_| AtomicU64::new(0)).collect(),
            lacking: plan.edits.iter().map(|_| AtomicU32::new(readers as u32)).collect(),
            plan,
        }
    }

    /// Sets the start time to now.
    pub fn restart_clock(&mut self) {
        self.begin = Instant::now();
    }

    /// Time at which edit `index` is due under the rate limit.
    pub fn due(&self, index: usize) -> Option<Instant> {
        self.rate.map(|rate| self.begin + Duration::from_secs_f64(index as f64 / rate))
    }

    /// Records that an edit is handed to a socket.
    pub fn record_send(&self, index: u32) {
        self.sent_ns[index as usize].store(self.now_ns(), Ordering::Relaxed);
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that an edit arrived at a reader; returns the time since it was sent.
    pub fn record_arrival(&self, index: u32) -> Option<Duration> {
        let now = self.now_ns();
        self.arrivals.fetch_add(1, Ordering::Relaxed);
        self.last_arrival_ns.fetch_max(now, Ordering::Relaxed);
        if self.lacking[index as usize].fetch_sub(1, Ordering::Relaxed) == 1
            && let Some(window) = &self.window
        {
            window.add_permits(1);
        }
        self.since_sent(index, now)
    }

    /// Time since an edit was sent; `None` when it was not sent (two writers deleted the same character, and the other's
    /// deletion arrived first).
    pub fn age(&self, index: u32) -> Option<Duration> {
        self.since_sent(index, self.now_ns())
    }

    fn since_sent(&self, index: u32, now_ns: u64) -> Option<Duration> {
        match self.sent_ns[index as usize].load(Ordering::Relaxed) {
            0 => None,
            sent => Some(Duration::from_nanos(now_ns.saturating_sub(sent))),
        }
    }

    fn now_ns(&self) -> u64 {
        self.begin.elapsed().as_nanos() as u64
    }

    /// Waits until the observer stops the run.
    pub async fn stopped(&self) {
        // The sender lives as long as the run.
        drop(self.stop.subscribe().wait_for(|stop| *stop).await);
    }
}
