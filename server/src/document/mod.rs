//! One open document: its CRDT, its readers, its presence, and the task that owns them.
//!
//! ```text
//! event.rs     what enters and leaves: the contract, on one screen
//! core.rs      PURE: applies updates, decides acks and answers; no clock, no I/O, no runtime
//! core/refuse.rs  PURE: sessions that are ended, a CRDT that failed
//! core/native.rs  PURE: what only the native dialect asks: cursors and registers
//! tail.rs      PURE: the newest changes, for clients that missed a few
//! presence.rs  PURE: who is here, never logged
//! frame.rs     one message, encoded at most once per dialect, shared by every reader
//! load.rs      from the log to memory
//! readers.rs   the outboxes of those who read, and how far each is known to have come
//! options.rs   what it is told at its start
//! charge.rs    how much work each session is, and heavy work apart from others
//! task.rs      the shell: inbox in, effects out, log, idle time, end
//! ```

mod charge;
pub mod core;
pub mod event;
pub mod frame;
mod load;
mod options;
pub mod presence;
mod readers;
pub mod tail;
mod task;

pub use options::{Compaction, DocumentOptions};
pub use task::{Ended, Envelope, run};
