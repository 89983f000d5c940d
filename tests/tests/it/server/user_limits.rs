//! Limits of each user, named by a token or a proxy: the number of connections, and the rate of all of them
//! together. Other users are not affected.

use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::MemoryStore;
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_server::Server;
use syncline_server::auth::{Access, AccessRequest, Admission, Authorize, Grant, OpenToAll};
use syncline_server::config::Config;
use syncline_tests::live::{Socket, settings, start_with, typed};
use syncline_tests::native_client::{Native, ServerMessage};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Time limit of every wait in a test; only a failing test reaches it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Grants write access to everyone; the token is the user's name.
struct UserFromToken;

impl Authorize for UserFromToken {
    fn authorize(&self, request: AccessRequest) -> Access {
        let user = request.token.as_deref().map(Into::into);
        Box::pin(std::future::ready(Ok(Admission { user, ..Grant::ReadWrite.into() })))
    }
}

async fn server(auth: Arc<dyn Authorize>, change: impl FnOnce(&mut Config)) -> Server {
    let mut config = settings();
    change(&mut config);
    start_with(&config, Arc::new(MemoryStore::new()), auth).await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("timed out waiting until {what}"));
}

/// Hocuspocus: opens `document` as `user`. Returns false if the server refuses it because of the user's limit.
async fn opens(socket: &mut Socket, document: &str, user: &str) -> bool {
    socket.send_to(document, HocuspocusMessage::Token { token: user, version: None }).await;
    let mut opened = false;
    socket
        .receive_until(|address, message| {
            opened = matches!(message, HocuspocusMessage::Authenticated(_));
            address == document
                && (opened || matches!(message, HocuspocusMessage::PermissionDenied(why) if why.contains("user")))
        })
        .await;
    opened
}

#[tokio::test]
async fn user_connection_limit_counts_connections_not_documents() {
    let server = server(Arc::new(UserFromToken), |config| config.limits.connections_per_user = 2).await;
    let (mut first, mut second) = (Socket::open(&server, "/").await, Socket::open(&server, "/").await);
    for document in ["a", "b", "c"] {
        assert!(opens(&mut first, document, "ada").await && opens(&mut second, document, "ada").await);
    }
    let mut third = Socket::open(&server, "/").await;
    assert!(!opens(&mut third, "a", "ada").await);
    assert_eq!(server.metrics().users_refused.get(), 1);
    // Only this user's document is refused; others connect.
    let mut other = Socket::open(&server, "/").await;
    assert!(opens(&mut other, "a", "ben").await);
    let mut native = Native::connect(&server).await;
    let open =
        |channel, token| ToServer::Open { channel, document: "a", token, cursor: None, wants_state_vector: false };
    native.send(open(0, "ada")).await;
    let refused = native.receive().await;
    assert!(matches!(&refused, ServerMessage::Closed { channel: 0, code: 4529, .. }), "{refused:?}");
    native.send(open(0, "ben")).await;
    assert!(matches!(native.receive().await, ServerMessage::Opened { .. }));

    // A connection stops counting when it ends, when a token names another user, and when its last document is closed.
    drop((first, third));
    until("one of ada's sessions has ended", || server.gate().sessions() == 3).await;
    let mut again = Socket::open(&server, "/").await;
    assert!(opens(&mut again, "a", "ada").await);
    assert!(opens(&mut again, "a", "cleo").await);
    let mut later = Socket::open(&server, "/").await;
    assert!(opens(&mut later, "a", "ada").await);
    later.send_to("a", HocuspocusMessage::Close("")).await;
    assert!(opens(&mut later, "b", "dora").await);
    let mut last = Socket::open(&server, "/").await;
    assert!(opens(&mut last, "a", "ada").await);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn user_named_in_a_proxy_header_is_limited() {
    let server = server(Arc::new(OpenToAll), |config| {
        config.user_header = Some("x-forwarded-user".parse().unwrap());
        config.limits.connections_per_user = 1;
    })
    .await;
    let open = async |user: &'static str| {
        let tcp = TcpStream::connect(server.address()).await.unwrap();
        let mut request = format!("ws://{}/doc", server.address()).into_client_request().unwrap();
        if !user.is_empty() {
            request.headers_mut().insert("X-Forwarded-User", user.parse().unwrap());
        }
        Socket::from_websocket(client_async(request, tcp).await.unwrap().0)
    };
    let mut ada = open("ada").await;
    ada.join().await;
    let (code, reason) = open("ada").await.receive_close().await;
    assert_eq!((code, reason.contains("user")), (4529, true), "{reason}");
    let mut ben = open("ben").await;
    ben.join().await;
    // Connections without a user are not limited.
    for _ in 0..3 {
        open("").await.join().await;
    }
    drop(ada);
    until("ada's session has ended", || server.gate().sessions() == 1).await;
    open("ada").await.join().await;
    ben.sync(SyncMessage::Update(&typed(1, "x"))).await;
    assert_eq!(server.metrics().users_refused.get(), 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn connections_of_one_user_share_one_rate() {
    let server = server(Arc::new(UserFromToken), |config| config.limits.rate_per_user.messages = 20).await;
    let mut both = [Socket::open(&server, "/").await, Socket::open(&server, "/").await];
    let mut sent = [0, 0];
    for socket in &mut both {
        assert!(opens(socket, "doc", "ada").await);
    }
    while server.metrics().pauses.get() == 0 {
        for (socket, sent) in both.iter_mut().zip(&mut sent) {
            socket.send_to("doc", HocuspocusMessage::Sync(SyncMessage::Update(&typed(*sent + 10, "x")))).await;
            *sent += 1;
        }
        tokio::task::yield_now().await;
    }
    // The burst is half a minute of the rate for both together, so each connection sends less than that.
    assert!(sent[0] < 600 && sent[0] + sent[1] >= 590, "{sent:?}");
    let mut other = Socket::open(&server, "/").await;
    assert!(opens(&mut other, "doc", "ben").await);
    assert_eq!(server.metrics().floods.get(), 0);
    server.stop().await.unwrap();
}
