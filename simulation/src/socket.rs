//! A client's connection: the real WebSocket protocol over a [`Pipe`].

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};

use crate::pipe::{ClientEnd, Pipe};

/// Small, because it is allocated for every connection.
const BUFFER_BYTES: usize = 1024;

/// The client's side of a connection.
pub struct Socket {
    socket: WebSocket<ClientEnd>,
    pipe: Pipe,
}

/// A result of [`Socket::receive`].
pub enum Received {
    /// A message.
    Frame(Bytes),
    /// The connection ended, with the server's close code if it sent one.
    End(Option<u16>),
}

impl Socket {
    /// The client's side of a connection.
    pub fn new(pipe: Pipe, end: ClientEnd) -> Self {
        let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES).write_buffer_size(0);
        Self { socket: WebSocket::from_raw_socket(end, Role::Client, Some(config)), pipe }
    }

    /// The network connection, to drive it.
    pub fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    /// Sends a message. It is lost if the connection is ending.
    pub fn send(&mut self, frame: Bytes) {
        self.socket.send(Message::Binary(frame)).ok();
    }

    /// Lets up to `bytes` bytes arrive, and returns the complete messages.
    pub fn receive(&mut self, bytes: usize) -> Vec<Received> {
        self.pipe.receive(bytes);
        let mut received = Vec::new();
        loop {
            match self.socket.read() {
                Ok(Message::Binary(frame)) => received.push(Received::Frame(frame)),
                Ok(Message::Close(frame)) => {
                    received.push(Received::End(frame.map(|frame| u16::from(frame.code))));
                    return received;
                }
                // The library answers pings at the next flush.
                Ok(_) => drop(self.socket.flush()),
                Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return received,
                Err(_) => {
                    received.push(Received::End(None));
                    return received;
                }
            }
        }
    }
}
