//! All open documents within the bounds of [`Memory`]: the least recently used give up memory, and when none can, a document more is
//! not opened.

use std::sync::{Arc, Weak};
use std::time::Duration;

use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::Registry;
use crate::document::Envelope;
use crate::document::inbox::Sender;

/// Between two searches for documents that can give up memory: each looks at all of them.
const SEARCH_PAUSE: Duration = Duration::from_millis(200);
/// How long opening a document waits for others to give up memory. The socket that it comes from is not read meanwhile.
const ROOM_TIMEOUT: Duration = Duration::from_secs(1);

/// A document that may give up memory.
struct Candidate {
    is_leased: bool,
    used_ms: u64,
    bytes: usize,
    inbox: Sender,
}

impl Registry {
    /// Keeps open documents within the bounds until [`Registry::stop`].
    pub fn keep_within_bounds(self: &Arc<Self>) {
        let (registry, memory, stopping) = (Arc::downgrade(self), Arc::clone(&self.memory), self.stopping.clone());
        tokio::spawn(async move {
            let keep = async {
                loop {
                    memory.attention().await;
                    let Some(registry) = Weak::upgrade(&registry) else { return };
                    registry.relieve();
                    drop(registry);
                    sleep(SEARCH_PAUSE).await;
                }
            };
            stopping.run_until_cancelled(keep).await;
        });
    }

    /// Waits for room for a document more; one that is open needs none.
    ///
    /// Errors: 4529 when all open documents are in use and their memory is at its limit.
    pub async fn admit(&self, name: &DocumentName) -> Result<(), Close> {
        if !self.memory.is_full() || self.slots.contains_key(name) {
            return Ok(());
        }
        let room = async {
            loop {
                // Again: what could not be given up before may have been left since.
                self.memory.call();
                if timeout(SEARCH_PAUSE, self.memory.room()).await.is_ok() {
                    return;
                }
            }
        };
        if timeout(ROOM_TIMEOUT, room).await.is_ok() || self.slots.contains_key(name) {
            return Ok(());
        }
        self.metrics.documents_refused.inc();
        debug!(document = %name, "document not opened: the open documents take as much memory as they may");
        Err(Close::TooMany("this server has as many open documents as its memory allows; please try later".into()))
    }

    /// Asks the least recently used documents to give up memory: first those that nobody has open, which leave, then those that can
    /// drop what can be made again.
    fn relieve(&self) {
        let (mut bytes, mut documents) = self.memory.excess();
        if bytes > 0 || documents > 0 {
            let mut candidates = self.candidates();
            candidates.sort_unstable_by_key(|candidate| (candidate.is_leased, candidate.used_ms));
            for candidate in candidates {
                if bytes == 0 && (documents == 0 || candidate.is_leased) {
                    break;
                }
                // One whose inbox is full is in use.
                if candidate.inbox.try_send(Envelope::Relieve).is_ok() {
                    self.metrics.documents_evicted.inc();
                    bytes = bytes.saturating_sub(candidate.bytes);
                    documents = documents.saturating_sub(usize::from(!candidate.is_leased));
                }
            }
        }
        if self.memory.take_peak() {
            self.slots.shrink_to_fit();
            // Nothing waits for it.
            drop(tokio::task::spawn_blocking(syncline_heap::return_free_memory));
        }
    }

    fn candidates(&self) -> Vec<Candidate> {
        let slots = self.slots.iter();
        let usable = slots.filter(|slot| !slot.is_leased() || !slot.task.usage.is_minimal());
        let candidates = usable.map(|slot| Candidate {
            is_leased: slot.is_leased(),
            used_ms: slot.task.usage.used_ms(),
            bytes: slot.task.usage.bytes(),
            inbox: slot.task.inbox.clone(),
        });
        candidates.collect()
    }
}
