//! `syncline repair`: keeps everything that can be read of a damaged store.
//!
//! A new store is built beside the damaged one, which is only read; then the two change names. A document that is whole
//! keeps its history. One that is damaged gets what can be read, and a new epoch: to native clients it is another
//! history, so nothing that was lost is taken for known. Stock clients bring back what they still have when they sync.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bytes::Bytes;
use syncline_log::check::{Condition, Survey};
use syncline_log::store::Write as Step;
use syncline_log::{Record, SledStore, Store, StoreError, TOMBSTONE};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_protocol::update::{ScanLimits, scan_update};

use super::verify::told;
use super::{announce, explain};

/// Rebuilds the store in `data_dir` if anything in it is damaged, and says what was lost.
///
/// Errors: the store is in use, there is none, there is no room for a copy, or `out` failed. Until the last step the
/// directory is as it was.
pub fn repair(data_dir: &Path, out: &mut impl Write) -> anyhow::Result<()> {
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
        bail!("{} is there already: remove it, or move it away", new.display());
    }
    let kept = fill(survey, &new, damaged_names, out);
    let kept = kept.with_context(|| format!("{} is as it was; remove {}", data_dir.display(), new.display()))?;
    let aside = beside(data_dir, &format!("damaged-{}", seconds()));
    fs::rename(data_dir, &aside).and_then(|()| fs::rename(&new, data_dir)).with_context(|| {
        let (new, aside) = (new.display(), aside.display());
        format!("the directories could not change names. The repaired store is {new}, the damaged one stays, perhaps as {aside}")
    })?;
    if let Some(parent) = data_dir.parent() {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    writeln!(out, "{kept} documents are kept; the damaged directory is {}", aside.display())?;
    Ok(())
}

/// Builds the new store. Gives the number of its documents.
fn fill(survey: &Survey, new: &Path, damaged: &[DocumentName], out: &mut impl Write) -> anyhow::Result<usize> {
    let store = SledStore::open(new)?;
    let mut kept = 0;
    for name in survey.documents().filter(|name| !damaged.contains(name)) {
        survey.copy(name, &store)?;
        kept += 1;
    }
    // After the whole ones: new documents get numbers that none of them has.
    for name in damaged {
        let Condition::Damaged { kept: updates, lost, .. } = survey.document(name) else { continue };
        let (updates, refused) = usable(updates);
        if updates.is_empty() {
            writeln!(out, "LOST: document {name:?}: nothing of it can be read")?;
            continue;
        }
        let count = updates.len();
        put(&store, name, updates)?;
        kept += 1;
        let refused = if refused > 0 { format!(", {refused} updates that make no document") } else { String::new() };
        writeln!(
            out,
            "document {name:?}: {count} updates are kept, with a new history. Lost: {}{refused}",
            told(&lost)
        )?;
    }
    store.close().context("the repaired store did not close cleanly")?;
    let store = SledStore::open_existing(new)?;
    for name in store.list()? {
        store.load(&name).with_context(|| "the repaired store was read back")?;
    }
    store.close()?;
    Ok(kept)
}

fn put(store: &SledStore, name: &DocumentName, updates: Vec<Bytes>) -> Result<(), StoreError> {
    let epoch = Epoch(rand::random());
    let record = |(seq, update)| Record { seq: Seq(seq), time_ms: seconds() * 1000, update };
    let records = (1..).zip(updates).map(record).collect();
    store.commit(&[Step::Append { document: name.clone(), epoch, records }])
}

/// The updates that can be read, and how many cannot.
fn usable(updates: Vec<Bytes>) -> (Vec<Bytes>, usize) {
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

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
