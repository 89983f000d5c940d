//! Validates and reads state vectors.

use super::client_ids::ClientOrder;
use super::{ScanError, ScanLimits, check_limit};
use crate::varint::Reader;

/// Counts of what an accepted state vector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateVectorSummary {
    /// Number of entries.
    pub clients: u64,
}

/// Checks an encoded state vector.
///
/// # Errors
/// The first rule that the state vector breaks.
pub fn scan_state_vector(bytes: &[u8], limits: &ScanLimits) -> Result<StateVectorSummary, ScanError> {
    let mut reader = Reader::new(bytes);
    let count = reader.var_uint()?;
    check_limit("clients", count, limits.clients)?;
    if count > reader.remaining() as u64 / 2 {
        return Err(ScanError::CountBeyondBytes(count));
    }
    // A client that appears twice, though not consecutively, is harmless here: every reader takes the last entry.
    let mut clients = ClientOrder::new();
    for _ in 0..count {
        let client = reader.var_uint()?;
        clients.add(client)?;
        let clock = reader.var_uint()?;
        if clock > limits.clock {
            return Err(ScanError::ClockTooLarge { client, clock });
        }
    }
    match reader.remaining() {
        0 => Ok(StateVectorSummary { clients: count }),
        more => Err(ScanError::TrailingBytes(more)),
    }
}

/// The entries of a state vector that [`scan_state_vector`] accepted. For other bytes, the entries before the first error.
pub fn state_vector_entries(bytes: &[u8]) -> StateVectorEntries<'_> {
    let mut reader = Reader::new(bytes);
    let left = reader.var_uint().unwrap_or(0);
    StateVectorEntries { reader, left }
}

/// Iterator of [`state_vector_entries`]: pairs of client and clock.
#[derive(Debug, Clone)]
pub struct StateVectorEntries<'a> {
    reader: Reader<'a>,
    left: u64,
}

impl Iterator for StateVectorEntries<'_> {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        self.left = self.left.checked_sub(1)?;
        let entry = self.reader.var_uint().and_then(|client| Ok((client, self.reader.var_uint()?)));
        if entry.is_err() {
            self.left = 0;
        }
        entry.ok()
    }
}
