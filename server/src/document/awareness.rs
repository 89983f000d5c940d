//! PURE: the awareness states of one document. They are relayed and never logged.
//!
//! A client id belongs to the lease that sent its newest state, and is removed with that lease. Two habits of
//! stock clients shape the rules (npm y-protocols 1.0.7, y-websocket 3.1.0):
//!
//! - y-websocket clients send every awareness update they receive back to the server. So a state that is not
//!   newer than the known one is dropped by (id, clock) alone.
//! - A reconnecting client does not know that its id was removed at its current clock, and every peer would
//!   ignore it for 15 s. So the server helps the *own* id of a lease (the one in its first message with a
//!   single state): it sends the client the tombstone, which makes it raise its clock, and immediately
//!   shows its state to the others at the tombstone's clock + 1. A removal itself never raises the clock:
//!   the tombstone would then have the same clock as the state of the returning client.
//!
//! Clocks have 32 bits (yrs), and a client continues from whatever clock it receives for its own id. So a session
//! cannot push the clock of another session's id to the end, where that client could not be shown any more: an open
//! session *claims* its own id, and others may be only a little ahead of the clock that it has sent itself.

use std::collections::HashMap;

use syncline_protocol::awareness::{AwarenessEntry, encode};
use syncline_protocol::limits::{MAX_AWARENESS_CLOCK, MAX_AWARENESS_STATE_BYTES};

use crate::ids::LeaseId;

/// Maximum number of client ids per document, tombstones included. Beyond it new ids are ignored until old
/// ones are removed, except a lease's own.
const MAX_CLIENTS: usize = 50_000;
/// Maximum number of states shown by one lease: a few leases cannot use up [`MAX_CLIENTS`]. Further ones are
/// ignored, except its own.
const MAX_LEASE_CLIENTS: usize = 1_000;
/// Maximum number of tombstones kept for returning clients; beyond it all are dropped (a return then takes 15
/// s).
const MAX_TOMBSTONES: usize = 10_000;

/// How far a state may be ahead of the clock that the session with this id has sent itself. A client that has
/// reconnected may be ahead by what it did until its old connection ended, in a minute or so.
const MAX_CLOCK_STEP: u64 = 10_000;

/// Larger clocks are only reached in steps of [`MAX_CLOCK_STEP`], one for each update: no editor gets there.
const MAX_FREE_CLOCK: u64 = 1 << 31;

/// Maximum bytes of states per document; a state beyond it is dropped until others are removed.
const MAX_STATE_BYTES: usize = 16 * 1024 * 1024;

/// Fixed cost of a client besides its state, counted towards the lease's limit.
const CLIENT_BYTES: usize = 64;

/// Minimum limit of a lease, however many documents its session has open.
const MIN_LEASE_BYTES: usize = 4 * 1024;

const NULL: &str = "null";

#[derive(Debug)]
struct Client {
    clock: u64,
    /// JSON; `None` for a tombstone.
    state: Option<Box<str>>,
    owner: LeaseId,
    /// The first of the open leases whose own id this is; set by its states, cleared when it leaves.
    claim: Option<Box<Claim>>,
}

#[derive(Debug)]
struct Claim {
    lease: LeaseId,
    /// The largest clock that this lease has sent.
    clock: u64,
}

/// A client and its clock after a change.
pub(crate) type ChangedClient = (u64, u64);

/// The frames that follow from an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct AwarenessChanges {
    /// Clients whose states are sent to everyone: [`AwarenessStates::encode`].
    pub everyone: Vec<ChangedClient>,
    /// An awareness update for the sender only.
    pub sender: Option<Vec<u8>>,
    /// Number of states dropped because they, or the lease's states together, exceed a limit.
    pub dropped: usize,
}

/// The awareness states of one document.
#[derive(Debug)]
pub(crate) struct AwarenessStates {
    clients: HashMap<u64, Client>,
    tombstones: usize,
    /// Bytes of all states.
    state_bytes: usize,
    /// Leases that own a state, have an own id, or have a reduced limit.
    leases: HashMap<LeaseId, LeaseUsage>,
    /// Default limit on the bytes of a lease's states.
    lease_bytes: usize,
    /// False: a state that needs more memory than the one before it is dropped.
    may_grow: bool,
}

