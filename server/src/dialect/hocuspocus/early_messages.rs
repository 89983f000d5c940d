//! Messages of a Hocuspocus session that arrived before the token of their document: stored within limits,
//! counted in the process-wide limit on unfinished messages, and replayed when the token arrives.
//!
//! A message over a limit is dropped, which loses nothing: the server asks for the client's whole state after
//! its token.

use std::sync::Arc;

use bytes::Bytes;

use crate::limits::Gate;

/// Maximum number of messages per session.
const MAX_MESSAGES: usize = 1_000;
/// Maximum bytes per session, with [`MESSAGE_BYTES`] added for each message.
const MAX_BYTES: usize = 64 * 1024;
/// Overhead of a stored message.
const MESSAGE_BYTES: usize = 64;

/// The early messages of one session, in order of arrival.
pub(super) struct EarlyMessages {
    gate: Arc<Gate>,
    /// Address and frame of each message.
    messages: Vec<(Box<str>, Bytes)>,
    /// Bytes reserved in the process-wide limit.
    bytes: usize,
}

impl EarlyMessages {
    pub(super) fn new(gate: &Arc<Gate>) -> Self {
        Self { gate: Arc::clone(gate), messages: Vec::new(), bytes: 0 }
    }

    /// Stores a copy of `frame`. Returns false if a limit is reached.
    pub(super) fn store(&mut self, address: &str, frame: &[u8]) -> bool {
        let bytes = cost(address, frame);
        if self.messages.len() >= MAX_MESSAGES || self.bytes + bytes > MAX_BYTES {
            return false;
        }
        if !self.gate.partial_memory().reserve(bytes) {
            return false;
        }
        self.bytes += bytes;
        self.messages.push((address.into(), Bytes::copy_from_slice(frame)));
        true
    }

    /// Removes and returns the messages for one address.
    pub(super) fn take(&mut self, address: &str) -> Vec<Bytes> {
        let (mine, others) = std::mem::take(&mut self.messages).into_iter().partition(|(of, _)| **of == *address);
        self.messages = others;
        self.charge_again();
        let mine: Vec<(Box<str>, Bytes)> = mine;
        mine.into_iter().map(|(_, frame)| frame).collect()
    }

    /// The addresses of all stored messages, each once.
    pub(super) fn addresses(&self) -> Vec<&str> {
        let mut addresses: Vec<_> = self.messages.iter().map(|(address, _)| &**address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    fn charge_again(&mut self) {
        let bytes = self.messages.iter().map(|(address, frame)| cost(address, frame)).sum();
        self.gate.partial_memory().release(self.bytes - bytes);
        self.bytes = bytes;
    }
}

impl Drop for EarlyMessages {
    fn drop(&mut self) {
        self.gate.partial_memory().release(self.bytes);
    }
}

fn cost(address: &str, frame: &[u8]) -> usize {
    MESSAGE_BYTES + address.len() + frame.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RawLimits;

    fn early(partial_bytes: usize) -> EarlyMessages {
        let limits = RawLimits { max_partial_bytes: Some(partial_bytes), ..RawLimits::default() };
        EarlyMessages::new(&Gate::new(limits.into(), Arc::default()))
    }

    #[test]
    fn session_stores_at_most_64_kib() {
        let mut early = early(usize::MAX);
        let stored = (0..1_000).filter(|_| early.store("doc", &[7; 1_000])).count();
        assert_eq!(stored, 64 * 1024 / 1_067);
        assert!(early.bytes <= MAX_BYTES);
    }

    #[test]
    fn process_limit_is_enforced_and_bytes_are_released() {
        let mut early = early(3_000);
        assert!(early.store("a", &[1; 1_000]) && early.store("b", &[2; 1_000]) && !early.store("a", &[3; 1_000]));
        assert_eq!(early.take("a"), [Bytes::from_static(&[1; 1_000])]);
        assert!(early.store("c", &[4; 1_000]), "the bytes of removed messages must be released");
        assert_eq!(early.addresses(), ["b", "c"]);
        let gate = Arc::clone(&early.gate);
        drop(early);
        assert!(gate.partial_memory().reserve(3_000), "nothing may stay reserved");
    }
}
