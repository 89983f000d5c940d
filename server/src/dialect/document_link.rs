//! One document of a session: payloads that pass the scanner go to the document, others are refused.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::awareness::AwarenessUpdate;
use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::limits::{MAX_REGISTER_AUTHOR_BYTES, MAX_REGISTER_NAME_BYTES, MAX_REGISTER_VALUE_BYTES};
use syncline_protocol::native::{Cursor, Proposal};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::{ScanLimits, scan_state_vector, scan_update, scan_value};

use super::grants::{GrantId, WatchedGrant};
use super::services::Services;
use super::{SessionParts, bad_message};
use crate::auth::{Admission, Grant};
use crate::document::encoder::Encoder;
use crate::document::event::{Origin, SessionEvent};
use crate::limits::UserSeat;
use crate::outbox::Outbox;
use crate::registry::Lease;

/// The access granted to a session, with a seat for its user.
pub(super) struct Rights {
    pub(super) grant: Grant,
    pub(super) user: Option<Arc<UserSeat>>,
    watched: Option<Box<WatchedGrant>>,
}

impl Rights {
    /// Fails if the user has too many connections, or if the grant has ended since.
    pub(super) fn new(admission: Admission, session: &SessionParts) -> Result<Self, Close> {
        // Before the current grant is read: a change after that is reported.
        let watched = session.access.grants.watch(&admission);
        let grant = admission.current().map_err(|reason| Close::Forbidden(reason.into()))?;
        Ok(Self { grant, user: session.users.admit(admission.user.as_ref())?, watched })
    }
}

/// A lease with its access rights; scans every payload before it is sent to the document.
pub(super) struct DocumentLink {
    lease: Lease,
    grant: Grant,
    /// The user it acts for, if known.
    user: Option<Arc<UserSeat>>,
    /// `None` if the grant cannot change.
    watched: Option<Box<WatchedGrant>>,
    services: Arc<Services>,
}

impl DocumentLink {
    /// Opens the document and begins to receive its frames. `documents` is the number of documents the
    /// session has open, this one included.
    pub(super) async fn open(
        services: &Arc<Services>,
        outbox: &Arc<Outbox>,
        document: &DocumentName,
        rights: Rights,
        encoder: Box<dyn Encoder>,
        documents: usize,
    ) -> Result<Self, Close> {
        services.registry.admit(document).await?;
        let lease = services.registry.open(document);
        lease.begin(Arc::clone(outbox), encoder, documents).await.map_err(|gone| gone.close())?;
        let Rights { grant, user, watched } = rights;
        Ok(Self { lease, grant, user, watched, services: Arc::clone(services) })
    }

