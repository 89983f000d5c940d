//! The device's identity: its random id and the offset of its clock from the server's, in a file next to the store.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

const FILE: &str = "device.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) device: String,
    /// The server's time minus this device's time, in milliseconds, as of the last connection.
    #[serde(default)]
    pub(super) clock_offset_ms: i64,
}

impl Identity {
    /// Reads the identity; creates it with the id `fresh` if it does not exist or is unreadable.
    pub(super) fn read_or_create(directory: &Path, fresh: Ulid) -> io::Result<(Ulid, Self)> {
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
        // An unreadable file is replaced: a new device id is harmless, since entries have their own ids.
        let identity = Self { device: fresh.to_string(), clock_offset_ms: 0 };
        identity.write(directory)?;
        Ok((fresh, identity))
    }

    /// Writes the file atomically: to a temporary file, synced, renamed.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let aside = directory.join("device.json.new");
        let mut file = fs::File::create(&aside)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(aside, directory.join(FILE))
    }
}
