//! Reads the intact parts of a damaged document. For a device's journal, whose records are useful one by one. The server
//! never serves part of a document as the whole.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

use super::engine_error::failed;
use super::layout::{Part, PartKind, decode_entry, name_key, part_of, parts_prefix, unseal};
use super::sled::Engine;
use super::sled_write::name_in;
use super::store::{Record, Salvaged, Snapshot, StoreError, Stored};

/// The chunks of one snapshot or entry; `None`: the chunk cannot be read.
type Chunks = BTreeMap<u32, Option<Bytes>>;
/// Keyed by the snapshot's last record, or the entry's first record.
type BySeq = BTreeMap<Seq, Chunks>;

impl Engine {
    /// Every part of a document with a valid checksum, and descriptions of what is missing.
    pub(crate) fn salvage(&self, document: &DocumentName) -> Result<Salvaged, StoreError> {
        let mut lost = Vec::new();
        let (id, epoch, snapshot_chunks) = match self.head(document) {
            Ok(Some(head)) => (Some(head.id), head.epoch, Some(head.snapshot_chunks)),
            Ok(None) if !self.is_lost(document) => return Ok(Salvaged { stored: None, lost }),
            Ok(None) | Err(StoreError::Damaged { .. }) => {
                lost.push("the document's head".to_owned());
                (self.id_of_name(document)?, Epoch(0), None)
            }
            Err(error) => return Err(error),
        };
        let Some(id) = id else {
            lost.push("the whole document".to_owned());
            return Ok(Salvaged { stored: None, lost });
        };
        let (snapshots, entries) = self.chunks_of(id)?;
        let snapshot = snapshots.into_iter().next_back().and_then(|(upto, chunks)| {
            let update = joined(&chunks).filter(|_| snapshot_chunks.is_none_or(|count| chunks.len() == count as usize));
            if update.is_none() {
                lost.push(format!("the snapshot up to record {upto}"));
            }
            Some(Snapshot { upto, update: update? })
        });
        let covered = snapshot.as_ref().map_or(Seq::ZERO, |snapshot| snapshot.upto);
        let mut records: Vec<Record> = Vec::new();
        for (first, chunks) in entries {
            match joined(&chunks).and_then(|entry| decode_entry(first, entry)) {
                Some(entry) => records.extend(entry.into_iter().filter(|record| record.seq > covered)),
                None if first > covered => lost.push(format!("the records from {first} up to the next readable one")),
                None => {}
            }
        }
        Ok(Salvaged { stored: Some(Stored { epoch, snapshot, records }), lost })
    }

    fn chunks_of(&self, id: u64) -> Result<(BySeq, BySeq), StoreError> {
        let (mut snapshots, mut entries) = (BySeq::new(), BySeq::new());
        for item in self.db.scan_prefix(parts_prefix(id)) {
            let (key, value) = item.map_err(failed)?;
            let Some(Part { kind, seq, chunk }) = part_of(&key) else { continue };
            let of = match kind {
                PartKind::Snapshot => &mut snapshots,
                PartKind::Entry => &mut entries,
            };
            of.entry(seq).or_default().insert(chunk, unseal(&key, &value).map(Bytes::copy_from_slice));
        }
        Ok((snapshots, entries))
    }

    fn id_of_name(&self, document: &DocumentName) -> Result<Option<u64>, StoreError> {
        for item in self.db.scan_prefix(super::layout::NAMES) {
            let (key, value) = item.map_err(failed)?;
            let id = super::layout::id_of(&key);
            if let Some(id) = id.filter(|id| key == name_key(*id))
                && name_in(&key, &value).as_ref() == Some(document)
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }
}

/// The concatenated chunks, if all of them exist and are readable.
fn joined(chunks: &Chunks) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    for (expected, (chunk, payload)) in (0..).zip(chunks) {
        if *chunk != expected {
            return None;
        }
        bytes.extend_from_slice(payload.as_ref()?);
    }
    Some(bytes.freeze())
}
