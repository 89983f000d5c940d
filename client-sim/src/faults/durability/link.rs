//! One minimal connection to one document, in any dialect: joins, sends updates and receives their acknowledgements.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use syncline_protocol::hocuspocus::{self, End, Frame, PONG_FRAME};
use syncline_protocol::native::{Resume, ToClient, ToServer, VERSION};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// Longest wait for connecting and joining.
const JOIN_LIMIT: Duration = Duration::from_secs(30);
/// Largest message accepted.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
const EMPTY_UPDATE: [u8; 2] = [0, 0];
const EMPTY_STATE_VECTOR: [u8; 1] = [0];
const CHANNEL: u64 = 1;

/// Wire protocol of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Syncline's native protocol: an Ack names a batch.
    Native,
    /// Hocuspocus: a SyncStatus answers each update, in order.
    Hocuspocus,
    /// y-websocket: the server echoes the update.
    YWebsocket,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Dialect; 3] = [Dialect::Native, Dialect::Hocuspocus, Dialect::YWebsocket];

    /// Name of the dialect in reports.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Native => "native",
            Dialect::Hocuspocus => "hocuspocus",
            Dialect::YWebsocket => "y-websocket",
        }
    }
}

/// An event of a link. Own updates are identified by the number that was passed to [`Link::send`].
#[derive(Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The server saved these updates.
    Saved(Vec<usize>),
    /// The server refused this update: the code if there is one, the reason.
    Refused(usize, String),
    /// The document or the connection was closed, with code and reason.
    Closed(u16, String),
    /// An update of another client.
    RemoteUpdate,
    /// Any other message.
    Other,
}

/// A connection.
pub struct Link {
    dialect: Dialect,
    document: String,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Unanswered updates: the caller's number (`None` for messages of the link itself), and the update, to recognise its
    /// echo.
    unanswered: VecDeque<(Option<usize>, Bytes)>,
    next_batch: u64,
    /// The native batch of the first in `unanswered`.
    first_batch: u64,
}

impl Link {
    /// Connects, joins the document, and returns its content as one update.
    pub async fn join(dialect: Dialect, url: &str, document: &str) -> Result<(Self, Bytes)> {
        let joined = timeout(JOIN_LIMIT, Self::try_join(dialect, url, document)).await;
        joined.with_context(|| format!("joining {document} timed out"))?
    }

    async fn try_join(dialect: Dialect, url: &str, document: &str) -> Result<(Self, Bytes)> {
        let config = WebSocketConfig::default()
            .read_buffer_size(16 << 10)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let address = if dialect == Dialect::YWebsocket { format!("{url}/{document}") } else { url.to_owned() };
        let (socket, _) = connect_async_with_config(&address, Some(config), true).await.context("cannot connect")?;
        let unanswered = VecDeque::new();
        let document = document.to_owned();
        let mut link = Self { dialect, document, socket, unanswered, next_batch: 1, first_batch: 1 };
        let state = if dialect == Dialect::Native { link.open_native().await? } else { link.sync().await? };
        Ok((link, state))
    }

    async fn open_native(&mut self) -> Result<Bytes> {
        self.send_native(ToServer::Hello { version: VERSION, device: rand::random() }).await?;
        let document = self.document.clone();
        let open = ToServer::Open {
            channel: CHANNEL,
            document: &document,
            token: "",
            cursor: None,
            wants_state_vector: false,
        };
        self.send_native(open).await?;
        loop {
            let frame = self.next_frame().await?;
            match ToClient::decode(&frame)? {
                ToClient::Opened { resume: Resume::SendStateVector, .. } => {
                    self.send_native(ToServer::StateVector { channel: CHANNEL, state_vector: &EMPTY_STATE_VECTOR })
                        .await?;
                }
                ToClient::Diff { update, .. } => return Ok(frame.slice_ref(update)),
                ToClient::Closed { code, reason, .. } => bail!("the document is closed: {reason} ({code})"),
                _ => {}
            }
        }
    }

