//! A server in the test's process, and WebSocket clients that send and receive encoded messages over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use syncline_log::memory::MemoryStore;
use syncline_log::store::{Store, StoreError, Stored, Write};
use syncline_protocol::hocuspocus::{End, Frame, HocuspocusMessage};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use syncline_server::auth::{Access, AccessRequest, Authorize, Grant, OpenToAll};
use syncline_server::config::{Config, RawConfig};
use syncline_server::{Listener, Server};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::{WebSocketStream, client_async};
use yrs::{Doc, Text, Transact};

use crate::PATIENCE;

/// The default configuration with a free port of the loopback interface.
pub fn settings() -> Config {
    let raw = RawConfig { listen: Some("127.0.0.1:0".parse().unwrap()), ..RawConfig::default() };
    raw.check().unwrap()
}

/// Starts a server with [`settings`] that grants everyone access.
pub async fn start(store: Arc<dyn Store>) -> Server {
    start_with(&settings(), store, Arc::new(OpenToAll)).await
}

/// Starts a server with this configuration, store and authorization.
pub async fn start_with(config: &Config, store: Arc<dyn Store>, auth: Arc<dyn Authorize>) -> Server {
    let listener = Listener::bind(config.listen).await.expect("the address is free");
    Server::start(listener, config, store, auth)
}

/// What a [`Socket`] received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A binary message.
    Frame(Bytes),
    /// A close frame.
    Closed {
        /// The close code.
        code: u16,
        /// The close reason.
        reason: String,
    },
    /// The connection ended without a close frame.
    Cut,
}

async fn in_time<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.expect("received in time")
}

/// A WebSocket client that sends and receives the bytes of messages, in any dialect.
pub struct Socket<S = TcpStream> {
    socket: WebSocketStream<S>,
}

impl Socket {
    /// Connects and upgrades. `path` starts with a slash.
    pub async fn open(server: &Server, path: &str) -> Self {
        let tcp = TcpStream::connect(server.address()).await.expect("connects");
        Self::over(tcp, server, path).await
    }

    /// Upgrades a TCP connection. `path` starts with a slash.
    pub async fn over(tcp: TcpStream, server: &Server, path: &str) -> Self {
        tcp.set_nodelay(true).unwrap();
        let request = format!("ws://{}{path}", server.address()).into_client_request().expect("a request");
        Self::with_request(tcp, request).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Upgrades a connection with this request.
    pub async fn with_request(stream: S, request: Request) -> Self {
        Self::from_websocket(client_async(request, stream).await.expect("upgrades").0)
    }

    /// Wraps an open WebSocket.
    pub fn from_websocket(socket: WebSocketStream<S>) -> Self {
        Self { socket }
    }

    /// Sends a binary message. Ignores a closed connection: the next receive reports it.
    pub async fn send(&mut self, frame: impl Into<Bytes>) {
        self.socket.send(Message::Binary(frame.into())).await.ok();
    }

    /// Sends a text message; no dialect uses them.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.ok();
    }

    /// Receives the next message within [`PATIENCE`].
    pub async fn receive(&mut self) -> Incoming {
        in_time(self.next()).await
    }

    /// Receives the next message, without a time limit.
    pub async fn next(&mut self) -> Incoming {
        loop {
            return match self.socket.next().await {
                Some(Ok(Message::Binary(frame))) => Incoming::Frame(frame),
                Some(Ok(Message::Close(Some(frame)))) => {
                    Incoming::Closed { code: frame.code.into(), reason: frame.reason.to_string() }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(other)) => panic!("unexpected {other:?}"),
                Some(Err(_)) | None => Incoming::Cut,
            };
        }
    }

    /// Receives the close frame and returns its code and reason; skips the messages before it.
    pub async fn receive_close(&mut self) -> (u16, String) {
        in_time(async {
            loop {
                match self.next().await {
                    Incoming::Closed { code, reason } => return (code, reason),
                    Incoming::Cut => panic!("cut without a close frame"),
                    Incoming::Frame(_) => {}
                }
            }
        })
        .await
    }

