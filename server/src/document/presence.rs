//! PURE: who is here in one document. Presence is relayed and never logged.
//!
//! An id belongs to the lease that brought its newest state, and goes when that lease goes. Two habits of stock
//! clients shape the rules (npm y-protocols 1.0.7, y-websocket 3.1.0):
//!
//! - y-websocket clients send every presence they receive back to the server. So a state that is not newer than
//!   what is known is dropped by (id, clock) alone.
//! - A client that comes back does not know that its id was declared gone at the same clock, and everybody would
//!   ignore it for 15 s. So the *own* id of a lease (the one in its first message, when it is alone there) is
//!   helped: the client is sent the tombstone, which makes it raise its clock, and its state is shown to the others
//!   at the tombstone's clock + 1 at once. A removal itself never raises the clock: it would tie with the return.

use std::collections::HashMap;

use syncline_protocol::awareness::{AwarenessEntry, encode};
use syncline_protocol::limits::MAX_AWARENESS_STATE_BYTES;

use crate::ids::LeaseId;

/// Most ids a document remembers, here and gone. Beyond it new ids are ignored until old ones are forgotten.
const MAX_CLIENTS: usize = 50_000;
/// Most tombstones kept for returning clients; beyond it they are all forgotten (a return then takes 15 s).
const MAX_TOMBSTONES: usize = 10_000;

/// Most bytes of states a document holds; a state that would go beyond is dropped until others are gone.
const MAX_STATE_BYTES: usize = 16 * 1024 * 1024;

/// What remembering one client costs besides its state, as it counts for a lease's limit.
const CLIENT_BYTES: usize = 64;

/// What a lease may show at least, however many documents its session has open.
const MIN_LEASE_BYTES: usize = 4 * 1024;

const NULL: &str = "null";

#[derive(Debug)]
struct Client {
    clock: u64,
    /// JSON, or `None` for one that is gone.
    state: Option<Box<str>>,
    owner: LeaseId,
}

/// A client and its clock after a change.
pub type Changed = (u64, u64);

/// What to send because of presence.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Clients whose states are sent to everyone: [`Presence::encode`].
    pub everyone: Vec<Changed>,
    /// An awareness update for the one who brought it only.
    pub bringer: Option<Vec<u8>>,
    /// States that were dropped because they, or the lease's together, are over a limit.
    pub dropped: usize,
}

/// The presence of one document.
#[derive(Debug)]
pub struct Presence {
    clients: HashMap<u64, Client>,
    tombstones: usize,
    /// Bytes of all states.
    state_bytes: usize,
    /// Leases that show something, have an id of their own, or may show less than others.
    leases: HashMap<LeaseId, Lease>,
    /// Bytes that a lease may show if nothing else is said.
    lease_bytes: usize,
}

/// What is known of one lease.
#[derive(Debug, Default)]
struct Lease {
    /// Its own id, when it has said one.
    own: Option<u64>,
    shown_bytes: usize,
    /// What it may show at most, when its session has more documents open.
    limit_bytes: Option<usize>,
}

impl Default for Presence {
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

impl Presence {
    /// Nobody is here; each lease may show at most `lease_bytes`.
    pub fn with_limit(lease_bytes: usize) -> Self {
        Self { clients: HashMap::new(), tombstones: 0, state_bytes: 0, leases: HashMap::new(), lease_bytes }
    }

    /// Sets the limit of a lease whose session has `documents` open, this one included: so that all leases of a session together
    /// show at most a small multiple of what one may.
    pub fn limit_share(&mut self, lease: LeaseId, documents: usize) {
        if documents > 1 {
            let share = (self.lease_bytes / documents).max(MIN_LEASE_BYTES).min(self.lease_bytes);
            self.leases.entry(lease).or_default().limit_bytes = Some(share);
        }
    }

