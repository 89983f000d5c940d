//! One bare connection to one document, in any dialect: enough to join, send updates and hear what became of them.

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
/// The largest message taken.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
const EMPTY_UPDATE: [u8; 2] = [0, 0];
const EMPTY_STATE_VECTOR: [u8; 1] = [0];
const CHANNEL: u64 = 1;

/// How a link speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tongue {
    /// Syncline's own: an Ack names a batch.
    Native,
    /// A SyncStatus answers each update, in order.
    Hocuspocus,
    /// The update comes back.
    YWebsocket,
}

impl Tongue {
    /// All of them.
    pub const ALL: [Tongue; 3] = [Tongue::Native, Tongue::Hocuspocus, Tongue::YWebsocket];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Tongue::Native => "native",
            Tongue::Hocuspocus => "hocuspocus",
            Tongue::YWebsocket => "y-websocket",
        }
    }
}

/// What was heard of our own updates, by the number that [`Link::send`] was given.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// These are saved.
    Saved(Vec<usize>),
    /// This one was not taken: the code if there is one, the reason.
    Refused(usize, String),
    /// The document or the connection was closed, with code and reason.
    Closed(u16, String),
    /// An update by somebody else.
    Theirs,
    /// Nothing of interest.
    Nothing,
}

/// The connection.
pub struct Link {
    tongue: Tongue,
    document: String,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Sent and not answered: our number (none for the join's own message), the update to recognise its echo.
    waiting: VecDeque<(Option<usize>, Bytes)>,
    next_batch: u64,
    /// The native batch of the first in `waiting`.
    first_batch: u64,
}

impl Link {
    /// Connects, and gives what the document holds as one update.
    pub async fn join(tongue: Tongue, url: &str, document: &str) -> Result<(Self, Bytes)> {
        let joined = timeout(JOIN_LIMIT, Self::try_join(tongue, url, document)).await;
        joined.with_context(|| format!("joining {document} took too long"))?
    }

    async fn try_join(tongue: Tongue, url: &str, document: &str) -> Result<(Self, Bytes)> {
        let config = WebSocketConfig::default()
            .read_buffer_size(16 << 10)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let address = if tongue == Tongue::YWebsocket { format!("{url}/{document}") } else { url.to_owned() };
        let (socket, _) = connect_async_with_config(&address, Some(config), true).await.context("cannot connect")?;
        let waiting = VecDeque::new();
        let document = document.to_owned();
        let mut link = Self { tongue, document, socket, waiting, next_batch: 1, first_batch: 1 };
        let state = if tongue == Tongue::Native { link.open().await? } else { link.sync().await? };
        Ok((link, state))
    }

    async fn open(&mut self) -> Result<Bytes> {
        self.say(ToServer::Hello { version: VERSION, device: rand::random() }).await?;
        let document = self.document.clone();
        let open = ToServer::Open {
            channel: CHANNEL,
            document: &document,
            token: "",
            cursor: None,
            wants_state_vector: false,
        };
        self.say(open).await?;
        loop {
            let frame = self.frame().await?;
            match ToClient::decode(&frame)? {
                ToClient::Opened { resume: Resume::SendStateVector, .. } => {
                    self.say(ToServer::StateVector { channel: CHANNEL, state_vector: &EMPTY_STATE_VECTOR }).await?;
                }
                ToClient::Diff { update, .. } => return Ok(frame.slice_ref(update)),
                ToClient::Closed { code, reason, .. } => bail!("the document is closed: {reason} ({code})"),
                _ => {}
            }
        }
    }

    async fn sync(&mut self) -> Result<Bytes> {
        if self.tongue == Tongue::Hocuspocus {
            let token = hocuspocus::Message::Token { token: "", version: None }.encode(&self.document);
            self.socket.feed(Message::binary(token)).await?;
        }
        self.tell(SyncMessage::Step1(&EMPTY_STATE_VECTOR)).await?;
        let (mut asked, mut state) = (false, None);
        loop {
            if let Some(state) = state.as_ref().filter(|_| asked) {
                return Ok(Bytes::clone(state));
            }
            let frame = self.frame().await?;
            match self.sync_of(&frame)? {
                Some(SyncMessage::Step1(_)) => {
                    asked = true;
                    if self.tongue == Tongue::Hocuspocus {
                        self.waiting.push_back((None, Bytes::new()));
                    }
                    self.tell(SyncMessage::Step2(&EMPTY_UPDATE)).await?;
                }
                Some(SyncMessage::Step2(update)) => state = Some(frame.slice_ref(update)),
                Some(SyncMessage::Update(_)) => {}
                None => {
                    let news = self.news(&frame)?;
                    if let News::Closed(code, reason) = news {
                        bail!("the document is closed: {reason} ({code})");
                    }
                }
            }
        }
    }

    /// Sends an update; `number` is ours.
    pub async fn send(&mut self, number: usize, update: &Bytes) -> Result<()> {
        self.waiting.push_back((Some(number), update.clone()));
        if self.tongue == Tongue::Native {
            let batch = self.next_batch;
            self.next_batch += 1;
            return self.say(ToServer::Change { channel: CHANNEL, batch, update }).await;
        }
        self.tell(SyncMessage::Update(update)).await
    }

