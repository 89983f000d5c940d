//! Socket -> messages -> documents. Waits while a document's inbox is full, which becomes TCP backpressure on
//! this socket only.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::Bytes;
use syncline_protocol::close::Close;
use syncline_protocol::limits::MAX_ADDRESS_BYTES;
use tokio::io::AsyncRead;

use super::frames::{Frames, SocketEnd};
use super::identity::SessionIdentity;
use super::rate_limit::RateLimiter;
use super::timers::Liveness;
use super::{Context, echo};
use crate::dialect::{GrantChange, Handler, SessionAccess, SessionParts};
use crate::limits::{SessionUsers, Unfinished};
use crate::outbox::{Notices, Outbox};
use crate::websocket::{FrameError, Incoming};

/// The reading half of a session; owns the leases.
pub(super) struct SessionReader<'a> {
    context: &'a Arc<Context>,
    outbox: &'a Arc<Outbox>,
    users: &'a Arc<SessionUsers>,
    access: &'a Arc<SessionAccess>,
    liveness: &'a Liveness,
    limiter: &'a RateLimiter,
    /// `Some` until the first message was received.
    unfinished: &'a mut Option<Unfinished>,
    /// The handler of the client's dialect; `None` until a first message was received, and for echoes.
    handler: Option<Handler>,
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

impl<'a> SessionReader<'a> {
    pub(super) fn new(
        context: &'a Arc<Context>,
        outbox: &'a Arc<Outbox>,
        users: &'a Arc<SessionUsers>,
        access: &'a Arc<SessionAccess>,
        liveness: &'a Liveness,
        limiter: &'a RateLimiter,
        unfinished: &'a mut Option<Unfinished>,
    ) -> Self {
        Self { context, outbox, users, access, liveness, limiter, unfinished, handler: None, last: Bytes::new() }
    }

    /// Reads until the client leaves or the session must be closed.
    pub(super) async fn run(&mut self, frames: &mut Frames<impl AsyncRead + Unpin>) -> ReadEnd {
        loop {
            let input = poll_fn(|cx| match self.outbox.take_notices() {
                // Before frames: later frames may be sent by a client that knows of an ended lease.
                Some(notices) => Poll::Ready(Input::Notices(notices)),
                // Before frames: an edit that arrives later needs the new grant.
                None => match self.access.grants.poll_change(cx) {
                    Poll::Ready(change) => Poll::Ready(Input::Grant(change)),
                    Poll::Pending => frames.poll_next(cx).map(Input::Frame),
                },
            });
            let taken = match input.await {
                // Boxed: most sessions are idle, and should not hold memory for what they might do.
                Input::Notices(notices) => Box::pin(self.handle_notices(notices)).await,
                Input::Grant(change) => self.change_grant(change),
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
        SessionIdentity::of(self.handler.as_ref(), &self.last, self.users)
    }

    /// Leaves all documents.
    pub(super) fn leave(&mut self) {
        self.handler = None;
    }

    async fn handle_notices(&mut self, notices: Notices) -> Result<(), ReadEnd> {
        // A document or the timers have closed this session: nothing more is accepted from it.
        if let Some(close) = notices.closing {
            return Err(close.into());
        }
        let Some(handler) = &mut self.handler else { return Ok(()) };
        handler.remove_ended(&notices.ended)?;
        if notices.must_authenticate {
            handler.check_authenticated()?;
        }
        Ok(handler.resync(&notices.behind).await?)
    }

    fn change_grant(&mut self, change: GrantChange) -> Result<(), ReadEnd> {
        let Some(handler) = &mut self.handler else { return Ok(()) };
        Ok(handler.change_grant(change)?)
    }

    /// Decides at the beginning of a long message whether it is stored.
    fn handle_long_message(
        &mut self,
        prefix: &[u8],
        frames: &mut Frames<impl AsyncRead + Unpin>,
    ) -> Result<(), ReadEnd> {
        let is_wanted = match &self.handler {
            _ if self.context.limits.echoes => true,
            None => Handler::wants_first(prefix),
            Some(handler) => handler.wants(prefix),
        };
        if !is_wanted {
            self.context.services.metrics.messages_ignored.inc();
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
            None => Err(Close::MessageTooLarge { limit_bytes }),
            Some(handler) => handler.too_large(prefix, limit_bytes),
        }?)
    }

    /// Records that a message is being skipped, or was.
    fn note_skipped(&self, frames: &Frames<impl AsyncRead + Unpin>) {
        if frames.is_skipping() { self.limiter.skip() } else { self.limiter.finish_message() }
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
        self.limiter.note_handled();
        Ok(())
    }

    /// No dialect uses text; applications send some, and the reference servers ignore it.
    fn handle_text(&mut self, text: &Bytes, frames: &Frames<impl AsyncRead + Unpin>) -> Result<(), ReadEnd> {
        if !self.context.limits.echoes {
            self.context.services.metrics.messages_ignored.inc();
            self.note_skipped(frames);
            return Ok(());
        }
        *self.unfinished = None;
        Ok(echo::text(self.outbox, text)?)
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
                if let Some(handler) = &mut self.handler {
                    handler.note_pong();
                }
            }
        }
        Ok(())
    }

    async fn handle_frame(&mut self, frame: &Bytes) -> Result<(), Close> {
        if self.context.limits.echoes {
            *self.unfinished = None;
            echo::binary(self.outbox, frame);
            return Ok(());
        }
        if self.handler.is_none() && !frame.is_empty() {
            self.handler = Box::pin(self.start_dialect(frame)).await?;
        }
        let Some(handler) = self.handler.as_mut().filter(|_| !frame.is_empty()) else {
            self.context.services.metrics.messages_ignored.inc();
            return Ok(());
        };
        handler.frame(frame).await
    }

    async fn start_dialect(&mut self, first_frame: &[u8]) -> Result<Option<Handler>, Close> {
        let (services, outbox) = (Arc::clone(&self.context.services), Arc::clone(self.outbox));
        let (users, access) = (Arc::clone(self.users), Arc::clone(self.access));
        let handler = Handler::start(first_frame, SessionParts { services, outbox, users, access }).await?;
        if let Some(handler) = &handler {
            // Set once, because a session begins once.
            self.liveness.heartbeat.set(handler.heartbeat()).ok();
            self.liveness.must_authenticate.store(handler.has_tokens(), Ordering::Relaxed);
            *self.unfinished = None;
        }
        Ok(handler)
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
