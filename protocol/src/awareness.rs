//! Presence: the gate for awareness updates, and how to write them.
//!
//! Every Yjs peer passes each state to `JSON.parse` and throws when it cannot; a relayed bad state would break other
//! people's editors. yrs 0.28.1 reserves memory for as many clients as four bytes claim. So a scan checks all of
//! it before anything is read, with the scanner's own JSON check, and allocates nothing.
//!
//! Format (npm y-protocols 1.0.7, `awareness.js`): the number of clients, then for each its id, its clock and its
//! state as JSON; the state `null` means the client is gone.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::limits::{MAX_AWARENESS_CLIENTS, MAX_AWARENESS_CLOCK, MAX_VALUE_DEPTH};
use crate::update::json::{self, Parser};
use crate::varint::{ReadError, Reader, write_var_bytes, write_var_uint};

/// Client id, clock, length of the state.
const MIN_ENTRY_BYTES: u64 = 3;

/// What one awareness update may hold. The defaults are in [`crate::limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwarenessLimits {
    /// Clients in one update.
    pub clients: u64,
    /// Levels of arrays and objects in one state.
    pub state_depth: usize,
    /// The largest clock.
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
    /// The bytes are cut short, or a number or string is malformed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The count claims more clients than the bytes can hold.
    #[error("a count of {0} clients is larger than the bytes that follow can hold")]
    CountBeyondBytes(u64),
    /// Too many clients.
    #[error("presence of {found} clients, more than the limit of {limit}")]
    TooManyClients {
        /// As many as the message claims.
        found: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A state is not JSON, or has too many levels.
    #[error("the presence state of client {0} is not valid JSON, or nested too deep")]
    BadState(u64),
    /// A clock is too large.
    #[error("the presence clock of client {0} is too large")]
    ClockTooLarge(u64),
    /// Bytes follow the end.
    #[error("{0} bytes follow the awareness update")]
    TrailingBytes(usize),
}

/// One client's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwarenessEntry<'a> {
    /// Whose.
    pub client: u64,
    /// Newer states have larger clocks.
    pub clock: u64,
    /// JSON.
    pub state: &'a str,
}

impl AwarenessEntry<'_> {
    /// True when this says that the client is gone.
    pub fn is_null(&self) -> bool {
        self.state.trim_matches([' ', '\t', '\n', '\r']) == "null"
    }
}

/// An awareness update that was scanned; iterating it cannot fail.
#[derive(Debug, Clone, Copy)]
pub struct AwarenessUpdate<'a> {
    entries: Reader<'a>,
    count: usize,
}

impl<'a> AwarenessUpdate<'a> {
    /// Checks all of `update`. One with no clients is legal.
    ///
    /// # Errors
    /// The first rule it breaks.
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
            // No more than the bytes there are.
            0 => Ok(Self { entries, count: found as usize }),
            more => Err(AwarenessError::TrailingBytes(more)),
        }
    }

    /// How many clients it tells of.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when it tells of nobody.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What it tells, in order. A client may come more than once.
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

/// Writes an awareness update.
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

/// Joins awareness updates, oldest first, into one that has the last entry of each client, in the order of client ids.
///
/// For updates that one sender made, in the order in which it sent them: clocks are not compared. What follows malformed bytes in
/// an update is left out.
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
    fn what_is_written_is_read() {
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
    fn a_cut_or_longer_update_is_refused() {
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
