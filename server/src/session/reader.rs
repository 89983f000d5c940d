//! Socket -> messages -> documents. Waits while a document's inbox is full, which becomes TCP backpressure on
//! this socket only.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::detect::{Dialect, detect};
use syncline_protocol::hocuspocus::{HEARTBEAT_FRAME, begins_step1};
use syncline_protocol::limits::MAX_ADDRESS_BYTES;
use syncline_protocol::native::is_hello;
use syncline_protocol::{varint, ywebsocket};
use tokio::io::AsyncRead;

use super::codec::{FrameError, Incoming};
use super::echo::Echo;
use super::frames::{Frames, SocketEnd};
use super::grants::GrantChange;
use super::hocuspocus::Hocuspocus;
use super::identity::SessionIdentity;
use super::native::Native;
use super::rate_limit::RateLimiter;
use super::timers::Liveness;
use super::users::SessionUsers;
use super::ywebsocket::YWebsocket;
use super::{Context, bad_message};
use crate::ids::LeaseId;
use crate::limits::Unfinished;
use crate::outbox::{Notices, Outbox};

/// The handler of the client's dialect.
pub(super) enum DialectHandler {
    /// No message received yet.
    Unknown,
    YWebsocket(YWebsocket),
    /// Boxed: sessions of the other dialects are smaller.
    Hocuspocus(Box<Hocuspocus>),
    Native(Native),
    /// No dialect: for conformance tests.
    Echo(Echo),
}

/// The reading half of a session; owns the leases.
pub(super) struct Reader<'a> {
    context: &'a Arc<Context>,
    outbox: &'a Arc<Outbox>,
    users: &'a Arc<SessionUsers>,
    liveness: &'a Liveness,
    limiter: &'a RateLimiter,
    /// `Some` until the first message was received.
    unfinished: &'a mut Option<Unfinished>,
    handler: DialectHandler,
    /// The message that ended the session, for the log.
    last: Bytes,
}

/// Why a session is no longer read.
pub(super) enum ReadEnd {
    /// The client sent a close frame with this code.
    Left(Option<u16>),
    /// The client disconnected.
    Gone,
    /// The server closes the session.
    Refused(Close),
}

impl From<Close> for ReadEnd {
    fn from(close: Close) -> Self {
        ReadEnd::Refused(close)
    }
}

