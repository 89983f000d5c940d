//! Who this device is: an id drawn once, and how far its clock is off the server's. A small file beside the store.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

const FILE: &str = "device.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) device: String,
    /// What to add to this device's clock to have the server's, in milliseconds, as last seen.
    #[serde(default)]
    pub(super) clock_offset_ms: i64,
}

impl Identity {
    /// Reads it, or draws it with `fresh`.
    pub(super) fn read_or_make(directory: &Path, fresh: Ulid) -> io::Result<(Ulid, Self)> {
        fs::create_dir_all(directory)?;
        let read = match fs::read(directory.join(FILE)) {
            Ok(bytes) => serde_json::from_slice::<Self>(&bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(identity) = read
            && let Ok(id) = Ulid::from_string(&identity.device)
        {
            return Ok((id, identity));
        }
        // Unreadable is like absent: a new id costs nothing, entries carry the ids of their own.
        let identity = Self { device: fresh.to_string(), clock_offset_ms: 0 };
        identity.write(directory)?;
        Ok((fresh, identity))
    }

    /// Written aside, synced, renamed: whole or not at all.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let aside = directory.join("device.json.new");
        let mut file = fs::File::create(&aside)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(aside, directory.join(FILE))
    }
}
