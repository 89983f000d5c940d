//! PURE: a map by lease that takes little memory while it has few entries, as in most documents.
//!
//! A `BTreeMap` reserves eleven entries for its first one and a `HashMap` four: more than the rest of the memory that a document takes
//! for an idle reader. A vector takes one, but removing from a long one moves all entries behind: beyond [`FEW`] entries this is a
//! `BTreeMap`, until it is empty again.

use std::collections::BTreeMap;

use crate::ids::LeaseId;

/// Most entries in the vector.
const FEW: usize = 8;

/// Values by lease, in ascending order of the leases. At most one of the two has entries.
#[derive(Debug)]
pub(super) struct LeaseMap<T> {
    few: Vec<(LeaseId, T)>,
    many: BTreeMap<LeaseId, T>,
}

impl<T> LeaseMap<T> {
    pub(super) fn new() -> Self {
        Self { few: Vec::new(), many: BTreeMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.few.len() + self.many.len()
    }

    pub(super) fn get(&self, lease: LeaseId) -> Option<&T> {
        match self.find(lease) {
            Ok(at) => self.few.get(at).map(|(_, value)| value),
            Err(_) => self.many.get(&lease),
        }
    }

    pub(super) fn get_mut(&mut self, lease: LeaseId) -> Option<&mut T> {
        match self.find(lease) {
            Ok(at) => self.few.get_mut(at).map(|(_, value)| value),
            Err(_) => self.many.get_mut(&lease),
        }
    }

    /// Returns the value that it replaces.
    pub(super) fn insert(&mut self, lease: LeaseId, value: T) -> Option<T> {
        match self.find(lease) {
            Ok(at) => return self.few.get_mut(at).map(|(_, old)| std::mem::replace(old, value)),
            Err(at) if self.many.is_empty() && self.few.len() < FEW => {
                if self.few.is_empty() {
                    self.few.reserve_exact(1);
                }
                self.few.insert(at, (lease, value));
                return None;
            }
            Err(_) => {}
        }
        self.many.extend(std::mem::take(&mut self.few));
        self.many.insert(lease, value)
    }

    pub(super) fn remove(&mut self, lease: LeaseId) -> Option<T> {
        let Ok(at) = self.find(lease) else { return self.many.remove(&lease) };
        let (_, value) = self.few.remove(at);
        if self.few.is_empty() {
            self.few = Vec::new();
        }
        Some(value)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(LeaseId, &mut T) -> bool) {
        self.few.retain_mut(|(lease, value)| keep(*lease, value));
        self.many.retain(|lease, value| keep(*lease, value));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LeaseId, &T)> {
        let many = self.many.iter().map(|(lease, value)| (*lease, value));
        self.few.iter().map(|(lease, value)| (*lease, value)).chain(many)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (LeaseId, &mut T)> {
        let many = self.many.iter_mut().map(|(lease, value)| (*lease, value));
        self.few.iter_mut().map(|(lease, value)| (*lease, value)).chain(many)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.iter_mut().map(|(_, value)| value)
    }

    /// Where it is in the vector, or would be.
    fn find(&self, lease: LeaseId) -> Result<usize, usize> {
        self.few.binary_search_by_key(&lease, |(lease, _)| *lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_map_behaves_like_a_btree_map() {
        let (mut map, mut model) = (LeaseMap::new(), BTreeMap::new());
        let (mut random, mut seen) = (1_u64, (false, false));
        for step in 0..10_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let lease = LeaseId(random >> 59);
            match random % 5 {
                0 | 1 => assert_eq!(map.insert(lease, step), model.insert(lease, step)),
                2 => assert_eq!(map.remove(lease), model.remove(&lease)),
                // Short again from time to time.
                3 if step % 97 == 0 => {
                    (0..32).for_each(|lease| _ = (map.remove(LeaseId(lease)), model.remove(&LeaseId(lease))))
                }
                3 => assert_eq!(map.get_mut(lease).copied(), model.get(&lease).copied()),
                _ => assert_eq!(map.get(lease), model.get(&lease)),
            }
            if step % 1_000 == 999 {
                map.retain(|lease, _| lease.0 % 3 > 0);
                model.retain(|lease, _| lease.0 % 3 > 0);
            }
            assert_eq!(map.len(), model.len());
            assert!(map.few.is_empty() || map.many.is_empty());
            seen = (seen.0 || !map.few.is_empty(), seen.1 || !map.many.is_empty());
            assert!(map.iter().eq(model.iter().map(|(&lease, value)| (lease, value))), "step {step}");
        }
        assert_eq!(seen, (true, true), "both forms were used");
    }
}
