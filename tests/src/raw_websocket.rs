//! Hand-made WebSocket frames over a real socket (RFC 6455): sends what no library would send, and checks every byte of
//! the server's answer.

use std::net::SocketAddr;

use syncline_protocol::varint::{write_var_bytes, write_var_uint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::PATIENCE;

/// Opcode of a frame that continues a message.
pub const CONTINUATION: u8 = 0;
/// Opcode of a text message.
pub const TEXT: u8 = 1;
/// Opcode of a binary message.
pub const BINARY: u8 = 2;
/// Opcode of a close frame.
pub const CLOSE: u8 = 8;
/// Opcode of a ping.
pub const PING: u8 = 9;
/// Opcode of a pong.
pub const PONG: u8 = 10;

/// The example key of RFC 6455 section 1.3, and the matching `Sec-WebSocket-Accept`.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// A frame to send.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Whether this is the last frame of its message.
    pub fin: bool,
    /// The three reserved bits.
    pub reserved: u8,
    /// One of the opcodes above, or a reserved one.
    pub opcode: u8,
    /// A client must mask (RFC 6455 section 5.3).
    pub is_masked: bool,
    /// The payload before masking.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A complete message in one masked frame.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self { fin: true, reserved: 0, opcode, is_masked: true, payload: payload.into() }
    }

    /// The same frame without the FIN bit: more frames of its message follow.
    pub fn open(self) -> Self {
        Self { fin: false, ..self }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.reserved << 4 | self.opcode];
        let mask_bit = u8::from(self.is_masked) << 7;
        match self.payload.len() {
            len @ 0..=125 => bytes.push(mask_bit | len as u8),
            len @ 126..=0xffff => {
                bytes.push(mask_bit | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(mask_bit | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        if self.is_masked {
            bytes.extend(MASK);
            bytes.extend(self.payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            bytes.extend(&self.payload);
        }
        bytes
    }
}

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A frame other than a close frame.
    Frame {
        /// The opcode.
        opcode: u8,
        /// The payload.
        payload: Vec<u8>,
    },
    /// A close frame; `None`: without a code.
    Close {
        /// The close code.
        code: Option<u16>,
        /// The close reason.
        reason: String,
    },
    /// The end of the stream, or a reset.
    End,
}

/// A TCP connection on which frames are written and read by hand.
pub struct RawSocket {
    tcp: TcpStream,
    unread: Vec<u8>,
}

impl RawSocket {
    /// Connects, upgrades and checks the server's answer. `path` starts with a slash.
    pub async fn open(server: SocketAddr, path: &str) -> Self {
        Self::over(TcpStream::connect(server).await.expect("connects"), path).await
    }

    /// Upgrades a TCP connection and checks the answer. `path` starts with a slash.
    pub async fn over(tcp: TcpStream, path: &str) -> Self {
        tcp.set_nodelay(true).expect("a socket takes options");
        let mut socket = Self { tcp, unread: Vec::new() };
        socket.write(upgrade_request(path).as_bytes()).await;
        let head = socket.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let accepted = head.lines().any(|line| line.eq_ignore_ascii_case(&format!("sec-websocket-accept: {ACCEPT}")));
        assert!(accepted, "{head}");
        socket
    }

    /// Connects without upgrading.
    pub async fn connect(server: SocketAddr) -> Self {
        Self { tcp: TcpStream::connect(server).await.expect("connects"), unread: Vec::new() }
    }

    /// Writes `bytes`. Ignores a closed connection: the next receive reports it.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.ok();
    }

    /// Writes `bytes` in pieces of `size` bytes; the kernel may send each in its own segment.
    pub async fn write_chopped(&mut self, bytes: &[u8], size: usize) {
        for chop in bytes.chunks(size) {
            self.write(chop).await;
        }
    }

    /// Writes a frame.
    pub async fn send(&mut self, frame: Frame) {
        self.write(&frame.encode()).await;
    }

    /// Shuts down the sending side.
    pub async fn finish(&mut self) {
        self.tcp.shutdown().await.ok();
    }

    /// Reads the head of an HTTP response.
    pub async fn read_head(&mut self) -> String {
        loop {
            if let Some(end) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = self.unread.drain(..end + 4).collect();
                return String::from_utf8(head).expect("a head is text");
            }
            if !self.read_more().await {
                return String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned();
            }
        }
    }

    /// Reads `len` bytes after the head; fewer if the stream ends.
    pub async fn read_body(&mut self, len: usize) -> Vec<u8> {
        while self.unread.len() < len && self.read_more().await {}
        self.unread.drain(..len.min(self.unread.len())).collect()
    }

    /// Receives the next frame, or the end, within [`PATIENCE`].
    pub async fn receive(&mut self) -> Received {
        loop {
            if let Some(received) = self.decode() {
                return received;
            }
            if !self.read_more().await {
                assert!(self.unread.is_empty(), "the server closed the connection within a frame");
                return Received::End;
            }
        }
    }

    /// Receives the close frame, or the end; skips the messages before it.
    pub async fn receive_close(&mut self) -> Received {
        loop {
            match self.receive().await {
                Received::Frame { .. } => {}
                received => return received,
            }
        }
    }

    /// Reads from the socket until at least `bytes` bytes of frames are buffered, and decodes none of them.
    pub async fn begin_to_read(&mut self, bytes: usize) {
        while self.unread.len() < bytes {
            assert!(self.read_more().await, "the server closed the connection");
        }
    }

    async fn read_more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.tcp.read_buf(&mut self.unread)).await;
        read.expect("received in time").is_ok_and(|count| count > 0)
    }

    fn decode(&mut self) -> Option<Received> {
        let [first, second] = *self.unread.first_chunk()?;
        assert_eq!(first & 0xf0, 0x80, "complete messages, no reserved bits");
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (start, len) = match second {
            126 => (4, usize::from(u16::from_be_bytes(*self.unread.get(2..)?.first_chunk()?))),
            127 => (10, u64::from_be_bytes(*self.unread.get(2..)?.first_chunk()?) as usize),
            len => (2, usize::from(len)),
        };
        let payload = self.unread.get(start..start + len)?.to_vec();
        self.unread.drain(..start + len);
        let opcode = first & 0x0f;
        assert!([BINARY, CLOSE, PING, PONG].contains(&opcode), "opcode {opcode}");
        assert!(opcode == BINARY || len <= 125, "a control frame of {len} bytes");
        if opcode != CLOSE {
            return Some(Received::Frame { opcode, payload });
        }
        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        assert_ne!(len, 1, "half a close code");
        let reason = String::from_utf8(payload.get(2..).unwrap_or_default().to_vec()).expect("a reason is text");
        Some(Received::Close { code, reason })
    }
}

/// The request for a WebSocket upgrade at `path`.
pub fn upgrade_request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    )
}

/// A y-websocket update message of exactly `bytes` bytes (at least 17): `client` types into an empty text. The server
/// echoes it to its author when it is on disk.
pub fn message_of(client: u64, bytes: usize) -> Vec<u8> {
    // A length prefix grows in steps, so some sizes need a longer root name.
    for name in ["t", "tt", "ttt", "tttt"] {
        for len in bytes.saturating_sub(40).max(1)..=bytes {
            let message = typed_message(client, name, len);
            if message.len() == bytes {
                return message;
            }
        }
    }
    panic!("no message has {bytes} bytes");
}

fn typed_message(client: u64, name: &str, len: usize) -> Vec<u8> {
    let mut update = vec![1, 1];
    write_var_uint(&mut update, client);
    update.extend([0, 4, 1]);
    write_var_bytes(&mut update, name.as_bytes());
    write_var_bytes(&mut update, &vec![b'x'; len]);
    update.push(0);
    let mut message = vec![0, 2];
    write_var_bytes(&mut message, &update);
    message
}
