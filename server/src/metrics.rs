//! What the server counts. One struct, shared; each hop counts at its own exit. Names follow Prometheus when exported.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything counted since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// WebSocket connections accepted.
    pub sessions: Count,
    /// Updates taken into documents.
    pub updates: Count,
    /// Updates queued for readers.
    pub delivered: Count,
    /// Slow readers brought up to date by a diff.
    pub resyncs: Count,
    /// Snapshots that replaced records.
    pub compactions: Count,
    /// Documents thrown away after a panic in the CRDT and loaded again.
    pub reloads: Count,
    /// Sessions ended for a fault of the client.
    pub refused: Count,
    /// Sessions refused because there were too many, in all or from their address.
    pub connections_refused: Count,
    /// Sessions, or documents of one, refused because their user had too many connections.
    pub users_refused: Count,
    /// Sockets cut before their first message, to make room for others.
    pub unfinished_cut: Count,
    /// Times that reading from a connection paused for its rate.
    pub pauses: Count,
    /// Sessions closed because they sent far more than their rate.
    pub floods: Count,
    /// Sessions closed because their edits were too much work.
    pub overworked: Count,
    /// Sessions ended because nothing came from their client for too long, or because their socket took nothing.
    pub vanished: Count,
    /// Sessions closed over a message that did not come to its end.
    pub partial_refused: Count,
}
