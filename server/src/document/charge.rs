//! How much work each session makes of a document, and heavy work apart from others.
//!
//! A few bytes can be seconds of work for a CRDT, depending on the document they meet, and no scan can tell. So every
//! event is timed. After one that took long, events run where they hold up nobody else's task (the runtime moves those
//! to another thread), and their processor time is charged to the session that sent them. Who has used up its allowance
//! is closed with 4529.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use syncline_protocol::close::Close;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::core::Core;
use super::event::{Effect, Event};
use crate::ids::LeaseId;

/// An event that takes longer is heavy: so long other documents on its thread may wait.
const HEAVY: Duration = Duration::from_millis(5);
/// An event of more bytes may be heavy.
const LARGE_BYTES: usize = 32 * 1024;
/// Events after a heavy one that are watched.
const WATCHED_EVENTS: u32 = 1_000;
/// What a session may use at once.
const ALLOWANCE: Duration = Duration::from_secs(10);
/// And how much of each second more.
const SHARE: f64 = 0.2;

/// The work of one document's sessions.
#[derive(Debug, Default)]
pub(super) struct Charge {
    /// Watched events to come.
    watch: u32,
    /// What each session has used and not yet been forgiven. Only of those that made heavy work.
    used: HashMap<LeaseId, (Duration, Instant)>,
}

impl Charge {
    /// Lets the document handle an event. An error when its session has made too much work.
    pub(super) fn handle(&mut self, core: &mut Core, event: Event, effects: &mut Vec<Effect>) -> Result<(), Close> {
        let lease = event.lease();
        let is_suspect = self.watch > 0 || bytes_of(&event) > LARGE_BYTES;
        let began = Instant::now();
        if !is_suspect {
            core.handle(event, effects);
            if began.elapsed() > HEAVY {
                self.watch = WATCHED_EVENTS;
            }
            return Ok(());
        }
        self.watch = self.watch.saturating_sub(1);
        let work = apart(|| {
            let before = processor_time();
            core.handle(event, effects);
            processor_time().saturating_sub(before)
        });
        if work > HEAVY {
            self.watch = WATCHED_EVENTS;
            return self.charge(lease, work, began);
        }
        Ok(())
    }

    fn charge(&mut self, lease: LeaseId, work: Duration, now: Instant) -> Result<(), Close> {
        let (used, at) = self.used.entry(lease).or_insert((Duration::ZERO, now));
        *used = used.saturating_sub(now.duration_since(*at).mul_f64(SHARE)) + work;
        *at = now;
        if *used <= ALLOWANCE {
            return Ok(());
        }
        Err(Close::TooMany("the edits of this connection cost this server too much work".into()))
    }

    pub(super) fn forget(&mut self, lease: LeaseId) {
        self.used.remove(&lease);
    }
}

fn bytes_of(event: &Event) -> usize {
    match event {
        Event::Update { update, .. } => update.len(),
        Event::Step1 { state_vector, .. } => state_vector.len(),
        _ => 0,
    }
}

/// Of this thread: what others make it wait for is nobody's work.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Runs heavy work while the other tasks of this thread go on elsewhere.
pub(super) fn apart<R>(work: impl FnOnce() -> R) -> R {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_used_up_and_comes_back_with_time() {
        let mut charge = Charge::default();
        let (one, other, start) = (LeaseId(1), LeaseId(2), Instant::now());
        for _ in 0..5 {
            assert!(charge.charge(one, Duration::from_secs(2), start).is_ok());
        }
        assert!(charge.charge(one, Duration::from_millis(10), start).is_err());
        assert!(charge.charge(other, Duration::from_secs(2), start).is_ok(), "each has its own");
        let later = start + Duration::from_secs(20);
        assert!(charge.charge(one, Duration::from_secs(3), later).is_ok());
        assert!(charge.charge(one, Duration::from_secs(2), later).is_err());
    }
}
