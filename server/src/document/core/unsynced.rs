//! PURE: the number of unsaved changes as a Hocuspocus provider counts it, and which updates lower it when they are on disk.
//!
//! The provider (npm `@hocuspocus/provider` 2.9 to 4.8, HocuspocusProvider.ts) shows `unsyncedChanges`. It adds one for each
//! update it makes, takes one off for each sync status 1, never below zero, and *sets the number to one* when it sends a step 1:
//! at the beginning of every connection, whatever it has queued, and in `forceSync()`. That one stands for the step 2 with which
//! it answers the server's step 1. So one status for each update would take the number to zero while queued updates are
//! still on their way. Here a session is *syncing* until its step 2 has come:
//!
//! - What came before its newest step 1 is not in the number any more: it gets no status.
//! - An update whose structs are all in the state vector of that step 1 was made before it, and gets none. The others
//!   were made after it and are counted.
//! - An update that only deletes does not show when it was made. The session knows it for most ([`Origin::LiveChange`]: see
//!   `session/offline_queue.rs`), and those are counted. The others are treated like the update before them, and not counted when they
//!   come first: a status too many would make the number zero too early, one too few makes it zero at the next step 1.
//! - The step 2 gets its own status and those of the counted updates, all when everything up to it is on disk.
//! - A further step 2, in answer to a question of the server alone, gets no status.

use std::collections::HashMap;

use syncline_protocol::update::{ScanLimits, Structs, state_vector_entries, verdict};

use super::Core;
use crate::document::event::Origin;
use crate::ids::LeaseId;

/// A longer state vector is not stored. No update before the step 2 counts then: the number may stay up until the next step 1.
const MAX_STATE_VECTOR_BYTES: usize = 256 * 1024;

/// What the provider's number stands for.
#[derive(Debug)]
pub(super) struct Unsynced {
    /// Steps 1 so far. Updates of an earlier round get no status.
    round: u32,
    /// The step 2 has not come.
    syncing: Option<Syncing>,
}

/// What is known of the newest step 1.
#[derive(Debug, Default)]
enum Known {
    /// It has not come.
    #[default]
    Nothing,
    /// Its state vector.
    Clocks(HashMap<u64, u64>),
    /// Its state vector was too long to be stored.
    TooLong,
}

#[derive(Debug, Default)]
struct Syncing {
    /// The clocks of the newest step 1.
    known: Known,
    /// The last update with structs was made before the step 1, or none has come since a step 1.
    was_queued: bool,
    /// Updates that wait for the step 2 to get their status.
    counted: u64,
    /// The same, if that step 2 confirms that they were made on this connection.
    live: u64,
}

impl Default for Unsynced {
    fn default() -> Self {
        Self { round: 0, syncing: Some(Syncing::default()) }
    }
}

impl Unsynced {
    fn step1(&mut self, state_vector: &[u8]) {
        let known = if state_vector.len() <= MAX_STATE_VECTOR_BYTES {
            Known::Clocks(state_vector_entries(state_vector).collect())
        } else {
            Known::TooLong
        };
        self.round += 1;
        self.syncing = Some(Syncing { was_queued: true, known, counted: 0, live: 0 });
    }

    /// How many statuses a change gets when it is on disk. 0: none, or with the step 2. `is_live`: made on this connection.
    fn change(&mut self, update: &[u8], is_live: bool) -> u64 {
        let Some(syncing) = &mut self.syncing else { return 1 };
        let clock = |client| match &syncing.known {
            Known::Clocks(clocks) => clocks.get(&client).copied().unwrap_or(0),
            Known::Nothing => 0,
            Known::TooLong => u64::MAX,
        };
        match verdict(update, &clock, &ScanLimits::default()).map(|verdict| verdict.structs) {
            Ok(Structs::None) if is_live => syncing.live += 1,
            Ok(Structs::None) => syncing.counted += u64::from(!syncing.was_queued),
            structs => {
                let was_queued = matches!(structs, Ok(Structs::Known));
                syncing.counted += u64::from(!was_queued);
                // The client sends its queue behind what it has made on the connection.
                syncing.was_queued = was_queued || (is_live && syncing.was_queued);
            }
        }
        0
    }

    /// The same for a step 2. `is_confirmed`: what was called live before it was.
    fn step2(&mut self, is_confirmed: bool) -> u64 {
        let live = |syncing: &Syncing| if is_confirmed { syncing.live } else { 0 };
        self.syncing.take().map_or(0, |syncing| syncing.counted + live(&syncing) + 1)
    }
}

