//! What can still be read of a damaged document. For owners to whom a part is better than nothing: a device's journal,
//! whose notes stand for themselves. The server never serves a part as if it were the whole.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

use super::layout::{Kind, Part, decode_entry, name_key, part_of, parts_prefix, unseal};
use super::sled::{Engine, failed};
use super::sled_write::name_in;
use super::store::{Record, Salvaged, Snapshot, StoreError, Stored};

/// The chunks of one snapshot or entry; `None`: one that cannot be read.
type Chunks = BTreeMap<u32, Option<Bytes>>;
/// By the snapshot's last record, or the entry's first.
type BySeq = BTreeMap<Seq, Chunks>;

impl Engine {
    /// Everything of a document whose checksums are right, and what is missing, in words.
    pub fn salvage(&self, document: &DocumentName) -> Result<Salvaged, StoreError> {
        let mut lost = Vec::new();
        let (id, epoch, snapshot_chunks) = match self.head(document) {
            Ok(Some(head)) => (Some(head.id), head.epoch, Some(head.snapshot_chunks)),
            Ok(None) if !self.is_lost(document) => return Ok(Salvaged { stored: None, lost }),
            Ok(None) | Err(StoreError::Damaged { .. }) => {
                lost.push("the list of its records cannot be read".to_owned());
                (self.id_of_name(document)?, Epoch(0), None)
            }
            Err(error) => return Err(error),
        };
        let Some(id) = id else {
            lost.push("nothing of it can be found".to_owned());
            return Ok(Salvaged { stored: None, lost });
        };
        let (snapshots, entries) = self.chunks_of(id)?;
        let snapshot = snapshots.into_iter().next_back().and_then(|(upto, chunks)| {
            let update = whole(&chunks).filter(|_| snapshot_chunks.is_none_or(|count| chunks.len() == count as usize));
            if update.is_none() {
                lost.push(format!("the snapshot up to record {upto}"));
            }
            Some(Snapshot { upto, update: update? })
        });
        let covered = snapshot.as_ref().map_or(Seq::ZERO, |snapshot| snapshot.upto);
        let mut records: Vec<Record> = Vec::new();
        for (first, chunks) in entries {
            match whole(&chunks).and_then(|entry| decode_entry(first, entry)) {
                Some(entry) => records.extend(entry.into_iter().filter(|record| record.seq > covered)),
                None if first > covered => {
                    lost.push(format!("the records from {first} on, up to the next that can be read"))
                }
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
                Kind::Snapshot => &mut snapshots,
                Kind::Entry => &mut entries,
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

/// The chunks in one piece, if they are all there and readable.
fn whole(chunks: &Chunks) -> Option<Bytes> {
    let mut bytes = BytesMut::new();
    for (expected, (chunk, payload)) in (0..).zip(chunks) {
        if *chunk != expected {
            return None;
        }
        bytes.extend_from_slice(payload.as_ref()?);
    }
    Some(bytes.freeze())
}