    /// What was granted, without the user's seat.
    pub(super) fn granted(&self) -> Admission {
        let user = self.user.as_ref().map(|user| user.user().clone());
        let (ends, changes) =
            self.watched.as_ref().map_or((None, None), |watched| (watched.ends, watched.changes.clone()));
        Admission { grant: self.grant, user, ends, changes }
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Replaces the rights, after a new token.
    pub(super) fn set_rights(&mut self, Rights { grant, user, watched }: Rights) {
        (self.grant, self.user, self.watched) = (grant, user, watched);
    }

    /// True if a change of this grant applies to it.
    pub(super) fn is_granted_by(&self, id: GrantId) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.id == id)
    }

    /// Replaces the grant, after its authorizer has changed it.
    pub(super) fn set_grant(&mut self, grant: Grant) {
        self.grant = grant;
    }

    /// Handles a sync message whose payload is a slice of `frame`.
    pub(super) async fn sync(&self, frame: &Bytes, message: SyncMessage<'_>) -> Result<(), Close> {
        match message {
            SyncMessage::Step1(payload) => self.state_vector(payload).await,
            SyncMessage::Step2(payload) => self.sync_update(frame, payload, Origin::Step2).await,
            SyncMessage::Update(payload) => self.sync_update(frame, payload, Origin::Change).await,
        }
    }

    /// A step 2 or an update. `payload` is a part of `frame`.
    pub(super) async fn sync_update(&self, frame: &Bytes, payload: &[u8], origin: Origin) -> Result<(), Close> {
        self.send(self.update(frame, payload, origin, 0)?, payload.len()).await
    }

    /// Sends where the client resumes.
    pub(super) async fn resume(
        &self,
        cursor: Option<Cursor>,
        wants_state_vector: bool,
        read_only: bool,
    ) -> Result<(), Close> {
        self.send(SessionEvent::Resume { cursor: cursor.map(Box::new), wants_state_vector, read_only }, 0).await
    }

    /// Handles the client's state vector: it is sent what it lacks, and every change from then on.
    pub(super) async fn state_vector(&self, payload: &[u8]) -> Result<(), Close> {
        scan_state_vector(payload, &self.services.limits.scan).map_err(bad_message)?;
        // The document caches it: a slice would keep the connection's read buffer in memory.
        let state_vector = Bytes::copy_from_slice(payload);
        self.send(SessionEvent::Step1 { state_vector }, payload.len()).await
    }

    /// Handles a change that is a slice of `frame`.
    pub(super) async fn change(&self, frame: &Bytes, batch: u64, payload: &[u8]) -> Result<(), Close> {
        self.send(self.update(frame, payload, Origin::Change, batch)?, payload.len()).await
    }

    /// Handles a proposed write to a register.
    pub(super) async fn propose(&self, batch: u64, proposal: Proposal<'_>) -> Result<(), Close> {
        for (what, len, limit) in [
            ("name", proposal.register.len(), MAX_REGISTER_NAME_BYTES),
            ("author", proposal.author.len(), MAX_REGISTER_AUTHOR_BYTES),
            ("value", proposal.value.len(), MAX_REGISTER_VALUE_BYTES),
        ] {
            if len > limit {
                return Err(bad_message(format_args!("the {what} of a register is longer than {limit} bytes")));
            }
        }
        // The document nests the value one level deeper, and an accepted value must pass the scanner when
        // peers send it back.
        let scan = self.services.limits.scan;
        let scan = ScanLimits { value_depth: scan.value_depth.saturating_sub(1), ..scan };
        scan_value(proposal.value, &scan).map_err(bad_message)?;
        let bytes = proposal.value.len();
        if self.grant == Grant::Read {
            let origin = Origin::Change;
            return self.send(SessionEvent::Refused { batch, update: None, origin }, 0).await;
        }
        self.send(SessionEvent::Propose { batch, write: Box::new(proposal.into()) }, bytes).await
    }

    fn update(&self, frame: &Bytes, payload: &[u8], origin: Origin, batch: u64) -> Result<SessionEvent, Close> {
        let summary = scan_update(payload, &self.services.limits.scan).map_err(bad_message)?;
        let update = frame.slice_ref(payload);
        // A read-only client replies to our step 1 like any other, with all deletions it knows: the document
        // recognises an actual edit.
        if self.grant == Grant::Read && !summary.is_empty() {
            return Ok(SessionEvent::Refused { batch, update: Some(update), origin });
        }
        Ok(SessionEvent::Update { update, origin, batch })
    }

    /// Handles an awareness update that is a slice of `frame`. An invalid one is dropped, but never ends the
    /// session.
    pub(super) async fn awareness(&self, frame: &Bytes, payload: &[u8]) -> Result<(), Close> {
        if AwarenessUpdate::scan(payload, &Default::default()).is_err() {
            self.services.metrics.awareness_dropped.inc();
            return Ok(());
        }
        let event = SessionEvent::Awareness { update: frame.slice_ref(payload) };
        self.send(event, payload.len()).await
    }

    /// Counts a message that this server does not handle.
    pub(super) fn ignore(&self) {
        self.services.metrics.messages_ignored.inc();
    }

    pub(super) async fn query_awareness(&self) -> Result<(), Close> {
        self.send(SessionEvent::QueryAwareness, 0).await
    }

    pub(super) async fn resync(&self) -> Result<(), Close> {
        self.lease.resync().await.map_err(|gone| gone.close())
    }

    async fn send(&self, event: SessionEvent, bytes: usize) -> Result<(), Close> {
        self.lease.send(event, bytes).await.map_err(|gone| gone.close())
    }
}
