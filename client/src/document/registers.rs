//! Versioned registers as a document holds them: written by the server only, read here. SPEC.md, "Versioned registers".

use syncline_protocol::native::Version;
use yrs::encoding::read::Cursor;
use yrs::{Any, ReadTxn};

use crate::types::register::RegisterState;
use crate::types::registers;
use crate::types::value::Value;

/// The register as the server decided last.
pub(crate) fn state(txn: &impl ReadTxn, name: &str) -> Option<RegisterState> {
    registers::read(txn, name)
}

/// Which version a write made now is based on.
pub(crate) fn version(txn: &impl ReadTxn, name: &str) -> Option<Version> {
    let state = state(txn, name)?;
    let id = ulid::Ulid::from_string(&state.id).ok()?;
    Some(Version { number: state.version, id: id.0 })
}

/// A register as the wire has it (scanned).
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Option<RegisterState>, yrs::encoding::read::Error> {
    Ok(RegisterState::from_any(&Any::decode(&mut Cursor::new(bytes))?))
}

/// A proposed value, which was encoded here.
pub(crate) fn value(bytes: &[u8]) -> Value {
    Any::decode(&mut Cursor::new(bytes)).map_or(Value::Null, |any| Value::from_any(&any))
}

/// A value for the wire.
pub(crate) fn encode(value: &Any) -> bytes::Bytes {
    let mut out = Vec::new();
    value.encode(&mut out);
    out.into()
}
