//! The task that owns a session: connects, carries frames, waits, comes back.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::{debug, warn};

use super::{Command, Connection, Status};
use crate::backoff::{Advice, Backoff, BackoffConfig};
use crate::socket::{Endpoint, Socket};
use crate::stock::session::{Event, Outputs, Session};

// Both stock providers give up after 30 s without a message; so do we, and say something at half that time.
/// Silence after which we say something.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Silence of the server after which the connection counts as dead.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Longest time for the goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most commands taken before the socket gets its turn.
const COMMANDS_PER_TURN: usize = 64;

/// Sent once the status is up to date.
pub(super) type Reply = Box<dyn FnOnce() + Send>;

/// What the caller of the handle wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Online,
    Offline,
    Closed,
}

/// How a connection ended.
enum End {
    /// By wish.
    Wish,
    /// Without the caller's doing: the reason, and the close code if there was one.
    Lost(String, Option<u16>),
    /// The server will not have us.
    Denied(String),
}

pub(super) struct Driver {
    endpoint: Endpoint,
    backoff: Backoff,
    session: Session,
    out: Outputs,
    inbox: mpsc::Receiver<Command>,
    publish: watch::Sender<Status>,
    wish: Wish,
    /// Set by an event, ends the connection.
    denied: Option<String>,
}

impl Driver {
    pub(super) fn new(
        endpoint: Endpoint,
        backoff: BackoffConfig,
        session: Session,
        inbox: mpsc::Receiver<Command>,
        publish: watch::Sender<Status>,
    ) -> Self {
        let backoff = Backoff::new(backoff);
        Self { endpoint, backoff, session, out: Outputs::default(), inbox, publish, wish: Wish::Online, denied: None }
    }

    pub(super) async fn run(mut self) {
        while self.wish != Wish::Closed {
            if self.wish == Wish::Offline {
                self.show(Connection::Offline);
                self.serve_until(std::future::pending::<()>()).await;
                continue;
            }
            self.show(Connection::Connecting);
            let endpoint = self.endpoint.clone();
            let end = match self.serve_until(endpoint.connect()).await {
                None => End::Wish,
                Some(Ok(socket)) => self.stay_connected(socket).await,
                Some(Err(error)) => refused_handshake(error),
            };
            self.session.disconnected();
            self.out.frames.clear();
            self.after(end).await;
        }
        self.show(Connection::Closed);
    }

    async fn after(&mut self, end: End) {
        let (reason, code) = match end {
            End::Wish => return,
            End::Denied(reason) => return self.wait_denied(reason).await,
            End::Lost(reason, code) => (reason, code),
        };
        match self.backoff.ended(code, rand::random()) {
            Advice::Stop => self.wait_denied(reason).await,
            Advice::RetryAfter(wait) => {
                debug!(%reason, ?wait, "connection lost");
                self.show(Connection::Waiting(reason));
                self.serve_until(tokio::time::sleep(wait)).await;
            }
        }
    }

    async fn wait_denied(&mut self, reason: String) {
        warn!(%reason, "the server will not let this client in");
        self.show(Connection::Denied(reason));
        self.serve_until(std::future::pending::<()>()).await;
    }

