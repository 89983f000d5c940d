//! Loading a document from the log.

use syncline_log::Log;
use syncline_log::failpoint::Point;
use syncline_log::store::{StoreError, Stored};
use syncline_protocol::close::Close;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_protocol::native::Cursor;
use syncline_protocol::varint::MAX_SAFE_INTEGER;
use syncline_replica::{HubDocument, Refused};

use super::core::LoadedDocument;
use super::recent_changes::RecentChanges;
use super::usage::NoRoom;
use crate::ids::Draw;

/// A document built from its log.
pub(super) struct Loaded {
    pub document: LoadedDocument,
    /// Number of records after the snapshot.
    pub records: u64,
    pub record_bytes: usize,
    pub snapshot_bytes: usize,
}

/// Reads a document and builds it. A document that is not in the log is new and gets an epoch of its own.
pub(super) async fn load(log: &Log, name: &DocumentName, draw: &Draw) -> Result<Loaded, LoadError> {
    let Some(stored) = log.load(name).await? else {
        return Ok(Loaded {
            document: LoadedDocument::empty(HubDocument::new(draw_client_id(draw)), Epoch(draw.number())),
            records: 0,
            record_bytes: 0,
            snapshot_bytes: 0,
        });
    };
    Point::Load.pass();
    if stored.is_tombstone() {
        return Err(LoadError::Deleted);
    }
    let (document, stored) = build(log, stored, draw_client_id(draw)).await?;
    let snapshot = stored.snapshot.as_ref();
    let records = stored.records.iter().map(|record| (record.seq, &record.update));
    let newest = Cursor { epoch: stored.epoch, seq: stored.last() };
    let recent = RecentChanges::of(snapshot.map_or(Seq::ZERO, |snapshot| snapshot.upto), records);
    Ok(Loaded {
        document: LoadedDocument { document, newest, recent },
        records: stored.records.len() as u64,
        record_bytes: stored.records.iter().map(|record| record.update.len()).sum(),
        snapshot_bytes: snapshot.map_or(0, |snapshot| snapshot.update.len()),
    })
}

/// Why a document cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the CRDT rejects a stored update: {0}")]
    Unreadable(#[from] Refused),
    #[error("loading was interrupted because the server stops")]
    Interrupted,
    #[error("the document was deleted")]
    Deleted,
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

impl LoadError {
    /// The close reason for its sessions.
    pub(super) fn close(&self) -> Close {
        match self {
            Self::Deleted => Close::DocumentDeleted,
            Self::NoRoom(_) => Close::memory_full(),
            _ => Close::DocumentUnavailable,
        }
    }
}

/// Up to this size the document is built inline: handing it to another thread would take longer.
const INLINE_BUILD_BYTES: usize = 32 * 1024;

/// Builds the document; a large one outside the runtime, because it takes milliseconds.
async fn build(log: &Log, stored: Stored, own_client: u64) -> Result<(HubDocument, Stored), LoadError> {
    let bytes = stored.records.iter().map(|record| record.update.len()).sum::<usize>()
        + stored.snapshot.as_ref().map_or(0, |snapshot| snapshot.update.len());
    let work = move || {
        let updates = stored.snapshot.iter().map(|snapshot| snapshot.update.clone());
        let updates: Vec<_> = updates.chain(stored.records.iter().map(|record| record.update.clone())).collect();
        HubDocument::load(own_client, &updates).map(|document| (document, stored))
    };
    if bytes <= INLINE_BUILD_BYTES {
        return Ok(work()?);
    }
    Ok(log.run_blocking(work).await.ok_or(LoadError::Interrupted)??)
}

/// Draws the client id under which the document makes its own edits until it is loaded again.
fn draw_client_id(draw: &Draw) -> u64 {
    draw.number() as u64 & MAX_SAFE_INTEGER
}
