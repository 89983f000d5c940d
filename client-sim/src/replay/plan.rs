//! The updates of a trace, encoded before the run so that the run itself is cheap, and an index from the content of an
//! update to the edit that it belongs to.
//!
//! Each writer has its own replica and its own client id. In a sequential trace an edit builds on all edits before it, by
//! any writer; in a concurrent trace it builds on its ancestors. [`Edit::needs`] is the edit that must have arrived before
//! the writer may send this one, so that no server or reader receives an update before its dependencies.

use std::collections::HashMap;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use yrs::updates::decoder::Decode;
use yrs::{ClientID, Doc, GetString, IdSet, OffsetKind, Options, ReadTxn, Text, Transact, Update, WriteTxn};

use super::trace::{Kind, SeenTransactions, Trace, Transaction};

/// A range of clocks of one writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clocks {
    /// Number of the writer, from 0.
    pub writer: usize,
    /// Range of clocks.
    pub range: Range<u32>,
}

/// One edit of the trace, encoded as an update.
#[derive(Debug)]
pub struct Edit {
    /// Number of the writer that sends it.
    pub writer: usize,
    /// The v1 update.
    pub update: Bytes,
    /// All edits up to this one must have arrived at the first reader before this edit is sent.
    pub needs: Option<u32>,
    /// Clocks that it inserts.
    pub inserts: Vec<Clocks>,
    /// Clocks that it deletes.
    pub deletes: Vec<Clocks>,
}

/// All edits of a trace, and the index.
#[derive(Debug)]
pub struct Plan {
    /// The edits, in trace order.
    pub edits: Vec<Edit>,
    /// The text after all edits.
    pub end: String,
    /// Name of the root text.
    pub root: String,
    /// Number of writers.
    pub writers: usize,
    /// Writer of each client id.
    ids: HashMap<u64, usize>,
    /// For each writer: (start of an inserted range, edit), sorted.
    inserted: Vec<Vec<(u32, u32)>>,
    /// For each writer: (deleted clock, edit), sorted.
    deleted: Vec<Vec<(u32, u32)>>,
}

/// How the edits of a trace are distributed over writers.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    /// Number of writers.
    pub writers: usize,
    /// Number of edits that one writer makes before the next one's turn (sequential traces).
    pub turn: usize,
}

impl Plan {
    /// Encodes the updates and checks that they result in the trace's end text.
    pub fn new(trace: &Trace, root: &str, sharing: Sharing, ids: &[u64]) -> Result<Self> {
        ensure!(ids.len() == sharing.writers, "one client id for each writer");
        if let Kind::Concurrent { agents } = trace.kind {
            ensure!(sharing.writers == agents, "this trace has {agents} agents; use --writers {agents}");
        }
        let mut replicas: Vec<WriterReplica> = ids.iter().map(|&id| WriterReplica::new(id)).collect();
        let mut plan = Plan {
            edits: Vec::with_capacity(trace.transactions.len()),
            end: trace.end.clone(),
            root: root.to_owned(),
            writers: sharing.writers,
            ids: ids.iter().enumerate().map(|(writer, &id)| (id, writer)).collect(),
            inserted: vec![Vec::new(); sharing.writers],
            deleted: vec![Vec::new(); sharing.writers],
        };
        // The edit of each transaction; a transaction without effect has none.
        let mut edit_of: Vec<Option<usize>> = Vec::with_capacity(trace.transactions.len());
        for (index, transaction) in trace.transactions.iter().enumerate() {
            let writer = match trace.kind {
                Kind::Sequential => (index / sharing.turn.max(1)) % sharing.writers,
                Kind::Concurrent { .. } => transaction.agent,
            };
            let replica = &mut replicas[writer];
            let missing: Vec<usize> = match trace.kind {
                Kind::Sequential => (replica.next..index).collect(),
                Kind::Concurrent { .. } => replica.seen.catch_up(&trace.transactions, index),
            };
            replica.next = index + 1;
            let missing: Vec<usize> = missing.into_iter().filter_map(|ancestor| edit_of[ancestor]).collect();
            replica.apply_all(missing.iter().map(|&edit| &plan.edits[edit].update))?;
            // A writer's own edits need no wait: they are sent on the same socket, in order.
            let others = missing.iter().filter(|&&edit| plan.edits[edit].writer != writer).max();
            replica.needs = replica.needs.max(others.map(|&edit| edit as u32));
            edit_of.push(plan.add(replica, transaction, writer));
        }
        for index in plan.inserted.iter_mut().chain(&mut plan.deleted) {
            index.sort_unstable();
        }
        plan.check()?;
        Ok(plan)
    }

