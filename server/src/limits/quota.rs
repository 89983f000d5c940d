//! How many sessions each address, or each user, has; and how much of its rate it has used.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::{Meter, Rate};

/// Those remembered without a session, so that their rates outlive it. Beyond it they are forgotten.
const MAX_QUIET: usize = 10_000;

/// What each of one kind may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// Sessions at once.
    pub(super) sessions: usize,
    /// What they may send together.
    pub(super) rate: Rate,
}

#[derive(Debug)]
struct Place {
    sessions: usize,
    meter: Arc<Meter>,
}

/// The places of one kind.
#[derive(Debug)]
pub(super) struct Places<K> {
    places: HashMap<K, Place>,
    /// Over all of them.
    sessions: usize,
}

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self { places: HashMap::new(), sessions: 0 }
    }
}

impl<K: Hash + Eq> Places<K> {
    /// One session more, and what all of them send together; `None`: there are too many.
    pub(super) fn enter(&mut self, key: K, allowed: Allowance) -> Option<Arc<Meter>> {
        if self.places.len() > MAX_QUIET + self.sessions {
            self.places.retain(|_, place| place.sessions > 0);
        }
        let place =
            self.places.entry(key).or_insert_with(|| Place { sessions: 0, meter: Arc::new(Meter::new(allowed.rate)) });
        if place.sessions >= allowed.sessions {
            return None;
        }
        place.sessions += 1;
        self.sessions += 1;
        Some(Arc::clone(&place.meter))
    }

    /// One session less.
    pub(super) fn leave(&mut self, key: &K, allowed: Allowance) {
        let Some(place) = self.places.get_mut(key) else { return };
        place.sessions -= 1;
        self.sessions -= 1;
        // Only a rate is worth remembering.
        if place.sessions == 0 && allowed.rate.is_unlimited() {
            self.places.remove(key);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}
