//! The manifest of a backup: a file of JSON lines. The first says of what and when, then one line a document, the last
//! counts them and carries a checksum of all before it.

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

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The store's identity.
    pub store: u128,
    /// Counts the backups in this directory, from 1.
    pub run: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub taken_ms: u64,
    pub documents: BTreeMap<DocumentName, Entry>,
}

/// A document in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the store said of it; `None` when it was damaged and no earlier backup had it.
    pub mark: Option<Mark>,
    /// Where it lies; `None` when it was damaged and no earlier backup had it.
    pub place: Option<Place>,
    /// It was deleted: what lies there is a tombstone.
    pub deleted: bool,
    /// It could not be read in the store, and why. What lies in the backup, if anything, is from an earlier one.
    pub damaged: Option<String>,
}

/// Where a document lies in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The pack's file name.
    pub pack: String,
    /// Its first byte in the pack.
    pub at: u64,
    /// Its length.
    pub bytes: u64,
    /// Its checksum.
    pub sum: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
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
    /// Reads and checks the manifest in `dir`. `None`: there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, BackupError> {
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

    /// Puts this manifest in the place of the one in `dir`: after a crash either is there, whole.
    pub fn write(&self, dir: &Path) -> Result<(), BackupError> {
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
        let head = Head {
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
        let body = text.strip_suffix('\n').ok_or("it is cut short")?;
        let (first, _) = body.split_once('\n').ok_or("it is cut short")?;
        let head: Head = serde_json::from_str(first).map_err(|error| format!("line 1: {error}"))?;
        if head.format != FORMAT {
            return Err("it is no manifest of a Syncline backup".into());
        }
        if head.version > VERSION {
            let found = head.version;
            return Err(format!(
                "it has version {found} and this program reads up to {VERSION}: use the newer program"
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
            return Err("its documents are not the ones that were counted".into());
        }
        let store = u128::from_str_radix(&head.store, 16).map_err(|_| "line 1: the store's identity is none")?;
        Ok(Self { store, run: head.run, taken_ms: head.taken_ms, documents })
    }
}

impl Line {
    fn new(document: &DocumentName, entry: &Entry) -> Self {
        let (mark, place) = (entry.mark.as_ref(), entry.place.as_ref());
        Self {
            document: document.as_str().to_owned(),
            epoch: mark.map(|mark| mark.epoch.to_string()),
            last: mark.map(|mark| mark.last.0),
            digest: mark.map(|mark| format!("{:016x}", mark.digest)),
            pack: place.map(|place| place.pack.clone()),
            at: place.map(|place| place.at),
            bytes: place.map(|place| place.bytes),
            xxh3: place.map(|place| format!("{:016x}", place.sum)),
            deleted: entry.deleted,
            damaged: entry.damaged.clone(),
        }
    }

    fn entry(self) -> Option<Entry> {
        let hex = |text: &String| u64::from_str_radix(text, 16).ok();
        let place = match &self.pack {
            // A name, never a path: nothing outside of the backup is read.
            Some(pack) if pack.contains(['/', '\\']) => return None,
            Some(pack) => {
                Some(Place { pack: pack.clone(), at: self.at?, bytes: self.bytes?, sum: hex(self.xxh3.as_ref()?)? })
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
        Some(Entry { mark, place, deleted: self.deleted, damaged: self.damaged })
    }
}

/// For fuzzers: `body` with a foot that belongs to it. What is accepted is written as it was read.
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
    fn a_manifest_reads_as_it_was_written_and_none_of_its_bytes_can_be_another() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap(), None);
        let mark = Some(Mark { epoch: Epoch(7 << 100), last: Seq(12), digest: 1 });
        let place = Some(Place { pack: "r000001-000.pack".into(), at: 16, bytes: 99, sum: u64::MAX });
        let lost = Entry { mark: None, place: None, deleted: false, damaged: Some("its head is missing".into()) };
        let documents = [("a\"b", Entry { mark, place, deleted: true, damaged: None }), ("c", lost)];
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
            assert!(Manifest::read(dir.path()).is_err(), "byte {position} is another");
            fs::write(&path, &bytes[..position]).unwrap();
            assert!(Manifest::read(dir.path()).is_err(), "cut at {position}");
        }
    }
}
