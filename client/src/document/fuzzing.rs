//! For fuzzers: what reads a device's journal. It may not panic, and what it accepts must be written as it was read.

use bytes::Bytes;

use super::journal::{Note, Snapshot};

/// A record of a journal, as a note and as a snapshot.
pub fn journal(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(note) = Note::decode(&bytes) {
        // Of the same kind, too: numbers may have been written longer than they need be.
        assert_eq!(note.encode().first(), bytes.first());
        assert_eq!(Note::decode(&note.encode()), Ok(note));
    }
    if let Ok(snapshot) = Snapshot::decode(&bytes) {
        assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
    }
}
