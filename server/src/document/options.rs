//! Configuration of a document's task.

use std::time::Duration;

use syncline_replica::{HubLimits, Superseded};
use tokio_util::sync::CancellationToken;

use super::usage::MemoryLimits;
use crate::ids::Draw;

/// Default of [`DocumentOptions::quiet`].
const QUIET: Duration = Duration::from_secs(30);

/// Configuration of a document's task, shared by all documents of a registry.
#[derive(Debug, Clone)]
pub struct DocumentOptions {
    /// How long a document stays in memory without a lease. One without records leaves with its last lease.
    pub idle: Duration,
    /// How long a document must be unchanged before it drops deleted content.
    pub quiet: Duration,
    /// Size limits of a document.
    pub hub_limits: HubLimits,
    /// Maximum bytes of awareness states per lease.
    pub awareness_bytes: usize,
    /// Counts memory of earlier document states that queued replies keep alive.
    pub superseded: Superseded,
    /// Limits for all open documents together.
    pub memory: MemoryLimits,
    /// When records are replaced by a snapshot.
    pub compaction: Compaction,
    /// Source of random epochs and client ids.
    pub draw: Draw,
    /// Created by the registry, and cancelled by it when the server stops and its deadline has passed: work
    /// in progress is dropped, logged records are kept.
    pub give_up: CancellationToken,
}

impl DocumentOptions {
    /// The defaults, with this idle time.
    pub fn new(idle: Duration) -> Self {
        Self {
            idle,
            quiet: QUIET,
            hub_limits: HubLimits::default(),
            awareness_bytes: usize::MAX,
            superseded: Superseded::default(),
            memory: MemoryLimits::NONE,
            compaction: Compaction::default(),
            draw: Draw::default(),
            give_up: CancellationToken::new(),
        }
    }
}

/// When a snapshot replaces the records before it.
#[derive(Debug, Clone, Copy)]
pub struct Compaction {
    /// After this many records: bounds the time of a load to a few milliseconds.
    pub records: u64,
    /// After this many bytes of records, unless the last snapshot was larger: snapshots then write about as
    /// many bytes as the records they replace.
    pub bytes: usize,
    /// After this many records when the document leaves memory.
    pub idle_records: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { records: 2_000, bytes: 512 * 1024, idle_records: 64 }
    }
}
