//! Awareness (npm `y-protocols` 1.0.7, `awareness.js`): who is here, as JSON texts that nobody here looks into.
//!
//! An awareness update is a count, then per client: id, clock, state as JSON; the state `null` means gone.

use std::collections::BTreeMap;

use syncline_protocol::varint::{ReadError, Reader, write_var_bytes, write_var_uint};

// A document with more people than this shows some of them.
/// Most other clients remembered.
const MAX_PEERS: usize = 10_000;

/// Longest state of another client that is kept, in bytes.
const MAX_STATE_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct Peer {
    clock: u64,
    state: Option<Box<str>>,
}

/// Whether an awareness update asks something of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Nothing,
    Changed,
    /// Somebody declares us gone (an old connection of ours timed out): say that we are here.
    WeAreGone,
}

/// Written by the session only.
#[derive(Debug)]
pub(crate) struct Presence {
    id: u64,
    clock: u64,
    own: Option<String>,
    peers: BTreeMap<u64, Peer>,
}

impl Presence {
    pub(crate) fn new(id: u64) -> Self {
        Self { id, clock: 0, own: None, peers: BTreeMap::new() }
    }

    /// Sets or clears our own state and gives the update that says so.
    pub(crate) fn set(&mut self, state: Option<String>) -> Vec<u8> {
        self.own = state;
        self.clock += 1;
        self.encode_own(self.own.as_deref().unwrap_or("null"))
    }

    /// Our own state with a newer clock: "still here". None without a state.
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

    pub(crate) fn hear(&mut self, update: &[u8]) -> Result<Heard, ReadError> {
        let mut reader = Reader::new(update);
        let mut heard = Heard::Nothing;
        for _ in 0..reader.var_uint()? {
            let (id, clock, state) = (reader.var_uint()?, reader.var_uint()?, reader.var_str()?);
            if id == self.id {
                if state == "null" && clock >= self.clock && self.own.is_some() {
                    self.clock = clock;
                    heard = Heard::WeAreGone;
                }
                continue;
            }
            if self.hear_peer(id, clock, state) && heard == Heard::Nothing {
                heard = Heard::Changed;
            }
        }
        Ok(heard)
    }

    fn hear_peer(&mut self, id: u64, clock: u64, state: &str) -> bool {
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

    /// Everyone else who is here: client id and state as JSON.
    pub(crate) fn others(&self) -> impl Iterator<Item = (u64, &str)> {
        self.peers.iter().filter_map(|(&id, peer)| Some((id, peer.state.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_come_and_go_and_old_news_is_dropped() {
        let (mut here, mut there) = (Presence::new(1), Presence::new(2));
        let hello = there.set(Some(r#"{"name":"b"}"#.into()));
        assert_eq!(here.hear(&hello), Ok(Heard::Changed));
        assert_eq!(here.hear(&hello), Ok(Heard::Nothing));
        assert_eq!(here.others().collect::<Vec<_>>(), [(2, r#"{"name":"b"}"#)]);
        let gone = there.set(None);
        assert_eq!(here.hear(&gone), Ok(Heard::Changed));
        assert_eq!(here.hear(&hello), Ok(Heard::Nothing));
        assert_eq!(here.others().count(), 0);
    }

    #[test]
    fn declared_gone_we_answer_with_a_newer_clock() {
        let mut here = Presence::new(1);
        here.set(Some("{}".into()));
        let mut ghost = Presence::new(1);
        ghost.clock = 40;
        assert_eq!(here.hear(&ghost.set(None)), Ok(Heard::WeAreGone));
        assert_eq!(here.renew(), Some(vec![1, 1, 42, 2, b'{', b'}']));
    }

    #[test]
    fn cut_bytes_are_an_error_and_a_huge_count_allocates_nothing() {
        assert!(Presence::new(1).hear(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