    /// Takes the entries a lease brought.
    pub fn update<'a>(&mut self, lease: LeaseId, entries: impl Iterator<Item = AwarenessEntry<'a>>) -> Changes {
        let mut everyone: Vec<Changed> = Vec::new();
        let mut bringer: Vec<Changed> = Vec::new();
        let mut entries = entries.peekable();
        let (mut first, mut dropped) = (true, 0);
        while let Some(entry) = entries.next() {
            if first && entries.peek().is_none() && !entry.is_null() {
                self.leases.entry(lease).or_default().own.get_or_insert(entry.client);
            }
            first = false;
            let entry = if self.is_too_much(lease, &entry) {
                dropped += 1;
                // Its older state would be untrue: for the others this client leaves, until it shows less.
                AwarenessEntry { state: NULL, ..entry }
            } else {
                entry
            };
            match self.take(lease, &entry) {
                Taken::Stale => {}
                Taken::New { clock } => everyone.push((entry.client, clock)),
                Taken::Returned { tombstone_clock, clock } => {
                    bringer.push((entry.client, tombstone_clock));
                    everyone.push((entry.client, clock));
                }
            }
        }
        Changes { everyone, bringer: (!bringer.is_empty()).then(|| encode_tombstones(&bringer)), dropped }
    }

    /// A lease is gone and its clients with it.
    pub fn leave(&mut self, lease: LeaseId) -> Changes {
        self.leases.remove(&lease);
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
        self.bury(gone.len());
        Changes { everyone: gone, ..Changes::default() }
    }

    /// True when nobody is here.
    pub fn is_empty(&self) -> bool {
        // A state is JSON: at least one byte.
        self.state_bytes == 0
    }

    /// True unless the lease has shown an id of Yjs 13, which draws 32 bits. Yjs 14 draws 53.
    pub fn may_speak_yjs14(&self, lease: LeaseId) -> bool {
        self.own(lease).is_none_or(|client| client > u64::from(u32::MAX))
    }

    /// Everyone who is here, as one awareness update. `None` when nobody is.
    pub fn everyone(&self) -> Option<Vec<u8>> {
        let here: Vec<_> = self
            .clients
            .iter()
            .filter_map(|(&client, known)| {
                known.state.as_deref().map(|state| AwarenessEntry { client, clock: known.clock, state })
            })
            .collect();
        (!here.is_empty()).then(|| encode(here.into_iter()))
    }

    /// The states of `clients` as one awareness update. A client that is gone, or is forgotten, is a tombstone at the given clock.
    pub fn encode(&self, clients: impl ExactSizeIterator<Item = Changed>) -> Vec<u8> {
        encode(clients.map(|(client, clock)| {
            let known = self.clients.get(&client);
            let clock = known.map_or(clock, |known| known.clock);
            let state = known.and_then(|known| known.state.as_deref()).unwrap_or(NULL);
            AwarenessEntry { client, clock, state }
        }))
    }

