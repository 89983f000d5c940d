//! Memory use of all open documents: each task reports its own, the registry keeps the total within limits.

mod loading;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

pub(crate) use self::loading::{NoRoom, ROOM_TIMEOUT, Reservation, SEARCH_PAUSE};

/// Limits for all open documents together. `usize::MAX` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Memory in bytes, as estimated by the documents.
    pub bytes: usize,
    /// Number of documents.
    pub documents: usize,
}

impl MemoryLimits {
    /// No limits.
    pub const NONE: Self = Self { bytes: usize::MAX, documents: usize::MAX };
}

/// Totals over all open documents.
#[derive(Debug)]
pub(crate) struct Memory {
    limits: MemoryLimits,
    began: Instant,
    bytes: AtomicUsize,
    documents: AtomicUsize,
    /// Reserved for documents that are being loaded, in bytes. Raised under `load_turn` only.
    reserved: AtomicUsize,
    /// Held by the load that reserves memory next.
    load_turn: Mutex<()>,
    /// When the last load ended, in milliseconds since `began`.
    loaded_ms: AtomicU64,
    /// Highest number of documents since the registry's map was last shrunk.
    peak: AtomicUsize,
    /// Signals that documents may have to be evicted, or the map shrunk.
    attention: Notify,
    /// Signals that there is room again.
    room_freed: Notify,
}

/// The map of documents need not be shrunk below this peak.
const SMALL_PEAK: usize = 4_096;

impl Memory {
    /// Totals without any open document.
    pub(crate) fn new(limits: MemoryLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            began: Instant::now(),
            bytes: AtomicUsize::new(0),
            documents: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            load_turn: Mutex::new(()),
            loaded_ms: AtomicU64::new(0),
            peak: AtomicUsize::new(0),
            attention: Notify::new(),
            room_freed: Notify::new(),
        })
    }

    /// Estimated memory of the open documents, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// True if one more document would exceed a limit.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes() > self.limits.bytes || self.documents.load(Ordering::Relaxed) >= self.limits.documents
    }

    /// True while open documents may grow: up to one eighth over the limit. Documents are refused and evicted at the limit
    /// itself, so eviction keeps the memory below this unless no document can free any.
    fn may_grow(&self) -> bool {
        self.bytes() <= self.limits.bytes.saturating_add(self.limits.bytes / 8)
    }

    /// Bytes and documents to give up, one eighth more than the excess over a limit, so that not every change
    /// triggers a search.
    pub(crate) fn excess(&self) -> (usize, usize) {
        let aim = |limit: usize| limit - (limit / 8).max(1);
        let excess = |now: usize, limit| if now >= limit { now - aim(limit) } else { 0 };
        let documents = self.documents.load(Ordering::Relaxed);
        (excess(self.bytes(), self.limits.bytes), excess(documents, self.limits.documents))
    }

    /// Wakes the waiter of [`Memory::attention`].
    pub(crate) fn request_attention(&self) {
        self.attention.notify_one();
    }

    /// Waits until a limit is exceeded, or many documents have closed.
    pub(crate) async fn attention(&self) {
        self.attention.notified().await;
    }

    /// Waits until there is room for one more document.
    pub(crate) async fn wait_for_room(&self) {
        let mut notified = std::pin::pin!(self.room_freed.notified());
        loop {
            // Registered before the check, so no notification is missed in between.
            notified.as_mut().enable();
            if !self.is_full() {
                return;
            }
            notified.as_mut().await;
            notified.set(self.room_freed.notified());
        }
    }

    /// True if most of the documents open at the peak have closed; resets the peak.
    pub(crate) fn take_fallen_peak(&self) -> bool {
        let (peak, now) = (self.peak.load(Ordering::Relaxed), self.documents.load(Ordering::Relaxed));
        let has_fallen = has_fallen(peak, now);
        if has_fallen {
            self.peak.store(now, Ordering::Relaxed);
        }
        has_fallen
    }

    /// A time in milliseconds since `began`.
    fn ms_at(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts a document that is being opened.
    pub(crate) fn enter(self: &Arc<Self>) -> Arc<Usage> {
        let documents = self.documents.fetch_add(1, Ordering::Relaxed) + 1;
        self.peak.fetch_max(documents, Ordering::Relaxed);
        let usage = Usage {
            memory: Arc::clone(self),
            bytes: AtomicUsize::new(0),
            used_ms: AtomicU64::new(0),
            is_minimal: AtomicBool::new(false),
        };
        usage.report(0, false, Instant::now());
        Arc::new(usage)
    }
}

