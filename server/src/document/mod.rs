//! One open document: its CRDT, its readers, its awareness, and the task that owns them.
//!
//! ```text
//! event.rs                 events in, effects out: the contract of the core
//! message.rs               a message about the document, as neutral data
//! outcome.rs               what a client is sent about its updates
//! core.rs                  PURE: the state machine: one door, the order of calls, and what follows the disk
//! core/updates.rs          PURE: changes: an update is weighed, then entered; a write to a register is decided
//! core/joining.rs          PURE: readers: replies to step 1 and to a cursor, and the diff for a reader that fell behind
//! core/history.rs          PURE: the newest record, what is on disk, recent changes
//! core/leases.rs           PURE: the leases, with what each is asked for and owed
//! core/step2.rs            PURE: whether a step 2 of a lease is due, and which acks wait for it
//! core/unstored.rs         PURE: what could not be stored because too much is pending
//! core/unsynced.rs         PURE: the counter of unsynced changes in a client
//! core/client_clocks.rs    PURE: the clocks of a step 1, in little memory
//! core/acks.rs             PURE: acks waiting for the disk
//! core/owed_diffs.rs       PURE: step 1 messages that are answered later, with one diff for several
//! core/diff_cache.rs       PURE: replies to a step 1, shared
//! core/awareness.rs        PURE: awareness, encoded once per turn
//! core/registers.rs        PURE: keeps decisions on registers final
//! recent_changes.rs        PURE: recent changes, for clients that missed only a few
//! awareness.rs             PURE: awareness states, never logged
//! encoder.rs               encodes what a document sends to one lease: implemented by each dialect
//! frame.rs                 one message, each shared encoding made at most once
//! lease_map.rs             PURE: a small map by lease
//! load.rs                  loads a document from the log
//! coalesce.rs              PURE: coalesces changes into few frames
//! readers.rs               the outboxes of the readers, and the state each is known to have
//! options.rs               configuration of a document's task
//! usage.rs                 memory use of all open documents
//! usage/loading.rs         memory reserved for documents that are being loaded
//! block_in_place.rs        work on whole large documents that must not block other tasks
//! task.rs                  the I/O shell: inbox, effects, log, idle timers, unloading
//! task/batch.rs            handles the queued events in order
//! task/turn.rs             executes effects and sends the frames of a turn
//! task/snapshots.rs        PURE: when a snapshot is worth its cost
//! task/idle.rs             when the document leaves memory, and when it frees memory
//! ```

pub(crate) mod awareness;
mod block_in_place;
mod coalesce;
pub(crate) mod core;
pub(crate) mod encoder;
pub(crate) mod event;
pub(crate) mod frame;
pub(crate) mod inbox;
mod lease_map;
mod load;
pub(crate) mod message;
mod options;
pub(crate) mod outcome;
mod readers;
pub(crate) mod recent_changes;
mod task;
pub(crate) mod usage;

pub use options::{Compaction, DocumentOptions};
pub(crate) use task::{Envelope, TaskEnd, run};

#[cfg(test)]
mod tests {
    use std::mem::{size_of, size_of_val};
    use std::sync::Arc;
    use std::time::Duration;

    use syncline_log::Log;
    use syncline_log::memory::MemoryStore;
    use syncline_protocol::ids::DocumentName;

    use super::usage::{Memory, MemoryLimits};
    use super::{DocumentOptions, Envelope, run};

    #[test]
    fn idle_document_is_small() {
        assert!(size_of::<Envelope>() <= 72, "{}", size_of::<Envelope>());
        let log = Log::start(Arc::new(MemoryStore::new()));
        let (_sender, inbox) = super::inbox::inbox();
        let options = Arc::new(DocumentOptions::new(Duration::from_secs(1)));
        let usage = Memory::new(MemoryLimits::NONE).enter();
        let task = run(DocumentName::parse("doc").unwrap(), inbox, log, options, Arc::default(), usage, |_| true);
        assert!(size_of_val(&task) <= 900, "{}", size_of_val(&task));
    }
}
