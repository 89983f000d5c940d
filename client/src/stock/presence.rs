//! Awareness (npm `y-protocols` 1.0.7, `awareness.js`): the states of connected clients, as unparsed JSON texts.
//!
//! An awareness update is a count, then per client: id, clock, state as JSON. The state `null` means that the client has
//! left.

use std::collections::BTreeMap;

use syncline_protocol::varint::{ReadError, Reader, write_var_bytes, write_var_uint};

// With more clients than this, only some of them are shown.
/// Limit of other clients whose states are kept.
const MAX_PEERS: usize = 10_000;

/// Size limit of another client's state, in bytes; larger states are ignored.
const MAX_STATE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct Peer {
    clock: u64,
    state: Option<Box<str>>,
}

/// The effect of an awareness update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AwarenessChange {
    Unchanged,
    Changed,
    /// A peer declared us gone, because an old connection of ours timed out: send our state again.
    DeclaredGone,
}

/// Our own awareness state and those of others. Written by the session only.
#[derive(Debug)]
pub(crate) struct Awareness {
    id: u64,
    clock: u64,
    own: Option<String>,
    peers: BTreeMap<u64, Peer>,
}

impl Awareness {
    pub(crate) fn new(id: u64) -> Self {
        Self { id, clock: 0, own: None, peers: BTreeMap::new() }
    }

    /// Sets or clears our own state, and returns the update to send.
    pub(crate) fn set(&mut self, state: Option<String>) -> Vec<u8> {
        self.own = state;
        self.clock += 1;
        self.encode_own(self.own.as_deref().unwrap_or("null"))
    }

    /// Returns an update with our own state and a newer clock, which keeps it alive; `None` without a state.
    pub(crate) fn renew(&mut self) -> Option<Vec<u8>> {
        self.own.as_ref()?;
        self.clock += 1;
        self.own.as_deref().map(|state| self.encode_own(state))
    }

    fn encode_own(&self, state: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(state.len() + 24);
        write_var_uint(&mut out, 1);
        write_var_uint(&mut out, self.id);
        write_var_uint(&mut out, self.clock);
        write_var_bytes(&mut out, state.as_bytes());
        out
    }

    pub(crate) fn apply(&mut self, update: &[u8]) -> Result<AwarenessChange, ReadError> {
        let mut reader = Reader::new(update);
        let mut change = AwarenessChange::Unchanged;
        for _ in 0..reader.var_uint()? {
            let (id, clock, state) = (reader.var_uint()?, reader.var_uint()?, reader.var_str()?);
            if id == self.id {
                if state == "null" && clock >= self.clock && self.own.is_some() {
                    self.clock = clock;
                    change = AwarenessChange::DeclaredGone;
                }
                continue;
            }
            if self.apply_to_peer(id, clock, state) && change == AwarenessChange::Unchanged {
                change = AwarenessChange::Changed;
            }
        }
        Ok(change)
    }

    fn apply_to_peer(&mut self, id: u64, clock: u64, state: &str) -> bool {
        let gone = state == "null";
        let full = self.peers.len() >= MAX_PEERS;
        match self.peers.get_mut(&id) {
            Some(peer) if clock < peer.clock || (clock == peer.clock && !(gone && peer.state.is_some())) => false,
            _ if state.len() > MAX_STATE_BYTES => false,
            Some(peer) => {
                *peer = Peer { clock, state: (!gone).then(|| state.into()) };
                true
            }
            None if full => false,
            None => {
                self.peers.insert(id, Peer { clock, state: (!gone).then(|| state.into()) });
                !gone
            }
        }
    }

    pub(crate) fn connection_lost(&mut self) {
        self.peers.clear();
    }

    /// Returns client id and state (JSON) of every other client.
    pub(crate) fn others(&self) -> impl Iterator<Item = (u64, &str)> {
        self.peers.iter().filter_map(|(&id, peer)| Some((id, peer.state.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_join_and_leave_and_stale_updates_are_ignored() {
        let (mut here, mut there) = (Awareness::new(1), Awareness::new(2));
        let hello = there.set(Some(r#"{"name":"b"}"#.into()));
        assert_eq!(here.apply(&hello), Ok(AwarenessChange::Changed));
        assert_eq!(here.apply(&hello), Ok(AwarenessChange::Unchanged));
        assert_eq!(here.others().collect::<Vec<_>>(), [(2, r#"{"name":"b"}"#)]);
        let gone = there.set(None);
        assert_eq!(here.apply(&gone), Ok(AwarenessChange::Changed));
        assert_eq!(here.apply(&hello), Ok(AwarenessChange::Unchanged));
        assert_eq!(here.others().count(), 0);
    }

    #[test]
    fn client_declared_gone_renews_with_a_newer_clock() {
        let mut here = Awareness::new(1);
        here.set(Some("{}".into()));
        let mut ghost = Awareness::new(1);
        ghost.clock = 40;
        assert_eq!(here.apply(&ghost.set(None)), Ok(AwarenessChange::DeclaredGone));
        assert_eq!(here.renew(), Some(vec![1, 1, 42, 2, b'{', b'}']));
    }

    #[test]
    fn truncated_update_with_a_huge_count_is_an_error() {
        assert!(Awareness::new(1).apply(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
