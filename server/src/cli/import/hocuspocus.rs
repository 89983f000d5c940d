//! Reads Hocuspocus' SQLite file: `@hocuspocus/extension-sqlite` stores each document's state as a v1 update in
//! the table `documents (name, data)`.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::Found;
use crate::import_export::{MAX_IMPORT_BYTES, too_large};

/// Every document in a SQLite file, ordered by name and read in one transaction. Hocuspocus may be running;
/// edits that it has not stored yet are missing.
pub(super) fn documents(file: &Path) -> anyhow::Result<Vec<Found>> {
    // Not read-only: SQLite must be able to roll back a journal left by a crash.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    let mut statement = connection
        .prepare("SELECT name, data FROM documents ORDER BY name")
        .context("not a database of @hocuspocus/extension-sqlite, which has a table documents (name, data)")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let data = match row.get_ref(1)? {
            ValueRef::Blob(data) if data.len() as u64 <= MAX_IMPORT_BYTES => Ok(Bytes::copy_from_slice(data)),
            ValueRef::Blob(_) => Err(anyhow!(too_large())),
            other => Err(anyhow!("its data is of type {}, not a blob", other.data_type())),
        };
        found.push((name, data));
    }
    if found.is_empty() {
        bail!("the table documents is empty");
    }
    Ok(found)
}
