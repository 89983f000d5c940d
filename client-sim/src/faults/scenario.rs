//! Scenarios: devices, a bad network and a real server run a plan written in TOML; the oracle checks the result.
//!
//! ```text
//! format    a scenario as TOML            generate  a random scenario from a seed
//! world     state of a running scenario   steps     execution of each step
//! finale    syncs all replicas, compares them with each other and with the ledger
//! actor     a device: the only file that names the client's device API
//! node      an npm client in its own process
//! clock, store, timeline   virtual time, a disk that can be full, the printed log
//! ```
//!
//! Every random choice comes from the seed. Sockets, processes and threads are real, so one seed gives the same steps, but
//! not the same timing.

pub(super) mod actor;
pub(super) mod clock;
mod finale;
pub(super) mod format;
pub(super) mod generate;
mod node;
mod steps;
mod store;
mod timeline;
mod world;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;

pub(super) use finale::{FreshClient, settle_limit};
pub(super) use format::Scenario;
use world::World;

/// Longest time for one step; longer than every wait within a step.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Settings of a scenario run.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// Path of the server binary.
    pub program: PathBuf,
    /// Seed of every random choice.
    pub seed: u64,
    /// Print the timeline during the run instead of collecting it.
    pub verbose: bool,
    /// Address of a server shared with other runs; `None`: the run starts its own server and restarts it at the end.
    pub shared: Option<SocketAddr>,
    /// Prefix of every document name.
    pub prefix: String,
    /// Path of the script that runs an npm client.
    pub node_script: PathBuf,
    /// Edits with this number are recorded as accepted but not made, to prove that the oracle complains.
    pub forget: Option<u64>,
}

/// Counters of one run, or the sum over many runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ScenarioCounts {
    /// Accepted edits.
    pub edits: u64,
    /// Edits that failed with an error.
    pub failed: u64,
    /// Connections that devices opened.
    pub connections: u64,
    /// Connections that the network ended.
    pub cuts: u64,
    /// Of these cuts, those that dropped the server's last answer.
    pub lost_answers: u64,
    /// App kills.
    pub kills: u64,
    /// Server kills followed by a start.
    pub restarts: u64,
    /// Entries sent more than once.
    pub resends: u64,
    /// Bytes over the network, in both directions.
    pub bytes: u64,
}

impl std::ops::AddAssign for ScenarioCounts {
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

impl std::fmt::Display for ScenarioCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} edits, {} failed with an error, {} connections, {} cuts ({} with an answer lost), {} kills, {} server \
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

/// Result of a run.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Failed checks; empty when the run passed.
    pub complaints: Vec<String>,
    /// Counters of the run.
    pub figures: ScenarioCounts,
    /// The timeline; empty when it was printed during the run.
    pub timeline: String,
    /// The content that all replicas hold at the end, by document.
    pub ends: Vec<(String, crate::faults::oracle::View)>,
}

/// Runs a scenario. Failed checks are in the verdict; an error means that the scenario could not be started.
pub(super) async fn run(scenario: &Scenario, setup: &Setup) -> Result<Verdict> {
    let mut world = World::new(scenario, setup).await?;
    let steps = async {
        for phase in &scenario.phase {
            for _ in 0..phase.repeat {
                world.timeline.add("", &format!("-- {}", phase.name));
                for step in &phase.step {
                    let done = timeout(STEP_LIMIT, world.step(step)).await;
                    done.with_context(|| format!("STUCK in {step:?}"))??;
                }
            }
        }
        timeout(STEP_LIMIT, world.finale()).await.context("STUCK at the end")?
    };
    // A step that fails is a finding, too; the timeline shows how far the run came.
    if let Err(error) = steps.await {
        world.complaints.push(format!("{error:#}"));
        world.log_states().await;
    }
    Ok(world.verdict().await)
}
