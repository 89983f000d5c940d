//! A bare connection to a server under test, in either dialect: enough to join a document, send updates and see
//! what comes back, and nothing that would cost the generator more than the server.

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

/// Largest message taken.
const MAX_MESSAGE_BYTES: usize = 256 * 1024 * 1024;

// Readers are many; their messages are small.
const READ_BUFFER_BYTES: usize = 16 * 1024;

/// An update, and a state vector, without content.
const EMPTY_UPDATE: [u8; 2] = [0, 0];
const EMPTY_STATE_VECTOR: [u8; 1] = [0];

/// The socket.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Which document, where, how.
#[derive(Debug, Clone)]
pub struct Target {
    /// `ws://host:port`.
    pub url: String,
    /// The document name.
    pub document: String,
    /// The wire format.
    pub dialect: Dialect,
    /// The token, if the server wants one.
    pub token: Option<String>,
}

/// What matters of a received frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Document data: an update or the answer to our question.
    Update {
        /// The bytes.
        update: &'a [u8],
        /// It answers our question.
        answer: bool,
    },
    /// The server's question.
    Question,
    /// SyncStatus.
    Status {
        /// Saved, or refused.
        saved: bool,
    },
    /// The server will not have us.
    Denied(&'a str),
    /// A bare ping that wants a bare pong.
    Ping,
    /// Anything else.
    Other,
}

impl Target {
    /// Connects and joins: returns when the server has answered our question and we its own. The server's copy of
    /// the document must be empty. Gives the socket and the number of acks still to come for the joining itself.
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
        let (mut asked, mut answered, mut acks) = (false, false, 0);
        while !(asked && answered) {
            let frame = next_frame(&mut socket).await?;
            match self.hear(&frame)? {
                Heard::Question => {
                    asked = true;
                    acks += usize::from(self.dialect == Dialect::Hocuspocus);
                    socket.send(self.message(SyncMessage::Step2(&EMPTY_UPDATE))).await?;
                }
                Heard::Update { update, answer } => {
                    ensure!(
                        update == EMPTY_UPDATE,
                        "the document \"{}\" is not empty on this server; choose another with --document",
                        self.document
                    );
                    answered |= answer;
                }
                Heard::Status { saved } => {
                    ensure!(saved, "the server refuses writes to \"{}\"", self.document);
                    acks = acks.saturating_sub(1);
                }
                Heard::Denied(reason) => bail!("the server refused: {reason}"),
                Heard::Ping => socket.send(pong()).await?,
                Heard::Other => {}
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

    /// The message that tells of an update.
    pub fn update(&self, update: &[u8]) -> Message {
        self.message(SyncMessage::Update(update))
    }

    fn message(&self, sync: SyncMessage<'_>) -> Message {
        Message::binary(match self.dialect {
            Dialect::YWebsocket => ywebsocket::Message::Sync(sync).encode(),
            Dialect::Hocuspocus => hocuspocus::Message::Sync(sync).encode(&self.document),
        })
    }

    /// What a frame says.
    pub fn hear<'a>(&self, frame: &'a [u8]) -> Result<Heard<'a>> {
        let sync = match self.dialect {
            Dialect::YWebsocket => match ywebsocket::Message::decode(frame)? {
                ywebsocket::Message::Sync(sync) => sync,
                ywebsocket::Message::PermissionDenied(reason) => return Ok(Heard::Denied(reason)),
                _ => return Ok(Heard::Other),
            },
            Dialect::Hocuspocus => match Frame::decode(frame, End::Client)? {
                Frame::Ping => return Ok(Heard::Ping),
                Frame::Pong => return Ok(Heard::Other),
                Frame::Addressed { message, .. } => match message {
                    hocuspocus::Message::Sync(sync) | hocuspocus::Message::SyncReply(sync) => sync,
                    hocuspocus::Message::SyncStatus(saved) => return Ok(Heard::Status { saved }),
                    hocuspocus::Message::PermissionDenied(reason) => return Ok(Heard::Denied(reason)),
                    hocuspocus::Message::Close(reason) => bail!("the server closed the document: {reason}"),
                    _ => return Ok(Heard::Other),
                },
            },
        };
        Ok(match sync {
            SyncMessage::Step1(_) => Heard::Question,
            SyncMessage::Step2(update) => Heard::Update { update, answer: true },
            SyncMessage::Update(update) => Heard::Update { update, answer: false },
        })
    }
}

/// The answer to [`Heard::Ping`].
pub fn pong() -> Message {
    Message::Binary(Bytes::from_static(&PONG_FRAME))
}

/// The next frame with content. That the server closes is an error.
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
