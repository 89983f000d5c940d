//! PURE: tracks the number of unsynced changes as a Hocuspocus provider counts it, to know which acks lower
//! it.
//!
//! The provider (npm `@hocuspocus/provider` 2.9 to 4.8, HocuspocusProvider.ts) shows `unsyncedChanges`. It
//! adds one for each update it makes, subtracts one for each sync status 1, never below zero, and *sets the
//! number to one* when it sends a step 1: at the start of every connection, whatever it has queued, and in
//! `forceSync()`. That one stands for the step 2 it sends in reply to the server's step 1. One status per
//! update would therefore take the number to zero while queued updates are still in flight. Here a session is
//! *syncing* until its step 2 arrives:
//!
//! - Updates received before its newest step 1 are no longer in the number: they get no status.
//! - An update whose structs are all in the state vector of that step 1 was made before it and gets no
//!   status. Other updates were made after it and are counted.
//! - An update that only deletes does not show when it was made. If the session knows that it was made on this
//!   connection ([`Origin::LiveChange`]: see `dialect/hocuspocus/offline_queue.rs`), it is counted. Otherwise it is treated
//!   like the update before it, and gets no status if it is the first: a surplus status would make the number zero
//!   too early, a missing one only too late.
//! - If there are too many clocks to keep (`client_clocks.rs`), updates with structs get no status before the step 2 arrives.
//!   The number is then too high until the next step 1 if one of them was made after the step 1.
//! - A step 1 that is behind the one before it, in the same round, is older: a provider that opened the document
//!   before it was connected sends it with its queue. It does not begin a round.
//! - The step 2 gets its own status and those of the counted updates, all when everything up to it is on
//!   disk.
//! - A further step 2, sent only because the server asked again, gets no status of its own.
//! - An update or step 2 that is not stored because too much is pending gets status 0, which leaves the number unchanged. The next step 2 that
//!   is stored contains it, and gets its status as well. Changes counted before a refused step 2 do not wait any longer.

use syncline_protocol::update::{ScanLimits, Structs, verdict};

use super::client_clocks::ClientClocks;
use crate::document::event::Origin;

/// What the provider's number currently stands for.
#[derive(Debug)]
pub(super) struct UnsyncedCounter {
    /// Number of step 1 messages received. Updates of an earlier round get no status.
    round: u32,
    /// `Some` until the step 2 arrives.
    syncing: Option<SyncRound>,
    /// Statuses of updates that were not stored: the next step 2 that is stored pays them.
    owed: u64,
}

#[derive(Debug, Default)]
struct SyncRound {
    /// What the client had when it sent the step 1 of this round; nothing if it has not sent one.
    client_clocks: ClientClocks,
    /// True if the last update with structs was made before the step 1, or none has arrived since the step 1.
    was_queued: bool,
    /// Updates that get their status together with the step 2.
    counted: u64,
    /// Deletions that get it as well if the step 2 confirms that they were made on this connection.
    live: u64,
}

impl Default for UnsyncedCounter {
    fn default() -> Self {
        Self { round: 0, syncing: Some(SyncRound::default()), owed: 0 }
    }
}

impl UnsyncedCounter {
    pub(super) fn round(&self) -> u32 {
        self.round
    }

    /// True until the step 2 arrives.
    pub(super) fn is_syncing(&self) -> bool {
        self.syncing.is_some()
    }

    /// True if updates that were not stored have not got their status.
    pub(super) fn is_owed(&self) -> bool {
        self.owed > 0
    }

    /// Memory of the clocks of the step 1, in bytes.
    pub(super) fn clocks_bytes(&self) -> usize {
        self.syncing.as_ref().map_or(0, |syncing| syncing.client_clocks.bytes())
    }

