//! Memory of messages that are incomplete or not yet handled, of all sessions. At its limit the message that occupies
//! the most memory without growing is given up, not the one that arrives: otherwise a few clients that never complete
//! a message would block every other upload.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use syncline_protocol::close::Close;
use tokio::time::Instant;

use crate::ids::SessionId;
use crate::outbox::Outbox;

/// Bytes reserved for incomplete messages, and which sessions may be closed to release some.
pub(crate) struct PartialMemory {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of `messages`, and those of [`PartialMemory::reserve`].
    reserved: usize,
    /// Ordered, so that a simulation can be replayed.
    messages: BTreeMap<SessionId, PartialMessage>,
}

/// The reservation of one session's message.
struct PartialMessage {
    bytes: usize,
    grew_at: Instant,
    /// Complete messages wait for a busy document, which is not their client's fault.
    is_complete: bool,
    outbox: Weak<Outbox>,
}

impl PartialMemory {
    /// `limit` in bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Reserves `bytes` that belong to no incomplete message. False, and nothing is reserved, if the limit is reached.
    pub(crate) fn reserve(&self, bytes: usize) -> bool {
        let mut state = self.lock();
        let fits = self.limit.saturating_sub(state.reserved) >= bytes;
        if fits {
            state.reserved += bytes;
        }
        fits
    }

    /// Releases bytes taken by [`PartialMemory::reserve`].
    pub(crate) fn release(&self, bytes: usize) {
        self.lock().reserved -= bytes;
    }

    /// Reserves `bytes` more for the incomplete message of `session`. Above the limit, closes the sessions whose messages
    /// occupy the most bytes for the longest without growing; `session` itself only if it is the last. Returns how many.
    #[must_use]
    pub(crate) fn grow_message(&self, session: SessionId, bytes: usize, outbox: &Arc<Outbox>) -> u64 {
        let now = Instant::now();
        let mut state = self.lock();
        state.reserved += bytes;
        let message = state.messages.entry(session).or_insert_with(|| PartialMessage {
            bytes: 0,
            grew_at: now,
            is_complete: false,
            outbox: Arc::downgrade(outbox),
        });
        message.bytes += bytes;
        message.grew_at = now;
        let mut closed = Vec::new();
        while state.reserved > self.limit {
            let Some(stalled) = state.most_stalled(session, now) else { break };
            // Released immediately, or the next reservation would exceed the limit, too.
            closed.extend(state.remove(stalled));
        }
        drop(state);
        let reason = "memory limit for unfinished messages on this server reached; try again later";
        closed.iter().filter_map(|message| message.outbox.upgrade()).for_each(|outbox| {
            outbox.close(Close::TooMany(reason.into()));
        });
        closed.len() as u64
    }

    /// The message of `session` is complete: it is no longer given up for others.
    pub(crate) fn complete_message(&self, session: SessionId) {
        if let Some(message) = self.lock().messages.get_mut(&session) {
            message.is_complete = true;
        }
    }

    /// Releases the bytes of the session's message, unless it was given up.
    pub(crate) fn release_message(&self, session: SessionId) {
        self.lock().remove(session);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The session whose incomplete message has the largest product of bytes and time without growth. `growing` is last.
    fn most_stalled(&self, growing: SessionId, now: Instant) -> Option<SessionId> {
        let incomplete = self.messages.iter().filter(|(_, message)| !message.is_complete);
        let stalled = incomplete.max_by_key(|(session, message)| {
            let idle_ns = now.duration_since(message.grew_at).as_nanos();
            (**session != growing, message.bytes as u128 * idle_ns)
        });
        stalled.map(|(session, _)| *session)
    }

    fn remove(&mut self, session: SessionId) -> Option<PartialMessage> {
        let message = self.messages.remove(&session)?;
        self.reserved -= message.bytes;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    /// Reserves for the message of a session, and lets a second pass.
    async fn grow(memory: &PartialMemory, session: u64, bytes: usize) -> u64 {
        let outbox = Arc::new(Outbox::new(1));
        let closed = memory.grow_message(SessionId(session), bytes, &outbox);
        advance(Duration::from_secs(1)).await;
        closed
    }

    fn sessions(memory: &PartialMemory) -> Vec<u64> {
        memory.lock().messages.keys().map(|session| session.0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn message_with_most_bytes_for_longest_is_given_up() {
        let memory = PartialMemory::new(100);
        assert!(memory.reserve(10));
        assert_eq!(grow(&memory, 1, 20).await, 0);
        assert_eq!(grow(&memory, 2, 40).await, 0);
        assert_eq!(grow(&memory, 3, 30).await, 0);
        // Idle for 3 s, 2 s and 1 s.
        assert_eq!(grow(&memory, 4, 10).await, 1);
        assert_eq!(sessions(&memory), [1, 3, 4]);
        // A message that grows is not idle, whatever it occupies.
        assert_eq!(grow(&memory, 3, 1).await, 0);
        assert_eq!(grow(&memory, 4, 30).await, 1);
        assert_eq!(sessions(&memory), [3, 4]);
        memory.release_message(SessionId(3));
        memory.release_message(SessionId(4));
        memory.release(10);
        assert_eq!(memory.lock().reserved, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn complete_message_is_never_given_up() {
        let memory = PartialMemory::new(100);
        assert_eq!(grow(&memory, 1, 80).await, 0);
        memory.complete_message(SessionId(1));
        assert_eq!(grow(&memory, 2, 30).await, 1, "only the message that grows can be given up");
        assert_eq!(sessions(&memory), [1]);
        assert!(memory.reserve(20) && !memory.reserve(1));
        memory.release_message(SessionId(2));
        assert_eq!(memory.lock().reserved, 100, "the bytes of a message given up are released once");
    }
}
