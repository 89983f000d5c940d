//! How much work each session makes of a document, and heavy work apart from others.
//!
//! A few bytes can be hours of work for a CRDT, depending on the document they meet, and no scan can tell. So every
//! event is timed. What may be much work, and what comes after an event that took long, runs where it holds up nobody else's
//! task (the runtime moves those to another thread), and its processor time is charged to the session that sent it. Who has
//! used up its allowance is closed with 4529. An update that alone is more than an allowance is stopped midway and refused.
//! A server that stops has no time for it either: then the update is dropped, which its author sends again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use syncline_protocol::close::Close;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::event::{Effect, Event};
use crate::ids::LeaseId;

/// An event that takes longer is heavy: so long other documents on its thread may wait.
const HEAVY: Duration = Duration::from_millis(5);
/// An event of more bytes may be heavy.
const LARGE_BYTES: usize = 32 * 1024;
/// Events after a heavy one that are watched.
const WATCHED_EVENTS: u32 = 1_000;
/// What a session may use of each second, besides its allowance.
const SHARE: f64 = 0.2;

/// The work of one document's sessions.
#[derive(Debug)]
pub(super) struct Charge {
    /// What a session may use at once, and one update.
    allowance: Duration,
    /// Cancelled when no work may go on.
    give_up: CancellationToken,
    /// Watched events to come.
    watch: u32,
    /// What each session has used and not yet been forgiven. Only of those that made heavy work.
    used: HashMap<LeaseId, (Duration, Instant)>,
}

impl Charge {
    pub(super) fn new(allowance: Duration, give_up: CancellationToken) -> Self {
        Self { allowance, give_up, watch: 0, used: HashMap::new() }
    }

    /// Lets the document handle an event. An error when its session has made too much work.
    pub(super) fn handle(&mut self, core: &mut Core, event: Event, effects: &mut Vec<Effect>) -> Result<(), Close> {
        let lease = event.lease();
        let is_suspect = self.watch > 0 || bytes_of(&event) > LARGE_BYTES || core.is_much(&event);
        let began = Instant::now();
        if !is_suspect {
            core.handle(event, effects);
            if began.elapsed() > HEAVY {
                self.watch = WATCHED_EVENTS;
            }
            return Ok(());
        }
        self.watch = self.watch.saturating_sub(1);
        let allowance = self.allowance;
        let work = apart(|| {
            let before = processor_time();
            // The processor's time is asked only when it could be up: that takes longer than the other.
            let has_time = || began.elapsed() < allowance || processor_time().saturating_sub(before) < allowance;
            let mut go_on = || !self.give_up.is_cancelled() && has_time();
            core.handle_while(event, effects, &mut go_on);
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
        if *used <= self.allowance {
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
        Event::Update { update, .. } | Event::Refused { update: Some(update), .. } => update.len(),
        Event::Step1 { state_vector, .. } => state_vector.len(),
        _ => 0,
    }
}

/// Of this thread: what others make it wait for is nobody's work.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// [`apart`], if it may be heavy.
pub(super) fn apart_if<R>(is_much: bool, work: impl FnOnce() -> R) -> R {
    if is_much { apart(work) } else { work() }
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
    use syncline_protocol::ids::{Epoch, Seq};
    use syncline_protocol::native::Cursor;
    use syncline_replica::{HeldLimits, Replica};

    use super::*;
    use crate::document::event::Origin;

    const ALLOWANCE: Duration = Duration::from_secs(10);

    #[test]
    fn an_allowance_is_used_up_and_comes_back_with_time() {
        let mut charge = Charge::new(ALLOWANCE, CancellationToken::new());
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

    #[test]
    fn an_update_that_is_more_than_an_allowance_is_stopped_midway() {
        let cursor = Cursor { epoch: Epoch(1), seq: Seq::ZERO };
        let mut core = Core::new(Replica::default(), cursor, HeldLimits::default());
        let mut update = |update: Vec<u8>, allowance| {
            let event = Event::Update { lease: LeaseId(1), update: update.into(), origin: Origin::Change, batch: 1 };
            let mut effects = Vec::new();
            let mut charge = Charge::new(allowance, CancellationToken::new());
            charge.handle(&mut core, event, &mut effects).ok();
            effects
        };
        // A text of 3 MB, and a hundred letters deleted in it: each cut moves what is behind it.
        let mut text = vec![1, 1, 7, 0, 4, 1, 1, b't', 0xc0, 0x8d, 0xb7, 0x01];
        text.resize(text.len() + 3_000_000, b'x');
        text.push(0);
        assert!(matches!(update(text, ALLOWANCE)[0], Effect::Append { .. }));
        let mut holes = vec![0, 1, 7, 100];
        holes.extend((0..100u8).flat_map(|number| [number, 1]));
        let effects = update(holes, Duration::ZERO);
        assert!(
            matches!(&effects[..], [Effect::Close { close: Close::BadMessage(_), .. }, Effect::Reload]),
            "{effects:?}"
        );
    }
}