    /// The client has sent a step 1. `room_bytes`: memory that its clocks may take.
    pub(super) fn step1(&mut self, state_vector: &[u8], room_bytes: usize) {
        let client_clocks = ClientClocks::read(state_vector, room_bytes);
        if let Some(syncing) = &mut self.syncing
            && client_clocks.are_behind(&syncing.client_clocks)
        {
            // The changes behind it in the queue were made before the newer step 1, too.
            syncing.was_queued = true;
            return;
        }
        self.round += 1;
        self.syncing = Some(SyncRound { was_queued: true, client_clocks, counted: 0, live: 0 });
        self.owed = 0;
    }

    /// Number of statuses that are due once a stored update is on disk; 0 if it gets none, or gets it with the step 2.
    pub(super) fn store(&mut self, update: &[u8], origin: Origin) -> u64 {
        match origin {
            Origin::Step2 | Origin::ConfirmedStep2 => {
                let own = u64::from(self.is_syncing());
                self.end_round(origin) + own + std::mem::take(&mut self.owed)
            }
            Origin::Change | Origin::LiveChange => {
                let Some(syncing) = &mut self.syncing else { return 1 };
                match syncing.count(update, origin) {
                    Counted::No => {}
                    Counted::Yes => syncing.counted += 1,
                    Counted::IfConfirmed => syncing.live += 1,
                }
                0
            }
        }
    }

    /// The same for an update that is not stored: the number of statuses that no longer wait for it.
    pub(super) fn refuse(&mut self, update: &[u8], origin: Origin) -> u64 {
        match origin {
            Origin::Step2 | Origin::ConfirmedStep2 => {
                self.owed += u64::from(self.is_syncing());
                self.end_round(origin)
            }
            Origin::Change | Origin::LiveChange => {
                let counted = self.syncing.as_mut().map_or(Counted::Yes, |syncing| syncing.count(update, origin));
                self.owed += u64::from(counted == Counted::Yes);
                0
            }
        }
    }

    /// A step 2 has arrived. Returns the number of changes that waited for it.
    fn end_round(&mut self, step2: Origin) -> u64 {
        let Some(SyncRound { counted, live, .. }) = self.syncing.take() else { return 0 };
        counted + if step2 == Origin::ConfirmedStep2 { live } else { 0 }
    }
}

/// Whether a change is in the provider's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Yes,
    No,
    /// If the step 2 confirms that it was made on this connection.
    IfConfirmed,
}

