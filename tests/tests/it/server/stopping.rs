//! The server stops in bounded time, whatever its sessions wait for.

use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_server::auth::{Access, AccessRequest, Authorize, Grant};
use syncline_tests::live::{Socket, settings, start_with};
use tokio::sync::Notify;

/// Grants access, but never decides about the document "undecided".
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
async fn session_waiting_for_its_grant_does_not_delay_the_stop() {
    let asked = Arc::new(Notify::new());
    let auth = Arc::new(Undecided { asked: Arc::clone(&asked) });
    let server = start_with(&settings(), Arc::new(MemoryStore::new()), auth).await;
    let mut socket = Socket::open(&server, "/").await;
    for name in ["decided", "undecided"] {
        socket.send_to(name, HocuspocusMessage::Token { token: "", version: None }).await;
    }
    asked.notified().await;
    tokio::time::timeout(Duration::from_secs(20), server.stop()).await.expect("it stops").unwrap();
}
