//! Socket -> messages -> documents. Waits for a full document, and TCP pushes back on this socket only.

use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use syncline_protocol::close::Close;
use syncline_protocol::detect::{Dialect, detect};
use syncline_protocol::hocuspocus::PING_FRAME;
use syncline_protocol::native::is_hello;
use syncline_protocol::ywebsocket;
use tokio::time::{Instant, sleep_until};
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::hocuspocus::Hocuspocus;
use super::native::Native;
use super::pace::Pace;
use super::ywebsocket::YWebsocket;
use super::{Context, bad_message};
use crate::ids::LeaseId;
use crate::limits::Unfinished;
use crate::outbox::Outbox;

enum Speaks {
    /// Nothing has come yet.
    Unknown,
    YWebsocket(YWebsocket),
    Hocuspocus(Hocuspocus),
    Native(Native),
}

/// The reading half of a session; it owns the leases.
pub(super) struct Reader<'a> {
    context: Arc<Context>,
    outbox: Arc<Outbox>,
    path: String,
    heartbeat: &'a OnceLock<Bytes>,
    pace: &'a Pace,
    /// Until it has said its first message.
    unfinished: Option<Unfinished>,
    speaks: Speaks,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        context: Arc<Context>,
        outbox: Arc<Outbox>,
        path: String,
        heartbeat: &'a OnceLock<Bytes>,
        pace: &'a Pace,
        unfinished: Option<Unfinished>,
    ) -> Self {
        Self { context, outbox, path, heartbeat, pace, unfinished, speaks: Speaks::Unknown }
    }

    /// Reads until the client leaves (`Ok`) or must be closed.
    pub(super) async fn run(
        &mut self,
        frames: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    ) -> Result<(), Close> {
        let limits = self.context.limits;
        let stop = self.context.stop.clone();
        let outbox = Arc::clone(&self.outbox);
        // Made once, not for every frame: each registers with a lock.
        let mut stopped = pin!(stop.cancelled());
        let mut closing = pin!(outbox.closing());
        let mut silent = pin!(sleep_until(Instant::now() + limits.first_frame));
        let mut last_heard = None;
        loop {
            tokio::select! {
                biased;
                // A document has ended this session: nothing more is taken from it.
                close = &mut closing => return Err(close),
                () = &mut stopped => return Err(Close::ServerStopping),
                // Before its frames: what comes next may be sent in the knowledge of the end.
                ended = outbox.take_ended(), if matches!(self.speaks, Speaks::Native(_)) => self.ended(&ended),
                behind = outbox.take_behind() => self.resync(&behind).await?,
                frame = frames.next() => {
                    let Some(frame) = frame else { return Ok(()) };
                    match frame.map_err(|error| self.explain(error)) {
                        Ok(Message::Binary(frame)) => {
                            self.pace.message();
                            self.frame(frame).await?;
                        }
                        Ok(Message::Text(_)) => {
                            return Err(bad_message("this protocol is binary, but a text message came"));
                        }
                        Ok(Message::Close(_)) => return Ok(()),
                        Ok(Message::Ping(payload) | Message::Pong(payload)) => self.pace.control(payload.len()),
                        Ok(Message::Frame(_)) => {}
                        Err(Some(close)) => return Err(close),
                        Err(None) => return Ok(()),
                    }
                    // A connection that only pings has not said who it is.
                    if !matches!(self.speaks, Speaks::Unknown) {
                        last_heard = Some(Instant::now());
                    }
                }
                () = &mut silent => match last_heard {
                    Some(heard) if heard.elapsed() < limits.silence => silent.as_mut().reset(heard + limits.silence),
                    _ => return Err(Close::TimedOut),
                },
            }
        }
    }

    async fn frame(&mut self, frame: Bytes) -> Result<(), Close> {
        if matches!(self.speaks, Speaks::Unknown) {
            self.speaks = self.begin(&frame).await?;
            self.unfinished = None;
        }
        match &mut self.speaks {
            Speaks::Unknown => Ok(()),
            Speaks::YWebsocket(session) => session.frame(&frame).await,
            Speaks::Hocuspocus(session) => session.frame(&frame).await,
            Speaks::Native(session) => session.frame(&frame).await,
        }
    }

    async fn begin(&self, first_frame: &[u8]) -> Result<Speaks, Close> {
        if is_hello(first_frame) {
            let session = Native::new(Arc::clone(&self.context), Arc::clone(&self.outbox));
            self.heartbeat.set(Native::heartbeat()).ok();
            return Ok(Speaks::Native(session));
        }
        let (speaks, heartbeat) = match detect(first_frame) {
            Dialect::YWebsocket => {
                // Decoded before the document is opened: a stranger's bytes load nothing.
                ywebsocket::Message::decode(first_frame).map_err(bad_message)?;
                let session = YWebsocket::open(&self.path, &self.context, &self.outbox).await?;
                // Presence of nobody: ignored by the client, and enough for it to stay.
                (Speaks::YWebsocket(session), ywebsocket::Message::Awareness(&[0]).encode().into())
            }
            Dialect::Hocuspocus => {
                let session = Hocuspocus::new(Arc::clone(&self.context), Arc::clone(&self.outbox));
                (Speaks::Hocuspocus(session), Bytes::from_static(&PING_FRAME))
            }
        };
        // Set once: a session begins once.
        self.heartbeat.set(heartbeat).ok();
        Ok(speaks)
    }

    async fn resync(&mut self, behind: &[LeaseId]) -> Result<(), Close> {
        match &mut self.speaks {
            Speaks::Unknown => Ok(()),
            Speaks::YWebsocket(session) => session.resync(behind).await,
            Speaks::Hocuspocus(session) => session.resync(behind).await,
            Speaks::Native(session) => session.resync(behind).await,
        }
    }

    fn ended(&mut self, leases: &[LeaseId]) {
        if let Speaks::Native(session) = &mut self.speaks {
            session.ended(leases);
        }
    }

    /// What a client is told about a WebSocket error; `None` when it is gone.
    fn explain(&self, error: Error) -> Option<Close> {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { .. } | CapacityError::TooManyHeaders) => {
                Some(Close::MessageTooLarge { limit_bytes: self.context.limits.message_bytes })
            }
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
            Error::Protocol(error) => Some(bad_message(error)),
            Error::Utf8(_) => Some(bad_message("a text is not UTF-8")),
            _ => None,
        }
    }
}
