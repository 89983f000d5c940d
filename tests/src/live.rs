//! A server in this process and raw sockets to it: what the tests say and hear is bytes on a real WebSocket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use syncline_log::memory::MemoryStore;
use syncline_log::store::{Store, StoreError, Stored, Write};
use syncline_protocol::hocuspocus::{self, End, Frame};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket;
use syncline_server::auth::{Access, AccessRequest, Authorize, Grant, OpenToAll};
use syncline_server::config::{Config, RawConfig};
use syncline_server::{Listener, Server};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};
use yrs::{Doc, Text, Transact};

use crate::PATIENCE;

/// Settings for a test: any free port.
pub fn settings() -> Config {
    let raw = RawConfig { listen: Some("127.0.0.1:0".parse().unwrap()), ..RawConfig::default() };
    raw.check().unwrap()
}

/// A server with [`settings`], open to all.
pub async fn start(store: Arc<dyn Store>) -> Server {
    start_with(&settings(), store, Arc::new(OpenToAll)).await
}

/// A server on any free port, on this store, with this authorization.
pub async fn start_with(config: &Config, store: Arc<dyn Store>, auth: Arc<dyn Authorize>) -> Server {
    let listener = Listener::bind(config.listen).await.expect("the address is free");
    Server::start(listener, config, store, auth)
}

/// What came over a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
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
    tokio::time::timeout(PATIENCE, wait).await.expect("it is heard in time")
}

/// A WebSocket client that sends and receives the bytes of messages, in any dialect.
pub struct Socket {
    socket: WebSocketStream<TcpStream>,
}

impl Socket {
    /// `path` with its leading slash.
    pub async fn open(server: &Server, path: &str) -> Self {
        let tcp = TcpStream::connect(server.address()).await.expect("connects");
        Self::over(tcp, server, path).await
    }

    /// Upgrades a TCP connection. `path` with its leading slash.
    pub async fn over(tcp: TcpStream, server: &Server, path: &str) -> Self {
        tcp.set_nodelay(true).unwrap();
        let request = format!("ws://{}{path}", server.address()).into_client_request().expect("a request");
        Self::of(client_async(request, tcp).await.expect("upgrades").0)
    }

    /// One that is open.
    pub fn of(socket: WebSocketStream<TcpStream>) -> Self {
        Self { socket }
    }

    /// Sends a binary message. Whether the server has closed is seen by what is received.
    pub async fn send(&mut self, frame: impl Into<Bytes>) {
        // A server that has closed in the meantime is seen by what is heard.
        self.socket.send(Message::Binary(frame.into())).await.ok();
    }

    /// Sends a text message, which no dialect has.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.ok();
    }

    /// The next message, within [`PATIENCE`].
    pub async fn hear(&mut self) -> Heard {
        in_time(self.next()).await
    }

    /// However long it takes.
    pub async fn next(&mut self) -> Heard {
        loop {
            return match self.socket.next().await {
                Some(Ok(Message::Binary(frame))) => Heard::Frame(frame),
                Some(Ok(Message::Close(Some(frame)))) => {
                    Heard::Closed { code: frame.code.into(), reason: frame.reason.to_string() }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(other)) => panic!("unexpected {other:?}"),
                Some(Err(_)) | None => Heard::Cut,
            };
        }
    }

    /// The code and the reason of the close frame; messages before it are skipped.
    pub async fn hear_close(&mut self) -> (u16, String) {
        in_time(async {
            loop {
                match self.next().await {
                    Heard::Closed { code, reason } => return (code, reason),
                    Heard::Cut => panic!("cut without a close frame"),
                    Heard::Frame(_) => {}
                }
            }
        })
        .await
    }

    /// y-websocket: a sync message.
    pub async fn sync(&mut self, message: SyncMessage<'_>) {
        self.send(ywebsocket::Message::Sync(message).encode()).await;
    }

    /// y-websocket: the next sync message's type (0, 1, 2) and payload; presence is skipped.
    pub async fn hear_sync(&mut self) -> (u8, Vec<u8>) {
        // In all, not for each frame: a server that keeps silent still sends heartbeats.
        in_time(self.next_sync()).await
    }

    async fn next_sync(&mut self) -> (u8, Vec<u8>) {
        loop {
            let Heard::Frame(frame) = self.next().await else { panic!("closed while waiting for a sync message") };
            match ywebsocket::Message::decode(&frame).expect("one message a frame") {
                ywebsocket::Message::Sync(SyncMessage::Step1(payload)) => return (0, payload.to_vec()),
                ywebsocket::Message::Sync(SyncMessage::Step2(payload)) => return (1, payload.to_vec()),
                ywebsocket::Message::Sync(SyncMessage::Update(payload)) => return (2, payload.to_vec()),
                _ => {}
            }
        }
    }

    /// y-websocket: joins with an empty state vector; returns the step 2 the server answers with.
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

    /// Hocuspocus: says `message` at `address`.
    pub async fn say(&mut self, address: &str, message: hocuspocus::Message<'_>) {
        self.send(message.encode(address)).await;
    }

    /// Hocuspocus: opens a document and syncs as the provider does, until the server has acknowledged the step 2.
    pub async fn enter(&mut self, address: &str, token: &str) {
        self.say(address, hocuspocus::Message::Token { token, version: Some("4.8.0") }).await;
        self.say(address, hocuspocus::Message::Sync(SyncMessage::Step1(&[0]))).await;
        self.say(address, hocuspocus::Message::Sync(SyncMessage::Step2(&[0, 0]))).await;
        self.hear_until(|at, message| at == address && *message == hocuspocus::Message::SyncStatus(true)).await;
    }

    /// Hocuspocus: hears frames until `wanted` says yes to one.
    pub async fn hear_until(&mut self, mut wanted: impl FnMut(&str, &hocuspocus::Message<'_>) -> bool) {
        in_time(async {
            loop {
                let Heard::Frame(frame) = self.next().await else { panic!("closed while waiting for a message") };
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

/// One update: client `client` types `text` into an empty document.
pub fn typed(client: u64, text: &str) -> Vec<u8> {
    let doc = Doc::with_client_id(client);
    let root = doc.get_or_insert_text("text");
    let mut txn = doc.transact_mut();
    root.insert(&mut txn, 0, text);
    txn.encode_update_v1()
}

/// The token says what it grants.
pub struct ByWord;

impl Authorize for ByWord {
    fn authorize(&self, request: AccessRequest) -> Access {
        let access = match request.token.as_deref() {
            Some("write") => Ok(Grant::ReadWrite.into()),
            Some("read") => Ok(Grant::Read.into()),
            _ => Err("this token opens nothing".to_owned()),
        };
        Box::pin(std::future::ready(access))
    }
}

/// A store whose documents cannot be read for a while.
#[derive(Default)]
pub struct UnreadableStore {
    /// The documents.
    pub store: MemoryStore,
    /// Written by the test: while true, every load fails.
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