    async fn sync(&mut self) -> Result<Bytes> {
        if self.dialect == Dialect::Hocuspocus {
            let token = hocuspocus::Message::Token { token: "", version: None }.encode(&self.document);
            self.socket.feed(Message::binary(token)).await?;
        }
        self.send_sync(SyncMessage::Step1(&EMPTY_STATE_VECTOR)).await?;
        let (mut got_step_1, mut state) = (false, None);
        loop {
            if let Some(state) = state.as_ref().filter(|_| got_step_1) {
                return Ok(Bytes::clone(state));
            }
            let frame = self.next_frame().await?;
            match self.decode_sync(&frame)? {
                Some(SyncMessage::Step1(_)) => {
                    got_step_1 = true;
                    if self.dialect == Dialect::Hocuspocus {
                        self.unanswered.push_back((None, Bytes::new()));
                    }
                    self.send_sync(SyncMessage::Step2(&EMPTY_UPDATE)).await?;
                }
                Some(SyncMessage::Step2(update)) => state = Some(frame.slice_ref(update)),
                Some(SyncMessage::Update(_)) => {}
                None => {
                    if let LinkEvent::Closed(code, reason) = self.decode(&frame)? {
                        bail!("the document is closed: {reason} ({code})");
                    }
                }
            }
        }
    }

    /// Sends an update; `number` identifies it in events.
    pub async fn send(&mut self, number: usize, update: &Bytes) -> Result<()> {
        self.unanswered.push_back((Some(number), update.clone()));
        if self.dialect == Dialect::Native {
            let batch = self.next_batch;
            self.next_batch += 1;
            return self.send_native(ToServer::Change { channel: CHANNEL, batch, update }).await;
        }
        self.send_sync(SyncMessage::Update(update)).await
    }

    /// Sends an update again that an earlier connection may have sent; afterwards call [`Link::finish_resend`]. In y-websocket
    /// its echo may be a relayed copy from the earlier connection, sent before it was on disk, so it proves nothing.
    pub async fn resend(&mut self, number: usize, update: &Bytes) -> Result<()> {
        if self.dialect != Dialect::YWebsocket {
            return self.send(number, update).await;
        }
        self.unanswered.push_back((Some(number), Bytes::new()));
        self.send_sync(SyncMessage::Update(update)).await
    }

    /// Ends a series of [`Link::resend`]: sends an empty update, which is echoed like any other but not relayed.
    pub async fn finish_resend(&mut self) -> Result<()> {
        if self.dialect != Dialect::YWebsocket {
            return Ok(());
        }
        self.unanswered.push_back((None, Bytes::from_static(&EMPTY_UPDATE)));
        self.send_sync(SyncMessage::Update(&EMPTY_UPDATE)).await
    }

    /// Number of own updates that are not answered.
    pub fn unanswered_count(&self) -> usize {
        self.unanswered.len()
    }

