//! The task that owns a session: connects, transfers frames, waits, reconnects.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message};
use tracing::{debug, warn};

use super::{Connection, DriverCommand, Status};
use crate::backoff::{Advice, Backoff, BackoffConfig};
use crate::socket::{Endpoint, Socket};
use crate::stock::session::{Session, SessionEvent, SessionOutputs};

// Both stock providers drop a connection after 30 s without a message. So do we, with a keep-alive at half that time.
/// Time without traffic after which a keep-alive is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Time without a message of the server after which the connection is dropped.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// Timeout of sending a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of commands handled before the socket is polled again.
const COMMANDS_PER_TURN: usize = 64;

/// Sends the reply of a command; called after the status was updated.
pub(super) type Reply = Box<dyn FnOnce() + Send>;

/// The connection state requested by the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Online,
    Offline,
    Closed,
}

/// How a connection ended.
enum End {
    /// The app requested another state.
    Requested,
    /// The connection was lost: the reason, and the close code if there was one.
    Lost(String, Option<u16>),
    /// The server denied access, with its reason.
    Denied(String),
}

pub(super) struct Driver {
    endpoint: Endpoint,
    backoff: Backoff,
    session: Session,
    out: SessionOutputs,
    inbox: mpsc::Receiver<DriverCommand>,
    publish: watch::Sender<Status>,
    goal: Goal,
    /// Set by an event; ends the connection.
    denied: Option<String>,
}

impl Driver {
    pub(super) fn new(
        endpoint: Endpoint,
        backoff: BackoffConfig,
        session: Session,
        inbox: mpsc::Receiver<DriverCommand>,
        publish: watch::Sender<Status>,
    ) -> Self {
        let backoff = Backoff::new(backoff);
        Self {
            endpoint,
            backoff,
            session,
            out: SessionOutputs::default(),
            inbox,
            publish,
            goal: Goal::Online,
            denied: None,
        }
    }

    pub(super) async fn run(mut self) {
        while self.goal != Goal::Closed {
            if self.goal == Goal::Offline {
                self.show(Connection::Offline);
                self.serve_until(std::future::pending::<()>()).await;
                continue;
            }
            self.show(Connection::Connecting);
            let endpoint = self.endpoint.clone();
            let end = match self.serve_until(endpoint.connect()).await {
                None => End::Requested,
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
            End::Requested => return,
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
        warn!(%reason, "the server denied access; not connecting again until `go_online`");
        self.show(Connection::Denied(reason));
        self.serve_until(std::future::pending::<()>()).await;
    }

    /// Handles commands until `work` is done. Returns `None` if the goal changed first.
    async fn serve_until<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                command = self.inbox.recv() => {
                    if self.handle_command(command) {
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
        let mut last_received = Instant::now();
        let mut last_sent = last_received;
        loop {
            self.update_status();
            if let Some(reason) = self.denied.take() {
                return End::Denied(reason);
            }
            if let Err(error) = socket.queue(self.out.frames.drain(..)) {
                return End::Lost(error.to_string(), None);
            }
            let next_check = (last_received + DEAD_AFTER).min(last_received.max(last_sent) + KEEP_ALIVE);
            tokio::select! {
                message = socket.next() => {
                    last_received = Instant::now();
                    if let Err(end) = self.handle_message(message) {
                        return end;
                    }
                }
                command = self.inbox.recv() => {
                    let mut changed = self.handle_command(command);
                    for _ in 1..COMMANDS_PER_TURN {
                        let Ok(command) = self.inbox.try_recv() else { break };
                        changed |= self.handle_command(Some(command));
                    }
                    if changed {
                        return self.leave(socket).await;
                    }
                }
                () = tokio::time::sleep_until(next_check) => {
                    if last_received.elapsed() >= DEAD_AFTER {
                        return End::Lost("no message from the server for 30 s".into(), None);
                    }
                    last_sent = Instant::now();
                    self.session.keep_alive(&mut self.out);
                    // Every server answers a WebSocket ping, even if it ignores the keep-alive message.
                    socket.queue_ping();
                }
            }
        }
    }

    fn handle_message(&mut self, message: Option<Result<Message, Error>>) -> Result<(), End> {
        match message {
            None => Err(End::Lost("the connection was closed without a close frame".into(), None)),
            Some(Err(error)) => Err(End::Lost(error.to_string(), None)),
            Some(Ok(Message::Close(frame))) => Err(match frame {
                Some(frame) => End::Lost(
                    format!("the server closed the connection: {} ({})", frame.reason, u16::from(frame.code)),
                    Some(frame.code.into()),
                ),
                None => End::Lost("the server closed the connection".into(), None),
            }),
            Some(Ok(Message::Binary(frame))) => {
                self.session.received(&frame, &mut self.out).map_err(|error| End::Lost(error.to_string(), None))
            }
            Some(Ok(_)) => Ok(()),
        }
    }

    /// Sends queued frames and a close frame.
    async fn leave(&mut self, mut socket: Socket) -> End {
        // Errors and timeouts are ignored: edits that were not sent stay unsaved, as the status shows.
        if socket.queue(self.out.frames.drain(..)).is_ok() {
            drop(tokio::time::timeout(CLOSE_TIMEOUT, socket.close()).await);
        }
        End::Requested
    }

    /// Handles a command. Returns true if the goal changed.
    fn handle_command(&mut self, command: Option<DriverCommand>) -> bool {
        let goal = match command {
            Some(DriverCommand::Session(work)) => {
                let reply = work(&mut self.session, &mut self.out);
                self.update_status();
                reply();
                return false;
            }
            Some(DriverCommand::GoOffline) => Goal::Offline,
            // Also reconnects after a denial.
            Some(DriverCommand::GoOnline) => {
                let had = std::mem::replace(&mut self.goal, Goal::Online);
                return had != Goal::Online || matches!(self.publish.borrow().connection, Connection::Denied(_));
            }
            None | Some(DriverCommand::Close) => Goal::Closed,
        };
        let had = std::mem::replace(&mut self.goal, goal);
        had != goal
    }

    fn show(&mut self, connection: Connection) {
        self.update_status();
        self.publish.send_modify(|status| status.connection = connection);
    }

    /// Publishes the session's status if it changed.
    fn update_status(&mut self) {
        let events = std::mem::take(&mut self.out.events);
        let (synced, unsaved, acks) = (self.session.is_synced(), self.session.unsaved(), self.session.ack_knowledge());
        self.publish.send_if_modified(|status| {
            let mut changed = (status.synced, status.unsaved, status.acks) != (synced, unsaved, acks);
            (status.synced, status.unsaved, status.acks) = (synced, unsaved, acks);
            for event in events {
                changed = true;
                match event {
                    SessionEvent::Synced => self.backoff.succeeded(),
                    SessionEvent::RemoteUpdate => status.remote_updates += 1,
                    SessionEvent::Presence => status.presence_changes += 1,
                    SessionEvent::Authenticated { read_only } => status.read_only = read_only,
                    SessionEvent::Refused(_) => status.refused += 1,
                    SessionEvent::Denied(reason) => self.denied = Some(reason),
                    SessionEvent::Saved(_) => {}
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
        // Access is denied only by these two; any other status may be a temporary failure of a proxy.
        Error::Http(response) if matches!(response.status().as_u16(), 401 | 403) => {
            End::Denied(format!("HTTP {}", response.status()))
        }
        _ => End::Lost(error.to_string(), None),
    }
}
