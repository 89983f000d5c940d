//! PURE: sync reports, with what both sides changed while disconnected. Part of [`Core`].

use bytes::Bytes;
use syncline_replica::{PendingLimits, Replica};

use super::core::{Core, Outputs};
use super::status::Event;
use super::sync::Link;
use crate::types::apart::{Overlap, both_changed};

/// Both sides of a document at the first remote change of a connection.
pub(crate) struct Divergence {
    /// The common state of both sides.
    base: Bytes,
    /// The state with this device's edits.
    mine: Bytes,
    /// The state with the remote changes; extended until the document is synced.
    theirs: Replica,
}

impl Core {
    /// Until the document is synced: keeps both sides' states, to report what both changed.
    pub(super) fn track_overlaps(&mut self, update: &Bytes) {
        let (started, finished) = match &self.link {
            Link::Up(joining) => (joining.divergence.is_some(), joining.in_step),
            _ => return,
        };
        if finished {
            return;
        }
        let divergence = if started || !self.queue.has_edits() { None } else { self.divergence() };
        let Link::Up(joining) = &mut self.link else { return };
        joining.divergence = joining.divergence.take().or(divergence);
        if let Some(divergence) = &mut joining.divergence
            && divergence.theirs.take(update, &PendingLimits::default()).is_err()
        {
            // Only the report is incomplete then.
            joining.divergence = None;
        }
    }

    fn divergence(&self) -> Option<Divergence> {
        let theirs = self.base_replica().ok()?;
        Some(Divergence { base: theirs.encode().ok()?, mine: self.replica.encode().ok()?, theirs })
    }

    /// Called when the document is synced for the first time on a connection: emits the report.
    pub(super) fn make_report(&mut self, out: &mut Outputs) {
        let full_bytes = self.replica.encode().map_or(0, |all| 2 * all.len() as u64);
        let Link::Up(joining) = &mut self.link else { return };
        joining.report.full_bytes = full_bytes;
        joining.report.both_changed = joining.divergence.take().and_then(overlaps).unwrap_or_default();
        self.report = Some(joining.report.clone());
        out.events.push(Event::Synced(joining.report.clone()));
    }
}

fn overlaps(divergence: Divergence) -> Option<Vec<Overlap>> {
    let base = Replica::load(std::iter::once(divergence.base)).ok()?;
    let mine = Replica::load(std::iter::once(divergence.mine)).ok()?;
    Some(both_changed(base.doc(), mine.doc(), divergence.theirs.doc()))
}

impl std::fmt::Debug for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Divergence")
    }
}