/// State of one lease.
#[derive(Debug, Default)]
struct LeaseUsage {
    /// Its own client id, once known.
    own: Option<u64>,
    /// Number of states that it owns, and their bytes.
    shown: usize,
    shown_bytes: usize,
    /// Reduced limit, if its session has more documents open.
    limit_bytes: Option<usize>,
}

impl Default for AwarenessStates {
    fn default() -> Self {
        Self::with_limit(usize::MAX)
    }
}

impl Client {
    fn state_bytes(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.len())
    }

    fn shown_bytes(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.len() + CLIENT_BYTES)
    }
}

impl AwarenessStates {
    /// No states; each lease may show at most `lease_bytes`.
    pub(crate) fn with_limit(lease_bytes: usize) -> Self {
        Self {
            clients: HashMap::new(),
            tombstones: 0,
            state_bytes: 0,
            leases: HashMap::new(),
            lease_bytes,
            may_grow: true,
        }
    }

    /// Reduces the limit of a lease whose session has `documents` open, this one included, so that all leases
    /// of a session together may show at most a small multiple of one lease's limit.
    pub(crate) fn limit_share(&mut self, lease: LeaseId, documents: usize) {
        if documents > 1 {
            let share = (self.lease_bytes / documents).max(MIN_LEASE_BYTES).min(self.lease_bytes);
            self.leases.entry(lease).or_default().limit_bytes = Some(share);
        }
    }

    /// From now on drops states that need more memory than before, or no longer.
    pub(crate) fn limit_growth(&mut self, may_grow: bool) {
        self.may_grow = may_grow;
    }

