//! Hocuspocus' SQLite file: `@hocuspocus/extension-sqlite` keeps each document's state as a v1 update in the table
//! `documents (name, data)`.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

use super::Found;
use crate::import_export::MAX_IMPORT_BYTES;

/// Every document in a SQLite file, by name. Read in one transaction; Hocuspocus may be running, but what it has not stored
/// yet is not there.
pub(super) fn documents(file: &Path) -> anyhow::Result<Vec<Found>> {
    // Not read-only: a journal that a crash left must be rolled back by whoever opens the file.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    let mut statement = connection
        .prepare("SELECT name, data FROM documents ORDER BY name")
        .context("it is no SQLite file of @hocuspocus/extension-sqlite: it has no table documents (name, data)")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let data = match row.get_ref(1)? {
            ValueRef::Blob(data) if data.len() as u64 <= MAX_IMPORT_BYTES => Ok(Bytes::copy_from_slice(data)),
            ValueRef::Blob(data) => Err(anyhow!("it has {} bytes, the limit is {MAX_IMPORT_BYTES}", data.len())),
            other => Err(anyhow!("its data is {}, not bytes", other.data_type())),
        };
        found.push((name, data));
    }
    if found.is_empty() {
        bail!("its table documents is empty");
    }
    Ok(found)
}
