//! Client ids as hash keys: order, duplicates and collisions.
//!
//! yrs 0.28.1 hashes a client id to itself (`utils/client_hasher.rs`), so ids that agree in their low bits share a
//! place in its tables, and 30,000 of them took it 25 s. Random ids fill a table evenly; so do ids counted up. This
//! counts the ids per group of sixteen places, as the table for exactly these clients has them (hashbrown: a power
//! of two, filled to seven eighths at most), and refuses a group fuller than chance ever makes one.

use super::{ScanError, Summary};

/// Fewer clients than this cannot cost anything however they collide.
const HARMLESS: u64 = 64;
const GROUP: u64 = 16;
/// Enough groups for a table of 28,672 clients; more clients than that share them.
const GROUPS: usize = 2048;
/// A full group in the fullest table that chance makes holds 14 ids on average, and fewer than 50 at worst.
const SLACK: u64 = 48;

/// Watches the clients of one list: sections, state vector or delete set.
pub(super) struct Clients<'a> {
    last: Option<u64>,
    rising: bool,
    falling: bool,
    groups: Option<&'a mut Groups>,
}

/// How many ids fell into each group of places: four kilobytes, so only on the stack of lists that need it.
pub(super) struct Groups {
    filled: [u16; GROUPS],
    mask: u64,
    limit: u64,
}

/// Runs `read` with a watch for `count` clients.
#[inline]
pub(super) fn watched<R>(count: u64, read: impl FnOnce(Clients<'_>) -> R) -> R {
    if count > HARMLESS { watched_for_collisions(count, read) } else { read(Clients::new(None)) }
}

#[inline(never)]
fn watched_for_collisions<R>(count: u64, read: impl FnOnce(Clients<'_>) -> R) -> R {
    read(Clients::new(Some(&mut Groups::new(count))))
}

impl<'a> Clients<'a> {
    fn new(groups: Option<&'a mut Groups>) -> Self {
        Self { last: None, rising: true, falling: true, groups }
    }

    #[inline]
    pub(super) fn add(&mut self, client: u64) -> Result<(), ScanError> {
        if let Some(last) = self.last {
            if last == client {
                return Err(ScanError::DuplicateClient(client));
            }
            self.rising &= last < client;
            self.falling &= last > client;
        }
        self.last = Some(client);
        match &mut self.groups {
            None => Ok(()),
            Some(groups) => groups.add(client),
        }
    }

    /// True when the order alone shows that no client came twice.
    pub(super) fn is_sorted(&self) -> bool {
        self.rising || self.falling
    }
}

impl Groups {
    fn new(count: u64) -> Self {
        let places = (count.saturating_mul(8) / 7 + 1).next_power_of_two();
        let groups = (places / GROUP).clamp(1, GROUPS as u64);
        let mean = count.div_ceil(groups);
        // Chance spreads wider where more share a group.
        let limit = mean + mean / 4 + SLACK;
        Self { filled: [0; GROUPS], mask: groups - 1, limit }
    }

    fn add(&mut self, client: u64) -> Result<(), ScanError> {
        // The mask is below GROUPS.
        let filled = &mut self.filled[((client / GROUP) & self.mask) as usize];
        *filled = filled.saturating_add(1);
        if u64::from(*filled) > self.limit { Err(ScanError::CollidingClients) } else { Ok(()) }
    }
}

/// Both lists of an update: were they sorted?
#[derive(Debug, Clone, Copy)]
pub(super) struct Sorted {
    pub(super) sections: bool,
    pub(super) deletes: bool,
}

/// Looks for duplicates among clients in no order (Yjs before 13.5 wrote delete sets so).
#[cold]
pub(super) fn check_unsorted(update: &[u8], summary: &Summary, sorted: Sorted) -> Result<(), ScanError> {
    if !sorted.sections {
        let sections = super::update_ranges(update).map(|range| range.client);
        check_distinct(sections, summary.clients)?;
    }
    if !sorted.deletes {
        check_distinct(super::walk::delete_clients(update)?.into_iter(), summary.delete_clients)?;
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
