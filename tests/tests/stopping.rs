//! The server stops in bounded time, whatever its sessions are waiting for.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/hostile_updates.rs"]
mod hostile_updates;
#[path = "support/live.rs"]
mod live;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hostile_updates::{holes, line};
use live::{Socket, settings, start_with, typed};
use syncline_log::memory::MemoryStore;
use syncline_log::{Log, Store};
use syncline_protocol::hocuspocus::Message;
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_server::auth::{Access, AccessRequest, Authorize, Grant};
use syncline_server::document::DocumentOptions;
use syncline_server::document::event::{Event, Origin};
use syncline_server::document::frame::Framing;
use syncline_server::metrics::Metrics;
use syncline_server::outbox::Outbox;
use syncline_server::registry::Registry;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Never decides about the document "undecided".
struct Undecided {
    asked: Arc<Notify>,
}

impl Authorize for Undecided {
    fn authorize(&self, request: AccessRequest) -> Access {
        if request.document.as_str() == "undecided" {
            self.asked.notify_one();
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(Ok(Grant::ReadWrite.into())))
    }
}

#[tokio::test]
async fn a_session_that_waits_for_its_grant_for_ever_does_not_hold_up_the_stop() {
    let asked = Arc::new(Notify::new());
    let auth = Arc::new(Undecided { asked: Arc::clone(&asked) });
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), auth).await;
    let mut socket = Socket::open(&server, "/").await;
    for name in ["decided", "undecided"] {
        socket.say(name, Message::Token { token: "", version: None }).await;
    }
    asked.notified().await;
    tokio::time::timeout(Duration::from_secs(20), server.stop()).await.expect("it stops").unwrap();
}

/// 20,000 deletions in a text of 4 MB are half a minute of work, and may take ten here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_gives_up_an_update_in_progress_and_what_is_queued_behind_it() {
    let store = Arc::new(MemoryStore::new());
    let options = DocumentOptions { work: Duration::from_secs(600), ..DocumentOptions::new(Duration::from_secs(600)) };
    let log = Log::start(Arc::clone(&store) as Arc<dyn Store>);
    let registry = Registry::new(log.clone(), options, Arc::new(Metrics::default()));
    let document = DocumentName::parse("doc").unwrap();
    let lease = registry.open(&document);
    lease.begin(Arc::new(Outbox::new(1 << 20)), Framing::YWebsocket).await.unwrap();
    let text = Bytes::from(line(1, 4_000_000));
    let send = async |update: Bytes| {
        let bytes = update.len();
        let event = Event::Update { lease: lease.id(), update, origin: Origin::Change, batch: 0 };
        lease.send(event, bytes).await.unwrap();
    };
    send(text.clone()).await;
    // Logged before the deletions come: what a turn takes in is logged at its end.
    while store.commits().is_empty() {
        tokio::task::yield_now().await;
    }
    for update in [holes(1, 20_000), holes(1, 20_000), typed(9, "behind")] {
        send(update.into()).await;
    }
    drop(lease);
    let stopped = tokio::time::timeout(Duration::from_secs(30), registry.stop(Instant::now()));
    stopped.await.expect("the stop does not wait for the work");
    log.close().await;
    let stored = store.load(&document).unwrap().unwrap();
    let last = stored.last();
    let kept = stored.snapshot.map(|snapshot| snapshot.update).or(stored.records.first().map(|it| it.update.clone()));
    assert_eq!((last, kept == Some(text)), (Seq(1), true), "what was logged is kept, no more");
}
