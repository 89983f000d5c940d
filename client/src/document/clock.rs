//! PURE: corrects the stamps of a wrong clock before they are sent. Part of [`Core`].
//!
//! A device that was never online does not know how wrong its clock is. Until it learns, its writes to latest-wins maps
//! carry stamps that would win, or lose, for as long as the clock was off. The journal therefore records the clock
//! offset by which the queue was stamped. If the true offset differs by more than [`MAX_DRIFT_MS`], one more edit
//! corrects those stamps, and nothing is sent from the queue until that edit is on the device's disk. It is sent merged
//! with the edits that it corrects, as far as they fit in one batch.
//!
//! Writes that were sent but not confirmed must keep their stamps: others may have seen and overwritten them, and with
//! a corrected stamp they would win again. Only the server knows which of them it has, so it is asked first. Whatever
//! was sent at least once also keeps its stamps: the server may have relayed it and lost it in a crash. Until the
//! correction is made, new edits are stamped with the queue's offset, so that one correction covers all.

use std::collections::HashMap;

use bytes::Bytes;
use syncline_protocol::update::{state_vector_entries, update_ranges};
use ulid::Ulid;
use yrs::{Out, ReadTxn};

use super::core::{Core, Origin, Outputs};
use super::journal::Note;
use super::queue::{Queue, State};
use super::sync::Link;
use crate::types::clock::{MAX_DRIFT_MS, Stamp};
use crate::types::lww_map::LwwMapRoot;

/// The clock offset of the queue's stamps, and the offset known now. Offsets are added to the device's clock.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// Offset of the queue's stamps, as recorded in the journal.
    queued_ms: i64,
    /// Offset known now.
    now_ms: i64,
    /// Id of the newest edit that corrected stamps, and the queue's offset before it.
    moved: Option<(u128, i64)>,
}

impl Clock {
    /// Creates the clock from the offset recorded in the journal.
    pub(super) fn noted(offset_ms: i64) -> Self {
        Self { queued_ms: offset_ms, now_ms: offset_ms, moved: None }
    }

    pub(super) fn note(&self) -> Note {
        Note::Clock { offset_ms: self.queued_ms }
    }

    /// Undoes the correction if its edit is among these entries, which were not stored.
    pub(super) fn entries_lost(&mut self, entries: &[u128]) {
        if let Some((_, before_ms)) = self.moved.take_if(|(id, _)| entries.contains(id)) {
            self.queued_ms = before_ms;
        }
    }

    /// False while the queue has stamps that are known to be wrong, or their correction is not stored yet.
    pub(super) fn allows_sending(&self, queue: &Queue) -> bool {
        let storing = |id: u128| queue.iter().any(|entry| entry.id == id && matches!(entry.state, State::Storing(_)));
        let wrong = self.is_off() && queue.has_edits();
        !wrong && self.moved.is_none_or(|(id, _)| !storing(id))
    }

    fn is_off(&self) -> bool {
        self.now_ms.abs_diff(self.queued_ms) > MAX_DRIFT_MS
    }
}

impl Core {
    /// Sets the offset of the device's clock. Call it after loading and whenever the offset changes, and then
    /// [`Core::correct_stamps`].
    pub(crate) fn set_clock(&mut self, offset_ms: i64) {
        self.clock.now_ms = offset_ms;
    }

    /// True while the queue has edits stamped by a wrong clock.
    pub(crate) fn has_wrong_stamps(&self) -> bool {
        self.clock.is_off() && self.queue.has_edits()
    }

    /// Returns the offset for the stamp of an edit made now.
    pub(crate) fn stamping_offset_ms(&self) -> i64 {
        if self.has_wrong_stamps() { self.clock.queued_ms } else { self.clock.now_ms }
    }

    /// True if wrong stamps can be corrected: the server's state vector is known.
    pub(crate) fn can_correct_stamps(&self) -> bool {
        self.has_wrong_stamps() && self.server_has().is_some()
    }

    /// True if the document must be opened again to get the server's state vector, because the clock was not known to be
    /// wrong when it was opened.
    pub(crate) fn must_ask_for_correction(&self) -> bool {
        let is_open = matches!(&self.link, Link::Up(joining) if joining.cursor.is_some() && !joining.rebasing);
        is_open && self.has_wrong_stamps() && self.server_has().is_none()
    }

