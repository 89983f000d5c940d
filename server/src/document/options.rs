//! What a document task is told at its start.

use std::time::Duration;

use syncline_replica::{HubLimits, Superseded};
use tokio_util::sync::CancellationToken;

use super::usage::MemoryLimits;
use crate::ids::Draw;

/// How long nothing changes until a document drops what was deleted.
const QUIET: Duration = Duration::from_secs(30);

/// What a document task is told at its start.
#[derive(Debug, Clone)]
pub struct DocumentOptions {
    /// How long a document stays in memory when nobody holds a lease. One without records leaves with its last lease.
    pub idle: Duration,
    /// How long nothing changes until it drops what was deleted.
    pub quiet: Duration,
    /// What it may hold.
    pub holds: HubLimits,
    /// Bytes of presence that one lease may show.
    pub presence_bytes: usize,
    /// Where memory counts that answers hold of earlier states of documents.
    pub superseded: Superseded,
    /// What all documents may take together.
    pub memory: MemoryLimits,
    /// When a snapshot replaces its records.
    pub compaction: Compaction,
    /// Its identities.
    pub draw: Draw,
    /// Cancelled by the registry, which makes it, when the server stops and waits no longer: work in progress is dropped. What was logged stays.
    pub give_up: CancellationToken,
}

impl DocumentOptions {
    /// The usual ones.
    pub fn new(idle: Duration) -> Self {
        Self {
            idle,
            quiet: QUIET,
            holds: HubLimits::default(),
            presence_bytes: usize::MAX,
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
    /// After so many of them: bounds the work of a load to a few milliseconds.
    pub records: u64,
    /// After so many bytes of them, when the last snapshot was not larger: snapshots then write about as many bytes as the
    /// records they replace.
    pub bytes: usize,
    /// After so many of them when the document leaves memory.
    pub idle_records: u64,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { records: 2_000, bytes: 512 * 1024, idle_records: 64 }
    }
}
