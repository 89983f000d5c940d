//! `syncline inspect`: lists what the log stores of one document.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, bail};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::update::{ScanLimits, scan_update, update_ranges};

use super::open_offline;
use syncline_log::{Record, Store};

/// Prints a document's head and its records. The server must be stopped: a store has one owner.
///
/// Errors: the store is in use (the message names the process) or cannot be opened, the document does not exist or is
/// damaged (the message names the record), or writing to `out` failed.
pub fn inspect(data_dir: &Path, document: &DocumentName, out: &mut impl Write) -> anyhow::Result<()> {
    let store = open_offline(data_dir, out)?;
    let Some(stored) = store.load(document)? else {
        bail!("document {document:?} does not exist in {}", data_dir.display());
    };
    writeln!(out, "document  {document:?}")?;
    for other in store.list()?.iter().filter(|other| other.renamed().as_ref() == Some(document)) {
        writeln!(out, "also      {other:?} is stored under another spelling of this name; show it with --exact-name")?;
    }
    writeln!(out, "epoch     {}", stored.epoch)?;
    if stored.is_tombstone() {
        let time_ms = stored.records.first().map_or(0, |tombstone| tombstone.time_ms);
        writeln!(out, "deleted   {}", rfc3339(time_ms))?;
        return store.close().context("the store did not close cleanly");
    }
    writeln!(out, "last seq  {}", stored.last())?;
    match &stored.snapshot {
        Some(snapshot) => writeln!(out, "snapshot  up to {}, {} bytes", snapshot.upto, snapshot.update.len())?,
        None => writeln!(out, "snapshot  none")?,
    }
    let bytes: usize = stored.records.iter().map(|record| record.update.len()).sum();
    writeln!(out, "records   {}, {bytes} bytes", stored.records.len())?;
    if !stored.records.is_empty() {
        writeln!(out)?;
        writeln!(out, "{:>10}  {:<24}  {:>10}  clients", "seq", "time (UTC)", "bytes")?;
    }
    for record in &stored.records {
        writeln!(out, "{}", line(record))?;
    }
    store.close().context("the store did not close cleanly")
}

fn line(record: &Record) -> String {
    let clients = match update_client_ids(&record.update) {
        Some(ids) if ids.is_empty() => "none (deletions only)".to_owned(),
        Some(ids) => ids.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
        None => "not a valid update".to_owned(),
    };
    format!("{:>10}  {:<24}  {:>10}  {clients}", record.seq, rfc3339(record.time_ms), record.update.len())
}

/// The client ids that a stored v1 update inserts content for, ascending. `None`: the update is invalid.
fn update_client_ids(update: &[u8]) -> Option<Vec<u64>> {
    scan_update(update, &ScanLimits::STORED).ok()?;
    let mut ids: Vec<u64> = update_ranges(update).map(|range| range.client).collect();
    ids.sort_unstable();
    Some(ids)
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC. The date is Howard Hinnant's `civil_from_days`.
pub(super) fn rfc3339(time_ms: u64) -> String {
    let (days, ms) = (time_ms / 86_400_000, time_ms % 86_400_000);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use syncline_protocol::ids::{Epoch, Seq};
    use yrs::{Doc, Options, ReadTxn, StateVector, Text, Transact};

    use super::*;
    use syncline_log::SledStore;
    use syncline_log::Snapshot;
    use syncline_log::store::Write;

    #[test]
    fn time_is_formatted_as_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_798_761_599_987), "2026-12-31T23:59:59.987Z");
        assert!(rfc3339(u64::MAX).ends_with('Z'));
    }

    #[test]
    fn document_is_printed_with_its_records_and_their_clients() {
        let dir = tempfile::tempdir().unwrap();
        let name = DocumentName::parse("notes/today").unwrap();
        let doc = Doc::with_options(Options::with_client_id(yrs::block::ClientID::new(4_711)));
        let text = doc.get_or_insert_text("t");
        text.push(&mut doc.transact_mut(), "hello");
        let update = Bytes::from(doc.transact().encode_state_as_update_v1(&StateVector::default()));
        let records = [(1, update.clone()), (2, Bytes::from_static(&[0, 0])), (3, Bytes::from_static(b"x"))];
        let records = records.map(|(seq, update)| Record { seq: Seq(seq), time_ms: 951_782_400_000, update });
        let store = SledStore::open(dir.path()).unwrap();
        let append = Write::Append { document: name.clone(), epoch: Epoch(255), records: records.to_vec() };
        store.commit(&[append]).unwrap();
        let mut out = Vec::new();
        let error = inspect(dir.path(), &name, &mut out).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}: stop that server first", std::process::id())), "{error}");
        store.close().unwrap();
        inspect(dir.path(), &name, &mut out).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert!(shown.contains("epoch     000000000000000000000000000000ff\nlast seq  3\nsnapshot  none\n"), "{shown}");
        let bytes = update.len();
        assert!(shown.contains(&format!("         1  2000-02-29T00:00:00.000Z  {bytes:>10}  4711\n")), "{shown}");
        assert!(shown.contains("none (deletions only)\n") && shown.contains("not a valid update\n"), "{shown}");

        let store = SledStore::open(dir.path()).unwrap();
        let snapshot = Snapshot { upto: Seq(3), update };
        store.commit(&[Write::Compact { document: name.clone(), snapshot }]).unwrap();
        store.close().unwrap();
        let mut out = Vec::new();
        inspect(dir.path(), &name, &mut out).unwrap();
        assert!(String::from_utf8(out).unwrap().contains(&format!("snapshot  up to 3, {bytes} bytes\nrecords   0")));
    }

    #[test]
    fn inspecting_an_empty_directory_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let name = DocumentName::parse("doc").unwrap();
        let error = inspect(dir.path(), &name, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("no Syncline store"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
