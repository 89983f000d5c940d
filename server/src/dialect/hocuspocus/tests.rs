//! Tests of the handler with its outbox: what is sent for a refused document.

use std::sync::Arc;
use std::time::Duration;

use syncline_log::Log;
use syncline_log::memory::MemoryStore;
use syncline_protocol::update::ScanLimits;

use super::*;
use crate::auth::{Handshake, OpenToAll};
use crate::dialect::{MessageLimits, Services, SessionAccess};
use crate::document::DocumentOptions;
use crate::limits::{Gate, Limits, SessionUsers};
use crate::log_limit::LogLimit;
use crate::metrics::Metrics;
use crate::outbox::{Outbox, Pushed};
use crate::registry::Registry;

fn session(outbox: &Arc<Outbox>) -> Hocuspocus {
    let metrics = Arc::new(Metrics::default());
    let log = Log::start(Arc::new(MemoryStore::new()));
    let registry = Registry::new(log, DocumentOptions::new(Duration::from_secs(1)), Arc::clone(&metrics));
    let gate = Gate::new(Limits::default(), Arc::clone(&metrics));
    let handshake = Handshake::new("", ([127, 0, 0, 1], 0).into());
    let users = SessionUsers::new(&gate, handshake.address().ip());
    let (auth, log_limit, scan) = (Arc::new(OpenToAll), LogLimit::default(), ScanLimits::default());
    let limits = MessageLimits { message_bytes: 1_000, documents: 1, scan };
    let services = Arc::new(Services { registry, auth, gate, metrics, log_limit, limits });
    let (outbox, access) = (Arc::clone(outbox), Arc::new(SessionAccess::new(handshake)));
    Hocuspocus::new(SessionParts { services, outbox, users, access })
}

#[tokio::test]
async fn refused_document_pushes_no_more_frames_to_its_address() {
    let outbox = Arc::new(Outbox::new(1_000));
    let mut session = session(&outbox);
    session.frame(&HocuspocusMessage::Token { token: "", version: None }.encode("doc").into()).await.unwrap();
    outbox.try_frames().unwrap();
    let lease = session.channels["doc"].lease().id();
    let update: Bytes = HocuspocusMessage::Sync(SyncMessage::Update(&[0, 0])).encode("doc").into();
    assert_ne!(outbox.push_document(lease, update.clone()), Pushed::Dropped);
    let close = Close::Forbidden("removed".into());
    session.refuse("doc", close.clone()).unwrap();
    // The document's task has not run: it does not know that the session has left.
    assert_eq!(outbox.push_document(lease, update), Pushed::Dropped);
    assert_eq!(outbox.try_frames().unwrap(), [HocuspocusMessage::PermissionDenied(&close.reason()).encode("doc")]);
}