fn has_fallen(peak: usize, now: usize) -> bool {
    peak > SMALL_PEAK && now < peak / 4
}

/// Memory use of one open document. Written by its task.
#[derive(Debug)]
pub(crate) struct Usage {
    memory: Arc<Memory>,
    bytes: AtomicUsize,
    /// Time of last use, in milliseconds since `Memory` was created.
    used_ms: AtomicU64,
    is_minimal: AtomicBool,
}

impl Usage {
    /// Reports the memory use and the time of last use. A minimal document can free no more memory while it
    /// is open.
    pub(crate) fn report(&self, bytes: usize, is_minimal: bool, used_at: Instant) {
        self.used_ms.store(self.memory.ms_at(used_at), Ordering::Relaxed);
        self.is_minimal.store(is_minimal, Ordering::Relaxed);
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        if bytes > before {
            let total = self.memory.bytes.fetch_add(bytes - before, Ordering::Relaxed) + (bytes - before);
            if total > self.memory.limits.bytes {
                self.memory.request_attention();
            }
        } else if bytes < before {
            self.release(before - bytes);
        }
    }

    /// True while it may grow; one atomic read.
    pub(crate) fn may_grow(&self) -> bool {
        self.memory.may_grow()
    }

    /// Waits for its turn to be loaded: [`Memory::reserve`].
    pub(crate) async fn reserve(&self, bytes: usize) -> Result<Reservation, NoRoom> {
        self.memory.reserve(bytes).await
    }

    /// Its memory use in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Time of last use, for comparison with other documents: smaller means unused for longer.
    pub(crate) fn used_ms(&self) -> u64 {
        self.used_ms.load(Ordering::Relaxed)
    }

    /// True if it can free no more memory while it is open.
    pub(crate) fn is_minimal(&self) -> bool {
        self.is_minimal.load(Ordering::Relaxed)
    }

    fn release(&self, bytes: usize) {
        let before = self.memory.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before > self.memory.limits.bytes {
            self.memory.room_freed.notify_waiters();
        }
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.release(self.bytes());
        let before = self.memory.documents.fetch_sub(1, Ordering::Relaxed);
        if before >= self.memory.limits.documents {
            self.memory.room_freed.notify_waiters();
        }
        if has_fallen(self.memory.peak.load(Ordering::Relaxed), before - 1) {
            self.memory.request_attention();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn excess_over_limits_is_reported_and_room_is_signalled() {
        let memory = Memory::new(MemoryLimits { bytes: 1_000, documents: 3 });
        let (first, second) = (memory.enter(), memory.enter());
        first.report(600, false, Instant::now());
        assert!(!memory.is_full());
        assert_eq!(memory.excess(), (0, 0));
        second.report(600, false, Instant::now());
        memory.attention().await;
        assert!(memory.is_full());
        assert_eq!((memory.bytes(), memory.excess()), (1_200, (325, 0)));
        assert!(!second.may_grow());
        let waiting = tokio::spawn({
            let memory = Arc::clone(&memory);
            async move { memory.wait_for_room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        second.report(100, true, Instant::now());
        waiting.await.unwrap();
        assert!(second.may_grow());
        let third = memory.enter();
        assert!(memory.is_full(), "the limit on documents is reached");
        assert_eq!(memory.excess(), (0, 1));
        drop((first, second, third));
        assert_eq!((memory.bytes(), memory.is_full()), (0, false));
    }

    #[tokio::test]
    async fn drop_after_peak_of_documents_is_reported_once() {
        let memory = Memory::new(MemoryLimits::NONE);
        let many: Vec<_> = (0..SMALL_PEAK + 1).map(|_| memory.enter()).collect();
        assert!(!memory.take_fallen_peak());
        drop(many);
        memory.attention().await;
        assert!(memory.take_fallen_peak());
        assert!(!memory.take_fallen_peak(), "once");
    }
}