    /// Carries out commands until `work` is done, or gives None when the wish changed.
    async fn serve_until<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                command = self.inbox.recv() => {
                    if self.obey(command) {
                        return None;
                    }
                    self.out.frames.clear();
                }
            }
        }
    }

    async fn stay_connected(&mut self, mut socket: Socket) -> End {
        self.session.connected(&mut self.out);
        self.show(Connection::Connected);
        let mut heard = Instant::now();
        let mut spoken = heard;
        loop {
            self.update_status();
            if let Some(reason) = self.denied.take() {
                return End::Denied(reason);
            }
            if let Err(error) = socket.queue(self.out.frames.drain(..)) {
                return End::Lost(error.to_string(), None);
            }
            let next_check = (heard + DEAD_AFTER).min(heard.max(spoken) + KEEP_ALIVE);
            tokio::select! {
                message = socket.next() => {
                    heard = Instant::now();
                    if let Err(end) = self.take(message) {
                        return end;
                    }
                }
                command = self.inbox.recv() => {
                    let mut changed = self.obey(command);
                    for _ in 1..COMMANDS_PER_TURN {
                        let Ok(command) = self.inbox.try_recv() else { break };
                        changed |= self.obey(Some(command));
                    }
                    if changed {
                        return self.leave(socket).await;
                    }
                }
                () = tokio::time::sleep_until(next_check) => {
                    if heard.elapsed() >= DEAD_AFTER {
                        return End::Lost("the server said nothing for 30 s".into(), None);
                    }
                    spoken = Instant::now();
                    self.session.keep_alive(&mut self.out);
                    // Every server answers this one, whatever it makes of the message.
                    socket.queue_ping();
                }
            }
        }
    }

    fn take(&mut self, message: Option<Result<Message, Error>>) -> Result<(), End> {
        match message {
            None => Err(End::Lost("the connection was cut".into(), None)),
            Some(Err(error)) => Err(End::Lost(error.to_string(), None)),
            Some(Ok(Message::Close(frame))) => Err(match frame {
                Some(frame) => End::Lost(
                    format!("the server closed: {} ({})", frame.reason, u16::from(frame.code)),
                    Some(frame.code.into()),
                ),
                None => End::Lost("the server closed".into(), None),
            }),
            Some(Ok(Message::Binary(frame))) => {
                self.session.received(&frame, &mut self.out).map_err(|error| End::Lost(error.to_string(), None))
            }
            Some(Ok(_)) => Ok(()),
        }
    }

    /// Says goodbye after sending what is queued.
    async fn leave(&mut self, mut socket: Socket) -> End {
        // Errors and slowness do not matter any more: what was not taken is unsaved, and the status says so.
        if socket.queue(self.out.frames.drain(..)).is_ok() {
            drop(tokio::time::timeout(CLOSE_TIMEOUT, socket.close()).await);
        }
        End::Wish
    }

    /// True when the caller's wish changed.
    fn obey(&mut self, command: Option<Command>) -> bool {
        let wish = match command {
            Some(Command::Session(work)) => {
                let reply = work(&mut self.session, &mut self.out);
                self.update_status();
                reply();
                return false;
            }
            Some(Command::GoOffline) => Wish::Offline,
            // From a denial, too, this is a way out.
            Some(Command::GoOnline) => {
                let had = std::mem::replace(&mut self.wish, Wish::Online);
                return had != Wish::Online || matches!(self.publish.borrow().connection, Connection::Denied(_));
            }
            None | Some(Command::Close) => Wish::Closed,
        };
        let had = std::mem::replace(&mut self.wish, wish);
        had != wish
    }

    fn show(&mut self, connection: Connection) {
        self.update_status();
        self.publish.send_modify(|status| status.connection = connection);
    }

    /// Tells the watchers what the session says, if it says anything new.
    fn update_status(&mut self) {
        let events = std::mem::take(&mut self.out.events);
        let (synced, unsaved, acks) = (self.session.is_synced(), self.session.unsaved(), self.session.ack_knowledge());
        self.publish.send_if_modified(|status| {
            let mut changed = (status.synced, status.unsaved, status.acks) != (synced, unsaved, acks);
            (status.synced, status.unsaved, status.acks) = (synced, unsaved, acks);
            for event in events {
                changed = true;
                match event {
                    Event::Synced => self.backoff.succeeded(),
                    Event::RemoteUpdate => status.remote_updates += 1,
                    Event::Presence => status.presence_changes += 1,
                    Event::Authenticated { read_only } => status.read_only = read_only,
                    Event::Refused(_) => status.refused += 1,
                    Event::Denied(reason) => self.denied = Some(reason),
                    Event::Saved(_) => {}
                }
            }
            if unsaved == 0 {
                status.refused = 0;
            }
            changed
        });
    }
}

fn refused_handshake(error: Error) -> End {
    match &error {
        // The door says no, in HTTP; any other status may be a proxy's bad moment.
        Error::Http(response) if matches!(response.status().as_u16(), 401 | 403) => {
            End::Denied(format!("HTTP {}", response.status()))
        }
        _ => End::Lost(error.to_string(), None),
    }
}
