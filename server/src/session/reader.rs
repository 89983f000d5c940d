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

use super::codec::{Fault, Incoming};
use super::echo::Echo;
use super::frames::{End, Frames};
use super::hocuspocus::Hocuspocus;
use super::identity::Identity;
use super::native::Native;
use super::pace::Pace;
use super::pulse::Signs;
use super::users::Users;
use super::ywebsocket::YWebsocket;
use super::{Context, bad_message};
use crate::ids::LeaseId;
use crate::limits::Unfinished;
use crate::outbox::{News, Outbox};

/// The handler of the client's dialect.
pub(super) enum Speaks {
    /// No message received yet.
    Unknown,
    YWebsocket(YWebsocket),
    Hocuspocus(Hocuspocus),
    Native(Native),
    /// No dialect: for conformance tests.
    Echo(Echo),
}

/// The reading half of a session; owns the leases.
pub(super) struct Reader<'a> {
    context: &'a Arc<Context>,
    outbox: &'a Arc<Outbox>,
    users: &'a Arc<Users>,
    path: &'a str,
    signs: &'a Signs,
    pace: &'a Pace,
    /// `Some` until the first message was received.
    unfinished: &'a mut Option<Unfinished>,
    speaks: Speaks,
    /// The message that ended the session, for the log.
    last: Bytes,
}

/// Why a session is no longer read.
pub(super) enum Unread {
    /// The client sent a close frame with this code.
    Left(Option<u16>),
    /// The client disconnected.
    Gone,
    /// The server closes the session.
    Refused(Close),
}

impl From<Close> for Unread {
    fn from(close: Close) -> Self {
        Unread::Refused(close)
    }
}

