//! Checks that each client id appears once in a list.

use super::{ScanError, Summary};

/// Tracks the order of the clients in one list: sections, state vector or delete set.
pub(super) struct ClientOrder {
    last: Option<u64>,
    ascending: bool,
    descending: bool,
}

impl ClientOrder {
    pub(super) fn new() -> Self {
        Self { last: None, ascending: true, descending: true }
    }

    #[inline]
    pub(super) fn add(&mut self, client: u64) -> Result<(), ScanError> {
        if let Some(last) = self.last {
            if last == client {
                return Err(ScanError::DuplicateClient(client));
            }
            self.ascending &= last < client;
            self.descending &= last > client;
        }
        self.last = Some(client);
        Ok(())
    }

    /// True when the clients are strictly sorted, so that none appears twice.
    pub(super) fn is_sorted(&self) -> bool {
        self.ascending || self.descending
    }
}

/// Which of the two client lists of an update are sorted.
#[derive(Debug, Clone, Copy)]
pub(super) struct SortedLists {
    pub(super) sections: bool,
    pub(super) deletes: bool,
}

/// Refuses duplicates in unsorted lists (Yjs before 13.5 writes unsorted delete sets).
#[cold]
pub(super) fn check_unsorted(update: &[u8], summary: &Summary, sorted: SortedLists) -> Result<(), ScanError> {
    if !sorted.sections {
        let sections = super::update_ranges(update).map(|range| range.client);
        check_distinct(sections, summary.clients)?;
    }
    if !sorted.deletes {
        check_distinct(super::parse::delete_set_clients(update)?.into_iter(), summary.delete_clients)?;
    }
    Ok(())
}

fn check_distinct(clients: impl Iterator<Item = u64>, count: u64) -> Result<(), ScanError> {
    let mut all = Vec::with_capacity(count as usize);
    all.extend(clients);
    all.sort_unstable();
    match all.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ScanError::DuplicateClient(pair[0])),
        None => Ok(()),
    }
}
