//! Connection states: off, connecting, up, waiting to reconnect, stopped.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::socket::{Endpoint, Socket};

/// Timeout of sending a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type Connecting = Pin<Box<dyn Future<Output = Result<Socket, Error>> + Send>>;

pub(super) enum Net {
    Off,
    Connecting(Connecting),
    Up(Box<Up>),
    /// Dropped by this client, for this reason; not reported yet.
    GivenUp(String),
    Waiting(Pin<Box<Sleep>>),
    /// The server closed with a code, or answered with an HTTP status, that rules out reconnecting.
    Stopped,
}

pub(super) struct Up {
    pub(super) socket: Socket,
    last_received: Instant,
    last_sent: Instant,
    silence: Duration,
}

/// An event of the connection.
pub(super) enum NetEvent {
    Connected(Box<Result<Socket, Error>>),
    Message(Bytes),
    /// The connection ended: the reason, and the close code if there was one.
    Ended(String, Option<u16>),
    /// Half of the silence limit has passed: send a ping.
    KeepAlive,
    Reconnect,
}

impl Net {
    pub(super) fn connect(endpoint: &Endpoint) -> Self {
        let endpoint = endpoint.clone();
        Net::Connecting(Box::pin(async move { endpoint.connect().await }))
    }

    pub(super) fn up(socket: Socket, silence: Duration) -> Self {
        let now = Instant::now();
        Net::Up(Box::new(Up { socket, last_received: now, last_sent: now, silence }))
    }

    pub(super) fn wait(time: Duration) -> Self {
        Net::Waiting(Box::pin(sleep(time)))
    }

    /// Waits for the next event. Cancel-safe.
    pub(super) async fn next(&mut self) -> NetEvent {
        match self {
            Net::Off | Net::Stopped => std::future::pending().await,
            Net::Connecting(attempt) => NetEvent::Connected(Box::new(attempt.await)),
            Net::Waiting(wait) => {
                wait.as_mut().await;
                NetEvent::Reconnect
            }
            Net::GivenUp(reason) => NetEvent::Ended(std::mem::take(reason), None),
            Net::Up(up) => up.next().await,
        }
    }

    /// Sends a close frame, with a short timeout.
    pub(super) async fn leave(&mut self) {
        if let Net::Up(up) = std::mem::replace(self, Net::Off) {
            drop(tokio::time::timeout(CLOSE_TIMEOUT, up.socket.close()).await);
        }
    }
}

impl Up {
    async fn next(&mut self) -> NetEvent {
        loop {
            let check =
                (self.last_received + self.silence).min(self.last_received.max(self.last_sent) + self.silence / 2);
            tokio::select! {
                message = self.socket.next() => {
                    self.last_received = Instant::now();
                    match message {
                        None => return NetEvent::Ended("the connection was closed without a close frame".into(), None),
                        Some(Err(error)) => return NetEvent::Ended(error.to_string(), None),
                        Some(Ok(Message::Binary(frame))) => return NetEvent::Message(frame),
                        Some(Ok(Message::Close(frame))) => {
                            let code = frame.as_ref().map(|frame| u16::from(frame.code));
                            let reason = frame.map_or(String::new(), |frame| frame.reason.to_string());
                            return NetEvent::Ended(format!("the server closed the connection: {reason}"), code);
                        }
                        Some(Ok(_)) => {}
                    }
                }
                () = sleep_until(check) => {
                    if self.last_received.elapsed() >= self.silence {
                        return NetEvent::Ended("no message from the server within the silence limit".into(), None);
                    }
                    self.last_sent = Instant::now();
                    return NetEvent::KeepAlive;
                }
            }
        }
    }
}