/// Input of the reader's loop.
enum Heard {
    News(News),
    Frame(Result<Incoming, End>),
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        context: &'a Arc<Context>,
        outbox: &'a Arc<Outbox>,
        users: &'a Arc<Users>,
        path: &'a str,
        signs: &'a Signs,
        pace: &'a Pace,
        unfinished: &'a mut Option<Unfinished>,
    ) -> Self {
        Self { context, outbox, users, path, signs, pace, unfinished, speaks: Speaks::Unknown, last: Bytes::new() }
    }

    /// Reads until the client leaves or the session must be closed.
    pub(super) async fn run(&mut self, frames: &mut Frames<impl AsyncRead + Unpin>) -> Unread {
        loop {
            let heard = poll_fn(|cx| match self.outbox.news() {
                // Before frames: later frames may be sent by a client that knows of an ended lease.
                Some(news) => Poll::Ready(Heard::News(news)),
                None => frames.poll_next(cx).map(Heard::Frame),
            });
            let taken = match heard.await {
                // Boxed: most sessions are idle, and should not hold memory for what they might do.
                Heard::News(news) => Box::pin(self.news(news)).await,
                Heard::Frame(Ok(Incoming::Binary(frame))) => Box::pin(self.message(frame)).await.map_err(Unread::from),
                Heard::Frame(Ok(Incoming::Long(prefix))) => self.long(&prefix, frames),
                Heard::Frame(Ok(Incoming::TooLarge(prefix))) => self.too_large(&prefix, frames),
                Heard::Frame(Ok(Incoming::Text(text))) => self.text(&text, frames),
                Heard::Frame(Ok(Incoming::Skipped)) => {
                    self.pace.message();
                    Ok(())
                }
                Heard::Frame(Ok(incoming)) => self.control(incoming),
                Heard::Frame(Err(end)) => Err(self.explain(end)),
            };
            if let Err(unread) = taken {
                return unread;
            }
        }
    }

    /// The session's identity for the log.
    pub(super) fn identity(&self) -> Box<Identity> {
        Identity::of(&self.speaks, Some(&self.last), self.users)
    }

    /// Leaves all documents.
    pub(super) fn leave(&mut self) {
        self.speaks = Speaks::Unknown;
    }

    async fn news(&mut self, news: News) -> Result<(), Unread> {
        // A document or the timers have closed this session: nothing more is accepted from it.
        if let Some(close) = news.closing {
            return Err(close.into());
        }
        self.ended(&news.ended)?;
        if news.must_authenticate {
            self.check_authenticated()?;
        }
        Ok(self.resync(&news.behind).await?)
    }

    /// Decides at the beginning of a long message whether it is stored.
    fn long(&mut self, prefix: &[u8], frames: &mut Frames<impl AsyncRead + Unpin>) -> Result<(), Unread> {
        let is_wanted = match &self.speaks {
            _ if self.context.limits.echoes => true,
            // Before the first message: the state vector of a document with many clients may be long, a token
            // may not.
            Speaks::Unknown => prefix.first() == Some(&0) || begins_step1(prefix),
            Speaks::YWebsocket(_) | Speaks::Echo(_) => true,
            Speaks::Hocuspocus(session) => session.wants(prefix),
            Speaks::Native(session) => session.wants(prefix),
        };
        if !is_wanted {
            self.context.metrics.messages_ignored.inc();
            frames.skip();
            self.pace.skip();
        }
        Ok(())
    }

    /// A message is over the limit: refuses what it was for; its bytes are dropped as they arrive.
    fn too_large(&mut self, prefix: &[u8], frames: &Frames<impl AsyncRead + Unpin>) -> Result<(), Unread> {
        self.note_skipped(frames);
        let limit_bytes = self.context.limits.message_bytes;
        Ok(match &mut self.speaks {
            Speaks::Unknown | Speaks::YWebsocket(_) | Speaks::Echo(_) => Err(Close::MessageTooLarge { limit_bytes }),
            Speaks::Hocuspocus(session) => session.too_large(prefix, limit_bytes),
            Speaks::Native(session) => session.too_large(prefix, limit_bytes),
        }?)
    }

    /// Records that a message is being skipped, or was.
    fn note_skipped(&self, frames: &Frames<impl AsyncRead + Unpin>) {
        if frames.is_skipping() {
            self.pace.skip()
        } else {
            self.pace.message()
        }
        self.signs.heard.store(true, Ordering::Relaxed);
    }

    async fn message(&mut self, frame: Bytes) -> Result<(), Close> {
        self.pace.complete();
        let taken = self.frame(&frame).await;
        // Reserved until here: the message stays in memory while a busy document makes it wait.
        self.pace.release();
        if let Err(close) = taken {
            self.last = Bytes::copy_from_slice(&frame[..frame.len().min(MAX_ADDRESS_BYTES + 8)]);
            return Err(close);
        }
        self.signs.heard.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// No dialect uses text; applications send some, and the reference servers ignore it.
    fn text(&mut self, text: &Bytes, frames: &Frames<impl AsyncRead + Unpin>) -> Result<(), Unread> {
        if !self.context.limits.echoes {
            self.context.metrics.messages_ignored.inc();
            self.note_skipped(frames);
            return Ok(());
        }
        *self.unfinished = None;
        self.signs.heard.store(true, Ordering::Relaxed);
        Ok(Echo::new(Arc::clone(self.outbox)).text(text)?)
    }

    fn control(&mut self, incoming: Incoming) -> Result<(), Unread> {
        match incoming {
            Incoming::Binary(_) | Incoming::Text(_) | Incoming::Long(_) | Incoming::TooLarge(_) | Incoming::Skipped => {
            }
            Incoming::Close(code) => return Err(Unread::Left(code)),
            Incoming::Ping(payload) => {
                self.pace.control(payload.len());
                self.outbox.push_pong(payload);
                self.outbox.send();
            }
            Incoming::Pong(payload) => self.pace.control(payload.len()),
        }
        self.signs.heard.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn frame(&mut self, frame: &Bytes) -> Result<(), Close> {
        if frame.is_empty() && !self.context.limits.echoes {
            self.context.metrics.messages_ignored.inc();
            return Ok(());
        }
        if matches!(self.speaks, Speaks::Unknown) {
            self.speaks = Box::pin(self.begin(frame)).await?;
            if matches!(self.speaks, Speaks::Unknown) {
                self.context.metrics.messages_ignored.inc();
                return Ok(());
            }
            *self.unfinished = None;
        }
        match &mut self.speaks {
            Speaks::Unknown => Ok(()),
            Speaks::YWebsocket(session) => session.frame(frame).await,
            Speaks::Hocuspocus(session) => session.frame(frame).await,
            Speaks::Native(session) => session.frame(frame).await,
            Speaks::Echo(echo) => {
                echo.frame(frame);
                Ok(())
            }
        }
    }

    async fn begin(&self, first_frame: &[u8]) -> Result<Speaks, Close> {
        if self.context.limits.echoes {
            return Ok(Speaks::Echo(Echo::new(Arc::clone(self.outbox))));
        }
        if is_hello(first_frame) {
            let session = Native::new(Arc::clone(self.context), Arc::clone(self.outbox), Arc::clone(self.users));
            self.signs.heartbeat.set(Native::heartbeat()).ok();
            return Ok(Speaks::Native(session));
        }
        let Some(dialect) = detect(first_frame) else { return Ok(Speaks::Unknown) };
        let (speaks, heartbeat) = match dialect {
            Dialect::YWebsocket => {
                // Decoded before the document is opened, so that invalid bytes load no document.
                match ywebsocket::Message::read(&mut varint::Reader::new(first_frame)) {
                    Err(error) if !error.is_unknown_type() => return Err(bad_message(error)),
                    _ => {}
                }
                let session = YWebsocket::open(self.path, self.context, self.outbox, self.users).await?;
                // An awareness update without clients: ignored by the client, but it keeps it connected.
                (Speaks::YWebsocket(session), ywebsocket::Message::Awareness(&[0]).encode().into())
            }
            Dialect::Hocuspocus => {
                let session =
                    Hocuspocus::new(Arc::clone(self.context), Arc::clone(self.outbox), Arc::clone(self.users));
                self.signs.must_authenticate.store(true, Ordering::Relaxed);
                (Speaks::Hocuspocus(session), Bytes::from_static(&HEARTBEAT_FRAME))
            }
        };
        // Set once, because a session begins once.
        self.signs.heartbeat.set(heartbeat).ok();
        Ok(speaks)
    }

    async fn resync(&mut self, behind: &[LeaseId]) -> Result<(), Close> {
        match &mut self.speaks {
            Speaks::Unknown | Speaks::Echo(_) => Ok(()),
            Speaks::YWebsocket(session) => session.resync(behind).await,
            Speaks::Hocuspocus(session) => session.resync(behind).await,
            Speaks::Native(session) => session.resync(behind).await,
        }
    }

    fn ended(&mut self, leases: &[LeaseId]) -> Result<(), Close> {
        match &mut self.speaks {
            Speaks::Unknown | Speaks::Echo(_) | Speaks::YWebsocket(_) => {}
            Speaks::Hocuspocus(session) => session.ended(leases)?,
            Speaks::Native(session) => session.ended(leases),
        }
        Ok(())
    }

    /// Called when the time limit for the first token has passed.
    fn check_authenticated(&self) -> Result<(), Close> {
        if let Speaks::Hocuspocus(session) = &self.speaks { session.check_authenticated() } else { Ok(()) }
    }

    /// The close reason for input that breaks the protocol.
    fn explain(&self, end: End) -> Unread {
        match end {
            End::Gone => Unread::Gone,
            End::Fault(Fault::TooLarge) => {
                Close::MessageTooLarge { limit_bytes: self.context.limits.message_bytes }.into()
            }
            End::Fault(Fault::Protocol(why)) => Close::BadFrame(why.into()).into(),
            End::Fault(Fault::Utf8(why)) => Close::BadText(why.into()).into(),
        }
    }
}
