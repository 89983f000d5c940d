//! The manifest of a backup: a file of JSON lines. The first line contains the store and the time, each following line one
//! document, and the last line the number of documents and a checksum of all preceding bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use xxhash_rust::xxh3::xxh3_64;

use super::{BackupError, at};
use crate::failpoint::Point;
use crate::private;
use crate::store::Mark;
use crate::store_lock::sync_dir;

pub(super) const MANIFEST_FILE: &str = "manifest.jsonl";
pub(super) const NEW_MANIFEST_FILE: &str = "manifest.jsonl.new";
const FORMAT: &str = "syncline-backup";
/// The version this code writes, and the newest it reads.
const VERSION: u32 = 1;

/// The content of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The identity of the store.
    pub store: u128,
    /// The number of this backup in its directory, from 1.
    pub run: u64,
    /// When the backup began, in milliseconds since the Unix epoch.
    pub taken_ms: u64,
    pub documents: BTreeMap<DocumentName, Entry>,
}

/// A document in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The document's fingerprint in the store; `None` if it was damaged and no earlier backup has a copy.
    pub mark: Option<Mark>,
    /// Where the copy is stored; `None` if the document was damaged and no earlier backup has a copy.
    pub place: Option<PackLocation>,
    /// The document was deleted: the copy is a tombstone.
    pub deleted: bool,
    /// Why the document could not be read in the store. The copy, if there is one, is from an earlier backup. `None`: it
    /// was read.
    pub damaged: Option<String>,
}

/// Where a document is stored in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackLocation {
    /// The file name of the pack.
    pub pack: String,
    /// The offset of the encoded document in the pack.
    pub at: u64,
    /// The length of the encoded document.
    pub bytes: u64,
    /// The checksum of the encoded document.
    pub sum: u64,
}

#[derive(Serialize, Deserialize)]
struct ManifestHead {
    format: String,
    version: u32,
    #[serde(default)]
    store: String,
    #[serde(default)]
    run: u64,
    #[serde(default)]
    taken_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    document: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pack: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xxh3: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Foot {
    documents: u64,
    xxh3: String,
}

impl Manifest {
    /// Reads and verifies the manifest in `dir`. `None`: the file does not exist.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, BackupError> {
        let path = dir.join(MANIFEST_FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(BackupError::Damaged { file: path, what: "it is not UTF-8".into() });
            }
            Err(error) => return Err(at(&path)(error)),
        };
        Self::parse(&text).map(Some).map_err(|what| BackupError::Damaged { file: path, what })
    }

    /// Replaces the manifest in `dir` atomically: after a crash either the old or the new one exists, complete.
    pub(super) fn write(&self, dir: &Path) -> Result<(), BackupError> {
        let new = dir.join(NEW_MANIFEST_FILE);
        let write = || {
            let mut file = private::create(&new)?;
            file.write_all(self.text()?.as_bytes())?;
            file.sync_all()?;
            Point::BackupManifestWritten.pass();
            fs::rename(&new, dir.join(MANIFEST_FILE))?;
            sync_dir(dir)
        };
        write().map_err(at(&new))
    }

    fn text(&self) -> io::Result<String> {
        let head = ManifestHead {
            format: FORMAT.into(),
            version: VERSION,
            store: format!("{:032x}", self.store),
            run: self.run,
            taken_ms: self.taken_ms,
        };
        let mut text = serde_json::to_string(&head)? + "\n";
        for (document, entry) in &self.documents {
            text += &serde_json::to_string(&Line::new(document, entry))?;
            text.push('\n');
        }
        let documents = self.documents.len() as u64;
        let foot = Foot { documents, xxh3: format!("{:016x}", xxh3_64(text.as_bytes())) };
        text += &serde_json::to_string(&foot)?;
        text.push('\n');
        Ok(text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix('\n').ok_or("it is truncated")?;
        let (first, _) = body.split_once('\n').ok_or("it is truncated")?;
        let head: ManifestHead = serde_json::from_str(first).map_err(|error| format!("line 1: {error}"))?;
        if head.format != FORMAT {
            return Err("it is not the manifest of a Syncline backup".into());
        }
        if head.version > VERSION {
            let found = head.version;
            return Err(format!(
                "it has version {found}, and this program reads up to {VERSION}: use a newer version of Syncline"
            ));
        }
        let before_foot = body.rfind('\n').map_or(0, |at| at + 1);
        let foot: Foot = serde_json::from_str(&body[before_foot..]).map_err(|_| "its last line is missing")?;
        if foot.xxh3 != format!("{:016x}", xxh3_64(&text.as_bytes()[..before_foot])) {
            return Err("its checksum is wrong".into());
        }
        let mut documents = BTreeMap::new();
        for (number, line) in body[..before_foot].lines().enumerate().skip(1) {
            let bad = |what: &str| format!("line {}: {what}", number + 1);
            let line: Line = serde_json::from_str(line).map_err(|error| bad(&error.to_string()))?;
            let name = DocumentName::exact(&line.document).map_err(|error| bad(&error.to_string()))?;
            let entry = line.entry().ok_or_else(|| bad("a field is missing or wrong"))?;
            documents.insert(name, entry);
        }
        if documents.len() as u64 != foot.documents {
            return Err("the number of its documents is wrong".into());
        }
        let store = u128::from_str_radix(&head.store, 16).map_err(|_| "line 1: the store's identity is invalid")?;
        Ok(Self { store, run: head.run, taken_ms: head.taken_ms, documents })
    }
}

