//! The durable log: document tasks append records and watch how far their documents are durable.
//!
//! Document tasks send records to a [`DocumentLog`]. One thread takes what was queued while the last commit ran, from every
//! document in turn (`queue.rs`), writes it as one commit of a [`Store`], and then updates each document's watched
//! [`Durable`]. Batching follows load; while many documents change steadily, the thread also spaces commits apart
//! (`commit_delay.rs`). Appending never waits: a document whose queue is full takes no further event. Reporting waits at
//! most for the reporting task (`notifier.rs`), which waits for nothing, so the waits form no cycle.
//!
//! # Durability, case by case
//!
//! An update is acknowledged when its Seq is at most `Durable::upto`. `upto` rises only after [`Store::commit`] has
//! returned, and that returns only after `fdatasync`. For each point at which the process may die or the power may fail:
//!
//! | crash | on disk | next open | acknowledged? |
//! |---|---|---|---|
//! | record queued, or batch not yet applied | nothing of it | finds the state before | no |
//! | batch applied, not yet synced | nothing, or the complete batch, never a part | finds the state before or after: both are prefixes of the document's log | no |
//! | synced, not yet reported | all of it | finds the state after; the client sends the update again, which changes nothing | no |
//! | reported | all of it | finds the state after | yes |
//! | large record: some chunks written, head not | chunks that no head references, and a sweep mark | removes them: the state before | no |
//! | compaction: snapshot chunks written, head not | the same; the old snapshot and all records are intact | removes the chunks: the old form of the same state | records were |
//! | compaction: head written, old parts not yet removed | the new snapshot; old parts that no head references, and a sweep mark | removes the old parts: the new form of the same state | records were |
//! | delete: head replaced by a tombstone's, in one batch; old parts not yet removed | the tombstone; parts that no head references, and a sweep mark | removes them | - |
//! | purge: head removed, parts not yet removed | parts without a head, and a sweep mark | removes them | - |
//! | rename during an open, from an old spelling to the canonical name: batch not yet synced | the old name or the new one, complete | renames the rest | records were |
//! | first start: engine created, info file not | an empty store | writes the info file | no |
//! | info file being rewritten | the old or the new one, complete (temporary file, sync, rename, directory sync) | treats it as a lower bound either way | - |
//!
//! For each way a disk may fail:
//!
//! | fault | what happens |
//! |---|---|
//! | a write or sync returns an error (full disk, dying disk), or the engine panics | the log latches the error: nothing later is committed or acknowledged, every document immediately sees `failed`, reads continue. After a failed sync no later sync proves anything; acknowledgements are possible again only after a restart, which reads back what is on disk |
//! | a value is damaged, lost, or stored under another key | its checksum or the head's digest does not match at load: [`StoreError::Damaged`] names document and Seq; other documents are served |
//! | a head is older than its parts | the load finds parts that it does not reference: damaged |
//! | a head is lost | the census at open finds the name without a head: that document is damaged |
//! | head and name are lost | the census counts fewer documents than were written: the open fails |
//! | a head and all its parts are a consistent older state, the rest is newer | the sum over all heads differs: [`SledStore::inconsistency`] reports it, and a server does not start |
//! | the end of the log is lost, as if never written | the tally counts more batches: the same |
//! | the engine opens empty, or holds fewer records than the info file | the open fails |
//! | the engine panics at open | the open fails with an error |
//!
//! `sled.rs` describes what sled guarantees, from its source; `layout.rs` describes keys and values.
//!
//! # Loading while records are queued
//!
//! A document can leave memory while its commands are still queued, when its task panics. It must not be loaded without
//! them, so [`Log::load`] first waits for that document's queued commands. Loads of other documents do not wait for
//! commits.

pub mod backup;
mod batch_counter;
mod blob_sync;
pub mod check;
mod commit_delay;
mod engine_error;
pub mod failpoint;
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod layout;
pub mod memory;
mod notifier;
mod private;
mod queue;
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

pub use handle::{DocumentLog, Durable, DurableWatch, Figures, Log};
pub use queue::{MAX_DOCUMENT_BYTES, MAX_QUEUED_BYTES};
pub use sled::SledStore;
pub use store::{Mark, Record, Salvaged, Snapshot, Store, StoreError, Stored, TOMBSTONE};
pub use store_lock::STORE_FILE;
pub use thread::{Batch, Committed, Committer};
