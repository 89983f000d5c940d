//! PURE: a map by lease that takes little memory while it has one entry, as in most documents.
//!
//! A `BTreeMap` reserves eleven entries for its first one and a `HashMap` four: more memory than everything else that
//! a document holds for an idle reader. Lease numbers ascend, so a new entry nearly always goes to the end of the
//! vector.

use crate::ids::LeaseId;

/// Values by lease, in ascending order of the leases.
#[derive(Debug)]
pub(super) struct LeaseMap<T>(Vec<(LeaseId, T)>);

impl<T> LeaseMap<T> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, lease: LeaseId) -> Option<&T> {
        self.find(lease).ok().and_then(|at| self.0.get(at)).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, lease: LeaseId) -> Option<&mut T> {
        self.find(lease).ok().and_then(|at| self.0.get_mut(at)).map(|(_, value)| value)
    }

    /// Returns the value that it replaces.
    pub(super) fn insert(&mut self, lease: LeaseId, value: T) -> Option<T> {
        match self.find(lease) {
            Ok(at) => self.0.get_mut(at).map(|(_, old)| std::mem::replace(old, value)),
            Err(at) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, (lease, value));
                None
            }
        }
    }

    pub(super) fn remove(&mut self, lease: LeaseId) -> Option<T> {
        let (_, value) = self.0.remove(self.find(lease).ok()?);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Some(value)
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(LeaseId, &mut T) -> bool) {
        self.0.retain_mut(|(lease, value)| keep(*lease, value));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LeaseId, &T)> {
        self.0.iter().map(|(lease, value)| (*lease, value))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (LeaseId, &mut T)> {
        self.0.iter_mut().map(|(lease, value)| (*lease, value))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    fn find(&self, lease: LeaseId) -> Result<usize, usize> {
        match self.0.last() {
            Some((last, _)) if *last < lease => Err(self.0.len()),
            _ => self.0.binary_search_by_key(&lease, |(lease, _)| *lease),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn lease_map_behaves_like_a_btree_map() {
        let (mut map, mut model) = (LeaseMap::new(), BTreeMap::new());
        let mut random = 1_u64;
        for step in 0..10_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let lease = LeaseId(random >> 59);
            match random % 5 {
                0 | 1 => assert_eq!(map.insert(lease, step), model.insert(lease, step)),
                2 => assert_eq!(map.remove(lease), model.remove(&lease)),
                3 => assert_eq!(map.get_mut(lease).copied(), model.get(&lease).copied()),
                _ => assert_eq!(map.get(lease), model.get(&lease)),
            }
            if step % 1_000 == 999 {
                map.retain(|lease, _| lease.0 % 3 > 0);
                model.retain(|lease, _| lease.0 % 3 > 0);
            }
            assert_eq!(map.len(), model.len());
            assert!(map.iter().eq(model.iter().map(|(&lease, value)| (lease, value))), "step {step}");
        }
    }
}