    fn server_has(&self) -> Option<&Bytes> {
        match &self.link {
            Link::Up(joining) => joining.server_has.as_ref(),
            Link::Down | Link::Shut => None,
        }
    }

    /// Corrects the stamps of queued writes if the clock was off by too much, except those that the server has. The edit
    /// that corrects them becomes entry `id`. Returns the correction in milliseconds.
    pub(crate) fn correct_stamps(&mut self, device: Ulid, id: u128, at_ms: u64, out: &mut Outputs) -> Option<i64> {
        let offset_ms = self.clock.now_ms;
        if !self.has_wrong_stamps() {
            return None;
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
            // Nothing to correct, or the correction failed: the queue must not be blocked forever.
            self.clock.queued_ms = offset_ms;
            self.note(self.clock.note(), out);
        }
        Some(by_ms)
    }

    /// Before an edit: records the offset known now if the queue has no edits.
    pub(super) fn note_clock(&mut self, out: &mut Outputs) {
        if self.clock.queued_ms != self.clock.now_ms && !self.queue.has_edits() {
            self.clock.queued_ms = self.clock.now_ms;
            self.note(self.clock.note(), out);
        }
    }

    /// Returns this device's writes to latest-wins maps that no other replica has seen, by map.
    fn unsaved_writes(&self, device: Ulid) -> Vec<(LwwMapRoot, Vec<(String, Stamp)>)> {
        let server_has = self.server_has().map_or_else(HashMap::new, |has| state_vector_entries(has).collect());
        let sent = self.queue.sent_ids();
        // Without the saved state, unseen writes cannot be determined.
        let Ok(saved) = self.replica_of(|update| {
            matches!(update.of, Origin::Edit(id) if sent.contains(&id))
                || update_ranges(&update.bytes)
                    .all(|range| server_has.get(&range.client).is_some_and(|has| *has >= range.end))
        }) else {
            return Vec::new();
        };
        let device = device.to_string();
        let roots: Vec<String> = self.replica.read(|txn| {
            let sequences = txn.root_refs().filter(|(_, out)| matches!(out, Out::YArray(_) | Out::UndefinedRef(_)));
            sequences.map(|(name, _)| name.to_owned()).collect()
        });
        let writes = |root: String| {
            let map = LwwMapRoot::new(root);
            let mut own = self.replica.read(|txn| map.writes_of(txn, &device));
            let known = saved.read(|txn| map.writes_of(txn, &device));
            own.retain(|write| !known.contains(write));
            (!own.is_empty()).then_some((map, own))
        };
        roots.into_iter().filter_map(writes).collect()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use syncline_protocol::ids::{Epoch, Seq};
    use syncline_protocol::native::{Cursor, Resume, ToClient, ToServer};
    use syncline_replica::Replica;
    use yrs::updates::encoder::Encode;

    use super::super::core::Write;
    use super::super::journal::Snapshot;
    use super::*;
    use crate::types::clock::{Hlc, stamp_of};
    use crate::types::value::Value;

    const DEVICE: Ulid = Ulid(7);
    const NOW_MS: u64 = 1_790_000_000_000;
    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

    fn fresh() -> (Core, Outputs) {
        (Core::load(Snapshot::default(), Vec::new(), Seq::ZERO).0, Outputs::default())
    }

    fn write(core: &mut Core, id: u128, at_ms: u64, key: &str, out: &mut Outputs) {
        let mut hlc = Hlc::new(DEVICE.to_string());
        let set = |txn: &mut yrs::TransactionMut<'_>| {
            LwwMapRoot::new("map").set(txn, &mut hlc, at_ms, key, &Value::Null).unwrap();
        };
        core.edit(id, at_ms, set, out).unwrap();
    }

    fn stamps(core: &Core) -> Vec<Stamp> {
        core.read(|txn| LwwMapRoot::new("map").winners(txn)).into_values().map(|entry| entry.stamp).collect()
    }

