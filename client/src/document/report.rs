//! PURE: what a sync did, and what both sides changed while apart. Part of [`Core`].

use bytes::Bytes;
use syncline_replica::{HeldLimits, Replica};

use super::core::{Core, Outputs};
use super::status::Event;
use super::sync::Link;
use crate::types::apart::{Overlap, both_changed};

/// A document at the moment when the first remote change came after a time apart.
pub(crate) struct Apart {
    /// What both sides had.
    base: Bytes,
    /// With what this device did.
    mine: Bytes,
    /// With what the others did; grows until in step.
    theirs: Replica,
}

impl Core {
    /// Until in step: keeps what is needed to tell what both sides changed.
    pub(super) fn watch_both(&mut self, update: &Bytes) {
        let (begun, over) = match &self.link {
            Link::Up(joining) => (joining.apart.is_some(), joining.in_step),
            _ => return,
        };
        if over {
            return;
        }
        let apart = if begun || !self.queue.has_edits() { None } else { self.apart() };
        let Link::Up(joining) = &mut self.link else { return };
        joining.apart = joining.apart.take().or(apart);
        if let Some(apart) = &mut joining.apart
            && apart.theirs.take(update, &HeldLimits::default()).is_err()
        {
            // Only the report suffers.
            joining.apart = None;
        }
    }

    fn apart(&self) -> Option<Apart> {
        let theirs = self.base_replica().ok()?;
        Some(Apart { base: theirs.encode().ok()?, mine: self.replica.encode().ok()?, theirs })
    }

    /// In step for the first time on this connection: tells what that took.
    pub(super) fn make_report(&mut self, out: &mut Outputs) {
        let full_bytes = self.replica.encode().map_or(0, |all| 2 * all.len() as u64);
        let Link::Up(joining) = &mut self.link else { return };
        joining.report.full_bytes = full_bytes;
        joining.report.both_changed = joining.apart.take().and_then(overlaps).unwrap_or_default();
        self.report = Some(joining.report.clone());
        out.events.push(Event::Synced(joining.report.clone()));
    }
}

fn overlaps(apart: Apart) -> Option<Vec<Overlap>> {
    let base = Replica::load(std::iter::once(apart.base)).ok()?;
    let mine = Replica::load(std::iter::once(apart.mine)).ok()?;
    Some(both_changed(base.doc(), mine.doc(), apart.theirs.doc()))
}

impl std::fmt::Debug for Apart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Apart")
    }
}
