//! What writers, readers and the observer of a run share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::link::Target;
use super::plan::Plan;

/// One run. Counters are added to by many tasks and read by the observer.
pub struct Run {
    /// What is sent.
    pub plan: Arc<Plan>,
    /// To whom.
    pub target: Target,
    /// Edits in a second, if limited.
    pub rate: Option<f64>,
    /// An edit (by number) that is left out, to see the checks fail.
    pub leave_out: Option<usize>,
    /// Room for edits that have not arrived everywhere; None: as fast as possible.
    pub window: Option<Semaphore>,
    /// Edits that have arrived at the first reader without a gap. Written by that reader.
    pub first_reader: watch::Sender<u32>,
    /// True when everybody should go home. Written by the observer.
    pub stop: watch::Sender<bool>,
    /// Arrivals, all readers together.
    pub arrivals: AtomicU64,
    /// Edits sent.
    pub sent: AtomicU64,
    /// When the last one arrived, in nanoseconds since the start.
    pub last_arrival_ns: AtomicU64,
    begin: Instant,
    /// For each edit, when it was sent; 0 while it was not.
    sent_ns: Vec<AtomicU64>,
    /// For each edit, how many readers lack it.
    lacking: Vec<AtomicU32>,
}

impl Run {
    /// `in_flight` 0 is as fast as possible.
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

    /// Starts the clock.
    pub fn restart_clock(&mut self) {
        self.begin = Instant::now();
    }

    /// When edit `index` is due under the rate limit.
    pub fn due(&self, index: usize) -> Option<Instant> {
        self.rate.map(|rate| self.begin + Duration::from_secs_f64(index as f64 / rate))
    }

    /// An edit is handed to a socket.
    pub fn sends(&self, index: u32) {
        self.sent_ns[index as usize].store(self.now_ns(), Ordering::Relaxed);
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// An edit has come to a reader; gives the time since it was sent.
    pub fn arrives(&self, index: u32) -> Option<Duration> {
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

    /// The time since an edit was sent; None when it was not (two people deleted the same character, and the other
    /// was faster).
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

    /// Ends when the observer says stop.
    pub async fn stopped(&self) {
        // The sender lives as long as the run.
        drop(self.stop.subscribe().wait_for(|stop| *stop).await);
    }
}