    /// Restarts the app: loads a core from the journal writes in `out`.
    fn restarted(out: Outputs, known_ms: i64) -> Core {
        let notes: Vec<Note> = out
            .writes
            .into_iter()
            .map(|write| match write {
                Write::Note(note) => Note::decode(&note.encode()).unwrap(),
                Write::Snapshot(_) => panic!("too few updates for a snapshot"),
            })
            .collect();
        let last = Seq(notes.len() as u64);
        let (mut core, problems) = Core::load(Snapshot::default(), notes, last);
        assert!(problems.is_empty());
        core.set_clock(known_ms);
        core
    }

    #[test]
    fn wrong_stamps_are_corrected_once_before_they_are_sent() {
        let (mut core, mut out) = fresh();
        write(&mut core, 1, NOW_MS, "a", &mut out);
        core.stored(core.written(), &mut out);
        assert!(core.clock.allows_sending(&core.queue));
        core.set_clock(DAY_MS);
        assert!(!core.clock.allows_sending(&core.queue), "the stamps are known to be wrong");
        core.correct_stamps(DEVICE, 2, NOW_MS, &mut out);
        assert!(!core.clock.allows_sending(&core.queue), "the correction is not stored");
        core.stored(core.written(), &mut out);
        assert!(core.clock.allows_sending(&core.queue));
        let right = stamp_of(NOW_MS.strict_add_signed(DAY_MS));
        assert_eq!(stamps(&core), [right]);

        write(&mut core, 3, NOW_MS.strict_add_signed(DAY_MS), "b", &mut out);
        let mut core = restarted(out, DAY_MS);
        let mut out = Outputs::default();
        core.correct_stamps(DEVICE, 4, NOW_MS, &mut out);
        assert!(out.writes.is_empty(), "already corrected");
        assert_eq!(stamps(&core), [right, right + 1]);
    }

    #[test]
    fn wrong_stamp_is_sent_only_with_its_correction() {
        let (mut core, mut out) = fresh();
        write(&mut core, 1, NOW_MS, "a", &mut out);
        core.stored(core.written(), &mut out);
        assert!(core.connected(0, "d", "", NOW_MS, &mut out));
        core.set_clock(DAY_MS);
        core.correct_stamps(DEVICE, 2, NOW_MS, &mut out);
        out.frames.clear();
        let cursor = Cursor { epoch: Epoch(1), seq: Seq(1) };
        let resume = Resume::SendStateVector;
        let opened = ToClient::Opened { channel: 0, cursor, read_only: false, resume, state_vector: None };
        core.received(&opened, 10, NOW_MS, &mut out).unwrap();
        assert!(out.frames.is_empty());
        core.stored(core.written(), &mut out);
        let [frame] = &out.frames[..] else { panic!("expected one message with both edits: {:?}", out.frames) };
        let ToServer::Change { update, .. } = ToServer::decode(frame).unwrap() else { panic!("not a change") };
        let server = Replica::load(std::iter::once(Bytes::copy_from_slice(update))).unwrap();
        let right = stamp_of(NOW_MS.strict_add_signed(DAY_MS));
        let arrived = server.read(|txn| LwwMapRoot::new("map").writes_of(txn, &DEVICE.to_string()));
        assert_eq!(arrived, [("a".to_owned(), right)]);
    }

    #[test]
    fn correction_that_was_not_stored_is_repeated() {
        let (mut core, mut out) = fresh();
        write(&mut core, 1, NOW_MS, "a", &mut out);
        core.stored(core.written(), &mut out);
        core.set_clock(-DAY_MS);
        core.correct_stamps(DEVICE, 2, NOW_MS, &mut out);
        core.storage_failed();
        assert_eq!(stamps(&core), [stamp_of(NOW_MS)]);
        assert!(!core.clock.allows_sending(&core.queue));
        core.correct_stamps(DEVICE, 3, NOW_MS, &mut out);
        assert_eq!(stamps(&core), [stamp_of(NOW_MS.strict_add_signed(-DAY_MS))]);
    }

