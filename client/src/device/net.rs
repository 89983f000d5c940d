//! The socket's life: off, connecting, up, waiting to come back.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::socket::{Endpoint, Socket};

/// Longest time for a goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type Connecting = Pin<Box<dyn Future<Output = Result<Socket, Error>> + Send>>;

pub(super) enum Net {
    Off,
    Connecting(Connecting),
    Up(Box<Up>),
    /// Given up by us, for this reason; not yet told.
    GivenUp(String),
    Waiting(Pin<Box<Sleep>>),
    /// The server said that coming back cannot help.
    Stopped,
}

pub(super) struct Up {
    pub(super) socket: Socket,
    heard: Instant,
    spoken: Instant,
    silence: Duration,
}

/// What happened.
pub(super) enum NetEvent {
    Connected(Box<Result<Socket, Error>>),
    Message(Bytes),
    /// It ended: why, and the close code if there was one.
    Ended(String, Option<u16>),
    /// Time to say something.
    Quiet,
    TryAgain,
}

impl Net {
    pub(super) fn connect(endpoint: &Endpoint) -> Self {
        let endpoint = endpoint.clone();
        Net::Connecting(Box::pin(async move { endpoint.connect().await }))
    }

    pub(super) fn up(socket: Socket, silence: Duration) -> Self {
        let now = Instant::now();
        Net::Up(Box::new(Up { socket, heard: now, spoken: now, silence }))
    }

    pub(super) fn wait(time: Duration) -> Self {
        Net::Waiting(Box::pin(sleep(time)))
    }

    /// The next thing that happens. Cancel-safe.
    pub(super) async fn next(&mut self) -> NetEvent {
        match self {
            Net::Off | Net::Stopped => std::future::pending().await,
            Net::Connecting(attempt) => NetEvent::Connected(Box::new(attempt.await)),
            Net::Waiting(wait) => {
                wait.as_mut().await;
                NetEvent::TryAgain
            }
            Net::GivenUp(reason) => NetEvent::Ended(std::mem::take(reason), None),
            Net::Up(up) => up.next().await,
        }
    }

    /// Says goodbye, without waiting long for an answer.
    pub(super) async fn leave(&mut self) {
        if let Net::Up(up) = std::mem::replace(self, Net::Off) {
            drop(tokio::time::timeout(CLOSE_TIMEOUT, up.socket.close()).await);
        }
    }
}

impl Up {
    async fn next(&mut self) -> NetEvent {
        loop {
            let check = (self.heard + self.silence).min(self.heard.max(self.spoken) + self.silence / 2);
            tokio::select! {
                message = self.socket.next() => {
                    self.heard = Instant::now();
                    match message {
                        None => return NetEvent::Ended("the connection was cut".into(), None),
                        Some(Err(error)) => return NetEvent::Ended(error.to_string(), None),
                        Some(Ok(Message::Binary(frame))) => return NetEvent::Message(frame),
                        Some(Ok(Message::Close(frame))) => {
                            let code = frame.as_ref().map(|frame| u16::from(frame.code));
                            let reason = frame.map_or(String::new(), |frame| frame.reason.to_string());
                            return NetEvent::Ended(format!("the server closed: {reason}"), code);
                        }
                        Some(Ok(_)) => {}
                    }
                }
                () = sleep_until(check) => {
                    if self.heard.elapsed() >= self.silence {
                        return NetEvent::Ended("the server said nothing for too long".into(), None);
                    }
                    self.spoken = Instant::now();
                    return NetEvent::Quiet;
                }
            }
        }
    }
}
