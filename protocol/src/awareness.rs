//! Validates and encodes awareness updates.
//!
//! Every Yjs peer passes each state to `JSON.parse`, which throws on invalid JSON: relaying a bad state would break the
//! editors of other users. yrs 0.28.1 reserves memory for the client count that the first bytes claim, without checking
//! it. So the whole update is scanned before anything is read, with the scanner's own JSON check, and without
//! allocation.
//!
//! Format (npm y-protocols 1.0.7, `awareness.js`): the number of clients, then for each client its id, clock and
//! state as JSON; the state `null` means that the client is gone.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::limits::{MAX_AWARENESS_CLIENTS, MAX_AWARENESS_CLOCK, MAX_VALUE_DEPTH};
use crate::update::json::{self, Parser};
use crate::varint::{ReadError, Reader, write_var_bytes, write_var_uint};

/// One byte each for client id, clock and length of the state.
const MIN_ENTRY_BYTES: u64 = 3;

/// What one awareness update may hold. The defaults are in [`crate::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwarenessLimits {
    /// Clients in one update.
    pub clients: u64,
    /// Nesting depth of arrays and objects in one state.
    pub state_depth: usize,
    /// Largest clock.
    pub clock: u64,
}

impl Default for AwarenessLimits {
    fn default() -> Self {
        Self { clients: MAX_AWARENESS_CLIENTS, state_depth: MAX_VALUE_DEPTH, clock: MAX_AWARENESS_CLOCK }
    }
}

/// Why an awareness update is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AwarenessError {
    /// The bytes are truncated, or a number or string is malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The client count is larger than the remaining bytes can hold.
    #[error("awareness update: a count of {0} clients is larger than the bytes that follow can hold")]
    CountBeyondBytes(u64),
    /// The client count exceeds [`AwarenessLimits::clients`].
    #[error("awareness update of {found} clients exceeds the limit of {limit}")]
    TooManyClients {
        /// The number of clients that the update claims.
        found: u64,
        /// The limit in force.
        limit: u64,
    },
    /// The state of this client is not JSON, or deeper than [`AwarenessLimits::state_depth`].
    #[error("the awareness state of client {0} is not valid JSON, or nested too deep")]
    BadState(u64),
    /// The clock of this client exceeds [`AwarenessLimits::clock`].
    #[error("the awareness clock of client {0} is too large")]
    ClockTooLarge(u64),
    /// This number of bytes follows the last entry.
    #[error("{0} bytes follow the awareness update")]
    TrailingBytes(usize),
}

/// The awareness state of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwarenessEntry<'a> {
    /// Client id.
    pub client: u64,
    /// Version of the state: the client raises it with every new state.
    pub clock: u64,
    /// The state as JSON; `null` when the client is gone.
    pub state: &'a str,
}

impl AwarenessEntry<'_> {
    /// True when the state is `null`: the client is gone.
    pub fn is_null(&self) -> bool {
        self.state.trim_matches([' ', '\t', '\n', '\r']) == "null"
    }
}

/// A scanned awareness update; iterating it cannot fail.
#[derive(Debug, Clone, Copy)]
pub struct AwarenessUpdate<'a> {
    entries: Reader<'a>,
    count: usize,
}

impl<'a> AwarenessUpdate<'a> {
    /// Checks all of `update`. An update of no clients is valid.
    ///
    /// # Errors
    /// The first rule that the update breaks.
    pub fn scan(update: &'a [u8], limits: &AwarenessLimits) -> Result<Self, AwarenessError> {
        let mut reader = Reader::new(update);
        let found = reader.var_uint()?;
        if found > limits.clients {
            return Err(AwarenessError::TooManyClients { found, limit: limits.clients });
        }
        if found > reader.remaining() as u64 / MIN_ENTRY_BYTES {
            return Err(AwarenessError::CountBeyondBytes(found));
        }
        let entries = reader;
        for _ in 0..found {
            check_entry(&read_entry(&mut reader)?, limits)?;
        }
        match reader.remaining() {
            // The cast cannot truncate: the count is smaller than the number of bytes.
            0 => Ok(Self { entries, count: found as usize }),
            more => Err(AwarenessError::TrailingBytes(more)),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when the update has no entries.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The entries in their order. A client may appear more than once.
    pub fn iter(&self) -> AwarenessEntries<'a> {
        AwarenessEntries { reader: self.entries, left: self.count }
    }
}

impl<'a> IntoIterator for &AwarenessUpdate<'a> {
    type Item = AwarenessEntry<'a>;
    type IntoIter = AwarenessEntries<'a>;

    fn into_iter(self) -> AwarenessEntries<'a> {
        self.iter()
    }
}

fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<AwarenessEntry<'a>, ReadError> {
    Ok(AwarenessEntry { client: reader.var_uint()?, clock: reader.var_uint()?, state: reader.var_str()? })
}

fn check_entry(entry: &AwarenessEntry<'_>, limits: &AwarenessLimits) -> Result<(), AwarenessError> {
    let AwarenessEntry { client, clock, state } = *entry;
    if clock > limits.clock {
        return Err(AwarenessError::ClockTooLarge(client));
    }
    match json::check(state, Parser::JavaScript, limits.state_depth) {
        Ok(_) => Ok(()),
        Err(_) => Err(AwarenessError::BadState(client)),
    }
}

