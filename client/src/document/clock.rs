//! PURE: stamps made by a wrong clock, moved to the right time before they are sent. Part of [`Core`].
//!
//! A device that was never online does not know how wrong its clock is. When it learns, what it wrote to latest-wins
//! maps and has not sent yet carries stamps that would win, or lose, for as long as the clock was off. So the journal
//! knows by which correction of the clock the queue was stamped; once the true one differs by more than
//! [`MAX_DRIFT_MS`], one more edit moves those stamps, and nothing leaves the queue until that edit is on the device's
//! disk. It goes out merged with what it corrects, as far as one batch holds it.
//!
//! Only the server knows what it has of the queue: sent before, and not confirmed. Others may have seen that and written
//! over it; moved, it would come back. So the server is asked first, and what it has stays as it is: when it was sent
//! the clock was right. So does whatever was sent: the server may have relayed it to others and lost it in a crash.
//! Until then new edits are stamped as the queue is, so that one correction does for all.

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

    /// True while the queue holds what a wrong clock stamped.
    pub(crate) fn has_wrong_stamps(&self) -> bool {
        self.clock.is_off() && self.queue.has_edits()
    }

    /// What to add to the device's clock for an edit made now.
    pub(crate) fn stamping_offset_ms(&self) -> i64 {
        if self.has_wrong_stamps() { self.clock.queued_ms } else { self.clock.now_ms }
    }

    /// The server has told what of the queue it has: wrong stamps can be moved.
    pub(crate) fn can_correct_stamps(&self) -> bool {
        self.has_wrong_stamps() && self.server_has().is_some()
    }

    /// It was not asked, because the clock was not known to be wrong when the document was opened: to be opened again.
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

    /// Moves the stamps of what is queued, if the clock was too wrong; the edit that does so is entry `id`. What the
    /// server has told that it has stays. By how much, in milliseconds.
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
            // Nothing to move, or it cannot be moved: what is queued must not wait for ever.
            self.clock.queued_ms = offset_ms;
            self.note(self.clock.note(), out);
        }
        Some(by_ms)
    }

    /// Before an edit: an empty queue is stamped by the clock as it is known now.
    pub(super) fn note_clock(&mut self, out: &mut Outputs) {
        if self.clock.queued_ms != self.clock.now_ms && !self.queue.has_edits() {
            self.clock.queued_ms = self.clock.now_ms;
            self.note(self.clock.note(), out);
        }
    }

    /// This device's writes to latest-wins maps that nobody else has seen, by map.
    fn unsaved_writes(&self, device: Ulid) -> Vec<(LwwMap, Vec<(String, Stamp)>)> {
        let server_has = self.server_has().map_or_else(HashMap::new, |has| state_vector_entries(has).collect());
        let sent = self.queue.sent_ids();
        // Without knowing what is saved nothing can be told apart.
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
            let map = LwwMap::new(root);
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
            LwwMap::new("map").set(txn, &mut hlc, at_ms, key, &Value::Null).unwrap();
        };
        core.edit(id, at_ms, set, out).unwrap();
    }

    fn stamps(core: &Core) -> Vec<Stamp> {
        core.read(|txn| LwwMap::new("map").winners(txn)).into_values().map(|entry| entry.stamp).collect()
    }

    /// The app is started anew: what was written to the journal is read.
    fn restarted(out: Outputs, known_ms: i64) -> Core {
        let notes: Vec<Note> = out
            .writes
            .into_iter()
            .map(|write| match write {
                Write::Note(note) => Note::decode(&note.encode()).unwrap(),
                Write::Snapshot(_) => panic!("too little for a snapshot"),
            })
            .collect();
        let last = Seq(notes.len() as u64);
        let (mut core, problems) = Core::load(Snapshot::default(), notes, last);
        assert!(problems.is_empty());
        core.set_clock(known_ms);
        core
    }

    #[test]
    fn stamps_of_a_wrong_clock_are_moved_once_and_wait_for_that() {
        let (mut core, mut out) = fresh();
        write(&mut core, 1, NOW_MS, "a", &mut out);
        core.stored(core.written(), &mut out);
        assert!(core.clock.lets_send(&core.queue));
        core.set_clock(DAY_MS);
        assert!(!core.clock.lets_send(&core.queue), "known to be wrong");
        core.correct_stamps(DEVICE, 2, NOW_MS, &mut out);
        assert!(!core.clock.lets_send(&core.queue), "the correction is not stored");
        core.stored(core.written(), &mut out);
        assert!(core.clock.lets_send(&core.queue));
        let right = stamp_of(NOW_MS.strict_add_signed(DAY_MS));
        assert_eq!(stamps(&core), [right]);

        write(&mut core, 3, NOW_MS.strict_add_signed(DAY_MS), "b", &mut out);
        let mut core = restarted(out, DAY_MS);
        let mut out = Outputs::default();
        core.correct_stamps(DEVICE, 4, NOW_MS, &mut out);
        assert!(out.writes.is_empty(), "corrected before");
        assert_eq!(stamps(&core), [right, right + 1]);
    }

    #[test]
    fn a_wrong_stamp_never_leaves_without_its_correction() {
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
        let [frame] = &out.frames[..] else { panic!("one message holds both: {:?}", out.frames) };
        let ToServer::Change { update, .. } = ToServer::decode(frame).unwrap() else { panic!("not a change") };
        let server = Replica::load(std::iter::once(Bytes::copy_from_slice(update))).unwrap();
        let right = stamp_of(NOW_MS.strict_add_signed(DAY_MS));
        let arrived = server.read(|txn| LwwMap::new("map").writes_of(txn, &DEVICE.to_string()));
        assert_eq!(arrived, [("a".to_owned(), right)]);
    }

    #[test]
    fn a_correction_that_was_not_stored_is_made_again() {
        let (mut core, mut out) = fresh();
        write(&mut core, 1, NOW_MS, "a", &mut out);
        core.stored(core.written(), &mut out);
        core.set_clock(-DAY_MS);
        core.correct_stamps(DEVICE, 2, NOW_MS, &mut out);
        core.storage_failed();
        assert_eq!(stamps(&core), [stamp_of(NOW_MS)]);
        assert!(!core.clock.lets_send(&core.queue));
        core.correct_stamps(DEVICE, 3, NOW_MS, &mut out);
        assert_eq!(stamps(&core), [stamp_of(NOW_MS.strict_add_signed(-DAY_MS))]);
    }

    #[test]
    fn a_little_is_left_alone_and_what_is_saved_stays() {
        let (mut core, mut out) = fresh();
        write(&mut core, 1, NOW_MS, "saved", &mut out);
        core.queue.save(1);
        write(&mut core, 2, NOW_MS, "unsaved", &mut out);
        core.stored(core.written(), &mut out);
        core.set_clock(60_000);
        core.correct_stamps(DEVICE, 3, NOW_MS, &mut out);
        assert!(core.clock.lets_send(&core.queue));
        core.set_clock(DAY_MS);
        core.correct_stamps(DEVICE, 4, NOW_MS, &mut out);
        assert_eq!(stamps(&core), [stamp_of(NOW_MS), stamp_of(NOW_MS.strict_add_signed(DAY_MS)) + 1]);
    }

    #[test]
    fn what_the_server_has_is_not_moved_though_it_never_said_that_it_is_saved() {
        let (mut core, mut out) = fresh();
        write(&mut core, 1, NOW_MS, "sent", &mut out);
        let sent = core.read(|txn| yrs::ReadTxn::state_vector(txn)).encode_v1();
        core.stored(core.written(), &mut out);
        write(&mut core, 2, NOW_MS, "kept", &mut out);
        core.stored(core.written(), &mut out);
        core.set_clock(DAY_MS);
        assert!(core.connected(0, "d", "", NOW_MS, &mut out));
        assert!(!core.can_correct_stamps(), "the server has told nothing yet");
        let asked = |frame: &Bytes| match ToServer::decode(frame).unwrap() {
            ToServer::Open { wants_state_vector, .. } => wants_state_vector,
            _ => false,
        };
        assert!(out.frames.iter().any(asked));
        let (cursor, resume) = (Cursor { epoch: Epoch(1), seq: Seq(1) }, Resume::SendStateVector);
        let opened = ToClient::Opened { channel: 0, cursor, read_only: false, resume, state_vector: Some(&sent) };
        core.received(&opened, 10, NOW_MS, &mut out).unwrap();
        assert!(core.can_correct_stamps());
        assert_eq!(core.stamping_offset_ms(), 0, "as the rest of the queue");
        assert_eq!(core.correct_stamps(DEVICE, 3, NOW_MS, &mut out), Some(DAY_MS));
        assert_eq!(core.stamping_offset_ms(), DAY_MS);
        let winners = core.read(|txn| LwwMap::new("map").winners(txn));
        assert_eq!(winners["sent"].stamp, stamp_of(NOW_MS));
        assert!(winners["kept"].stamp >= stamp_of(NOW_MS.strict_add_signed(DAY_MS)));
    }
    #[test]
    fn what_was_sent_once_is_not_moved_though_the_server_lost_it_in_a_crash() {
        for is_restarted in [false, true] {
            let (mut core, mut out) = fresh();
            write(&mut core, 1, NOW_MS, "sent", &mut out);
            core.stored(core.written(), &mut out);
            let (cursor, resume) = (Cursor { epoch: Epoch(1), seq: Seq(1) }, Resume::SendStateVector);
            let opened = |state_vector| ToClient::Opened { channel: 0, cursor, read_only: false, resume, state_vector };
            assert!(core.connected(0, "d", "", NOW_MS, &mut out));
            core.received(&opened(None), 10, NOW_MS, &mut out).unwrap();
            // Another device has it now, and may write over it.
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
            let winners = core.read(|txn| LwwMap::new("map").winners(txn));
            assert_eq!(winners["sent"].stamp, stamp_of(NOW_MS), "restarted: {is_restarted}");
            assert!(winners["kept"].stamp >= stamp_of(NOW_MS.strict_add_signed(DAY_MS)));
        }
    }
}
