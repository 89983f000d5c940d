//! One document of a session: what passes the scanner goes to the document, what does not is refused.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::awareness::AwarenessUpdate;
use syncline_protocol::close::Close;
use syncline_protocol::limits::{MAX_REGISTER_AUTHOR_BYTES, MAX_REGISTER_NAME_BYTES, MAX_REGISTER_VALUE_BYTES};
use syncline_protocol::native::{Cursor, Proposal};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::{ScanLimits, scan_state_vector, scan_update, scan_value};

use super::bad_message;
use super::users::Users;
use crate::auth::{Admission, Grant};
use crate::document::event::{Event, Origin};
use crate::document::frame::Framing;
use crate::ids::UserId;
use crate::limits::UserSeat;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::registry::{Lease, Registry};
use syncline_protocol::ids::DocumentName;

/// What a token gave, with a place for its user.
pub(super) struct Rights {
    pub(super) grant: Grant,
    pub(super) user: Option<Arc<UserSeat>>,
}

impl Rights {
    /// Unless its user has too many connections.
    pub(super) fn new(admission: Admission, users: &Users) -> Result<Self, Close> {
        Ok(Self { grant: admission.grant, user: users.admit(admission.user.as_ref())? })
    }
}

/// A lease, the grant it stands on, and the gate before it.
pub(super) struct Channel {
    lease: Lease,
    grant: Grant,
    /// In whose name, if that is known.
    user: Option<Arc<UserSeat>>,
    scan: ScanLimits,
    metrics: Arc<Metrics>,
}

impl Channel {
    /// Opens the document and begins to receive its frames. `documents`: open documents of the session,
    /// this one included.
    pub(super) async fn open(
        registry: &Arc<Registry>,
        document: &DocumentName,
        rights: Rights,
        outbox: &Arc<Outbox>,
        framing: Framing,
        documents: usize,
        scan: ScanLimits,
    ) -> Result<Self, Close> {
        registry.admit(document).await?;
        let lease = registry.open(document);
        lease.begin(Arc::clone(outbox), framing, documents).await.map_err(|gone| gone.close())?;
        let Rights { grant, user } = rights;
        Ok(Self { lease, grant, user, scan, metrics: Arc::clone(registry.metrics()) })
    }

    /// The rights on which it was opened, without a place for the user.
    pub(super) fn granted(&self) -> (Grant, Option<UserId>) {
        (self.grant, self.user.as_ref().map(|user| user.user().clone()))
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// From now on the session's rights are these.
    pub(super) fn set_rights(&mut self, Rights { grant, user }: Rights) {
        (self.grant, self.user) = (grant, user);
    }

    /// A sync message whose payload lies in `frame`.
    pub(super) async fn sync(&self, frame: &Bytes, message: SyncMessage<'_>) -> Result<(), Close> {
        match message {
            SyncMessage::Step1(payload) => self.state_vector(payload).await,
            SyncMessage::Step2(payload) => self.sync_update(frame, payload, Origin::Step2).await,
            SyncMessage::Update(payload) => self.sync_update(frame, payload, Origin::Change).await,
        }
    }

    /// A step 2 or an update, whose payload lies in `frame`.
    pub(super) async fn sync_update(&self, frame: &Bytes, payload: &[u8], origin: Origin) -> Result<(), Close> {
        self.send(self.update(frame, payload, origin, 0)?, payload.len()).await
    }

    /// Native: where the session goes on.
    pub(super) async fn resume(
        &self,
        cursor: Option<Cursor>,
        wants_state_vector: bool,
        read_only: bool,
    ) -> Result<(), Close> {
        let lease = self.lease.id();
        self.send(Event::Resume { lease, cursor: cursor.map(Box::new), wants_state_vector, read_only }, 0).await
    }

    /// What the client has: it is sent the rest, and every change from then on.
    pub(super) async fn state_vector(&self, payload: &[u8]) -> Result<(), Close> {
        scan_state_vector(payload, &self.scan).map_err(bad_message)?;
        // Kept by the document's cache: a copy, or it would hold on to the connection's read buffer.
        let state_vector = Bytes::copy_from_slice(payload);
        self.send(Event::Step1 { lease: self.lease.id(), state_vector }, payload.len()).await
    }

    /// Native: a change that lies in `frame`, under its author's number.
    pub(super) async fn change(&self, frame: &Bytes, batch: u64, payload: &[u8]) -> Result<(), Close> {
        self.send(self.update(frame, payload, Origin::Change, batch)?, payload.len()).await
    }

    /// Native: a write to a register.
    pub(super) async fn propose(&self, batch: u64, proposal: Proposal<'_>) -> Result<(), Close> {
        for (what, len, limit) in [
            ("name", proposal.register.len(), MAX_REGISTER_NAME_BYTES),
            ("author", proposal.author.len(), MAX_REGISTER_AUTHOR_BYTES),
            ("value", proposal.value.len(), MAX_REGISTER_VALUE_BYTES),
        ] {
            if len > limit {
                return Err(bad_message(format_args!("a register's {what} is longer than {limit} bytes")));
            }
        }
        // In the document the value lies one level deeper, and what was accepted must pass when peers send it back.
        let scan = ScanLimits { value_depth: self.scan.value_depth.saturating_sub(1), ..self.scan };
        scan_value(proposal.value, &scan).map_err(bad_message)?;
        let (lease, bytes) = (self.lease.id(), proposal.value.len());
        if self.grant == Grant::Read {
            let origin = Origin::Change;
            return self.send(Event::Refused { lease, batch, update: None, origin }, 0).await;
        }
        self.send(Event::Propose { lease, batch, write: Box::new(proposal.into()) }, bytes).await
    }

    fn update(&self, frame: &Bytes, payload: &[u8], origin: Origin, batch: u64) -> Result<Event, Close> {
        let summary = scan_update(payload, &self.scan).map_err(bad_message)?;
        let lease = self.lease.id();
        let update = frame.slice_ref(payload);
        // A reader answers our step 1 like everyone, with all deletions that it knows: the document can tell an attempt to write.
        if self.grant == Grant::Read && !summary.is_empty() {
            return Ok(Event::Refused { lease, batch, update: Some(update), origin });
        }
        Ok(Event::Update { lease, update, origin, batch })
    }

    /// An awareness update that lies in `frame`. One that peers could not read is dropped: it never ends a session.
    pub(super) async fn awareness(&self, frame: &Bytes, payload: &[u8]) -> Result<(), Close> {
        if AwarenessUpdate::scan(payload, &Default::default()).is_err() {
            self.metrics.awareness_dropped.inc();
            return Ok(());
        }
        let event = Event::Awareness { lease: self.lease.id(), update: frame.slice_ref(payload) };
        self.send(event, payload.len()).await
    }

    /// Counts a message that is not for this server.
    pub(super) fn ignore(&self) {
        self.metrics.messages_ignored.inc();
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
