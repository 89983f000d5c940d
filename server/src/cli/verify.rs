//! `syncline verify`: checks everything in a data directory. It changes nothing in a damaged store; an intact one is opened
//! once, as a server would.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use syncline_log::check::{Condition, Survey};
use syncline_log::{SledStore, Store, Stored};
use syncline_replica::HubDocument;

use super::{announce, check_owner, counted, explain};

/// Checks the store's own structures and, for every document, checksums, head, digest and that its updates can
/// be applied. Prints each problem with its document and record. If there are none, opens the store once, as a
/// server would.
///
/// Errors: a problem was found, the store is in use or does not exist, or writing to `out` failed.
pub fn verify(data_dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    check_owner(data_dir)?;
    let survey = Survey::of(data_dir).map_err(explain)?;
    announce(data_dir, "", out)?;
    let mut problems = survey.complaints().len();
    for complaint in survey.complaints() {
        writeln!(out, "damaged: {complaint}")?;
    }
    let (mut documents, mut records, mut bytes) = (0, 0, 0);
    for name in survey.documents() {
        documents += 1;
        match survey.document(name) {
            Condition::Intact(stored) => {
                records += stored.records.len();
                bytes += updates(&stored).map(|update| update.len()).sum::<usize>();
                if let Err(error) = builds(&stored) {
                    problems += 1;
                    writeln!(
                        out,
                        "damaged: document {name:?} is intact on disk, but its updates cannot be applied: {error}"
                    )?;
                }
            }
            Condition::Damaged { error, lost, .. } => {
                problems += 1;
                writeln!(out, "damaged: {error}. Lost: {}", join_losses(&lost))?;
            }
        }
    }
    drop(survey);
    if problems == 0 {
        // Opening also runs the engine's own recovery, which must find nothing to discard.
        SledStore::open_existing(data_dir).and_then(|store| store.close()).context("the store cannot be opened")?;
        let (documents, records) = (counted(documents, "document"), counted(records, "record"));
        writeln!(out, "{documents} verified: {records} after snapshots, {bytes} bytes")?;
        return Ok(());
    }
    let (problems, documents) = (counted(problems, "problem"), counted(documents, "document"));
    bail!("{problems} found in {documents}; run `syncline repair` to keep what can be read")
}

/// The updates of a document, oldest first.
fn updates(stored: &Stored) -> impl Iterator<Item = &bytes::Bytes> {
    let snapshot = stored.snapshot.iter().map(|snapshot| &snapshot.update);
    snapshot.chain(stored.records.iter().map(|record| &record.update))
}

/// Checks that the stored updates can be applied.
fn builds(stored: &Stored) -> Result<(), String> {
    if stored.is_tombstone() {
        return Ok(());
    }
    let updates: Vec<_> = updates(stored).cloned().collect();
    HubDocument::load(0, &updates).map(drop).map_err(|error| error.to_string())
}

/// The lost parts as one text.
pub(super) fn join_losses(lost: &[String]) -> String {
    if lost.is_empty() { "nothing of its content".to_owned() } else { lost.join(", ") }
}