impl Line {
    fn new(document: &DocumentName, entry: &Entry) -> Self {
        let (mark, location) = (entry.mark.as_ref(), entry.place.as_ref());
        Self {
            document: document.as_str().to_owned(),
            epoch: mark.map(|mark| mark.epoch.to_string()),
            last: mark.map(|mark| mark.last.0),
            digest: mark.map(|mark| format!("{:016x}", mark.digest)),
            pack: location.map(|location| location.pack.clone()),
            at: location.map(|location| location.at),
            bytes: location.map(|location| location.bytes),
            xxh3: location.map(|location| format!("{:016x}", location.sum)),
            deleted: entry.deleted,
            damaged: entry.damaged.clone(),
        }
    }

    fn entry(self) -> Option<Entry> {
        let hex = |text: &String| u64::from_str_radix(text, 16).ok();
        let location = match &self.pack {
            // Only a file name, never a path, so that nothing outside of the backup is read.
            Some(pack) if pack.contains(['/', '\\']) => return None,
            Some(pack) => {
                let sum = hex(self.xxh3.as_ref()?)?;
                Some(PackLocation { pack: pack.clone(), at: self.at?, bytes: self.bytes?, sum })
            }
            None if self.damaged.is_none() => return None,
            None => None,
        };
        let mark = match &self.epoch {
            Some(epoch) => Some(Mark {
                epoch: Epoch(u128::from_str_radix(epoch, 16).ok()?),
                last: Seq(self.last?),
                digest: hex(self.digest.as_ref()?)?,
            }),
            None => None,
        };
        Some(Entry { mark, place: location, deleted: self.deleted, damaged: self.damaged })
    }
}

/// For fuzzing: parses `body` with a valid last line. An accepted manifest must encode to the same text.
pub(super) fn fuzz(body: &str) {
    let documents = body.lines().count().saturating_sub(1) as u64;
    let foot = Foot { documents, xxh3: format!("{:016x}", xxh3_64(body.as_bytes())) };
    let Ok(foot) = serde_json::to_string(&foot) else { return };
    if let Ok(manifest) = Manifest::parse(&format!("{body}{foot}\n")) {
        let again = manifest.text().map_err(|error| error.to_string()).and_then(|text| Manifest::parse(&text));
        assert_eq!(again, Ok(manifest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_round_trips_and_every_changed_byte_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), None);
        let mark = Some(Mark { epoch: Epoch(7 << 100), last: Seq(12), digest: 1 });
        let location = Some(PackLocation { pack: "r000001-000.pack".into(), at: 16, bytes: 99, sum: u64::MAX });
        let lost = Entry { mark: None, place: None, deleted: false, damaged: Some("its head is missing".into()) };
        let documents = [("a\"b", Entry { mark, place: location, deleted: true, damaged: None }), ("c", lost)];
        let documents = documents.map(|(name, entry)| (DocumentName::parse(name).unwrap(), entry)).into();
        let manifest = Manifest { store: 5, run: 3, taken_ms: 1, documents };
        manifest.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap().as_ref(), Some(&manifest));
        let path = dir.path().join(MANIFEST_FILE);
        let bytes = fs::read(&path).unwrap();
        for position in 0..bytes.len() {
            let mut other = bytes.clone();
            other[position] ^= 1;
            fs::write(&path, &other).unwrap();
            assert!(Manifest::read(dir.path()).is_err(), "a changed byte {position}");
            fs::write(&path, &bytes[..position]).unwrap();
            assert!(Manifest::read(dir.path()).is_err(), "cut at {position}");
        }
    }
}