/// Iterator of [`AwarenessUpdate::iter`].
#[derive(Debug, Clone)]
pub struct AwarenessEntries<'a> {
    reader: Reader<'a>,
    left: usize,
}

impl<'a> Iterator for AwarenessEntries<'a> {
    type Item = AwarenessEntry<'a>;

    fn next(&mut self) -> Option<AwarenessEntry<'a>> {
        self.left = self.left.checked_sub(1)?;
        read_entry(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for AwarenessEntries<'_> {}

/// Encodes an awareness update.
pub fn encode<'a>(entries: impl ExactSizeIterator<Item = AwarenessEntry<'a>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + entries.len() * 32);
    write_var_uint(&mut out, entries.len() as u64);
    for entry in entries {
        write_var_uint(&mut out, entry.client);
        write_var_uint(&mut out, entry.clock);
        write_var_bytes(&mut out, entry.state.as_bytes());
    }
    out
}

/// Combines awareness updates, oldest first, into one that holds the last entry of each client, ordered by client id.
///
/// The updates must come from one sender, in the order in which it sent them: clocks are not compared. Entries after
/// malformed bytes in an update are dropped.
pub fn coalesce<'a>(updates: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut newest = BTreeMap::new();
    for update in updates {
        let mut reader = Reader::new(update);
        let left = reader.var_uint().map_or(0, |count| usize::try_from(count).unwrap_or(usize::MAX));
        newest.extend(AwarenessEntries { reader, left }.map(|entry| (entry.client, entry)));
    }
    encode(newest.into_values())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(update: &[u8]) -> Result<Vec<AwarenessEntry<'_>>, AwarenessError> {
        AwarenessUpdate::scan(update, &AwarenessLimits::default()).map(|update| update.iter().collect())
    }

    fn one(clock: u64, state: &str) -> Vec<u8> {
        encode([AwarenessEntry { client: 7, clock, state }].into_iter())
    }

    #[test]
    fn encoded_entries_scan_to_the_same_entries() {
        let entries = [
            AwarenessEntry { client: 1, clock: 0, state: "{\"user\":{\"name\":\"Zoë\"}}" },
            AwarenessEntry { client: (1 << 53) - 1, clock: MAX_AWARENESS_CLOCK, state: "null" },
        ];
        let update = encode(entries.into_iter());
        assert_eq!(scan(&update), Ok(entries.to_vec()));
        assert!(!entries[0].is_null() && entries[1].is_null());
        assert_eq!(scan(&encode([].into_iter())), Ok(vec![]));
    }

    #[test]
    fn coalesced_updates_have_the_last_entry_of_each_client() {
        let entry = |client, clock, state| AwarenessEntry { client, clock, state };
        let updates = [
            encode([entry(2, 1, "{}"), entry(1, 5, "1")].into_iter()),
            encode([entry(1, 5, "null")].into_iter()),
            encode([entry(3, 0, "3"), entry(2, 2, "2")].into_iter()),
        ];
        let joined = coalesce(updates.iter().map(Vec::as_slice));
        assert_eq!(scan(&joined), Ok(vec![entry(1, 5, "null"), entry(2, 2, "2"), entry(3, 0, "3")]));
        assert_eq!(coalesce([].into_iter()), [0]);
        let cut = &updates[0][..updates[0].len() - 1];
        assert_eq!(scan(&coalesce([cut].into_iter())), Ok(vec![entry(2, 1, "{}")]));
    }

    #[test]
    fn truncated_or_extended_update_is_refused() {
        let update = one(3, "{}");
        for len in 0..update.len() {
            assert!(scan(&update[..len]).is_err(), "{len}");
        }
        let longer = [&update[..], &[0]].concat();
        assert_eq!(scan(&longer), Err(AwarenessError::TrailingBytes(1)));
    }

    #[test]
    fn states_that_would_make_peers_throw_are_refused() {
        for state in ["", "undefined", "{", "{\"a\":1}x"] {
            assert_eq!(scan(&one(0, state)), Err(AwarenessError::BadState(7)), "{state}");
        }
        let deep = "[".repeat(101) + &"]".repeat(101);
        assert_eq!(scan(&one(0, &deep)), Err(AwarenessError::BadState(7)));
        let mut not_utf8 = one(0, "\"a\"");
        not_utf8[4] = 0xff;
        assert_eq!(scan(&not_utf8), Err(ReadError::NotUtf8.into()));
    }

    #[test]
    fn counts_and_clocks_are_bounded() {
        let bomb = [0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(scan(&bomb), Err(AwarenessError::TooManyClients { .. })));
        assert_eq!(scan(&[100, 1, 1, 1]), Err(AwarenessError::CountBeyondBytes(100)));
        assert_eq!(scan(&one(MAX_AWARENESS_CLOCK + 1, "1")), Err(AwarenessError::ClockTooLarge(7)));
    }
}
