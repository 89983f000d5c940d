//! One open document: its CRDT, its readers, its presence, and the task that owns them.
//!
//! ```text
//! event.rs     what enters and leaves: the contract, on one screen
//! core.rs      PURE: applies updates, decides acks and answers; no clock, no I/O, no runtime
//! core/native.rs  PURE: what only the native dialect asks: cursors and registers
//! core/joining.rs PURE: who joins, and the document at rest
//! tail.rs      PURE: the newest changes, for clients that missed a few
//! presence.rs  PURE: who is here, never logged
//! frame.rs     one message, encoded at most once per dialect, shared by every reader
//! load.rs      from the log to memory
//! merge.rs     PURE: changes that waited together, as few frames
//! readers.rs   the outboxes of those who read, and how far each is known to have come
//! options.rs   what the task is told
//! task.rs      the shell: inbox in, effects out, log, idle time, end
//! ```

pub mod core;
pub mod event;
pub mod frame;
mod load;
mod merge;
mod options;
pub mod presence;
mod readers;
pub mod tail;
mod task;

pub use options::{Compaction, DocumentOptions};
pub use task::{Ended, Envelope, run};