    /// Sends again what an earlier connection may have sent; then [`Link::sent_again`]. In y-websocket what comes back of it
    /// may be the earlier connection's copy, relayed before it was on any disk: it proves nothing.
    pub async fn send_again(&mut self, number: usize, update: &Bytes) -> Result<()> {
        if self.tongue != Tongue::YWebsocket {
            return self.send(number, update).await;
        }
        self.waiting.push_back((Some(number), Bytes::new()));
        self.tell(SyncMessage::Update(update)).await
    }

    /// Follows what was sent again: an update without content is echoed like any other, and relayed to nobody.
    pub async fn sent_again(&mut self) -> Result<()> {
        if self.tongue != Tongue::YWebsocket {
            return Ok(());
        }
        self.waiting.push_back((None, Bytes::from_static(&EMPTY_UPDATE)));
        self.tell(SyncMessage::Update(&EMPTY_UPDATE)).await
    }

    /// How many of our updates are not answered.
    pub fn unanswered(&self) -> usize {
        self.waiting.len()
    }

    /// What comes next. Cancel-safe. An error: the connection is gone without a word.
    pub async fn hear(&mut self) -> Result<News> {
        match self.socket.next().await {
            Some(Ok(Message::Binary(frame))) => {
                if self.tongue == Tongue::Hocuspocus && Frame::decode(&frame, End::Client)? == Frame::Ping {
                    self.socket.send(Message::Binary(Bytes::from_static(&PONG_FRAME))).await?;
                }
                self.news(&frame)
            }
            Some(Ok(Message::Close(Some(close)))) => Ok(News::Closed(close.code.into(), close.reason.to_string())),
            Some(Ok(Message::Close(None))) | None => bail!("the connection ended"),
            Some(Ok(_)) => Ok(News::Nothing),
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn news(&mut self, frame: &[u8]) -> Result<News> {
        match self.tongue {
            Tongue::Native => Ok(self.native_news(&ToClient::decode(frame)?)),
            Tongue::Hocuspocus => self.hocuspocus_news(frame),
            Tongue::YWebsocket => Ok(match ywebsocket::Message::decode(frame)? {
                ywebsocket::Message::Sync(SyncMessage::Update(update)) => self.echo(update),
                ywebsocket::Message::PermissionDenied(reason) => News::Closed(0, reason.to_owned()),
                _ => News::Nothing,
            }),
        }
    }

    fn native_news(&mut self, message: &ToClient<'_>) -> News {
        match *message {
            ToClient::Ack { batch, .. } => {
                let count = batch.saturating_sub(self.first_batch - 1).min(self.waiting.len() as u64);
                self.first_batch += count;
                News::Saved(self.waiting.drain(..count as usize).filter_map(|(number, _)| number).collect())
            }
            ToClient::Refused { batch, code, reason, .. } => {
                // Answers come in order, so it is the first one.
                self.first_batch = batch + 1;
                match self.waiting.pop_front() {
                    Some((Some(number), _)) => News::Refused(number, format!("{code} {reason}")),
                    _ => News::Nothing,
                }
            }
            ToClient::Closed { code, reason, .. } => News::Closed(code, reason.to_owned()),
            ToClient::Change { .. } | ToClient::Diff { .. } => News::Theirs,
            _ => News::Nothing,
        }
    }

    fn hocuspocus_news(&mut self, frame: &[u8]) -> Result<News> {
        let Frame::Addressed { message, .. } = Frame::decode(frame, End::Client)? else { return Ok(News::Nothing) };
        Ok(match message {
            hocuspocus::Message::SyncStatus(saved) => match self.waiting.pop_front() {
                Some((Some(number), _)) if saved => News::Saved(vec![number]),
                Some((Some(number), _)) => News::Refused(number, "SyncStatus(0)".into()),
                _ => News::Nothing,
            },
            hocuspocus::Message::Sync(SyncMessage::Update(_) | SyncMessage::Step2(_)) => News::Theirs,
            hocuspocus::Message::PermissionDenied(reason) | hocuspocus::Message::Close(reason) => {
                News::Closed(0, reason.to_owned())
            }
            _ => News::Nothing,
        })
    }

    fn echo(&mut self, update: &[u8]) -> News {
        let Some(at) = self.waiting.iter().position(|(_, sent)| sent == update) else { return News::Theirs };
        News::Saved(self.waiting.drain(..=at).filter_map(|(number, _)| number).collect())
    }

    fn sync_of<'a>(&self, frame: &'a [u8]) -> Result<Option<SyncMessage<'a>>> {
        Ok(match self.tongue {
            Tongue::YWebsocket => match ywebsocket::Message::decode(frame)? {
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

    async fn say(&mut self, message: ToServer<'_>) -> Result<()> {
        Ok(self.socket.send(Message::binary(message.encode())).await?)
    }

    async fn tell(&mut self, message: SyncMessage<'_>) -> Result<()> {
        let frame = match self.tongue {
            Tongue::YWebsocket => ywebsocket::Message::Sync(message).encode(),
            _ => hocuspocus::Message::Sync(message).encode(&self.document),
        };
        Ok(self.socket.send(Message::binary(frame)).await?)
    }

    async fn frame(&mut self) -> Result<Bytes> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(frame))) => return Ok(frame),
                Some(Ok(Message::Close(Some(close)))) => {
                    bail!("the server closed: {} ({})", close.reason, u16::from(close.code))
                }
                Some(Ok(Message::Close(None))) | None => bail!("the connection ended"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }
}
