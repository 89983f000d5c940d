//! Memory for documents that are being loaded. How large a document is shows only when it has been read, so a load
//! reserves what the largest may need. Loads wait for their turn in order: what is open and reserved stays within the
//! limit, except that one document is loaded at a time while less is left than it may need.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Memory;

/// Pause between two searches for documents that can free memory: each search visits all documents.
pub(crate) const SEARCH_PAUSE: Duration = Duration::from_millis(200);
/// How long opening a document waits for others to free memory.
pub(crate) const ROOM_TIMEOUT: Duration = Duration::from_secs(1);

/// All open documents are in use, and their memory is at its limit.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the memory limit for open documents is reached")]
pub(crate) struct NoRoom;

/// Memory reserved for one load, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    /// Waits until a document that needs up to `bytes` may be loaded. At most half of the limit is reserved for it. A
    /// load waits for other loads as long as they take, and for other documents to free memory [`ROOM_TIMEOUT`].
    pub(crate) async fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Reservation, NoRoom> {
        if self.limits.bytes == usize::MAX {
            return Ok(Reservation { memory: Arc::clone(self), bytes: 0 });
        }
        let (bytes, began_ms) = (bytes.min(self.limits.bytes / 2), self.ms_at(Instant::now()));
        let _turn = self.load_turn.lock().await;
        loop {
            // Registered before the check, so no notification is missed in between.
            let mut freed = std::pin::pin!(self.room_freed.notified());
            freed.as_mut().enable();
            let (reserved, used) = (self.reserved.load(Ordering::Relaxed), self.bytes());
            let is_over = used > self.limits.bytes;
            if used.saturating_add(reserved).saturating_add(bytes) <= self.limits.bytes || (reserved == 0 && !is_over) {
                self.reserved.fetch_add(bytes, Ordering::Relaxed);
                return Ok(Reservation { memory: Arc::clone(self), bytes });
            }
            if is_over {
                let full_since_ms = self.loaded_ms.load(Ordering::Relaxed).max(began_ms);
                let waited_ms = self.ms_at(Instant::now()).saturating_sub(full_since_ms);
                if reserved == 0 && u128::from(waited_ms) >= ROOM_TIMEOUT.as_millis() {
                    return Err(NoRoom);
                }
                // Searched again in each round: documents may have been left since.
                self.request_attention();
            }
            // After the pause it is checked again.
            timeout(SEARCH_PAUSE, freed).await.ok();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.loaded_ms.fetch_max(self.memory.ms_at(Instant::now()), Ordering::Relaxed);
            self.memory.reserved.fetch_sub(self.bytes, Ordering::Relaxed);
            self.memory.room_freed.notify_waiters();
        }
    }
}
