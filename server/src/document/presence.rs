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

use crate::ids::LeaseId;

/// Most ids a document remembers, here and gone. Beyond it new ids are ignored until old ones are forgotten.
const MAX_CLIENTS: usize = 50_000;
/// Most tombstones kept for returning clients; beyond it they are all forgotten (a return then takes 15 s).
const MAX_TOMBSTONES: usize = 10_000;

/// Most bytes of states a document holds; a state that would go beyond is ignored until others are gone. One message
/// may bring 16 MiB of them, and each is shown to everyone.
const MAX_STATE_BYTES: usize = 16 * 1024 * 1024;

const NULL: &str = "null";

#[derive(Debug)]
struct Client {
    clock: u64,
    /// JSON, or `None` for one that is gone.
    state: Option<Box<str>>,
    owner: LeaseId,
}

/// What to send because of presence. Updates are encoded awareness updates.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// For everyone: the update and the clients it is about.
    pub everyone: Option<(Vec<u8>, Box<[u64]>)>,
    /// For the one who brought it only.
    pub bringer: Option<Vec<u8>>,
}

/// The presence of one document.
#[derive(Debug, Default)]
pub struct Presence {
    clients: HashMap<u64, Client>,
    /// The own id of each lease that has said one.
    own: HashMap<LeaseId, u64>,
    tombstones: usize,
    /// Bytes of all states.
    state_bytes: usize,
}

impl Client {
    fn state_bytes(&self) -> usize {
        self.state.as_ref().map_or(0, |state| state.len())
    }
}

