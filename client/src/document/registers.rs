//! PURE: versioned registers, which the server decides and a document reads. Part of [`Core`]. See "Versioned
//! registers" in `protocol/SPEC.md`.

use syncline_protocol::limits::{
    MAX_REGISTER_AUTHOR_BYTES, MAX_REGISTER_NAME_BYTES, MAX_REGISTER_VALUE_BYTES, MAX_VALUE_DEPTH,
};
use syncline_protocol::native::Version;
use syncline_protocol::update::{ScanLimits, scan_value};
use ulid::Ulid;
use yrs::encoding::read::Cursor;
use yrs::{Any, ReadTxn};

use super::core::{Core, Outputs};
use super::journal::Note;
use super::queue::What;
use super::status::Event;
use super::sync::{Fault, bad_update};
use crate::types::register::RegisterState;
use crate::types::registers;
use crate::types::value::Value;

impl Core {
    /// The server decided on a proposal, which leaves the queue.
    pub(super) fn decided(
        &mut self,
        batch: u64,
        accepted: bool,
        register: &[u8],
        out: &mut Outputs,
    ) -> Result<(), Fault> {
        let current = if register.is_empty() {
            None
        } else {
            scan_value(register, &ScanLimits::STORED).map_err(bad_update)?;
            from_bytes(register).map_err(bad_update)?
        };
        for id in self.queue.find_batch(batch) {
            let Some(entry) = self.queue.remove(id) else { continue };
            let What::Proposal(proposed) = entry.what else { continue };
            self.note(Note::Decided { id }, out);
            self.saved += u64::from(accepted);
            out.events.push(Event::Decided {
                entry: Ulid(id),
                accepted,
                register: proposed.register,
                current: current.clone(),
                mine: value(&proposed.value),
            });
        }
        Ok(())
    }
}

/// Returns the state that the server decided last.
pub(crate) fn state(txn: &impl ReadTxn, name: &str) -> Option<RegisterState> {
    registers::read(txn, name)
}

/// Returns the version that a write made now is based on.
pub(crate) fn version(txn: &impl ReadTxn, name: &str) -> Option<Version> {
    let state = state(txn, name)?;
    let id = Ulid::from_string(&state.id).ok()?;
    Some(Version { number: state.version, id: id.0 })
}

/// Checks the limits of a register write; the error is a text that names the exceeded one.
pub(crate) fn check(register: &str, author: &str, value: &[u8]) -> Result<(), String> {
    for (what, len, limit) in [
        ("name", register.len(), MAX_REGISTER_NAME_BYTES),
        ("author", author.len(), MAX_REGISTER_AUTHOR_BYTES),
        ("value", value.len(), MAX_REGISTER_VALUE_BYTES),
    ] {
        if len > limit {
            return Err(format!("the register's {what} has {len} bytes, the limit is {limit}"));
        }
    }
    // In the document the value is nested one level deeper.
    let limits = ScanLimits { value_depth: MAX_VALUE_DEPTH - 1, ..ScanLimits::default() };
    scan_value(value, &limits).map(drop).map_err(|error| error.to_string())
}

/// Decodes a register state from the wire; the bytes must have been scanned.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Option<RegisterState>, yrs::encoding::read::Error> {
    Ok(RegisterState::from_any(&Any::decode(&mut Cursor::new(bytes))?))
}

/// Decodes a proposed value, which this device encoded.
pub(crate) fn value(bytes: &[u8]) -> Value {
    Any::decode(&mut Cursor::new(bytes)).map_or(Value::Null, |any| Value::from_any(&any))
}

/// Encodes a value for the wire.
pub(crate) fn encode(value: &Any) -> bytes::Bytes {
    let mut out = Vec::new();
    value.encode(&mut out);
    out.into()
}
