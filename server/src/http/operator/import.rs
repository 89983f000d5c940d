//! Imports an update into an open document as a client would: with a lease, through the scanner, acknowledged
//! when it is on disk.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::native::ToClient;

use crate::dialect::NativeEncoder;
use crate::document::event::{Origin, SessionEvent};
use crate::outbox::{Outbox, OutboxOutput};
use crate::registry::Registry;

/// Holds only replies: this lease does not subscribe to the document's content.
const OUTBOX_BYTES: usize = 64 * 1024;
const CHANNEL: u64 = 0;
const BATCH: u64 = 1;

/// Merges a scanned update into a document. Returns when it is on disk, or the reason why it was refused.
pub(super) async fn import(registry: &Arc<Registry>, document: &DocumentName, update: Bytes) -> Result<(), String> {
    let lease = registry.open(document);
    let outbox = Arc::new(Outbox::new(OUTBOX_BYTES));
    let closed = |_| "the document was closed during the import; import it again".to_owned();
    lease.begin(Arc::clone(&outbox), Box::new(NativeEncoder::new(CHANNEL)), 1).await.map_err(closed)?;
    let bytes = update.len();
    let resume = SessionEvent::Resume { cursor: None, wants_state_vector: false, read_only: false };
    lease.send(resume, 0).await.map_err(closed)?;
    let update = SessionEvent::Update { update, origin: Origin::Change, batch: BATCH };
    lease.send(update, bytes).await.map_err(closed)?;
    loop {
        let mut frames = Vec::new();
        match poll_fn(|cx| outbox.poll_take(cx, |_, frame| frames.push(frame.to_bytes()))).await {
            OutboxOutput::Frames => {
                if let Some(outcome) = frames.iter().find_map(|frame| outcome(frame)) {
                    return outcome;
                }
            }
            OutboxOutput::Close(close) => return Err(close.reason().into_owned()),
            OutboxOutput::Cut => return Err("the server is stopping".to_owned()),
        }
    }
}

/// The result of the import, if the frame carries it.
fn outcome(frame: &[u8]) -> Option<Result<(), String>> {
    match ToClient::decode(frame) {
        Ok(ToClient::Ack { batch: BATCH, .. }) => Some(Ok(())),
        Ok(ToClient::Refused { reason, .. } | ToClient::Closed { reason, .. }) => Some(Err(reason.to_owned())),
        _ => None,
    }
}
