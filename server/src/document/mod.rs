//! One open document: its CRDT, its readers, its presence, and the task that owns them.
//!
//! ```text
//! event.rs     what enters and leaves: the contract, on one screen
//! core.rs      PURE: applies updates, decides acks and answers; no clock, no I/O, no runtime
//! core/memory.rs PURE: what it takes in memory
//! core/refuse.rs  PURE: what is refused
//! core/native.rs  PURE: what only the native dialect asks: cursors and registers
//! core/awareness.rs PURE: awareness, encoded once a turn
//! core/joining.rs PURE: who joins, and the document at rest
//! core/registers.rs PURE: what was decided on a register stays decided
//! core/waiting.rs PURE: acknowledgements that wait for the disk
//! core/unsynced.rs PURE: the number that a Hocuspocus client shows
//! core/authors.rs PURE: who brought what waits for others
//! tail.rs      PURE: the newest changes, for clients that missed a few
//! presence.rs  PURE: who is here, never logged
//! frame.rs     one message, encoded at most once per dialect, shared by every reader
//! load.rs      from the log to memory
//! merge.rs     PURE: changes that waited together, as few frames
//! readers.rs   the outboxes of those who read, and how far each is known to have come
//! options.rs   what it is told at its start
//! usage.rs     what all open documents take in memory
//! apart.rs     work that goes through all of a large document
//! task.rs      the shell: inbox in, effects out, log, idle time, end
//! ```

mod apart;
pub mod core;
pub mod event;
pub mod frame;
pub mod inbox;
mod load;
mod merge;
mod options;
pub mod presence;
mod readers;
pub mod tail;
mod task;
pub mod usage;

pub use options::{Compaction, DocumentOptions};
pub use task::{Ended, Envelope, run};

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
    fn a_document_that_does_nothing_is_small() {
        assert!(size_of::<Envelope>() <= 80, "{}", size_of::<Envelope>());
        let log = Log::start(Arc::new(MemoryStore::new()));
        let (_sender, inbox) = super::inbox::inbox();
        let options = Arc::new(DocumentOptions::new(Duration::from_secs(1)));
        let usage = Memory::new(MemoryLimits::NONE).enter();
        let task = run(DocumentName::parse("doc").unwrap(), inbox, log, options, Arc::default(), usage, |_| true);
        assert!(size_of_val(&task) <= 900, "{}", size_of_val(&task));
    }
}
