//! PURE: stamps made by a wrong clock, moved to the right time before they are sent. Part of [`Core`].
//!
//! A device that was never online does not know how wrong its clock is. When it learns, what it wrote to latest-wins
//! maps and has not sent yet carries stamps that would win, or lose, for as long as the clock was off. So the journal
//! knows by which correction of the clock the queue was stamped; once the true one differs by more than
//! [`MAX_DRIFT_MS`], one more edit moves those stamps, and nothing leaves the queue until that edit is on the device's
//! disk. It goes out merged with what it corrects, as far as one batch holds it.

use ulid::Ulid;
use yrs::{Out, ReadTxn};

use super::core::{Core, Outputs};
use super::journal::Note;
use super::queue::{Queue, State};
use crate::types::clock::{MAX_DRIFT_MS, Stamp};
use crate::types::lww_map::LwwMap;

/// By which clock the queue was stamped, and what is known of the true one. Offsets are what to add to the device's.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// The queue's, as the journal has it.
    queued_ms: i64,
    /// The device's now.
    now_ms: i64,
    /// The newest edit that moved stamps, and the queue's offset before it.
    moved: Option<(u128, i64)>,
}

impl Clock {
    /// As the journal tells it.
    pub(super) fn noted(offset_ms: i64) -> Self {
        Self { queued_ms: offset_ms, now_ms: offset_ms, moved: None }
    }

    pub(super) fn note(&self) -> Note {
        Note::Clock { offset_ms: self.queued_ms }
    }

    /// These entries never reached the device's disk.
    pub(super) fn lost(&mut self, entries: &[u128]) {
        if let Some((_, before_ms)) = self.moved.take_if(|(id, _)| entries.contains(id)) {
            self.queued_ms = before_ms;
        }
    }

    /// False while the queue holds stamps that are known to be wrong, or their correction is not stored.
    pub(super) fn lets_send(&self, queue: &Queue) -> bool {
        let storing = |id: u128| queue.iter().any(|entry| entry.id == id && matches!(entry.state, State::Storing(_)));
        let wrong = self.is_off() && queue.has_edits();
        !wrong && self.moved.is_none_or(|(id, _)| !storing(id))
    }

    fn is_off(&self) -> bool {
        self.now_ms.abs_diff(self.queued_ms) > MAX_DRIFT_MS
    }
}

impl Core {
    /// The device's clock is to be corrected by `offset_ms`. To be told after loading, and whenever it changes; then
    /// [`Core::correct_stamps`].
    pub(crate) fn set_clock(&mut self, offset_ms: i64) {
        self.clock.now_ms = offset_ms;
    }

    /// Moves the stamps of what is queued, if the clock was too wrong; the edit that does so is entry `id`.
    pub(crate) fn correct_stamps(&mut self, device: Ulid, id: u128, at_ms: u64, out: &mut Outputs) {
        let offset_ms = self.clock.now_ms;
        if !self.clock.is_off() || !self.queue.has_edits() {
            return;
        }
        let by_ms = offset_ms.saturating_sub(self.clock.queued_ms);
        let (device, own) = (device.to_string(), self.unsaved_writes(device));
        let moved = self.change(|txn| {
            for (map, writes) in &own {
                map.restamp(txn, &device, writes, by_ms);
            }
        });
        if let Ok(((), Some(update))) = moved {
            let note = Note::Restamp { offset_ms, id, at_ms, update: update.clone() };
            self.enqueue(id, at_ms, update, note, out);
            self.clock.moved = Some((id, self.clock.queued_ms));
            self.clock.queued_ms = offset_ms;
        } else {
            // Nothing to move, or it cannot be moved: what is queued must not wait for ever.
            self.clock.queued_ms = offset_ms;
            self.note(self.clock.note(), out);
        }
    }

    /// Before an edit: an empty queue is stamped by the clock as it is known now.
    pub(super) fn note_clock(&mut self, out: &mut Outputs) {
        if self.clock.queued_ms != self.clock.now_ms && !self.queue.has_edits() {
            self.clock.queued_ms = self.clock.now_ms;
            self.note(self.clock.note(), out);
        }
    }

    /// This device's writes to latest-wins maps that the server is not known to have, by map.
    fn unsaved_writes(&self, device: Ulid) -> Vec<(LwwMap, Vec<(String, Stamp)>)> {
        // Without knowing what is saved nothing can be told apart.
        let Ok(saved) = self.base_replica() else { return Vec::new() };
        let device = device.to_string();
        let roots: Vec<String> = self.replica.read(|txn| {
            let sequences = txn.root_refs().filter(|(_, out)| matches!(out, Out::YArray(_) | Out::UndefinedRef(_)));
            sequences.map(|(name, _)| name.to_owned()).collect()
        });
        let writes = |root: String| {
            let map = LwwMap::new(root);
            let mut own = self.replica.read(|txn| map.writes_of(txn, &device));
            let known = saved.read(|txn| map.writes_of(txn, &device));
            own.retain(|write| !known.contains(write));
            (!own.is_empty()).then_some((map, own))
        };
        roots.into_iter().filter_map(writes).collect()
    }
}
