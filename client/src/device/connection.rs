//! The device's connection: opening documents on it, dispatching messages to them, reconnecting. Part of [`Task`].

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::native::{self, Channel, ToClient, ToServer};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::net::{Net, NetEvent};
use super::task::Task;
use super::{Command, DeviceError};
use crate::backoff::{Advice, BackoffConfig};
use crate::document::Event;
use crate::stock::driver::Connection;

/// Delays before a document that the server closed is opened again.
pub(super) const REOPEN: BackoffConfig = BackoffConfig { first: Duration::from_secs(1), max: Duration::from_secs(60) };

impl Task {
    pub(super) fn connect(&mut self) {
        self.show(Connection::Connecting);
        self.net = Net::connect(&self.endpoint);
    }

    pub(super) async fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Connected(attempt) => match *attempt {
                Ok(socket) => {
                    self.net = Net::up(socket, self.config.silence);
                    self.next_channel = 0;
                    self.channels.clear();
                    let hello = ToServer::Hello { version: native::VERSION, device: self.id.0 };
                    self.send([hello.encode().into()]);
                    let names: Vec<DocumentName> = self.documents.keys().cloned().collect();
                    for name in names {
                        self.join(&name).await;
                    }
                    self.show(Connection::Connected);
                }
                Err(error) => {
                    let denied = matches!(&error, tokio_tungstenite::tungstenite::Error::Http(response)
                    if matches!(response.status().as_u16(), 401 | 403));
                    self.lost(&error.to_string(), None, denied).await;
                }
            },
            NetEvent::Ended(reason, code) => self.lost(&reason, code, false).await,
            NetEvent::Reconnect => self.connect(),
            NetEvent::KeepAlive => {
                self.send([ToServer::Ping.encode().into()]);
                if let Net::Up(up) = &mut self.net {
                    up.socket.queue_ping();
                }
            }
            NetEvent::Message(frame) => {
                self.traffic.received_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                self.traffic.received_messages.fetch_add(1, Ordering::Relaxed);
                if let Err(reason) = self.message(&frame).await {
                    self.lost(&reason, None, false).await;
                }
            }
        }
    }

    async fn message(&mut self, frame: &Bytes) -> Result<(), String> {
        let message = match ToClient::decode(frame) {
            Ok(message) => message,
            // A message type of a newer server.
            Err(native::NativeMessageError::UnknownType(_)) => return Ok(()),
            Err(error) => return Err(format!("the server sent an invalid message: {error}")),
        };
        if let ToClient::Welcome { version, time_ms, max_message_bytes } = message {
            if version != native::VERSION {
                return Err(format!(
                    "the server uses protocol version {version}, this client version {}; update the older one",
                    native::VERSION
                ));
            }
            self.set_clock(time_ms).await;
            let limit = usize::try_from(max_message_bytes).unwrap_or(usize::MAX);
            self.server_limit = Some(limit);
            for open in self.documents.values_mut() {
                open.core.set_limit(limit);
            }
            return Ok(());
        }
        let Some(channel) = message.channel() else { return Ok(()) };
        let Some(name) = self.channels.get(&channel).cloned() else { return Ok(()) };
        let now_ms = self.now_ms();
        let Some(open) = self.documents.get_mut(&name) else { return Ok(()) };
        if let Err(error) = open.core.received(&message, frame.len(), now_ms, &mut open.out) {
            warn!(document = %name, %error, "invalid message for this document; opening it again later");
            open.core.leave(now_ms, &mut open.out);
        }
        if open.out.events.iter().any(|event| matches!(event, Event::Synced(_))) {
            self.backoff.succeeded();
            open.backoff.succeeded();
        }
        let reopen = open.core.wants_reopening();
        if matches!(message, ToClient::Closed { .. }) || reopen {
            open.channel = None;
            self.channels.remove(&channel);
        }
        if reopen {
            self.reopen_later(&name);
        }
        self.correct_stamps(&name).await;
        self.flush(&name).await;
        Ok(())
    }

    fn reopen_later(&mut self, name: &DocumentName) {
        let Some(open) = self.documents.get_mut(name) else { return };
        let Advice::RetryAfter(wait) = open.backoff.ended(None, rand::random()) else { return };
        let (commands, document) = (self.commands.clone(), name.clone());
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(commands) = commands.upgrade() {
                // The device may have been closed meanwhile.
                drop(commands.send(Command::Reopen { document }).await);
            }
        });
    }

    /// Opens the document on the server, if there is a connection and the document is not open there.
    pub(super) async fn join(&mut self, name: &DocumentName) {
        if !matches!(self.net, Net::Up(_)) {
            return self.flush(name).await;
        }
        let (token, now_ms) = (self.config.token.clone().unwrap_or_default(), self.now_ms());
        let channel = self.take_channel(name);
        let limit = self.server_limit;
        if let Some(open) = self.documents.get_mut(name)
            && let () = limit.map_or((), |limit| open.core.set_limit(limit))
            && open.core.connected(channel, name.as_str(), &token, now_ms, &mut open.out)
        {
            open.channel = Some(channel);
        } else {
            self.channels.remove(&channel);
        }
        self.flush(name).await;
    }

    pub(super) fn take_channel(&mut self, name: &DocumentName) -> Channel {
        let channel = self.next_channel;
        self.next_channel += 1;
        self.channels.insert(channel, name.clone());
        channel
    }

    /// Starts a rebase. `reply` is sent when the server's history with the rebased queue is on the device's disk, or
    /// when that failed.
    pub(super) async fn rebase(&mut self, name: &DocumentName, reply: oneshot::Sender<Result<(), DeviceError>>) {
        let (token, is_up) = (self.config.token.clone().unwrap_or_default(), matches!(self.net, Net::Up(_)));
        let channel = self.take_channel(name);
        let Some(open) = self.documents.get_mut(name) else { return };
        if is_up && open.core.begin_rebase(channel, name.as_str(), &token, &mut open.out) {
            open.channel = Some(channel);
            open.rebasing = Some(reply);
        } else {
            self.channels.remove(&channel);
            let reason = if is_up {
                "the history has not changed, or a rebase is already running"
            } else {
                "there is no connection to the server"
            };
            // The caller may have been cancelled.
            drop(reply.send(Err(DeviceError::Refused(reason.into()))));
        }
        self.flush(name).await;
    }

    pub(super) async fn retry_refused(&mut self) {
        let now_ms = self.now_ms();
        let names: Vec<DocumentName> = self.documents.keys().cloned().collect();
        for name in names {
            if let Some(open) = self.documents.get_mut(&name) {
                open.core.retry_refused(now_ms, &mut open.out);
                if let Some(channel) = open.channel.take() {
                    self.channels.remove(&channel);
                }
            }
            self.join(&name).await;
        }
    }

    async fn lost(&mut self, reason: &str, code: Option<u16>, denied: bool) {
        debug!(reason, ?code, "connection lost");
        self.disconnected().await;
        let advice = if denied { Advice::Stop } else { self.backoff.ended(code, rand::random()) };
        match advice {
            Advice::Stop => {
                warn!(reason, "the server rejected the credentials; not connecting again until the token changes");
                self.net = Net::Stopped;
                self.show(Connection::Denied(reason.to_owned()));
            }
            Advice::RetryAfter(wait) => {
                self.net = Net::wait(wait);
                self.show(Connection::Waiting(reason.to_owned()));
            }
        }
    }

    pub(super) async fn disconnected(&mut self) {
        let now_ms = self.now_ms();
        self.channels.clear();
        let names: Vec<DocumentName> = self.documents.keys().cloned().collect();
        for name in names {
            if let Some(open) = self.documents.get_mut(&name) {
                open.channel = None;
                open.core.disconnected(now_ms, &mut open.out);
                open.out.frames.clear();
            }
            self.flush(&name).await;
        }
    }
}