impl SyncRound {
    fn count(&mut self, update: &[u8], origin: Origin) -> Counted {
        let clock = |author| self.client_clocks.clock(author);
        let is_live = origin == Origin::LiveChange;
        let is_queued = match verdict(update, &clock, &ScanLimits::default()).map(|verdict| verdict.structs) {
            Ok(Structs::None) if is_live => return Counted::IfConfirmed,
            Ok(Structs::None) => self.was_queued,
            structs => {
                let is_queued = matches!(structs, Ok(Structs::Known));
                // The client sends its queue after live changes.
                self.was_queued = is_queued || (is_live && self.was_queued);
                is_queued
            }
        };
        if is_queued { Counted::No } else { Counted::Yes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Updates of one client that types one letter each; the first is at clock 0.
    fn typed(client: u8, count: u8) -> Vec<Vec<u8>> {
        let first = vec![1, 1, client, 0, 4, 1, 1, b't', 1, b'a', 0];
        let next = |clock: u8| vec![1, 1, client, clock, 0x84, client, clock - 1, 1, b'a', 0];
        std::iter::once(first).chain((1..count).map(next)).collect()
    }

    #[test]
    fn queued_updates_are_not_counted_and_new_ones_are() {
        let updates = typed(1, 6);
        let mut unsynced = UnsyncedCounter::default();
        // Three were made before the step 1 and arrive after two newer ones.
        unsynced.step1(&[1, 1, 3], usize::MAX);
        for update in [&updates[3], &updates[4], &updates[0], &updates[1], &updates[2]] {
            assert_eq!(unsynced.store(update, Origin::Change), 0, "nothing is acknowledged before the step 2");
        }
        assert_eq!(unsynced.store(&[0, 0], Origin::ConfirmedStep2), 3, "the step 2 and two updates");
        assert_eq!(unsynced.store(&updates[5], Origin::Change), 1);
        assert_eq!(
            unsynced.store(&[0, 0], Origin::ConfirmedStep2),
            0,
            "the reply to a question of the server alone gets no status"
        );
    }

    #[test]
    fn deletions_follow_the_update_before_them() {
        let updates = typed(1, 2);
        let delete = [0, 1, 1, 1, 0, 1];
        let mut unsynced = UnsyncedCounter::default();
        unsynced.step1(&[1, 1, 1], usize::MAX);
        for update in [&delete[..], &updates[1], &delete, &updates[0], &delete, &delete] {
            unsynced.store(update, Origin::Change);
        }
        assert_eq!(
            unsynced.store(&[0, 0], Origin::ConfirmedStep2),
            3,
            "the step 2, the new update and the deletion behind it"
        );
        // No provider counts fifty deletions that were made offline.
        unsynced.step1(&[1, 1, 1], usize::MAX);
        (0..50).for_each(|_| _ = unsynced.store(&delete, Origin::Change));
        assert_eq!(unsynced.store(&[0, 0], Origin::ConfirmedStep2), 1);
    }

    #[test]
    fn older_step_1_does_not_begin_a_round() {
        let updates = typed(1, 5);
        let delete = [0, 1, 1, 1, 0, 1];
        let mut unsynced = UnsyncedCounter::default();
        unsynced.step1(&[1, 1, 3], usize::MAX);
        unsynced.store(&updates[3], Origin::Change);
        // The queue of a provider that opened the document before it was connected.
        unsynced.step1(&[0], usize::MAX);
        for update in [&delete[..], &updates[0], &updates[1], &updates[2], &delete] {
            unsynced.store(update, Origin::Change);
        }
        assert_eq!(unsynced.round(), 1);
        assert_eq!(unsynced.store(&[0, 0], Origin::ConfirmedStep2), 2, "the step 2 and the newest update");
        // Neither the same clocks nor those of another document are older.
        for state_vector in [&[1, 1, 3][..], &[1, 1, 3], &[1, 2, 1], &[2, 2, 1, 1, 4]] {
            let round = unsynced.round();
            unsynced.step1(state_vector, usize::MAX);
            assert_eq!(unsynced.round(), round + 1);
        }
        assert_eq!(unsynced.store(&updates[4], Origin::Change), 0);
        assert_eq!(unsynced.store(&[0, 0], Origin::ConfirmedStep2), 2);
        // After the step 2 a document with fewer clocks is a new one, which was opened under the same name.
        unsynced.step1(&[0], usize::MAX);
        assert!(unsynced.is_syncing());
    }

    #[test]
    fn updates_of_a_client_that_sends_no_step_1_are_all_counted() {
        let updates = typed(1, 2);
        let mut unsynced = UnsyncedCounter::default();
        updates.iter().for_each(|update| _ = unsynced.store(update, Origin::Change));
        assert_eq!(unsynced.store(&[0, 0], Origin::ConfirmedStep2), 3);
    }

    #[test]
    fn refused_step_2_is_owed_and_changes_do_not_wait_for_it() {
        let updates = typed(1, 3);
        let mut unsynced = UnsyncedCounter::default();
        unsynced.step1(&[0], usize::MAX);
        unsynced.store(&updates[0], Origin::Change);
        unsynced.refuse(&updates[1], Origin::Change);
        assert_eq!(unsynced.refuse(&updates[2], Origin::Step2), 1, "the change that is stored");
        assert_eq!(unsynced.store(&updates[0], Origin::Change), 1);
        assert_eq!(unsynced.store(&updates[2], Origin::Step2), 2, "the step 2 and the change that was not stored");
        assert!(!unsynced.is_owed());
    }
}