    /// y-websocket: sends a sync message.
    pub async fn sync(&mut self, message: SyncMessage<'_>) {
        self.send(YWebsocketMessage::Sync(message).encode()).await;
    }

    /// y-websocket: receives the next sync message and returns its type (0, 1, 2) and payload; skips awareness.
    pub async fn receive_sync(&mut self) -> (u8, Vec<u8>) {
        // One timeout for the whole wait, not for each frame: an otherwise silent server still sends heartbeats.
        in_time(self.next_sync()).await
    }

    async fn next_sync(&mut self) -> (u8, Vec<u8>) {
        loop {
            let Incoming::Frame(frame) = self.next().await else { panic!("closed while waiting for a sync message") };
            match YWebsocketMessage::decode(&frame).expect("one message per frame") {
                YWebsocketMessage::Sync(SyncMessage::Step1(payload)) => return (0, payload.to_vec()),
                YWebsocketMessage::Sync(SyncMessage::Step2(payload)) => return (1, payload.to_vec()),
                YWebsocketMessage::Sync(SyncMessage::Update(payload)) => return (2, payload.to_vec()),
                _ => {}
            }
        }
    }

    /// y-websocket: sends a step 1 with an empty state vector and returns the update of the server's step 2.
    pub async fn join(&mut self) -> Vec<u8> {
        self.sync(SyncMessage::Step1(&[0])).await;
        in_time(async {
            loop {
                if let (1, diff) = self.next_sync().await {
                    return diff;
                }
            }
        })
        .await
    }

    /// Hocuspocus: sends `message` to the document `address`.
    pub async fn send_to(&mut self, address: &str, message: HocuspocusMessage<'_>) {
        self.send(message.encode(address)).await;
    }

    /// Hocuspocus: opens a document and syncs like the provider, until the server acknowledges the step 2.
    pub async fn open_document(&mut self, address: &str, token: &str) {
        self.send_to(address, HocuspocusMessage::Token { token, version: Some("4.8.0") }).await;
        self.send_to(address, HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
        self.send_to(address, HocuspocusMessage::Sync(SyncMessage::Step2(&[0, 0]))).await;
        self.receive_until(|at, message| at == address && *message == HocuspocusMessage::SyncStatus(true)).await;
    }

    /// Hocuspocus: receives messages until `wanted` returns true for an address and a message.
    pub async fn receive_until(&mut self, mut wanted: impl FnMut(&str, &HocuspocusMessage<'_>) -> bool) {
        in_time(async {
            loop {
                let Incoming::Frame(frame) = self.next().await else { panic!("closed while waiting for a message") };
                if let Frame::Addressed { address, message } = Frame::decode(&frame, End::Client).expect("a message")
                    && wanted(address, &message)
                {
                    return;
                }
            }
        })
        .await;
    }
}

/// The update in which `client` types `text` into an empty document.
pub fn typed(client: u64, text: &str) -> Vec<u8> {
    let doc = Doc::with_client_id(client);
    let root = doc.get_or_insert_text("text");
    let mut txn = doc.transact_mut();
    root.insert(&mut txn, 0, text);
    txn.encode_update_v1()
}

/// Grants write access to the token `write` and read access to the token `read`; denies every other token.
pub struct GrantByToken;

impl Authorize for GrantByToken {
    fn authorize(&self, request: AccessRequest) -> Access {
        let access = match request.token.as_deref() {
            Some("write") => Ok(Grant::ReadWrite.into()),
            Some("read") => Ok(Grant::Read.into()),
            _ => Err("this token opens nothing".to_owned()),
        };
        Box::pin(std::future::ready(access))
    }
}

/// A memory store whose loads can be made to fail.
#[derive(Default)]
pub struct UnreadableStore {
    /// Holds the documents.
    pub store: MemoryStore,
    /// Set by the test. While true, every load fails.
    pub unreadable: AtomicBool,
}

impl Store for UnreadableStore {
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        self.store.commit(writes)
    }

    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        if self.unreadable.load(Ordering::Relaxed) {
            return Err(StoreError::Io("the disk does not answer".into()));
        }
        self.store.load(document)
    }

    fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        self.store.list()
    }
}
