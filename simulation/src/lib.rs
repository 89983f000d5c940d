//! Server, log and clients in one deterministic program. A *plan* is a few hundred things that happen (edits, messages,
//! cuts, crashes of either side, disks that are slow or fail), drawn from a seed; promises are checked while it runs and
//! after everything was delivered. The same seed gives the same plan, so a failure can be looked at.
//!
//! ```text
//! plan.rs      what may happen, and how likely
//! world.rs     the plan's state, and one thing that happens; world/steps.rs does it, world/history.rs what an
//!              operator does with a document, world/others.rs what passes by the server
//! finale.rs    no more faults: everything comes to rest, and must be right
//! ledger.rs    PURE: the judge: what was promised, and whether it was kept
//! server.rs    the real registry, documents, sessions, outboxes and log on virtual time
//! client.rs    a client of either sort; device.rs, stock.rs around their real state machines
//! disk.rs      a disk that forgets what was not synced
//! pipe.rs      a network that is driven from outside; socket.rs the client's WebSocket over it
//! many.rs      many plans, on every core
//! text.rs      what is edited, so that lost and doubled can be seen
//! ```
//!
//! Deterministic: one thread, the runtime's clock paused, all chance from the seed. Hash maps with random order would
//! matter where they decide who is sent something first; `tests/plans.rs` runs plans twice and compares.

pub mod client;
pub mod device;
pub mod disk;
mod finale;
pub mod ledger;
mod many;
pub mod pipe;
pub mod plan;
pub mod server;
pub mod socket;
pub mod stock;
mod text;
pub mod world;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

pub use many::{Ran, many};
pub use world::{Counts, Tell, World};

/// A plan that broke a promise.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What replays it.
    pub seed: u64,
    /// Which promise, and how.
    pub reason: String,
}

thread_local! {
    /// The first panic of the plan that runs on this thread. Tasks contain their panics, and none is in order.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
    static IN_PLAN: Cell<bool> = const { Cell::new(false) };
}

/// Runs the plan of a seed; `tell` is told what happens.
///
/// # Errors
/// The promise that was broken.
pub fn run(seed: u64, tell: Option<Tell>) -> Result<Counts, Failure> {
    watch_panics();
    PANICKED.set(None);
    IN_PLAN.set(true);
    let mut world = World::new(seed, tell);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    IN_PLAN.set(false);
    let panicked = PANICKED.take();
    let reason = match outcome {
        Ok(Ok(())) => panicked.map(|panic| format!("NOTHING PANICS: {panic}")),
        Ok(Err(reason)) => Some(reason),
        Err(_) => Some(format!("NOTHING PANICS: {}", panicked.unwrap_or_default())),
    };
    reason.map_or_else(|| Ok(world.counts.clone()), |reason| Err(Failure { seed, reason }))
}

fn watch_panics() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IN_PLAN.get() {
                PANICKED.with_borrow_mut(|first| _ = first.get_or_insert_with(|| info.to_string()));
            } else {
                others(info);
            }
        }));
    });
}