impl Core {
    /// A session has sent a step 1. Returns true when it counts, and was not asked for what the server lacks since it
    /// answered last: it waits for a status of its answer.
    pub(super) fn note_step1(&mut self, lease: LeaseId, state_vector: &[u8]) -> bool {
        let Some(lease) = self.leases.get_mut(&lease) else { return false };
        let Some(unsynced) = &mut lease.unsynced else { return false };
        unsynced.step1(state_vector);
        !lease.is_asked
    }

    /// How many acknowledgements an update that was taken gets when it is on disk.
    pub(super) fn acks_of(&mut self, lease: LeaseId, update: &[u8], origin: Origin) -> u64 {
        let Some(lease) = self.leases.get_mut(&lease) else { return 1 };
        match (&mut lease.unsynced, origin) {
            (None, _) => 1,
            (Some(unsynced), Origin::Change) => unsynced.change(update, false),
            (Some(unsynced), Origin::LiveChange) => unsynced.change(update, true),
            (Some(unsynced), Origin::Step2) => unsynced.step2(false),
            (Some(unsynced), Origin::ConfirmedStep2) => unsynced.step2(true),
        }
    }

    /// The round of a session's updates; acknowledgements of an earlier one are not sent.
    pub(super) fn round(&self, lease: LeaseId) -> u32 {
        self.leases.get(&lease).and_then(|lease| lease.unsynced.as_ref()).map_or(0, |unsynced| unsynced.round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Updates of one client that types a letter each, the first at `0`.
    fn typed(client: u8, count: u8) -> Vec<Vec<u8>> {
        let first = vec![1, 1, client, 0, 4, 1, 1, b't', 1, b'a', 0];
        let next = |clock: u8| vec![1, 1, client, clock, 0x84, client, clock - 1, 1, b'a', 0];
        std::iter::once(first).chain((1..count).map(next)).collect()
    }

    #[test]
    fn queued_updates_are_not_counted_and_new_ones_are() {
        let updates = typed(1, 6);
        let mut unsynced = Unsynced::default();
        // Three were made before the step 1 and are sent after two newer ones.
        unsynced.step1(&[1, 1, 3]);
        for update in [&updates[3], &updates[4], &updates[0], &updates[1], &updates[2]] {
            assert_eq!(unsynced.change(update, false), 0, "nothing is acknowledged before the step 2");
        }
        assert_eq!(unsynced.step2(true), 3, "the step 2 and two updates");
        assert_eq!(unsynced.change(&updates[5], false), 1);
        assert_eq!(unsynced.step2(true), 0, "the server asked by itself");
    }

    #[test]
    fn deletions_follow_the_update_before_them() {
        let updates = typed(1, 2);
        let delete = [0, 1, 1, 1, 0, 1];
        let mut unsynced = Unsynced::default();
        unsynced.step1(&[1, 1, 1]);
        for update in [&delete[..], &updates[1], &delete, &updates[0], &delete, &delete] {
            unsynced.change(update, false);
        }
        assert_eq!(unsynced.step2(true), 3, "the step 2, the new update and the deletion behind it");
        // Fifty deletions that were made offline are in the number of no provider.
        unsynced.step1(&[1, 1, 1]);
        (0..50).for_each(|_| _ = unsynced.change(&delete, false));
        assert_eq!(unsynced.step2(true), 1);
    }

    #[test]
    fn updates_of_a_client_that_sends_no_step_1_are_all_counted() {
        let updates = typed(1, 2);
        let mut unsynced = Unsynced::default();
        updates.iter().for_each(|update| _ = unsynced.change(update, false));
        assert_eq!(unsynced.step2(true), 3);
    }

    #[test]
    fn live_deletions_are_counted_if_the_step_2_confirms_them() {
        let delete = [0, 1, 1, 1, 0, 1];
        for (is_confirmed, statuses) in [(true, 3), (false, 2)] {
            let mut unsynced = Unsynced::default();
            unsynced.step1(&[1, 1, 1]);
            unsynced.change(&delete, true);
            unsynced.change(&typed(1, 2)[1], true);
            // Its queue follows: two deletions, of which nothing shows when they were made.
            unsynced.change(&delete, false);
            unsynced.change(&delete, false);
            assert_eq!(
                unsynced.step2(is_confirmed),
                statuses,
                "the step 2, the letter, and the live deletion if confirmed"
            );
        }
    }
}
