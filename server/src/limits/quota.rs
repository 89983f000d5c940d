//! Quotas per address or per user: the number of open sessions and the shared rate limit.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use super::{Meter, Rate};

/// Entries without a session that are kept so that their rate limit outlives the session. Beyond it all of them
/// are dropped.
const MAX_IDLE: usize = 10_000;

/// The limits of each key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// Sessions open at the same time.
    pub(super) sessions: usize,
    /// Rate limit shared by those sessions.
    pub(super) rate: Rate,
}

#[derive(Debug)]
struct Quota {
    sessions: usize,
    meter: Arc<Meter>,
}

/// Usage by key: by IP address or by user.
#[derive(Debug)]
pub(super) struct Quotas<K> {
    entries: HashMap<K, Quota>,
    /// Total over all keys.
    sessions: usize,
}

impl<K> Default for Quotas<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), sessions: 0 }
    }
}

impl<K: Hash + Eq> Quotas<K> {
    /// Adds a session and returns the rate meter it shares; `None` if the key has too many sessions.
    pub(super) fn enter(&mut self, key: K, allowed: Allowance) -> Option<Arc<Meter>> {
        if self.entries.len() > MAX_IDLE + self.sessions {
            self.entries.retain(|_, usage| usage.sessions > 0);
        }
        let usage =
            self.entries.entry(key).or_insert_with(|| Quota { sessions: 0, meter: Arc::new(Meter::new(allowed.rate)) });
        if usage.sessions >= allowed.sessions {
            return None;
        }
        usage.sessions += 1;
        self.sessions += 1;
        Some(Arc::clone(&usage.meter))
    }

    /// Removes a session.
    pub(super) fn leave(&mut self, key: &K, allowed: Allowance) {
        let Some(usage) = self.entries.get_mut(key) else { return };
        usage.sessions -= 1;
        self.sessions -= 1;
        // Without sessions, an entry is needed only for its rate limit.
        if usage.sessions == 0 && allowed.rate.is_unlimited() {
            self.entries.remove(key);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
