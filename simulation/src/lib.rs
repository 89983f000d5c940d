//! A deterministic simulation of server, log and clients in one program. A *plan* is a random sequence of up to 180
//! steps (edits, messages, disconnects, crashes of server and clients, slow and failing disks), generated from a seed.
//! Invariants (the promises of the server and the clients) are checked while the plan runs and after everything is
//! delivered. The same seed gives the same plan, so a failure can be replayed.
//!
//! ```text
//! plan.rs      the kinds of steps and their probabilities
//! world.rs     the state of a plan and its checks; world/steps.rs performs the steps, world/history.rs those of an
//!              operator, world/others.rs those outside the clients' connections
//! finale.rs    the end of a plan: no more faults, everything settles, final checks
//! ledger.rs    PURE: records what was promised, and checks that it was kept
//! server.rs    the real registry, documents, sessions, outboxes and log on virtual time
//! client.rs    a client of either kind; device.rs and stock.rs wrap the real state machines
//! disk.rs      a simulated disk that loses unsynced data in a crash
//! pipe.rs      a simulated network connection; socket.rs is the client's WebSocket over it
//! many.rs      runs many plans on all cores
//! text.rs      the edited content, in which lost and duplicated edits are visible
//! ```
//!
//! Determinism: a single thread, a paused runtime clock, and all randomness from the seed. A hash map with a random order
//! would break it where the order decides which client is sent something first; `tests/plans.rs` runs plans twice and
//! compares them.

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

pub use many::{Summary, run_many};
pub use world::{Counts, Trace, World};

/// A plan that violated an invariant.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The seed that replays the plan.
    pub seed: u64,
    /// The violated invariant, and how it was violated.
    pub reason: String,
}

thread_local! {
    /// The first panic in the plan that runs on this thread. Tasks catch their panics, but any panic is a failure.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
    static IN_PLAN: Cell<bool> = const { Cell::new(false) };
}

/// Runs the plan of a seed. `trace` receives a line for each event.
///
/// # Errors
/// The violated invariant.
pub fn run(seed: u64, trace: Option<Trace>) -> Result<Counts, Failure> {
    watch_panics();
    PANICKED.set(None);
    IN_PLAN.set(true);
    let mut world = World::new(seed, trace);
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