    /// Bytes that the presence takes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        self.state_bytes + self.clients.len() * CLIENT_BYTES
    }

    /// Whether a lease would show more than it may. What is known already is nobody's but its owner's.
    fn is_too_much(&self, lease: LeaseId, entry: &AwarenessEntry<'_>) -> bool {
        if entry.state.len() > MAX_AWARENESS_STATE_BYTES {
            return true;
        }
        let known = self.clients.get(&entry.client);
        if entry.is_null() || known.is_some_and(|known| entry.clock <= known.clock && known.state.is_some()) {
            return false;
        }
        let before = known.map_or(0, Client::state_bytes);
        if self.state_bytes - before + entry.state.len() > MAX_STATE_BYTES {
            return true;
        }
        let (shown, limit) = self.leases.get(&lease).map_or((0, None), |lease| (lease.shown_bytes, lease.limit_bytes));
        let replaced = known.filter(|known| known.owner == lease).map_or(0, Client::shown_bytes);
        shown - replaced + entry.state.len() + CLIENT_BYTES > limit.unwrap_or(self.lease_bytes)
    }

    fn own(&self, lease: LeaseId) -> Option<u64> {
        self.leases.get(&lease).and_then(|lease| lease.own)
    }

    fn take(&mut self, lease: LeaseId, entry: &AwarenessEntry<'_>) -> Taken {
        let before = self.clients.get(&entry.client).map(|known| (known.owner, known.shown_bytes()));
        let taken = self.take_counted(lease, entry);
        if let Some((owner, bytes)) = before
            && let Some(owner) = self.leases.get_mut(&owner)
        {
            owner.shown_bytes -= bytes;
        }
        // A client that is gone shows nothing, and the lease that it belonged to may be gone, too.
        if let Some(known) = self.clients.get(&entry.client).filter(|known| known.state.is_some()) {
            self.leases.entry(known.owner).or_default().shown_bytes += known.shown_bytes();
        }
        taken
    }

    fn take_counted(&mut self, lease: LeaseId, entry: &AwarenessEntry<'_>) -> Taken {
        let is_own = self.own(lease) == Some(entry.client);
        let bytes_before = self.clients.get(&entry.client).map_or(0, Client::state_bytes);
        let taken = self.take_within_limits(lease, entry, is_own);
        let bytes_after = self.clients.get(&entry.client).map_or(0, Client::state_bytes);
        self.state_bytes = self.state_bytes - bytes_before + bytes_after;
        taken
    }

    fn take_within_limits(&mut self, lease: LeaseId, entry: &AwarenessEntry<'_>, is_own: bool) -> Taken {
        let Some(known) = self.clients.get_mut(&entry.client) else {
            if entry.is_null() || self.clients.len() >= MAX_CLIENTS {
                return Taken::Stale;
            }
            let client = Client { clock: entry.clock, state: Some(entry.state.into()), owner: lease };
            self.clients.insert(entry.client, client);
            return Taken::New { clock: entry.clock };
        };
        match (&known.state, entry.is_null()) {
            (Some(_), true) if entry.clock >= known.clock => {
                known.clock = entry.clock;
                known.state = None;
                self.bury(1);
                Taken::New { clock: entry.clock }
            }
            (Some(_), false) if entry.clock > known.clock => {
                known.clock = entry.clock;
                known.state = Some(entry.state.into());
                known.owner = lease;
                Taken::New { clock: entry.clock }
            }
            (Some(_), false) if is_own && entry.clock == known.clock => {
                // Back on a new connection before the old one was found dead: it owns itself again.
                known.owner = lease;
                Taken::Stale
            }
            (None, false) if entry.clock > known.clock => {
                known.clock = entry.clock;
                known.state = Some(entry.state.into());
                known.owner = lease;
                self.tombstones = self.tombstones.saturating_sub(1);
                Taken::New { clock: entry.clock }
            }
            (None, false) if is_own => {
                let tombstone_clock = known.clock;
                known.clock += 1;
                known.state = Some(entry.state.into());
                known.owner = lease;
                self.tombstones = self.tombstones.saturating_sub(1);
                Taken::Returned { tombstone_clock, clock: tombstone_clock + 1 }
            }
            _ => Taken::Stale,
        }
    }

    fn bury(&mut self, count: usize) {
        self.tombstones += count;
        if self.tombstones > MAX_TOMBSTONES {
            self.clients.retain(|_, client| client.state.is_some());
            self.tombstones = 0;
        }
    }
}

enum Taken {
    /// Not newer than what is known.
    Stale,
    /// Newer: sent to everyone.
    New { clock: u64 },
    /// A client came back that had been declared gone at the same or a later clock.
    Returned { tombstone_clock: u64, clock: u64 },
}

fn encode_tombstones(clients: &[Changed]) -> Vec<u8> {
    encode(clients.iter().map(|&(client, clock)| AwarenessEntry { client, clock, state: NULL }))
}

#[cfg(test)]
mod tests;