/// Input of the reader's loop.
enum Input {
    Notices(Notices),
    Grant(GrantChange),
    Frame(Result<Incoming, SocketEnd>),
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        context: &'a Arc<Context>,
        outbox: &'a Arc<Outbox>,
        users: &'a Arc<SessionUsers>,
        liveness: &'a Liveness,
        limiter: &'a RateLimiter,
        unfinished: &'a mut Option<Unfinished>,
    ) -> Self {
        Self {
            context,
            outbox,
            users,
            liveness,
            limiter,
            unfinished,
            handler: DialectHandler::Unknown,
            last: Bytes::new(),
        }
    }

    /// Reads until the client leaves or the session must be closed.
    pub(super) async fn run(&mut self, frames: &mut Frames<impl AsyncRead + Unpin>) -> ReadEnd {
        loop {
            let input = poll_fn(|cx| match self.outbox.take_notices() {
                // Before frames: later frames may be sent by a client that knows of an ended lease.
                Some(notices) => Poll::Ready(Input::Notices(notices)),
                // Before frames: an edit that arrives later needs the new grant.
                None => match self.users.grants.poll_change(cx) {
                    Poll::Ready(change) => Poll::Ready(Input::Grant(change)),
                    Poll::Pending => frames.poll_next(cx).map(Input::Frame),
                },
            });
            let taken = match input.await {
                // Boxed: most sessions are idle, and should not hold memory for what they might do.
                Input::Notices(notices) => Box::pin(self.handle_notices(notices)).await,
                Input::Grant(change) => self.change_grant(change).map_err(ReadEnd::from),
                Input::Frame(Ok(Incoming::Binary(frame))) => {
                    Box::pin(self.handle_message(frame)).await.map_err(ReadEnd::from)
                }
                Input::Frame(Ok(Incoming::Long(prefix))) => self.handle_long_message(&prefix, frames),
                Input::Frame(Ok(Incoming::TooLarge(prefix))) => self.refuse_too_large(&prefix, frames),
                Input::Frame(Ok(Incoming::Text(text))) => self.handle_text(&text, frames),
                Input::Frame(Ok(Incoming::Skipped)) => {
                    self.limiter.finish_message();
                    Ok(())
                }
                Input::Frame(Ok(incoming)) => self.handle_control(incoming),
                Input::Frame(Err(end)) => Err(self.socket_end_reason(end)),
            };
            if let Err(read_end) = taken {
                return read_end;
            }
        }
    }

    /// The session's identity for the log.
    pub(super) fn identity(&self) -> Box<SessionIdentity> {
        SessionIdentity::of(&self.handler, Some(&self.last), self.users)
    }

    /// Leaves all documents.
    pub(super) fn leave(&mut self) {
        self.handler = DialectHandler::Unknown;
    }

    async fn handle_notices(&mut self, notices: Notices) -> Result<(), ReadEnd> {
        // A document or the timers have closed this session: nothing more is accepted from it.
        if let Some(close) = notices.closing {
            return Err(close.into());
        }
        self.remove_ended(&notices.ended)?;
        if notices.must_authenticate {
            self.check_authenticated()?;
        }
        Ok(self.resync(&notices.behind).await?)
    }

    /// Decides at the beginning of a long message whether it is stored.
    fn handle_long_message(
        &mut self,
        prefix: &[u8],
        frames: &mut Frames<impl AsyncRead + Unpin>,
    ) -> Result<(), ReadEnd> {
        let is_wanted = match &self.handler {
            _ if self.context.limits.echoes => true,
            // Before the first message: the state vector of a document with many clients may be long, a token
            // may not.
            DialectHandler::Unknown => prefix.first() == Some(&0) || begins_step1(prefix),
            DialectHandler::YWebsocket(_) | DialectHandler::Echo(_) => true,
            DialectHandler::Hocuspocus(session) => session.wants(prefix),
            DialectHandler::Native(session) => session.wants(prefix),
        };
        if !is_wanted {
            self.context.metrics.messages_ignored.inc();
            frames.skip();
            self.limiter.skip();
        }
        Ok(())
    }

    /// A message is over the limit: refuses what it was for; its bytes are dropped as they arrive.
    fn refuse_too_large(&mut self, prefix: &[u8], frames: &Frames<impl AsyncRead + Unpin>) -> Result<(), ReadEnd> {
        self.note_skipped(frames);
        let limit_bytes = self.context.limits.message_bytes;
        Ok(match &mut self.handler {
            DialectHandler::Unknown | DialectHandler::YWebsocket(_) | DialectHandler::Echo(_) => {
                Err(Close::MessageTooLarge { limit_bytes })
            }
            DialectHandler::Hocuspocus(session) => session.too_large(prefix, limit_bytes),
            DialectHandler::Native(session) => session.too_large(prefix, limit_bytes),
        }?)
    }

    /// Records that a message is being skipped, or was.
    fn note_skipped(&self, frames: &Frames<impl AsyncRead + Unpin>) {
        if frames.is_skipping() {
            self.limiter.skip()
        } else {
            self.limiter.finish_message()
        }
        self.liveness.has_received.store(true, Ordering::Relaxed);
    }

    async fn handle_message(&mut self, frame: Bytes) -> Result<(), Close> {
        self.limiter.complete_message();
        let taken = self.handle_frame(&frame).await;
        // Reserved until here: the message stays in memory while a busy document makes it wait.
        self.limiter.release();
        if let Err(close) = taken {
            self.last = Bytes::copy_from_slice(&frame[..frame.len().min(MAX_ADDRESS_BYTES + 8)]);
            return Err(close);
        }
        self.liveness.has_received.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// No dialect uses text; applications send some, and the reference servers ignore it.
    fn handle_text(&mut self, text: &Bytes, frames: &Frames<impl AsyncRead + Unpin>) -> Result<(), ReadEnd> {
        if !self.context.limits.echoes {
            self.context.metrics.messages_ignored.inc();
            self.note_skipped(frames);
            return Ok(());
        }
        *self.unfinished = None;
        self.liveness.has_received.store(true, Ordering::Relaxed);
        Ok(Echo::new(Arc::clone(self.outbox)).text(text)?)
    }

    fn handle_control(&mut self, incoming: Incoming) -> Result<(), ReadEnd> {
        match incoming {
            Incoming::Binary(_) | Incoming::Text(_) | Incoming::Long(_) | Incoming::TooLarge(_) | Incoming::Skipped => {
            }
            Incoming::Close(code) => return Err(ReadEnd::Left(code)),
            Incoming::Ping(payload) => {
                self.limiter.control_frame(payload.len());
                self.outbox.push_pong(payload);
                self.outbox.send();
            }
            Incoming::Pong(payload) => {
                self.limiter.control_frame(payload.len());
                if let DialectHandler::Hocuspocus(session) = &mut self.handler {
                    session.note_pong();
                }
            }
        }
        self.liveness.has_received.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn handle_frame(&mut self, frame: &Bytes) -> Result<(), Close> {
        if frame.is_empty() && !self.context.limits.echoes {
            self.context.metrics.messages_ignored.inc();
            return Ok(());
        }
        if matches!(self.handler, DialectHandler::Unknown) {
            self.handler = Box::pin(self.start_dialect(frame)).await?;
            if matches!(self.handler, DialectHandler::Unknown) {
                self.context.metrics.messages_ignored.inc();
                return Ok(());
            }
            *self.unfinished = None;
        }
        match &mut self.handler {
            DialectHandler::Unknown => Ok(()),
            DialectHandler::YWebsocket(session) => session.frame(frame).await,
            DialectHandler::Hocuspocus(session) => session.frame(frame).await,
            DialectHandler::Native(session) => session.frame(frame).await,
            DialectHandler::Echo(echo) => {
                echo.frame(frame);
                Ok(())
            }
        }
    }

    async fn start_dialect(&self, first_frame: &[u8]) -> Result<DialectHandler, Close> {
        if self.context.limits.echoes {
            return Ok(DialectHandler::Echo(Echo::new(Arc::clone(self.outbox))));
        }
        if is_hello(first_frame) {
            let session = Native::new(Arc::clone(self.context), Arc::clone(self.outbox), Arc::clone(self.users));
            self.liveness.heartbeat.set(Native::heartbeat()).ok();
            return Ok(DialectHandler::Native(session));
        }
        let Some(dialect) = detect(first_frame) else { return Ok(DialectHandler::Unknown) };
        let (handler, heartbeat) = match dialect {
            Dialect::YWebsocket => {
                // Decoded before the document is opened, so that invalid bytes load no document.
                match ywebsocket::Message::read(&mut varint::Reader::new(first_frame)) {
                    Err(error) if !error.is_unknown_type() => return Err(bad_message(error)),
                    _ => {}
                }
                let session = YWebsocket::open(self.context, self.outbox, self.users).await?;
                // An awareness update without clients: ignored by the client, but it keeps it connected.
                (DialectHandler::YWebsocket(session), ywebsocket::Message::Awareness(&[0]).encode().into())
            }
            Dialect::Hocuspocus => {
                let session =
                    Hocuspocus::new(Arc::clone(self.context), Arc::clone(self.outbox), Arc::clone(self.users));
                self.liveness.must_authenticate.store(true, Ordering::Relaxed);
                (DialectHandler::Hocuspocus(Box::new(session)), Bytes::from_static(&HEARTBEAT_FRAME))
            }
        };
        // Set once, because a session begins once.
        self.liveness.heartbeat.set(heartbeat).ok();
        Ok(handler)
    }

    async fn resync(&mut self, behind: &[LeaseId]) -> Result<(), Close> {
        match &mut self.handler {
            DialectHandler::Unknown | DialectHandler::Echo(_) => Ok(()),
            DialectHandler::YWebsocket(session) => session.resync(behind).await,
            DialectHandler::Hocuspocus(session) => session.resync(behind).await,
            DialectHandler::Native(session) => session.resync(behind).await,
        }
    }

    fn remove_ended(&mut self, leases: &[LeaseId]) -> Result<(), Close> {
        match &mut self.handler {
            DialectHandler::Unknown | DialectHandler::Echo(_) | DialectHandler::YWebsocket(_) => {}
            DialectHandler::Hocuspocus(session) => session.remove_ended(leases)?,
            DialectHandler::Native(session) => session.remove_ended(leases),
        }
        Ok(())
    }

    fn change_grant(&mut self, change: GrantChange) -> Result<(), Close> {
        match &mut self.handler {
            DialectHandler::Unknown | DialectHandler::Echo(_) => {}
            DialectHandler::YWebsocket(session) => session.change_grant(change)?,
            DialectHandler::Hocuspocus(session) => session.change_grant(change)?,
            DialectHandler::Native(session) => session.change_grant(change),
        }
        Ok(())
    }

    /// Called when the time limit for the first token has passed.
    fn check_authenticated(&mut self) -> Result<(), Close> {
        if let DialectHandler::Hocuspocus(session) = &mut self.handler { session.check_authenticated() } else { Ok(()) }
    }

    /// The close reason for input that breaks the protocol.
    fn socket_end_reason(&self, end: SocketEnd) -> ReadEnd {
        match end {
            SocketEnd::Gone => ReadEnd::Gone,
            SocketEnd::FrameError(FrameError::TooLarge) => {
                Close::MessageTooLarge { limit_bytes: self.context.limits.message_bytes }.into()
            }
            SocketEnd::FrameError(FrameError::Protocol(why)) => Close::BadFrame(why.into()).into(),
            SocketEnd::FrameError(FrameError::Utf8(why)) => Close::BadText(why.into()).into(),
        }
    }
}
