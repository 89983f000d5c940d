//! The updates of a trace, encoded before the run so that the run itself is cheap, and an index from the content of an
//! update to the edit that it belongs to.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use yrs::updates::decoder::Decode;
use yrs::{ClientID, Doc, GetString, IdSet, OffsetKind, Options, ReadTxn, Text, Transact, Update, WriteTxn};

use super::file::{Trace, Transaction};
use crate::load::marker::ROOT;

/// One edit of the trace, encoded as an update.
#[derive(Debug)]
pub(crate) struct TraceEdit {
    /// The v1 update.
    pub update: Bytes,
    /// Ranges of clocks that it inserts.
    pub inserts: Vec<Range<u32>>,
    /// Ranges of clocks that it deletes.
    pub deletes: Vec<Range<u32>>,
}

/// All edits of a trace, made by one client, and the index.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The edits, in trace order.
    pub edits: Vec<TraceEdit>,
    /// The text after all edits.
    pub end: String,
    client: ClientID,
    /// Start of an inserted range, edit; sorted.
    inserted: Vec<(u32, u32)>,
    /// Deleted clock, edit; sorted.
    deleted: Vec<(u32, u32)>,
}

impl Plan {
    /// Encodes the updates of a client and checks that they result in the trace's end text.
    pub(crate) fn new(trace: &Trace, client: u64) -> Result<Self> {
        let doc = new_doc(client);
        let mut plan = Plan {
            edits: Vec::with_capacity(trace.transactions.len()),
            end: trace.end.clone(),
            client: ClientID::new(client),
            inserted: Vec::new(),
            deleted: Vec::new(),
        };
        for transaction in &trace.transactions {
            plan.add(&doc, transaction);
        }
        plan.inserted.sort_unstable();
        plan.deleted.sort_unstable();
        let text = text_of(plan.edits.iter().map(|edit| &edit.update[..]))?;
        ensure!(
            text == plan.end,
            "replayed in memory, the trace does not result in its own end text: {}",
            difference(&text, &plan.end)
        );
        Ok(plan)
    }

    /// Makes the edit of a transaction; one without effect has none.
    fn add(&mut self, doc: &Doc, transaction: &Transaction) {
        let mut txn = doc.transact_mut();
        let text = txn.get_or_insert_text(ROOT);
        for patch in &transaction.patches {
            if patch.1 > 0 {
                text.remove_range(&mut txn, patch.0, patch.1);
            }
            if !patch.2.is_empty() {
                text.insert(&mut txn, patch.0, &patch.2);
            }
        }
        if !txn.has_changes() {
            return;
        }
        let index = self.edits.len() as u32;
        let (inserts, deletes) = (self.clocks(txn.insert_set()), self.clocks(txn.delete_set()));
        self.inserted.extend(inserts.iter().map(|range| (range.start, index)));
        self.deleted.extend(deletes.iter().cloned().flatten().map(|clock| (clock, index)));
        self.edits.push(TraceEdit { update: txn.encode_update_v1().into(), inserts, deletes });
    }

    /// The part of a set that belongs to this plan's client.
    pub(crate) fn clocks(&self, set: &IdSet) -> Vec<Range<u32>> {
        let own = set.iter().filter(|(client, _)| **client == self.client);
        own.flat_map(|(_, ranges)| ranges.into_iter().cloned()).collect()
    }

    /// The edits that insert some of these clocks.
    pub(crate) fn inserting(&self, clocks: &Range<u32>) -> impl Iterator<Item = u32> {
        // The last range that starts before this one may overlap it.
        let from = self.inserted.partition_point(|&(start, _)| start <= clocks.start).saturating_sub(1);
        let end = clocks.end;
        self.inserted[from..].iter().take_while(move |&&(start, _)| start < end).map(|&(_, edit)| edit)
    }

    /// The edits that delete some of these clocks.
    pub(crate) fn deleting(&self, clocks: &Range<u32>) -> impl Iterator<Item = u32> {
        let from = self.deleted.partition_point(|&(clock, _)| clock < clocks.start);
        let end = clocks.end;
        self.deleted[from..].iter().take_while(move |&&(clock, _)| clock < end).map(|&(_, edit)| edit)
    }
}

/// The text after these updates, applied in this order.
///
/// Missing dependencies are an error of their own: yrs shows text from behind a gap, so a text can look right although an
/// update is missing (its character may have been deleted later).
pub(crate) fn text_of<'a>(updates: impl IntoIterator<Item = &'a [u8]>) -> Result<String> {
    let doc = new_doc(1);
    for update in updates {
        let update = Update::decode_v1(update).context("cannot decode an update")?;
        doc.transact_mut().apply_update(update).context("cannot apply an update")?;
    }
    let txn = doc.transact();
    ensure!(!txn.has_missing_updates(), "there are pending updates with missing dependencies");
    Ok(txn.get_text(ROOT).map(|text| text.get_string(&txn)).unwrap_or_default())
}

/// Number of characters shown from a difference on.
const SHOWN: usize = 20;

/// Describes where two texts start to differ.
pub(crate) fn difference(have: &str, want: &str) -> String {
    let at = have.chars().zip(want.chars()).take_while(|(have, want)| have == want).count();
    let part = |text: &str| text.chars().skip(at).take(SHOWN).collect::<String>();
    format!(
        "{} characters instead of {}, differing from character {at} on: {:?} instead of {:?}",
        have.chars().count(),
        want.chars().count(),
        part(have),
        part(want)
    )
}

fn new_doc(id: u64) -> Doc {
    Doc::with_options(Options {
        cleanup_formatting: false,
        offset_kind: OffsetKind::Utf16,
        ..Options::with_client_id(ClientID::new(id))
    })
}
