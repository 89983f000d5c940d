//! Scenarios: devices, a bad network and a real server, a story told in TOML, and the oracle at its end.
//!
//! ```text
//! format    the story as written          generate  a story made up from a seed
//! world     everybody in it               steps     what one step does
//! finale    everybody meets, and is compared with everybody and with the ledger
//! actor     a device: the only file that names the client's device API
//! node      an npm client in a process of its own
//! server    the binary `syncline` as a child process
//! clock, store, timeline   virtual time, a disk that can be full, what is printed
//! ```
//!
//! Everything that is chosen comes from the seed. What is not: real sockets, processes and threads, so that one seed is
//! the same story, and not the same microsecond.

pub mod actor;
pub mod clock;
mod finale;
pub mod format;
pub mod generate;
mod node;
pub mod server;
mod steps;
mod store;
mod timeline;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;

pub use finale::{Fresh, settle_limit};
pub use format::Scenario;
use world::World;

/// Longest time for one step: longer than every wait in it.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Where and how a scenario runs.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The server's program.
    pub program: PathBuf,
    /// Everything that is chosen follows from it.
    pub seed: u64,
    /// Prints the timeline while it happens.
    pub aloud: bool,
    /// A server that others use too; `None`: one of its own, killed and started again at the end.
    pub shared: Option<SocketAddr>,
    /// What document names begin with.
    pub prefix: String,
    /// The script of npm clients.
    pub node_script: PathBuf,
    /// Edits with this number are said to be accepted and never made, to see the oracle complain.
    pub forget: Option<u64>,
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Accepted edits.
    pub edits: u64,
    /// Edits that failed and said so.
    pub failed: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections that the network ended.
    pub cuts: u64,
    /// Of these, those whose last answer was lost.
    pub lost_answers: u64,
    /// Apps killed.
    pub kills: u64,
    /// Servers killed and started again.
    pub restarts: u64,
    /// Entries sent more than once.
    pub resends: u64,
    /// Bytes over the network, both ways.
    pub bytes: u64,
}

impl std::ops::AddAssign for Figures {
    fn add_assign(&mut self, other: Self) {
        self.edits += other.edits;
        self.failed += other.failed;
        self.connections += other.connections;
        self.cuts += other.cuts;
        self.lost_answers += other.lost_answers;
        self.kills += other.kills;
        self.restarts += other.restarts;
        self.resends += other.resends;
        self.bytes += other.bytes;
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} edits, {} failed and said so, {} connections, {} cuts ({} with an answer lost), {} kills, {} server \
             restarts, {} resends, {:.2} MiB",
            self.edits,
            self.failed,
            self.connections,
            self.cuts,
            self.lost_answers,
            self.kills,
            self.restarts,
            self.resends,
            self.bytes as f64 / (1024.0 * 1024.0)
        )
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Verdict {
    /// What is wrong. Empty: nothing.
    pub complaints: Vec<String>,
    /// What was done.
    pub figures: Figures,
    /// What happened, if it was not printed.
    pub timeline: String,
    /// What every replica holds at the end, by document.
    pub ends: Vec<(String, crate::oracle::View)>,
}

/// Runs a scenario. An error is a run that could not be made; what it found is in the verdict.
pub async fn run(scenario: &Scenario, setup: &Setup) -> Result<Verdict> {
    let mut world = World::new(scenario, setup).await?;
    let told = async {
        for phase in &scenario.phase {
            for _ in 0..phase.repeat {
                world.timeline.tell("", &format!("-- {}", phase.name));
                for step in &phase.step {
                    let done = timeout(STEP_LIMIT, world.step(step)).await;
                    done.with_context(|| format!("STUCK in {step:?}"))??;
                }
            }
        }
        timeout(STEP_LIMIT, world.finale()).await.context("STUCK at the end")?
    };
    // A story that cannot go on is a finding, too: the timeline says how far it came.
    if let Err(error) = told.await {
        world.complaints.push(format!("{error:#}"));
        world.tell_states().await;
    }
    Ok(world.verdict().await)
}