impl Presence {
    /// Takes the entries a lease brought.
    pub fn update<'a>(&mut self, lease: LeaseId, entries: impl Iterator<Item = AwarenessEntry<'a>>) -> Changes {
        let mut everyone: Vec<(u64, u64)> = Vec::new();
        let mut bringer: Vec<(u64, u64)> = Vec::new();
        let mut entries = entries.peekable();
        let mut first = true;
        while let Some(entry) = entries.next() {
            if first && entries.peek().is_none() && !entry.is_null() {
                self.own.entry(lease).or_insert(entry.client);
            }
            first = false;
            match self.take(lease, &entry) {
                Taken::Stale => {}
                Taken::New { clock } => everyone.push((entry.client, clock)),
                Taken::Returned { tombstone_clock, clock } => {
                    bringer.push((entry.client, tombstone_clock));
                    everyone.push((entry.client, clock));
                }
            }
        }
        Changes {
            everyone: self.encode_clients(&everyone),
            bringer: (!bringer.is_empty()).then(|| encode_tombstones(&bringer)),
        }
    }

    /// A lease is gone and its clients with it.
    pub fn leave(&mut self, lease: LeaseId) -> Changes {
        self.own.remove(&lease);
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
        let everyone = (!gone.is_empty()).then(|| {
            let ids = gone.iter().map(|(id, _)| *id).collect();
            (encode_tombstones(&gone), ids)
        });
        Changes { everyone, bringer: None }
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

    fn take(&mut self, lease: LeaseId, entry: &AwarenessEntry<'_>) -> Taken {
        let is_own = self.own.get(&lease) == Some(&entry.client);
        let bytes_before = self.clients.get(&entry.client).map_or(0, Client::state_bytes);
        let bytes = self.state_bytes - bytes_before + entry.state.len();
        if bytes > MAX_STATE_BYTES && !entry.is_null() {
            return Taken::Stale;
        }
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

    fn encode_clients(&self, clients: &[(u64, u64)]) -> Option<(Vec<u8>, Box<[u64]>)> {
        if clients.is_empty() {
            return None;
        }
        let entries = clients.iter().map(|&(client, clock)| {
            let state = self.clients.get(&client).and_then(|known| known.state.as_deref()).unwrap_or(NULL);
            AwarenessEntry { client, clock, state }
        });
        Some((encode(entries), clients.iter().map(|(client, _)| *client).collect()))
    }
}

enum Taken {
    /// Not newer than what is known.
    Stale,
    /// Newer: tell everyone.
    New { clock: u64 },
    /// A client came back that had been declared gone at the same or a later clock.
    Returned { tombstone_clock: u64, clock: u64 },
}

fn encode_tombstones(clients: &[(u64, u64)]) -> Vec<u8> {
    encode(clients.iter().map(|&(client, clock)| AwarenessEntry { client, clock, state: NULL }))
}

#[cfg(test)]
mod tests {
    use syncline_protocol::awareness::AwarenessUpdate;

    use super::*;

    const A: LeaseId = LeaseId(1);
    const B: LeaseId = LeaseId(2);

    fn entry(client: u64, clock: u64, state: &str) -> AwarenessEntry<'_> {
        AwarenessEntry { client, clock, state }
    }

    fn bring(presence: &mut Presence, lease: LeaseId, entries: &[AwarenessEntry<'_>]) -> Changes {
        presence.update(lease, entries.iter().copied())
    }

    /// (client, clock, state) of an encoded update.
    fn decode(update: &[u8]) -> Vec<(u64, u64, String)> {
        let update = AwarenessUpdate::scan(update, &Default::default()).unwrap();
        update.iter().map(|entry| (entry.client, entry.clock, entry.state.to_owned())).collect()
    }

    fn told(changes: &Changes) -> Vec<(u64, u64, String)> {
        changes.everyone.as_ref().map(|(update, _)| decode(update)).unwrap_or_default()
    }

    fn row(client: u64, clock: u64, state: &str) -> (u64, u64, String) {
        (client, clock, state.to_owned())
    }

    #[test]
    fn an_echo_of_what_is_known_is_dropped() {
        let mut presence = Presence::default();
        bring(&mut presence, B, &[entry(20, 0, "{}")]);
        assert_eq!(told(&bring(&mut presence, A, &[entry(10, 3, "{}")])), [row(10, 3, "{}")]);
        assert_eq!(bring(&mut presence, B, &[entry(10, 3, "{}")]), Changes::default());
        assert_eq!(bring(&mut presence, B, &[entry(10, 2, "{}")]), Changes::default());
        // B's echo did not make the id B's.
        assert_eq!(told(&presence.leave(B)), [row(20, 0, "null")]);
        assert_eq!(told(&presence.leave(A)), [row(10, 3, "null")]);
    }

    #[test]
    fn a_removal_keeps_the_clock_and_a_return_is_helped() {
        let mut presence = Presence::default();
        bring(&mut presence, A, &[entry(10, 3, "{}")]);
        presence.leave(A);
        // Back on a new connection with the clock it had.
        let changes = bring(&mut presence, B, &[entry(10, 3, r#"{"x":1}"#)]);
        assert_eq!(told(&changes), [row(10, 4, r#"{"x":1}"#)]);
        assert_eq!(decode(changes.bringer.as_deref().unwrap()), [row(10, 3, "null")]);
        // The client, told so, announces itself at clock 4: known already.
        assert_eq!(bring(&mut presence, B, &[entry(10, 4, r#"{"x":1}"#)]), Changes::default());
        assert_eq!(told(&presence.leave(B)), [row(10, 4, "null")]);
    }

    #[test]
    fn a_late_echo_does_not_bring_back_one_who_left() {
        let mut presence = Presence::default();
        bring(&mut presence, B, &[entry(20, 0, "{}")]);
        bring(&mut presence, A, &[entry(10, 3, "{}")]);
        presence.leave(A);
        assert_eq!(bring(&mut presence, B, &[entry(10, 3, "{}")]), Changes::default());
    }

    #[test]
    fn one_who_returns_before_the_old_connection_is_found_dead_owns_itself() {
        let mut presence = Presence::default();
        bring(&mut presence, A, &[entry(10, 3, "{}")]);
        assert_eq!(bring(&mut presence, B, &[entry(10, 3, "{}")]), Changes::default());
        assert_eq!(presence.leave(A), Changes::default(), "the dead connection takes nobody along");
        assert_eq!(told(&presence.leave(B)), [row(10, 3, "null")]);
    }

    #[test]
    fn a_client_may_say_goodbye_and_come_back() {
        let mut presence = Presence::default();
        bring(&mut presence, A, &[entry(10, 3, "{}")]);
        assert_eq!(told(&bring(&mut presence, A, &[entry(10, 4, "null")])), [row(10, 4, "null")]);
        assert_eq!(presence.everyone(), None);
        assert_eq!(told(&bring(&mut presence, A, &[entry(10, 5, "{}")])), [row(10, 5, "{}")]);
        assert_eq!(decode(&presence.everyone().unwrap()), [row(10, 5, "{}")]);
    }

    #[test]
    fn the_dead_of_strangers_are_not_remembered() {
        let mut presence = Presence::default();
        assert_eq!(bring(&mut presence, A, &[entry(10, 4, "null")]), Changes::default());
        assert!(presence.clients.is_empty());
    }

    #[test]
    fn states_are_bounded_and_make_room_when_they_go() {
        let mut presence = Presence::default();
        let state = format!("\"{}\"", "x".repeat(60_000));
        for client in 0..1_000 {
            bring(&mut presence, A, &[entry(client, 0, &state)]);
        }
        let held: usize = presence.clients.values().map(Client::state_bytes).sum();
        assert!(held <= MAX_STATE_BYTES);
        assert_eq!(presence.state_bytes, held);
        assert_eq!(told(&bring(&mut presence, A, &[entry(1, 1, "null")])), [row(1, 1, "null")]);
        assert_eq!(told(&bring(&mut presence, B, &[entry(2_000, 0, "{}")])), [row(2_000, 0, "{}")]);
        presence.leave(A);
        presence.leave(B);
        assert_eq!(presence.state_bytes, 0);
    }

    #[test]
    fn tombstones_are_bounded() {
        let mut presence = Presence::default();
        for client in 0..(MAX_TOMBSTONES as u64 + 10) {
            let lease = LeaseId(client + 100);
            bring(&mut presence, lease, &[entry(client, 0, "{}")]);
            presence.leave(lease);
        }
        assert!(presence.clients.len() <= MAX_TOMBSTONES + 10);
        assert!(presence.clients.values().filter(|client| client.state.is_none()).count() <= MAX_TOMBSTONES);
    }
}
