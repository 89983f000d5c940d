//! PURE: status, queue entries and exports of a [`Core`].

use ulid::Ulid;
use yrs::Transaction;

use super::core::Core;
use super::queue::{State, What};
use super::registers;
use super::status::{DocumentStatus, Entry, EntryKind, EntryState, Export, SyncReport};
use super::sync::Link;

impl Core {
    /// Reads the document in one transaction.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Transaction<'_>) -> R) -> R {
        self.replica.read(look)
    }

    pub(crate) fn status(&self) -> DocumentStatus {
        let counts = self.queue.counts();
        DocumentStatus {
            sync: self.sync.clone(),
            read_only: matches!(&self.link, Link::Up(joining) if joining.read_only),
            pending: counts.pending + counts.storing,
            sent: counts.sent,
            saved: self.saved,
            refused: counts.refused,
            remote_changes: self.remote_changes,
            cursor: self.in_step.map(|(cursor, _)| cursor),
        }
    }

    pub(crate) fn last_report(&self) -> Option<&SyncReport> {
        self.report.as_ref()
    }

    pub(crate) fn entries(&self, device: Ulid) -> Vec<Entry> {
        let entry = |queued: &super::queue::Queued| Entry {
            id: Ulid(queued.id),
            at_ms: queued.at_ms,
            device,
            what: match &queued.what {
                What::Edit { update } => EntryKind::Edit { bytes: update.len() as u64 },
                What::Proposal(proposed) => EntryKind::Proposal {
                    register: proposed.register.clone(),
                    value: registers::value(&proposed.value),
                },
            },
            state: match &queued.state {
                State::Storing(_) | State::Pending => EntryState::Pending,
                State::Sent(_) => EntryState::Sent,
                State::Refused { code, reason } => EntryState::Refused { code: *code, reason: reason.clone() },
            },
        };
        self.queue.iter().map(entry).collect()
    }

    /// Returns the whole document as one v1 update; the error is a text for [`crate::DeviceError::Broken`].
    pub(crate) fn state(&self) -> Result<Vec<u8>, String> {
        self.replica.encode().map(|state| state.to_vec()).map_err(|error| error.to_string())
    }

    pub(crate) fn export(&self) -> Result<Export, String> {
        let edits = self.queue.iter().filter_map(|entry| match &entry.what {
            What::Edit { update } => Some(&update[..]),
            What::Proposal(_) => None,
        });
        let unsaved = yrs::merge_updates_v1(edits).map_err(|error| error.to_string())?;
        Ok(Export { update: self.state()?, unsaved })
    }
}