    fn add(&mut self, replica: &WriterReplica, transaction: &Transaction, writer: usize) -> Option<usize> {
        let mut txn = replica.doc.transact_mut();
        let text = txn.get_or_insert_text(self.root.as_str());
        for patch in &transaction.patches {
            if patch.1 > 0 {
                text.remove_range(&mut txn, patch.0, patch.1);
            }
            if !patch.2.is_empty() {
                text.insert(&mut txn, patch.0, &patch.2);
            }
        }
        if !txn.has_changes() {
            return None;
        }
        let index = self.edits.len();
        let (inserts, deletes) = (self.clocks(txn.insert_set()), self.clocks(txn.delete_set()));
        for clocks in &inserts {
            self.inserted[clocks.writer].push((clocks.range.start, index as u32));
        }
        for clocks in &deletes {
            self.deleted[clocks.writer].extend(clocks.range.clone().map(|clock| (clock, index as u32)));
        }
        let update = txn.encode_update_v1().into();
        self.edits.push(Edit { writer, update, needs: replica.needs, inserts, deletes });
        Some(index)
    }

    /// The part of a set that belongs to this plan's writers.
    pub fn clocks(&self, set: &IdSet) -> Vec<Clocks> {
        set.iter()
            .filter_map(|(client, ranges)| Some((*self.ids.get(&client.get())?, ranges)))
            .flat_map(|(writer, ranges)| ranges.into_iter().map(move |range| Clocks { writer, range: range.clone() }))
            .collect()
    }

    /// The edits that insert some of these clocks.
    pub fn inserting(&self, clocks: &Clocks) -> impl Iterator<Item = u32> {
        let index = &self.inserted[clocks.writer];
        // The last range that starts before this one may overlap it.
        let from = index.partition_point(|&(start, _)| start <= clocks.range.start).saturating_sub(1);
        let end = clocks.range.end;
        index[from..].iter().take_while(move |&&(start, _)| start < end).map(|&(_, edit)| edit)
    }

    /// The edits that delete some of these clocks.
    pub fn deleting(&self, clocks: &Clocks) -> impl Iterator<Item = u32> {
        let index = &self.deleted[clocks.writer];
        let from = index.partition_point(|&(clock, _)| clock < clocks.range.start);
        let end = clocks.range.end;
        index[from..].iter().take_while(move |&&(clock, _)| clock < end).map(|&(_, edit)| edit)
    }

    /// The text after these updates, applied in this order.
    ///
    /// Missing dependencies are an error of their own: yrs shows text from behind a gap, so a text can look right although an
    /// update is missing (its character may have been deleted later).
    pub fn text_of<'a>(&self, updates: impl IntoIterator<Item = &'a [u8]>) -> Result<String> {
        let doc = new_doc(1);
        for update in updates {
            let update = Update::decode_v1(update).context("cannot decode an update")?;
            doc.transact_mut().apply_update(update).context("cannot apply an update")?;
        }
        let txn = doc.transact();
        ensure!(!txn.has_missing_updates(), "there are pending updates with missing dependencies");
        Ok(txn.get_text(self.root.as_str()).map(|text| text.get_string(&txn)).unwrap_or_default())
    }

    fn check(&self) -> Result<()> {
        let text = self.text_of(self.edits.iter().map(|edit| &edit.update[..]))?;
        ensure!(
            text == self.end,
            "replayed in memory, the trace does not result in its own end text: {}",
            super::verify::difference(&text, &self.end)
        );
        Ok(())
    }
}

/// A writer's copy of the document.
struct WriterReplica {
    doc: Doc,
    /// In a sequential trace: the first transaction that is not applied.
    next: usize,
    /// In a concurrent trace: the transactions that are applied.
    seen: SeenTransactions,
    /// The last edit by another writer that it builds on.
    needs: Option<u32>,
}

impl WriterReplica {
    fn new(id: u64) -> Self {
        Self { doc: new_doc(id), next: 0, seen: SeenTransactions::default(), needs: None }
    }

    fn apply_all<'a>(&self, updates: impl IntoIterator<Item = &'a Bytes>) -> Result<()> {
        let mut txn = self.doc.transact_mut();
        for update in updates {
            txn.apply_update(Update::decode_v1(update)?)?;
        }
        Ok(())
    }
}

fn new_doc(id: u64) -> Doc {
    Doc::with_options(Options {
        cleanup_formatting: false,
        offset_kind: OffsetKind::Utf16,
        ..Options::with_client_id(ClientID::new(id))
    })
}
