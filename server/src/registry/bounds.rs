//! Keeps all open documents within the limits of `Memory`: the least recently used ones free memory; if
//! none can, no further document is opened.

use std::sync::{Arc, Weak};

use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::Registry;
use crate::document::Envelope;
use crate::document::inbox::Sender;
use crate::document::usage::{ROOM_TIMEOUT, SEARCH_PAUSE};

/// A document that may free memory.
struct EvictionCandidate {
    is_leased: bool,
    used_ms: u64,
    bytes: usize,
    inbox: Sender,
}

impl Registry {
    /// Starts a task that keeps open documents within the limits until [`Registry::stop`].
    pub fn keep_within_bounds(self: &Arc<Self>) {
        let (registry, memory, stopping) = (Arc::downgrade(self), Arc::clone(&self.memory), self.stopping.clone());
        tokio::spawn(async move {
            let keep = async {
                loop {
                    memory.attention().await;
                    let Some(registry) = Weak::upgrade(&registry) else { return };
                    registry.free_memory();
                    drop(registry);
                    sleep(SEARCH_PAUSE).await;
                }
            };
            stopping.run_until_cancelled(keep).await;
        });
    }

    /// Waits for room for one more document; an open one needs none. Its memory is not known yet: it waits once more
    /// before it is loaded ([`crate::document::usage::Memory::reserve`]). Meanwhile the session's socket is not read.
    ///
    /// Errors: 4529 if all open documents are in use and their memory is at its limit.
    pub async fn admit(&self, name: &DocumentName) -> Result<(), Close> {
        if !self.memory.is_full() || self.slots.contains_key(name) {
            return Ok(());
        }
        let room = async {
            loop {
                // Searched again in each round: documents may have been left since.
                self.memory.request_attention();
                if timeout(SEARCH_PAUSE, self.memory.wait_for_room()).await.is_ok() {
                    return;
                }
            }
        };
        if timeout(ROOM_TIMEOUT, room).await.is_ok() || self.slots.contains_key(name) {
            return Ok(());
        }
        self.metrics.documents_refused.inc();
        debug!(document = %name, "document refused: memory limit for open documents reached");
        Err(Close::memory_full())
    }

    /// Asks the least recently used documents to free memory: first those without a lease, which are
    /// unloaded, then those with caches that can be rebuilt.
    fn free_memory(&self) {
        let (mut bytes, mut documents) = self.memory.excess();
        if bytes > 0 || documents > 0 {
            let mut candidates = self.candidates();
            candidates.sort_unstable_by_key(|candidate| (candidate.is_leased, candidate.used_ms));
            for candidate in candidates {
                if bytes == 0 && (documents == 0 || candidate.is_leased) {
                    break;
                }
                // A document with a full inbox is in use.
                if candidate.inbox.try_send(Envelope::FreeMemory).is_ok() {
                    self.metrics.documents_evicted.inc();
                    bytes = bytes.saturating_sub(candidate.bytes);
                    documents = documents.saturating_sub(usize::from(!candidate.is_leased));
                }
            }
        }
        if self.memory.take_fallen_peak() {
            self.slots.shrink_to_fit();
            // Runs in the background; no task awaits it.
            drop(tokio::task::spawn_blocking(syncline_heap::return_free_memory));
        }
    }

    fn candidates(&self) -> Vec<EvictionCandidate> {
        let slots = self.slots.iter();
        let usable = slots.filter(|slot| !slot.is_leased() || !slot.task.usage.is_minimal());
        let candidates = usable.map(|slot| EvictionCandidate {
            is_leased: slot.is_leased(),
            used_ms: slot.task.usage.used_ms(),
            bytes: slot.task.usage.bytes(),
            inbox: slot.task.inbox.clone(),
        });
        candidates.collect()
    }
}
