//! The log: accepted updates go in, durable positions come out.
//!
//! Document tasks hand records to a [`DocumentLog`]; one thread takes everything that queued while the last commit ran,
//! makes it one commit of a [`Store`], and then overwrites each document's watched [`Durable`]. Batching comes from load;
//! under steady changes of many documents commits keep a distance, too (`commit_delay.rs`). Handing in waits when the queue is
//! full; reporting back waits at most for the task that tells (`notifier.rs`), which waits for nothing: no circle of
//! waiting can close.
//!
//! # Durability, case by case
//!
//! An update is acknowledged when its Seq is at most `Durable::upto`. `upto` rises only after [`Store::commit`] returned,
//! and that returns only after `fdatasync`. For each point at which the process or the power may go:
//!
//! | crash | on disk | the reopen | acknowledged? |
//! |---|---|---|---|
//! | record queued or batch not yet applied | nothing of it | the state before | no |
//! | batch applied, not yet synced | nothing, or the whole batch, never a part | before or after: both are prefixes of the document's log | no |
//! | synced, not yet reported | all | the state after; the client sends again, which changes nothing | no |
//! | reported | all | the state after | yes |
//! | large record: some chunks written, head not | chunks that no head names, and a sweep mark | removes them: the state before | no |
//! | compaction: snapshot chunks written, head not | the same; the old snapshot and all records are whole | removes the chunks: the old form of the same state | records were |
//! | compaction: head written, old parts not yet removed | the new snapshot; old parts that no head names, and a mark | removes the old parts: the new form of the same state | records were |
//! | delete: head gone, parts not yet removed | parts without a head, and a mark | removes them | - |
//! | rename at an open, to the name that an old spelling means: batch not yet synced | the old name or the new one, complete | renames what is left | records were |
//! | first start: engine there, card not | an empty store | writes the card | no |
//! | card being rewritten | the old or the new one, whole (written aside, synced, renamed, directory synced) | the card is a lower bound either way | - |
//!
//! And for each way a disk may fail:
//!
//! | fault | what happens |
//! |---|---|
//! | a write or sync returns an error (full disk, dying disk), or the engine panics | the log latches: nothing later is committed or acknowledged, every document sees `failed` at once, reads go on. After a failed sync no later one proves anything; only a restart, which reads back what is there, makes acknowledgements possible again |
//! | a value is damaged, lost, or under another's key | its checksum or the head's digest says so at load: [`StoreError::Damaged`] names document and Seq; other documents are served |
//! | a head is older than its parts | parts are there that it does not name: damaged |
//! | a head is lost | the census at open finds the name without a head: that document is damaged |
//! | head and name are lost | the census counts fewer documents than were written: the open is refused |
//! | a head and all its parts are one consistent older state, the rest is newer | the sum over all heads is another: [`SledStore::doubt`], a server does not start |
//! | the end of the log is lost, as if never written | the tally counts more batches: the same |
//! | the engine opens empty, or older than the card | the open is refused |
//! | the engine panics at open | the open is refused in words |
//!
//! sled's part in this, with what was read in its source, is described in `sled.rs`; the layout in `layout.rs`.
//!
//! # Loading while records are queued
//!
//! A document that left memory with commands still queued (its task panicked) must not be loaded without them:
//! [`Log::load`] waits for that document's queued commands first. Other documents' loads do not wait for commits.

pub mod backup;
mod batch_counter;
mod blob_sync;
pub mod check;
mod commit_delay;
pub mod failpoint;
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod layout;
pub mod memory;
mod notifier;
mod private;
mod read_fallback;
mod saved_segments;
mod segments;
pub mod sled;
mod sled_import;
mod sled_read;
mod sled_salvage;
mod sled_scan;
mod sled_write;
pub mod store;
mod store_lock;
#[cfg(test)]
mod tests;
mod thread;

pub use handle::{DocumentLog, Durable, DurableWatch, Figures, Log, MAX_QUEUED_BYTES, MAX_QUEUED_COMMANDS};
pub use sled::SledStore;
pub use store::{Mark, Record, Salvaged, Snapshot, Store, StoreError, Stored, TOMBSTONE};
pub use thread::{Batch, Committed, Committer};
