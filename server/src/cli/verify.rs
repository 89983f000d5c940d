//! `syncline verify`: checks everything that lies in a data directory, and changes nothing.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use syncline_log::check::{Condition, Survey};
use syncline_log::{SledStore, Store, Stored};
use syncline_replica::HubDocument;

use super::{announce, explain};

/// Checks the checksums, the head and the digest of every document, that it can be built, and the store around them. Prints
/// what is wrong, naming document and record. A store in which nothing is wrong is opened once, as a start would.
///
/// Errors: something is wrong, the store is in use, there is none, or `out` failed.
pub fn verify(data_dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let survey = Survey::of(data_dir).map_err(explain)?;
    announce(data_dir, "", out)?;
    let mut wrong = survey.complaints().len();
    for complaint in survey.complaints() {
        writeln!(out, "damaged: {complaint}")?;
    }
    let (mut documents, mut records, mut bytes) = (0_u64, 0, 0);
    for name in survey.documents() {
        documents += 1;
        match survey.document(name) {
            Condition::Whole(stored) => {
                records += stored.records.len();
                bytes += updates(&stored).map(|update| update.len()).sum::<usize>();
                if let Err(error) = builds(&stored) {
                    wrong += 1;
                    writeln!(out, "damaged: document {name:?} is whole, but its updates make no document: {error}")?;
                }
            }
            Condition::Damaged { error, lost, .. } => {
                wrong += 1;
                writeln!(out, "damaged: {error}. Lost: {}", told(&lost))?;
            }
        }
    }
    drop(survey);
    if wrong == 0 {
        // What only the engine knows of: nothing is there for it to take away.
        SledStore::open_existing(data_dir).and_then(|store| store.close()).context("the store does not open")?;
        writeln!(out, "{documents} documents are whole: {records} records after snapshots, {bytes} bytes")?;
        return Ok(());
    }
    bail!("{wrong} things are wrong with {documents} documents; `syncline repair` keeps what can be read")
}

/// The updates of a document, oldest first.
fn updates(stored: &Stored) -> impl Iterator<Item = &bytes::Bytes> {
    let snapshot = stored.snapshot.iter().map(|snapshot| &snapshot.update);
    snapshot.chain(stored.records.iter().map(|record| &record.update))
}

/// Whether a document can be made of it.
fn builds(stored: &Stored) -> Result<(), String> {
    if stored.is_tombstone() {
        return Ok(());
    }
    let updates: Vec<_> = updates(stored).cloned().collect();
    HubDocument::load(0, &updates).map(drop).map_err(|error| error.to_string())
}

/// What is lost, in words.
pub(super) fn told(lost: &[String]) -> String {
    if lost.is_empty() { "nothing of its content".to_owned() } else { lost.join(", ") }
}
