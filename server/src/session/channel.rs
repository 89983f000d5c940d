//! One document of a session: what passes the scanner goes to the document, what does not ends the session.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::awareness::AwarenessUpdate;
use syncline_protocol::close::Close;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::{ScanLimits, scan_state_vector, scan_update};

use super::bad_message;
use crate::auth::Grant;
use crate::document::event::{Event, Origin};
use crate::document::frame::Framing;
use crate::outbox::Outbox;
use crate::registry::{Lease, Registry};
use syncline_protocol::ids::DocumentName;

/// What a session that may not write is told in dialects that can only close.
const READ_ONLY: &str = "you may read this document, not change it";

/// A lease, the grant it stands on, and the gate before it.
pub(super) struct Channel {
    lease: Lease,
    grant: Grant,
    scan: ScanLimits,
    /// The dialect can refuse one update and go on (Hocuspocus: SyncStatus 0).
    can_refuse: bool,
}

impl Channel {
    /// Opens the document and begins to receive its frames.
    pub(super) async fn open(
        registry: &Arc<Registry>,
        document: &DocumentName,
        grant: Grant,
        outbox: &Arc<Outbox>,
        framing: Framing,
        scan: ScanLimits,
    ) -> Result<Self, Close> {
        let can_refuse = matches!(framing, Framing::Hocuspocus { .. });
        let lease = registry.open(document);
        lease.begin(Arc::clone(outbox), framing).await.map_err(|gone| gone.close())?;
        Ok(Self { lease, grant, scan, can_refuse })
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// From now on the session's right is this one.
    pub(super) fn set_grant(&mut self, grant: Grant) {
        self.grant = grant;
    }

    /// A sync message whose payload lies in `frame`.
    pub(super) async fn sync(&self, frame: &Bytes, message: SyncMessage<'_>) -> Result<(), Close> {
        let lease = self.lease.id();
        let (payload, event) = match message {
            SyncMessage::Step1(payload) => {
                scan_state_vector(payload, &self.scan).map_err(bad_message)?;
                // Kept by the document's cache: a copy, or it would hold on to the connection's read buffer.
                (payload, Event::Step1 { lease, state_vector: Bytes::copy_from_slice(payload) })
            }
            SyncMessage::Step2(payload) => (payload, self.update(frame, payload, Origin::Step2)?),
            SyncMessage::Update(payload) => (payload, self.update(frame, payload, Origin::Change)?),
        };
        self.send(event, payload.len()).await
    }

    fn update(&self, frame: &Bytes, payload: &[u8], origin: Origin) -> Result<Event, Close> {
        let summary = scan_update(payload, &self.scan).map_err(bad_message)?;
        let lease = self.lease.id();
        // A reader answers our step 1 like everyone; an empty answer is no attempt to write.
        if self.grant == Grant::Read && !summary.is_empty() {
            if !self.can_refuse {
                return Err(Close::Forbidden(READ_ONLY.into()));
            }
            return Ok(Event::Refused { lease });
        }
        Ok(Event::Update { lease, update: frame.slice_ref(payload), origin })
    }

    /// An awareness update that lies in `frame`.
    pub(super) async fn awareness(&self, frame: &Bytes, payload: &[u8]) -> Result<(), Close> {
        AwarenessUpdate::scan(payload, &Default::default()).map_err(bad_message)?;
        let event = Event::Awareness { lease: self.lease.id(), update: frame.slice_ref(payload) };
        self.send(event, payload.len()).await
    }

    pub(super) async fn query_awareness(&self) -> Result<(), Close> {
        self.send(Event::QueryAwareness { lease: self.lease.id() }, 0).await
    }

    pub(super) async fn resync(&self) -> Result<(), Close> {
        self.send(Event::Resync { lease: self.lease.id() }, 0).await
    }

    async fn send(&self, event: Event, bytes: usize) -> Result<(), Close> {
        self.lease.send(event, bytes).await.map_err(|gone| gone.close())
    }
}
