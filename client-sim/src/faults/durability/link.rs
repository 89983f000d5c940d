//! A client of one document over a Tokio socket: joins, sends updates and receives their acknowledgements.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::peer::frame::Piece;
use crate::peer::{Dialect, Peer, Received, Unanswered};

/// Longest wait for connecting and joining.
const JOIN_LIMIT: Duration = Duration::from_secs(30);
/// Largest message accepted.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
const EMPTY_UPDATE: [u8; 2] = [0, 0];

/// An event of a link. Own updates are identified by the number that was passed to [`Link::send`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LinkEvent {
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
pub(super) struct Link {
    peer: Peer,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    unanswered: Unanswered,
}

impl Link {
    /// Connects, joins the document, and returns its content as one update.
    pub(super) async fn join(dialect: Dialect, url: &str, document: &str) -> Result<(Self, Bytes)> {
        let joined = timeout(JOIN_LIMIT, Self::try_join(dialect, url, document)).await;
        joined.with_context(|| format!("joining {document} timed out"))?
    }

    async fn try_join(dialect: Dialect, url: &str, document: &str) -> Result<(Self, Bytes)> {
        let config = WebSocketConfig::default()
            .read_buffer_size(16 << 10)
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let peer = Peer::new(dialect, document.to_owned(), rand::random());
        let address = peer.path(url);
        let (socket, _) = connect_async_with_config(&address, Some(config), true).await.context("cannot connect")?;
        let mut link = Self { peer, socket, unanswered: Unanswered::default() };
        for message in link.peer.hello() {
            link.socket.send(Message::binary(message)).await?;
        }
        let mut state = None;
        loop {
            if link.peer.exchanged()
                && let Some(state) = state
            {
                return Ok((link, state));
            }
            let (frame, had_joined) = (link.next_frame().await?, link.peer.joined());
            let (received, reply) = receive(&mut link.peer, &frame)?;
            match received {
                // An update that arrives before the answer to the state vector is part of the answer, too.
                Received::Data { bytes, .. } if !had_joined && link.peer.joined() => {
                    state = Some(frame.slice_ref(bytes));
                }
                Received::Closed { code, reason } => bail!("the document is closed: {reason} ({code})"),
                _ => {}
            }
            link.answer(reply).await?;
        }
    }

    /// Sends an update; `number` identifies it in events.
    pub(super) async fn send(&mut self, number: usize, update: &Bytes) -> Result<()> {
        self.send_update(Some(number), update, update.clone()).await
    }

    /// Sends an update again that an earlier connection may have sent; afterwards call [`Link::finish_resend`]. In y-websocket
    /// its echo may be a relayed copy from the earlier connection, sent before it was on disk, so it proves nothing.
    pub(super) async fn resend(&mut self, number: usize, update: &Bytes) -> Result<()> {
        let echo = if self.peer.dialect == Dialect::YWebsocket { Bytes::new() } else { update.clone() };
        self.send_update(Some(number), update, echo).await
    }

    /// Ends a series of [`Link::resend`]: sends an empty update, which is echoed like any other but not relayed.
    pub(super) async fn finish_resend(&mut self) -> Result<()> {
        if self.peer.dialect != Dialect::YWebsocket {
            return Ok(());
        }
        self.send_update(None, &EMPTY_UPDATE, Bytes::from_static(&EMPTY_UPDATE)).await
    }

    async fn send_update(&mut self, number: Option<usize>, update: &[u8], echo: Bytes) -> Result<()> {
        self.unanswered.push(number, echo);
        let message = self.peer.update(update);
        Ok(self.socket.send(Message::binary(message)).await?)
    }

    /// Number of own updates that are not answered.
    pub(super) fn unanswered_count(&self) -> usize {
        self.unanswered.len()
    }

    /// Waits for the next event. Cancel-safe. An error means that the connection was lost without a close frame.
    pub(super) async fn next_event(&mut self) -> Result<LinkEvent> {
        match self.socket.next().await {
            Some(Ok(Message::Binary(frame))) => {
                let (received, reply) = receive(&mut self.peer, &frame)?;
                let event = event(self.peer.dialect, &mut self.unanswered, received);
                self.answer(reply).await?;
                Ok(event)
            }
            Some(Ok(Message::Close(Some(close)))) => Ok(LinkEvent::Closed(close.code.into(), close.reason.to_string())),
            Some(Ok(Message::Close(None))) | None => bail!("the connection ended"),
            Some(Ok(_)) => Ok(LinkEvent::Other),
            Some(Err(error)) => Err(error.into()),
        }
    }

    async fn answer(&mut self, reply: Option<Vec<u8>>) -> Result<()> {
        match reply {
            Some(reply) => Ok(self.socket.send(Message::binary(reply)).await?),
            None => Ok(()),
        }
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

/// Passes a frame to the client; returns its meaning and the answer to send.
fn receive<'a>(peer: &mut Peer, frame: &'a [u8]) -> Result<(Received<'a>, Option<Vec<u8>>)> {
    let mut reply = None;
    let received = peer.receive(Piece::whole(frame), |message| reply = Some(message))?;
    Ok((received, reply))
}

fn event(dialect: Dialect, unanswered: &mut Unanswered, received: Received<'_>) -> LinkEvent {
    match received {
        Received::Data { bytes, .. } => {
            let echoed = if dialect == Dialect::YWebsocket { unanswered.take_echo(bytes) } else { None };
            echoed.map_or(LinkEvent::RemoteUpdate, LinkEvent::Saved)
        }
        Received::Saved(count) => LinkEvent::Saved(unanswered.take(count)),
        Received::Refused(reason) => match unanswered.take(1).first() {
            Some(number) => LinkEvent::Refused(*number, reason),
            None => LinkEvent::Other,
        },
        Received::Closed { code, reason } => LinkEvent::Closed(code, reason.to_owned()),
        Received::Awareness | Received::Other => LinkEvent::Other,
    }
}
