//! A wrapper around the yrs document that avoids the faults of yrs 0.28.1 (found by experiment):
//!
//! - it may panic on input that passed the scanner: every call runs under `catch_unwind`, and a document that
//!   panicked is never used again;
//! - dropping a transaction commits it, so a transaction that panicked is leaked instead: committing a half-applied
//!   transaction during unwinding could panic again, which aborts the process;
//! - `Options::with_client_id` enables `cleanup_formatting`, with which the document makes edits of its own: it is disabled;
//! - its update observer costs 58-583 us per append on a long typed run: none is registered, received bytes are relayed;
//! - it may integrate pending updates wrongly: `replica.rs` never passes it an update with missing dependencies.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use syncline_protocol::varint::MAX_SAFE_INTEGER;
use thiserror::Error;
use yrs::block::ClientID;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{Doc, Map, OffsetKind, Options, Out, ReadTxn, StateVector, Transact, Update, WriteTxn};

use super::known::Known;
use super::register::{REGISTERS, RegisterState};

/// Why a CRDT operation failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CrdtError {
    /// The bytes cannot be decoded; the document is unchanged.
    #[error("the update cannot be decoded: {0}")]
    Undecodable(String),
    /// Applying or encoding failed midway: the document must be discarded and reloaded from its log.
    #[error("the CRDT failed: {0}")]
    Broken(String),
}

/// One CRDT document in memory.
pub struct Crdt {
    pub(crate) doc: Doc,
}

impl Default for Crdt {
    fn default() -> Self {
        Self::with_options(Options::default())
    }
}

impl Crdt {
    /// An empty document that makes its own edits as `client` (53 bits).
    pub fn with_client(client: u64) -> Self {
        let client_id = ClientID::new(client & MAX_SAFE_INTEGER);
        Self::with_options(Options { client_id, ..Options::default() })
    }

    fn with_options(options: Options) -> Self {
        let options = Options { cleanup_formatting: false, offset_kind: OffsetKind::Utf16, ..options };
        Self { doc: Doc::with_options(options) }
    }

    /// The state of a register; `None` if it has no value, or one that no accepted write has set.
    pub fn read_register(&self, name: &str) -> Result<Option<RegisterState>, CrdtError> {
        catch_panic(|| {
            let txn = self.doc.transact();
            match txn.get_map(REGISTERS)?.get(&txn, name)? {
                Out::Any(any) => RegisterState::from_any(&any),
                _ => None,
            }
        })
    }

    /// Writes a register as an edit of the document itself. Returns the edit as a v1 update.
    pub fn write_register(&mut self, name: &str, state: &RegisterState) -> Result<Bytes, CrdtError> {
        let mut txn = ManuallyDrop::new(self.doc.transact_mut());
        catch_panic(|| {
            let registers = txn.get_or_insert_map(REGISTERS);
            registers.insert(&mut txn, name, state.to_any());
        })?;
        catch_panic(move || {
            let mut txn = ManuallyDrop::into_inner(txn);
            txn.commit();
            txn.encode_update_v1().into()
        })
    }

    /// Applies one scanned v1 update without missing dependencies. True when something was inserted or deleted.
    pub fn apply(&mut self, update: &[u8]) -> Result<bool, CrdtError> {
        let decoded = catch_panic(|| Update::decode_v1(update))?.map_err(|e| CrdtError::Undecodable(e.to_string()))?;
        let mut txn = ManuallyDrop::new(self.doc.transact_mut());
        catch_panic(|| txn.apply_update(decoded))?.map_err(|e| CrdtError::Broken(e.to_string()))?;
        catch_panic(move || {
            let mut txn = ManuallyDrop::into_inner(txn);
            txn.commit();
            txn.has_changes()
        })
    }

    /// The whole state as one v1 update, pending parts included.
    pub fn encode(&self) -> Result<Bytes, CrdtError> {
        self.diff_from(&StateVector::default())
    }

    /// What a peer with this (scanned, encoded) state vector lacks, as a v1 update with the complete delete set.
    pub fn diff(&self, state_vector: &[u8]) -> Result<Bytes, CrdtError> {
        let state_vector =
            catch_panic(|| StateVector::decode_v1(state_vector))?.map_err(|e| CrdtError::Undecodable(e.to_string()))?;
        self.diff_from(&state_vector)
    }

    /// What a peer with this state vector lacks.
    pub fn diff_since(&self, known: &Known) -> Result<Bytes, CrdtError> {
        let mut theirs = StateVector::default();
        for (client, clock) in known.iter() {
            // The scanner refuses clocks above 2^31 - 1.
            theirs.set_max(ClientID::new(client), u32::try_from(clock).unwrap_or(u32::MAX));
        }
        self.diff_from(&theirs)
    }

    /// The state vector.
    pub fn known(&self) -> Known {
        self.doc.transact().state_vector().iter().map(|(client, clock)| (client.get(), u64::from(*clock))).collect()
    }

    /// The encoded state vector.
    pub fn state_vector(&self) -> Bytes {
        self.doc.transact().state_vector().encode_v1().into()
    }

    /// True when yrs keeps pending updates.
    pub fn has_missing(&self) -> bool {
        self.doc.transact().has_missing_updates()
    }

    fn diff_from(&self, state_vector: &StateVector) -> Result<Bytes, CrdtError> {
        catch_panic(|| self.doc.transact().encode_state_as_update_v1(state_vector)).map(Bytes::from)
    }
}

impl std::fmt::Debug for Crdt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crdt")
    }
}

/// Runs `action` and converts a panic to [`CrdtError::Broken`].
pub(crate) fn catch_panic<T>(action: impl FnOnce() -> T) -> Result<T, CrdtError> {
    catch_unwind(AssertUnwindSafe(action)).map_err(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        CrdtError::Broken(text)
    })
}