    /// Applies the entries sent by a lease.
    pub(crate) fn update<'a>(
        &mut self,
        lease: LeaseId,
        entries: impl Iterator<Item = AwarenessEntry<'a>>,
    ) -> AwarenessChanges {
        let mut everyone: Vec<ChangedClient> = Vec::new();
        let mut sender: Vec<ChangedClient> = Vec::new();
        let mut entries = entries.peekable();
        let (mut first, mut dropped) = (true, 0);
        while let Some(entry) = entries.next() {
            let is_single = first && entries.peek().is_none();
            first = false;
            if is_single && !entry.is_null() {
                self.leases.entry(lease).or_default().own.get_or_insert(entry.client);
            }
            if self.is_too_far_ahead(lease, &entry, is_single) || self.is_one_too_many(lease, &entry) {
                dropped += 1;
                continue;
            }
            let entry = if self.exceeds_limit(lease, &entry) {
                dropped += 1;
                // Its older state would be outdated: to other clients it leaves until its state is within the
                // limit.
                AwarenessEntry { state: NULL, ..entry }
            } else {
                entry
            };
            match self.apply(lease, &entry) {
                EntryOutcome::Stale => {}
                EntryOutcome::New { clock } => everyone.push((entry.client, clock)),
                EntryOutcome::Returned { tombstone_clock, clock } => {
                    sender.push((entry.client, tombstone_clock));
                    everyone.push((entry.client, clock));
                }
            }
            self.claim(lease, &entry);
        }
        AwarenessChanges { everyone, sender: (!sender.is_empty()).then(|| encode_tombstones(&sender)), dropped }
    }

    /// Removes a lease and the states it owns.
    pub(crate) fn leave(&mut self, lease: LeaseId) -> AwarenessChanges {
        let own = self.leases.remove(&lease).and_then(|left| left.own);
        if let Some(client) = own.and_then(|own| self.clients.get_mut(&own)) {
            client.claim.take_if(|claim| claim.lease == lease);
        }
        let mut gone = Vec::new();
        for (id, client) in &mut self.clients {
            if client.owner != lease {
                continue;
            }
            self.state_bytes -= client.state_bytes();
            if client.state.take().is_some() {
                gone.push((*id, client.clock));
            }
        }
        self.add_tombstones(gone.len());
        AwarenessChanges { everyone: gone, ..AwarenessChanges::default() }
    }

    /// True if no client has a state.
    pub(crate) fn is_empty(&self) -> bool {
        // A state is JSON, so at least one byte long.
        self.state_bytes == 0
    }

    /// True unless the lease's own id looks like one of Yjs 13, which draws 32 bits. Yjs 14 draws 53.
    pub(crate) fn may_be_yjs14(&self, lease: LeaseId) -> bool {
        self.own(lease).is_none_or(|client| client > u64::from(u32::MAX))
    }

    /// True if the lease's own id is one of Yjs 14: see [`AwarenessStates::may_be_yjs14`].
    pub(crate) fn is_yjs14(&self, lease: LeaseId) -> bool {
        self.own(lease).is_some_and(|client| client > u64::from(u32::MAX))
    }

    /// All states as one awareness update; `None` if there are none.
    pub(crate) fn all(&self) -> Option<Vec<u8>> {
        let here: Vec<_> = self
            .clients
            .iter()
            .filter_map(|(&client, known)| {
                known.state.as_deref().map(|state| AwarenessEntry { client, clock: known.clock, state })
            })
            .collect();
        (!here.is_empty()).then(|| encode(here.into_iter()))
    }

    /// The states of `clients` as one awareness update. A client without a state is encoded as a tombstone; a
    /// forgotten one at the given clock.
    pub(crate) fn encode(&self, clients: impl ExactSizeIterator<Item = ChangedClient>) -> Vec<u8> {
        encode(clients.map(|(client, clock)| {
            let known = self.clients.get(&client);
            let clock = known.map_or(clock, |known| known.clock);
            let state = known.and_then(|known| known.state.as_deref()).unwrap_or(NULL);
            AwarenessEntry { client, clock, state }
        }))
    }

    /// Estimated memory use in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.state_bytes + self.clients.len() * CLIENT_BYTES
    }

    /// True if a new state would exceed a limit. A known state counts for its owner only.
    fn exceeds_limit(&self, lease: LeaseId, entry: &AwarenessEntry<'_>) -> bool {
        if entry.state.len() > MAX_AWARENESS_STATE_BYTES {
            return true;
        }
        let known = self.clients.get(&entry.client);
        if entry.is_null() || known.is_some_and(|known| entry.clock <= known.clock && known.state.is_some()) {
            return false;
        }
        let before = known.map_or(0, Client::state_bytes);
        if !self.may_grow && entry.state.len() > before {
            return true;
        }
        if self.state_bytes - before + entry.state.len() > MAX_STATE_BYTES {
            return true;
        }
        let (shown, limit) = self.leases.get(&lease).map_or((0, None), |lease| (lease.shown_bytes, lease.limit_bytes));
        let replaced = known.filter(|known| known.owner == lease).map_or(0, Client::shown_bytes);
        shown - replaced + entry.state.len() + CLIENT_BYTES > limit.unwrap_or(self.lease_bytes)
    }

    /// True if the clock of an entry is not believed: it would be the client's own next clock.
    fn is_too_far_ahead(&self, lease: LeaseId, entry: &AwarenessEntry<'_>, is_single: bool) -> bool {
        let known = self.clients.get(&entry.client);
        let claim = known.and_then(|known| known.claim.as_deref()).filter(|claim| claim.lease != lease);
        let from = match claim {
            Some(claim) => claim.clock,
            None => known.map_or(0, |known| known.clock).max(MAX_FREE_CLOCK),
        };
        entry.clock > from + MAX_CLOCK_STEP || (entry.clock > MAX_FREE_CLOCK && !is_single)
    }

    /// True if an entry would show one more client than the lease or the document may.
    fn is_one_too_many(&self, lease: LeaseId, entry: &AwarenessEntry<'_>) -> bool {
        let known = self.clients.get(&entry.client);
        let is_known = |known: &Client| entry.clock <= known.clock || (known.owner == lease && known.state.is_some());
        if entry.is_null() || self.own(lease) == Some(entry.client) || known.is_some_and(is_known) {
            return false;
        }
        let shown = self.leases.get(&lease).map_or(0, |lease| lease.shown);
        shown >= MAX_LEASE_CLIENTS || (known.is_none() && self.clients.len() >= MAX_CLIENTS)
    }

    /// Claims the lease's own id for it, if no other open lease has.
    fn claim(&mut self, lease: LeaseId, entry: &AwarenessEntry<'_>) {
        if self.own(lease) == Some(entry.client)
            && let Some(client) = self.clients.get_mut(&entry.client)
        {
            let claim = client.claim.get_or_insert_with(|| Box::new(Claim { lease, clock: entry.clock }));
            if claim.lease == lease {
                claim.clock = claim.clock.max(entry.clock);
            }
        }
    }

    fn own(&self, lease: LeaseId) -> Option<u64> {
        self.leases.get(&lease).and_then(|lease| lease.own)
    }

    fn apply(&mut self, lease: LeaseId, entry: &AwarenessEntry<'_>) -> EntryOutcome {
        let before = self.clients.get(&entry.client).map(|known| (known.owner, known.shown_bytes()));
        let outcome = self.apply_counted(lease, entry);
        if let Some((owner, bytes)) = before
            && let Some(owner) = self.leases.get_mut(&owner)
        {
            owner.shown_bytes -= bytes;
            owner.shown -= usize::from(bytes > 0);
        }
        // A tombstone has no bytes, and its owner may have left already.
        if let Some(known) = self.clients.get(&entry.client).filter(|known| known.state.is_some()) {
            let owner = self.leases.entry(known.owner).or_default();
            owner.shown_bytes += known.shown_bytes();
            owner.shown += 1;
        }
        outcome
    }

    fn apply_counted(&mut self, lease: LeaseId, entry: &AwarenessEntry<'_>) -> EntryOutcome {
        let is_own = self.own(lease) == Some(entry.client);
        let bytes_before = self.clients.get(&entry.client).map_or(0, Client::state_bytes);
        let outcome = self.apply_entry(lease, entry, is_own);
        let bytes_after = self.clients.get(&entry.client).map_or(0, Client::state_bytes);
        self.state_bytes = self.state_bytes - bytes_before + bytes_after;
        outcome
    }

    fn apply_entry(&mut self, lease: LeaseId, entry: &AwarenessEntry<'_>, is_own: bool) -> EntryOutcome {
        let Some(known) = self.clients.get_mut(&entry.client) else {
            if entry.is_null() {
                return EntryOutcome::Stale;
            }
            let client = Client { clock: entry.clock, state: Some(entry.state.into()), owner: lease, claim: None };
            self.clients.insert(entry.client, client);
            return EntryOutcome::New { clock: entry.clock };
        };
        match (&known.state, entry.is_null()) {
            (Some(_), true) if entry.clock >= known.clock => {
                known.clock = entry.clock;
                known.state = None;
                self.add_tombstones(1);
                EntryOutcome::New { clock: entry.clock }
            }
            (Some(_), false) if entry.clock > known.clock => {
                known.clock = entry.clock;
                known.state = Some(entry.state.into());
                known.owner = lease;
                EntryOutcome::New { clock: entry.clock }
            }
            (Some(_), false) if is_own && entry.clock == known.clock => {
                // Reconnected before the old connection timed out: the new lease becomes the owner.
                known.owner = lease;
                EntryOutcome::Stale
            }
            (None, false) if entry.clock > known.clock => {
                known.clock = entry.clock;
                known.state = Some(entry.state.into());
                known.owner = lease;
                self.tombstones = self.tombstones.saturating_sub(1);
                EntryOutcome::New { clock: entry.clock }
            }
            (None, false) if is_own && known.clock <= MAX_AWARENESS_CLOCK => {
                let tombstone_clock = known.clock;
                known.clock += 1;
                known.state = Some(entry.state.into());
                known.owner = lease;
                self.tombstones = self.tombstones.saturating_sub(1);
                EntryOutcome::Returned { tombstone_clock, clock: tombstone_clock + 1 }
            }
            _ => EntryOutcome::Stale,
        }
    }

    fn add_tombstones(&mut self, count: usize) {
        self.tombstones += count;
        if self.tombstones > MAX_TOMBSTONES {
            self.clients.retain(|_, client| client.state.is_some() || client.claim.is_some());
            self.tombstones = 0;
        }
    }
}

enum EntryOutcome {
    /// Not newer than the known state.
    Stale,
    /// Newer: sent to everyone.
    New { clock: u64 },
    /// A returning client whose tombstone has the same or a later clock.
    Returned { tombstone_clock: u64, clock: u64 },
}

fn encode_tombstones(clients: &[ChangedClient]) -> Vec<u8> {
    encode(clients.iter().map(|&(client, clock)| AwarenessEntry { client, clock, state: NULL }))
}

#[cfg(test)]
mod tests;
