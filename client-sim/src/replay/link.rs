//! A minimal connection to a server under test, in either dialect: joins a document, sends updates and decodes the server's
//! messages, with less CPU than the server needs.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use syncline_protocol::detect::Dialect;
use syncline_protocol::hocuspocus::{self, End, Frame, PONG_FRAME};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// Longest wait for connecting and joining.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Largest message accepted.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

// Small, because there are many readers and their messages are small.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// An empty update, and the state vector of an empty document.
const EMPTY_UPDATE: [u8; 2] = [0, 0];
const EMPTY_STATE_VECTOR: [u8; 1] = [0];

/// A WebSocket connection.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A document on a server, and how to connect to it.
#[derive(Debug, Clone)]
pub struct Target {
    /// `ws://host:port`.
    pub url: String,
    /// Name of the document.
    pub document: String,
    /// Wire protocol.
    pub dialect: Dialect,
    /// Token, if the server requires one.
    pub token: Option<String>,
}

/// A decoded frame of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// Document data: an update or a sync step 2.
    Update {
        /// The v1 update.
        update: &'a [u8],
        /// Whether it is a sync step 2.
        step_2: bool,
    },
    /// Sync step 1.
    SyncStep1,
    /// SyncStatus (Hocuspocus).
    Status {
        /// Whether the update was saved; false: it was refused.
        saved: bool,
    },
    /// The server denied access. Holds the reason.
    Denied(&'a str),
    /// An unaddressed ping (Hocuspocus), answered with an unaddressed pong.
    Ping,
    /// Any other message.
    Other,
}

impl Target {
    /// Connects and joins: returns when both sides have answered each other's sync step 1. The server's copy of the document
    /// must be empty. Returns the socket and the number of acknowledgements still to come for the join itself.
    pub async fn join(&self) -> Result<(Socket, usize)> {
        let joined = tokio::time::timeout(JOIN_TIMEOUT, self.try_join()).await;
        joined.with_context(|| format!("joining took longer than {} s", JOIN_TIMEOUT.as_secs()))?
    }

    async fn try_join(&self) -> Result<(Socket, usize)> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let url = self.address();
        let (mut socket, _) = connect_async_with_config(&url, Some(config), true)
            .await
            .with_context(|| format!("cannot connect to {url}"))?;
        if self.dialect == Dialect::Hocuspocus {
            let token = self.token.as_deref().unwrap_or_default();
            let message = hocuspocus::Message::Token { token, version: None }.encode(&self.document);
            socket.feed(Message::binary(message)).await?;
        }
        socket.send(self.message(SyncMessage::Step1(&EMPTY_STATE_VECTOR))).await?;
        let (mut got_step_1, mut got_step_2, mut acks) = (false, false, 0);
        while !(got_step_1 && got_step_2) {
            let frame = next_frame(&mut socket).await?;
            match self.decode(&frame)? {
                Received::SyncStep1 => {
                    got_step_1 = true;
                    acks += usize::from(self.dialect == Dialect::Hocuspocus);
                    socket.send(self.message(SyncMessage::Step2(&EMPTY_UPDATE))).await?;
                }
                Received::Update { update, step_2 } => {
                    ensure!(
                        update == EMPTY_UPDATE,
                        "the document \"{}\" is not empty on this server; choose another with --document",
                        self.document
                    );
                    got_step_2 |= step_2;
                }
                Received::Status { saved } => {
                    ensure!(saved, "the server refuses writes to \"{}\"", self.document);
                    acks = acks.saturating_sub(1);
                }
                Received::Denied(reason) => bail!("the server denied access: {reason}"),
                Received::Ping => socket.send(pong()).await?,
                Received::Other => {}
            }
        }
        Ok((socket, acks))
    }

    fn address(&self) -> String {
        match (self.dialect, &self.token) {
            (Dialect::Hocuspocus, _) => self.url.clone(),
            (Dialect::YWebsocket, None) => format!("{}/{}", self.url.trim_end_matches('/'), self.document),
            (Dialect::YWebsocket, Some(token)) => {
                format!("{}/{}?token={token}", self.url.trim_end_matches('/'), self.document)
            }
        }
    }

    /// The message that carries an update.
    pub fn update(&self, update: &[u8]) -> Message {
        self.message(SyncMessage::Update(update))
    }

    fn message(&self, sync: SyncMessage<'_>) -> Message {
        Message::binary(match self.dialect {
            Dialect::YWebsocket => ywebsocket::Message::Sync(sync).encode(),
            Dialect::Hocuspocus => hocuspocus::Message::Sync(sync).encode(&self.document),
        })
    }

    /// Decodes a frame of the server.
    pub fn decode<'a>(&self, frame: &'a [u8]) -> Result<Received<'a>> {
        let sync = match self.dialect {
            Dialect::YWebsocket => match ywebsocket::Message::decode(frame)? {
                ywebsocket::Message::Sync(sync) => sync,
                ywebsocket::Message::PermissionDenied(reason) => return Ok(Received::Denied(reason)),
                _ => return Ok(Received::Other),
            },
            Dialect::Hocuspocus => match Frame::decode(frame, End::Client)? {
                Frame::Ping => return Ok(Received::Ping),
                Frame::Pong => return Ok(Received::Other),
                Frame::Addressed { message, .. } => match message {
                    hocuspocus::Message::Sync(sync) | hocuspocus::Message::SyncReply(sync) => sync,
                    hocuspocus::Message::SyncStatus(saved) => return Ok(Received::Status { saved }),
                    hocuspocus::Message::PermissionDenied(reason) => return Ok(Received::Denied(reason)),
                    hocuspocus::Message::Close(reason) => bail!("the server closed the document: {reason}"),
                    _ => return Ok(Received::Other),
                },
            },
        };
        Ok(match sync {
            SyncMessage::Step1(_) => Received::SyncStep1,
            SyncMessage::Step2(update) => Received::Update { update, step_2: true },
            SyncMessage::Update(update) => Received::Update { update, step_2: false },
        })
    }
}

/// The answer to [`Received::Ping`].
pub fn pong() -> Message {
    Message::Binary(Bytes::from_static(&PONG_FRAME))
}

/// Returns the next binary frame. A close by the server is an error.
pub async fn next_frame<S>(socket: &mut S) -> Result<Bytes>
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(frame))) => return Ok(frame),
            Some(Ok(Message::Close(Some(frame)))) => {
                bail!("the server closed the connection: {} ({})", frame.reason, u16::from(frame.code))
            }
            Some(Ok(Message::Close(None))) | None => bail!("the server closed the connection"),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error).context("the connection was lost"),
        }
    }
}
