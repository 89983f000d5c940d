//! `syncline repair`: keeps everything that can be read of a damaged store.
//!
//! Builds a new store beside the damaged one, which is only read, and then swaps the directories' names. An
//! intact document keeps its epoch. A damaged document gets the updates that can be read and a new epoch, so
//! that native clients do not assume the server still has what was lost. Stock clients restore what they still
//! have when they sync.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use syncline_log::check::{Condition, Survey};
use syncline_log::store::Write as Step;
use syncline_log::{Record, SledStore, Store, StoreError, TOMBSTONE};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_protocol::update::{ScanLimits, scan_update};

use super::verify::join_losses;
use super::{announce, check_owner, counted, explain};
use crate::unix_time::now_ms;

/// Rebuilds the store in `data_dir` if anything in it is damaged, and prints what was lost.
///
/// Errors: the store is in use or does not exist, the disk has no room for a copy, or writing to `out` failed; the
/// directory is unchanged until the last step. Also an error, with the repaired store in place: nothing of a document
/// can be read, or not its name.
pub fn repair(data_dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    check_owner(data_dir)?;
    let survey = Survey::of(data_dir).map_err(explain)?;
    announce(data_dir, "", out)?;
    let mut damaged = survey.complaints().to_vec();
    let mut names: Vec<DocumentName> = Vec::new();
    for name in survey.documents() {
        if let Condition::Damaged { error, .. } = survey.document(name) {
            damaged.push(error.to_string());
            names.push(name.clone());
        }
    }
    if damaged.is_empty() {
        drop(survey);
        match SledStore::open_existing(data_dir) {
            Ok(store) => {
                store.close()?;
                writeln!(out, "nothing is damaged; nothing was changed")?;
                return Ok(());
            }
            Err(error) => damaged.push(error.to_string()),
        }
        return rebuild(&Survey::of(data_dir).map_err(explain)?, data_dir, &damaged, &names, out);
    }
    rebuild(&survey, data_dir, &damaged, &names, out)
}

fn rebuild(
    survey: &Survey,
    data_dir: &Path,
    damaged: &[String],
    damaged_names: &[DocumentName],
    out: &mut impl Write,
) -> anyhow::Result<()> {
    for complaint in damaged {
        writeln!(out, "damaged: {complaint}")?;
    }
    let new = beside(data_dir, "repaired");
    if new.exists() {
        bail!("{} already exists; remove or move it first", new.display());
    }
    let filled = fill(survey, &new, damaged_names, out).with_context(|| {
        format!("repair failed; {} is unchanged, and {} can be removed", data_dir.display(), new.display())
    })?;
    let aside = beside(data_dir, &format!("damaged-{}", now_ms() / 1000));
    fs::rename(data_dir, &aside).and_then(|()| fs::rename(&new, data_dir)).with_context(|| {
        let (new, aside) = (new.display(), aside.display());
        format!("cannot rename the directories; the repaired store is in {new}, the damaged one is unchanged, possibly renamed to {aside}")
    })?;
    if let Some(parent) = data_dir.parent() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    writeln!(out, "{} kept; the damaged store was moved to {}", counted(filled.kept, "document"), aside.display())?;
    if survey.missing().is_none() {
        writeln!(out, "the number of documents that were saved cannot be read: others may be lost with their names")?;
    }
    let (lost, names) = (counted(filled.lost, "document"), counted(filled.nameless, "document"));
    let without = match (filled.lost, filled.nameless) {
        (0, 0) => return Ok(()),
        (_, 0) => lost,
        (0, _) => format!("the name of {names}"),
        _ => format!("{lost} and the name of {names}"),
    };
    bail!("the repaired store is in place, without {without}: see LOST above")
}

/// Numbers of documents.
struct Filled {
    /// In the new store.
    kept: usize,
    /// Nothing of them can be read.
    lost: usize,
    /// Of those that are kept: under another name, as theirs cannot be read.
    nameless: usize,
}

/// Builds the new store.
fn fill(survey: &Survey, new: &Path, damaged: &[DocumentName], out: &mut impl Write) -> anyhow::Result<Filled> {
    let store = SledStore::open(new)?;
    let missing = usize::try_from(survey.missing().unwrap_or_default()).unwrap_or(usize::MAX);
    let mut filled = Filled { kept: 0, lost: missing, nameless: 0 };
    for name in survey.documents().filter(|name| !damaged.contains(name)) {
        survey.copy(name, &store)?;
        filled.kept += 1;
    }
    // After the intact ones: new documents then get numbers that no intact one has.
    for name in damaged {
        let Condition::Damaged { kept: updates, lost, .. } = survey.document(name) else { continue };
        let (updates, refused) = valid_updates(updates);
        if updates.is_empty() {
            writeln!(out, "LOST: document {name:?}: nothing of it can be read")?;
            filled.lost += 1;
            continue;
        }
        let count = counted(updates.len(), "update");
        append_updates(&store, name, updates)?;
        filled.kept += 1;
        if survey.is_nameless(name) {
            writeln!(out, "LOST: the name of a document, which is kept as {name:?}")?;
            filled.nameless += 1;
        }
        let refused = if refused > 0 {
            format!(", {} that cannot be applied", counted(refused, "update"))
        } else {
            String::new()
        };
        writeln!(out, "document {name:?}: {count} kept, with a new epoch. Lost: {}{refused}", join_losses(&lost))?;
    }
    if missing > 0 {
        let names = if missing == 1 { "its name" } else { "their names" };
        writeln!(out, "LOST: {} with {names}", counted(missing, "document"))?;
    }
    store.close().context("the repaired store did not close cleanly")?;
    let store = SledStore::open_existing(new)?;
    for name in store.list()? {
        store.load(&name).with_context(|| "the repaired store cannot be read back")?;
    }
    store.close()?;
    Ok(filled)
}

fn append_updates(store: &SledStore, name: &DocumentName, updates: Vec<Bytes>) -> Result<(), StoreError> {
    let epoch = Epoch(rand::random());
    let record = |(seq, update)| Record { seq: Seq(seq), time_ms: now_ms(), update };
    let records = (1..).zip(updates).map(record).collect();
    store.commit(&[Step::Append { document: name.clone(), epoch, records }])
}

/// The valid updates, and the number of invalid ones.
fn valid_updates(updates: Vec<Bytes>) -> (Vec<Bytes>, usize) {
    if updates == [TOMBSTONE] {
        return (updates, 0);
    }
    let all = updates.len();
    let good: Vec<_> = updates.into_iter().filter(|update| scan_update(update, &ScanLimits::STORED).is_ok()).collect();
    let refused = all - good.len();
    (good, refused)
}

fn beside(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    PathBuf::from(name)
}