    /// Waits for the next event. Cancel-safe. An error means that the connection was lost without a close frame.
    pub async fn next_event(&mut self) -> Result<LinkEvent> {
        match self.socket.next().await {
            Some(Ok(Message::Binary(frame))) => {
                if self.dialect == Dialect::Hocuspocus && Frame::decode(&frame, End::Client)? == Frame::Ping {
                    self.socket.send(Message::Binary(Bytes::from_static(&PONG_FRAME))).await?;
                }
                self.decode(&frame)
            }
            Some(Ok(Message::Close(Some(close)))) => Ok(LinkEvent::Closed(close.code.into(), close.reason.to_string())),
            Some(Ok(Message::Close(None))) | None => bail!("the connection ended"),
            Some(Ok(_)) => Ok(LinkEvent::Other),
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn decode(&mut self, frame: &[u8]) -> Result<LinkEvent> {
        match self.dialect {
            Dialect::Native => Ok(self.handle_native(&ToClient::decode(frame)?)),
            Dialect::Hocuspocus => self.decode_hocuspocus(frame),
            Dialect::YWebsocket => Ok(match ywebsocket::Message::decode(frame)? {
                ywebsocket::Message::Sync(SyncMessage::Update(update)) => self.match_echo(update),
                ywebsocket::Message::PermissionDenied(reason) => LinkEvent::Closed(0, reason.to_owned()),
                _ => LinkEvent::Other,
            }),
        }
    }

    fn handle_native(&mut self, message: &ToClient<'_>) -> LinkEvent {
        match *message {
            ToClient::Ack { batch, .. } => {
                let count = batch.saturating_sub(self.first_batch - 1).min(self.unanswered.len() as u64);
                self.first_batch += count;
                LinkEvent::Saved(self.unanswered.drain(..count as usize).filter_map(|(number, _)| number).collect())
            }
            ToClient::Refused { batch, code, reason, .. } => {
                // Answers arrive in order, so this one is for the first.
                self.first_batch = batch + 1;
                match self.unanswered.pop_front() {
                    Some((Some(number), _)) => LinkEvent::Refused(number, format!("{code} {reason}")),
                    _ => LinkEvent::Other,
                }
            }
            ToClient::Closed { code, reason, .. } => LinkEvent::Closed(code, reason.to_owned()),
            ToClient::Change { .. } | ToClient::Diff { .. } => LinkEvent::RemoteUpdate,
            _ => LinkEvent::Other,
        }
    }

    fn decode_hocuspocus(&mut self, frame: &[u8]) -> Result<LinkEvent> {
        let Frame::Addressed { message, .. } = Frame::decode(frame, End::Client)? else {
            return Ok(LinkEvent::Other);
        };
        Ok(match message {
            hocuspocus::Message::SyncStatus(saved) => match self.unanswered.pop_front() {
                Some((Some(number), _)) if saved => LinkEvent::Saved(vec![number]),
                Some((Some(number), _)) => LinkEvent::Refused(number, "SyncStatus(0)".into()),
                _ => LinkEvent::Other,
            },
            hocuspocus::Message::Sync(SyncMessage::Update(_) | SyncMessage::Step2(_)) => LinkEvent::RemoteUpdate,
            hocuspocus::Message::PermissionDenied(reason) | hocuspocus::Message::Close(reason) => {
                LinkEvent::Closed(0, reason.to_owned())
            }
            _ => LinkEvent::Other,
        })
    }

    fn match_echo(&mut self, update: &[u8]) -> LinkEvent {
        let Some(at) = self.unanswered.iter().position(|(_, sent)| sent == update) else {
            return LinkEvent::RemoteUpdate;
        };
        LinkEvent::Saved(self.unanswered.drain(..=at).filter_map(|(number, _)| number).collect())
    }

    fn decode_sync<'a>(&self, frame: &'a [u8]) -> Result<Option<SyncMessage<'a>>> {
        Ok(match self.dialect {
            Dialect::YWebsocket => match ywebsocket::Message::decode(frame)? {
                ywebsocket::Message::Sync(sync) => Some(sync),
                _ => None,
            },
            _ => match Frame::decode(frame, End::Client)? {
                Frame::Addressed {
                    message: hocuspocus::Message::Sync(sync) | hocuspocus::Message::SyncReply(sync),
                    ..
                } => Some(sync),
                _ => None,
            },
        })
    }

    async fn send_native(&mut self, message: ToServer<'_>) -> Result<()> {
        Ok(self.socket.send(Message::binary(message.encode())).await?)
    }

    async fn send_sync(&mut self, message: SyncMessage<'_>) -> Result<()> {
        let frame = match self.dialect {
            Dialect::YWebsocket => ywebsocket::Message::Sync(message).encode(),
            _ => hocuspocus::Message::Sync(message).encode(&self.document),
        };
        Ok(self.socket.send(Message::binary(frame)).await?)
    }

    async fn next_frame(&mut self) -> Result<Bytes> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(frame))) => return Ok(frame),
                Some(Ok(Message::Close(Some(close)))) => {
                    bail!("the server closed the connection: {} ({})", close.reason, u16::from(close.code))
                }
                Some(Ok(Message::Close(None))) | None => bail!("the connection ended"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }
}
