//! Fuzz target for the decoder of a device's journal. It must not panic, and accepted input must survive a roundtrip.

use bytes::Bytes;

use super::journal::{Note, Snapshot};

/// Decodes a journal record as a note and as a snapshot, and checks the roundtrip.
pub fn journal(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(note) = Note::decode(&bytes) {
        // Compares the kind only, not all bytes: the input may encode numbers in more bytes than needed.
        assert_eq!(note.encode().first(), bytes.first());
        assert_eq!(Note::decode(&note.encode()), Ok(note));
    }
    if let Ok(snapshot) = Snapshot::decode(&bytes) {
        assert_eq!(Snapshot::decode(&snapshot.encode()), Ok(snapshot));
    }
}
