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
//! - The step 2 gets its own status and those of the counted updates, all when everything up to it is on
//!   disk.
//! - A further step 2, sent only because the server asked again, gets no status.

use std::collections::HashMap;

use syncline_protocol::update::{ScanLimits, Structs, state_vector_entries, verdict};

use super::Core;
use crate::document::event::Origin;
use crate::ids::LeaseId;

/// A longer state vector is not stored. Updates before the step 2 are then not counted: the number may stay
/// too high until the next step 1.
const MAX_STATE_VECTOR_BYTES: usize = 256 * 1024;

/// What the provider's number currently stands for.
#[derive(Debug)]
pub(super) struct UnsyncedCounter {
    /// Number of step 1 messages received. Updates of an earlier round get no status.
    round: u32,
    /// `Some` until the step 2 arrives.
    syncing: Option<SyncRound>,
}

/// Clocks of the newest step 1.
#[derive(Debug, Default)]
enum ClientClocks {
    /// No step 1 received yet.
    #[default]
    NotReceived,
    /// Clock per client of its state vector.
    Clocks(HashMap<u64, u64>),
    /// Its state vector was too long to store.
    TooLong,
}

#[derive(Debug, Default)]
struct SyncRound {
    /// What the client had when it sent its newest step 1.
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
        Self { round: 0, syncing: Some(SyncRound::default()) }
    }
}

impl UnsyncedCounter {
    fn step1(&mut self, state_vector: &[u8]) {
        let client_clocks = if state_vector.len() <= MAX_STATE_VECTOR_BYTES {
            ClientClocks::Clocks(state_vector_entries(state_vector).collect())
        } else {
            ClientClocks::TooLong
        };
        self.round += 1;
        self.syncing = Some(SyncRound { was_queued: true, client_clocks, counted: 0, live: 0 });
    }

    /// Number of statuses for a change once it is on disk; 0 if it gets none, or gets it with the step 2. `is_live`: the
    /// client made it on this connection.
    fn change(&mut self, update: &[u8], is_live: bool) -> u64 {
        let Some(syncing) = &mut self.syncing else { return 1 };
        let clock = |client| match &syncing.client_clocks {
            ClientClocks::Clocks(clocks) => clocks.get(&client).copied().unwrap_or(0),
            ClientClocks::NotReceived => 0,
            ClientClocks::TooLong => u64::MAX,
        };
        match verdict(update, &clock, &ScanLimits::default()).map(|verdict| verdict.structs) {
            Ok(Structs::None) if is_live => syncing.live += 1,
            Ok(Structs::None) => syncing.counted += u64::from(!syncing.was_queued),
            structs => {
                let was_queued = matches!(structs, Ok(Structs::Known));
                syncing.counted += u64::from(!was_queued);
                // The client sends its queue after live changes.
                syncing.was_queued = was_queued || (is_live && syncing.was_queued);
            }
        }
        0
    }

    /// Number of statuses for a step 2 once it is on disk. `is_confirmed`: the live changes before it were made on
    /// this connection.
    fn step2(&mut self, is_confirmed: bool) -> u64 {
        let live = |syncing: &SyncRound| if is_confirmed { syncing.live } else { 0 };
        self.syncing.take().map_or(0, |syncing| syncing.counted + live(&syncing) + 1)
    }
}

impl Core {
    /// Notes that the client has sent a step 1, whether or not it is answered now.
    pub(super) fn note_step1(&mut self, lease: LeaseId, state_vector: &[u8]) {
        if let Some(lease) = self.leases.get_mut(lease)
            && let Some(unsynced) = &mut lease.unsynced
        {
            unsynced.step1(state_vector);
            lease.owed_acks = 0;
        }
    }

    /// True if the client counts unsynced changes and must be sent a step 1: it expects a status for its step 2, and no
    /// earlier step 1 of the server is unanswered.
    pub(super) fn awaits_unasked_step2(&self, lease: LeaseId) -> bool {
        let Some(lease) = self.leases.get(lease) else { return false };
        lease.unsynced.as_ref().is_some_and(|unsynced| unsynced.syncing.is_some()) && !lease.awaits_step2
    }

    /// Number of acks for an accepted update once it is on disk.
    pub(super) fn acks_of(&mut self, lease: LeaseId, update: &[u8], origin: Origin) -> u64 {
        let Some(lease) = self.leases.get_mut(lease) else { return 1 };
        match (&mut lease.unsynced, origin) {
            (None, _) => 1,
            (Some(unsynced), Origin::Change) => unsynced.change(update, false),
            (Some(unsynced), Origin::LiveChange) => unsynced.change(update, true),
            (Some(unsynced), Origin::Step2) => unsynced.step2(false),
            (Some(unsynced), Origin::ConfirmedStep2) => unsynced.step2(true),
        }
    }

    /// Current round of a session; acks of earlier rounds are not sent.
    pub(super) fn round(&self, lease: LeaseId) -> u32 {
        self.leases.get(lease).and_then(|lease| lease.unsynced.as_ref()).map_or(0, |unsynced| unsynced.round)
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
        unsynced.step1(&[1, 1, 3]);
        for update in [&updates[3], &updates[4], &updates[0], &updates[1], &updates[2]] {
            assert_eq!(unsynced.change(update, false), 0, "nothing is acknowledged before the step 2");
        }
        assert_eq!(unsynced.step2(true), 3, "the step 2 and two updates");
        assert_eq!(unsynced.change(&updates[5], false), 1);
        assert_eq!(unsynced.step2(true), 0, "the reply to a question of the server alone gets no status");
    }

    #[test]
    fn deletions_follow_the_update_before_them() {
        let updates = typed(1, 2);
        let delete = [0, 1, 1, 1, 0, 1];
        let mut unsynced = UnsyncedCounter::default();
        unsynced.step1(&[1, 1, 1]);
        for update in [&delete[..], &updates[1], &delete, &updates[0], &delete, &delete] {
            unsynced.change(update, false);
        }
        assert_eq!(unsynced.step2(true), 3, "the step 2, the new update and the deletion behind it");
        // No provider counts fifty deletions that were made offline.
        unsynced.step1(&[1, 1, 1]);
        (0..50).for_each(|_| _ = unsynced.change(&delete, false));
        assert_eq!(unsynced.step2(true), 1);
    }

    #[test]
    fn updates_of_a_client_that_sends_no_step_1_are_all_counted() {
        let updates = typed(1, 2);
        let mut unsynced = UnsyncedCounter::default();
        updates.iter().for_each(|update| _ = unsynced.change(update, false));
        assert_eq!(unsynced.step2(true), 3);
    }
}