    #[test]
    fn small_offset_is_ignored_and_saved_writes_keep_their_stamps() {
        let (mut core, mut out) = fresh();
        write(&mut core, 1, NOW_MS, "saved", &mut out);
        core.queue.save(1);
        write(&mut core, 2, NOW_MS, "unsaved", &mut out);
        core.stored(core.written(), &mut out);
        core.set_clock(60_000);
        core.correct_stamps(DEVICE, 3, NOW_MS, &mut out);
        assert!(core.clock.allows_sending(&core.queue));
        core.set_clock(DAY_MS);
        core.correct_stamps(DEVICE, 4, NOW_MS, &mut out);
        assert_eq!(stamps(&core), [stamp_of(NOW_MS), stamp_of(NOW_MS.strict_add_signed(DAY_MS)) + 1]);
    }

    #[test]
    fn unconfirmed_writes_on_the_server_keep_their_stamps() {
        let (mut core, mut out) = fresh();
        write(&mut core, 1, NOW_MS, "sent", &mut out);
        let sent = core.read(|txn| yrs::ReadTxn::state_vector(txn)).encode_v1();
        core.stored(core.written(), &mut out);
        write(&mut core, 2, NOW_MS, "kept", &mut out);
        core.stored(core.written(), &mut out);
        core.set_clock(DAY_MS);
        assert!(core.connected(0, "d", "", NOW_MS, &mut out));
        assert!(!core.can_correct_stamps(), "the server has not answered yet");
        let asked = |frame: &Bytes| match ToServer::decode(frame).unwrap() {
            ToServer::Open { wants_state_vector, .. } => wants_state_vector,
            _ => false,
        };
        assert!(out.frames.iter().any(asked));
        let (cursor, resume) = (Cursor { epoch: Epoch(1), seq: Seq(1) }, Resume::SendStateVector);
        let opened = ToClient::Opened { channel: 0, cursor, read_only: false, resume, state_vector: Some(&sent) };
        core.received(&opened, 10, NOW_MS, &mut out).unwrap();
        assert!(core.can_correct_stamps());
        assert_eq!(core.stamping_offset_ms(), 0, "same as the rest of the queue");
        assert_eq!(core.correct_stamps(DEVICE, 3, NOW_MS, &mut out), Some(DAY_MS));
        assert_eq!(core.stamping_offset_ms(), DAY_MS);
        let winners = core.read(|txn| LwwMapRoot::new("map").winners(txn));
        assert_eq!(winners["sent"].stamp, stamp_of(NOW_MS));
        assert!(winners["kept"].stamp >= stamp_of(NOW_MS.strict_add_signed(DAY_MS)));
    }
    #[test]
    fn sent_writes_keep_their_stamps_after_a_server_crash() {
        for is_restarted in [false, true] {
            let (mut core, mut out) = fresh();
            write(&mut core, 1, NOW_MS, "sent", &mut out);
            core.stored(core.written(), &mut out);
            let (cursor, resume) = (Cursor { epoch: Epoch(1), seq: Seq(1) }, Resume::SendStateVector);
            let opened = |state_vector| ToClient::Opened { channel: 0, cursor, read_only: false, resume, state_vector };
            assert!(core.connected(0, "d", "", NOW_MS, &mut out));
            core.received(&opened(None), 10, NOW_MS, &mut out).unwrap();
            // Another device may have received the write and may overwrite it.
            core.disconnected(NOW_MS, &mut out);
            if is_restarted {
                core = restarted(std::mem::take(&mut out), 0);
            }
            write(&mut core, 2, NOW_MS, "kept", &mut out);
            core.stored(core.written(), &mut out);
            core.set_clock(DAY_MS);
            assert!(core.connected(0, "d", "", NOW_MS, &mut out));
            core.received(&opened(Some(&[0])), 10, NOW_MS, &mut out).unwrap();
            assert_eq!(core.correct_stamps(DEVICE, 3, NOW_MS, &mut out), Some(DAY_MS));
            let winners = core.read(|txn| LwwMapRoot::new("map").winners(txn));
            assert_eq!(winners["sent"].stamp, stamp_of(NOW_MS), "restarted: {is_restarted}");
            assert!(winners["kept"].stamp >= stamp_of(NOW_MS.strict_add_signed(DAY_MS)));
        }
    }
}
