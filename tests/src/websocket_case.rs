//! A case of a WebSocket conformance suite: what is said over a raw socket, and what must be heard.

use std::sync::atomic::{AtomicU64, Ordering};

use syncline_server::Server;

use crate::raw_websocket::{BINARY, CLOSE, CONTINUATION, Frame, PONG, RawSocket, Received, message_of};

/// What is sent.
pub enum Say {
    /// One frame.
    Frame(Frame),
    /// In writes of so many bytes.
    Chopped(Frame, usize),
    /// Several in one write.
    AtOnce(Vec<Frame>),
    /// Bytes that need not be a frame.
    Bytes(Vec<u8>),
    /// This must be heard before more is said: an echo comes only when the update is stored.
    Await(Hear),
}

/// What must be heard next, and nothing else.
pub enum Hear {
    /// This binary message.
    Echo(Vec<u8>),
    /// A pong with this payload.
    Pong(Vec<u8>),
    /// The connection fails: a close frame with 1002 (RFC 6455 section 7.4.1), then the end.
    Failure,
    /// Text came, or what is no message of the dialect: a close frame with 4400, then the end.
    Refused,
    /// A close frame with this code, then the end.
    Closed(Option<u16>),
}

/// One case of a suite.
pub struct Case {
    id: String,
    say: Vec<Say>,
    hear: Vec<Hear>,
}

/// The case `id`: a connection on which `say` is sent and `hear` is expected.
pub fn case(id: impl Into<String>, say: Vec<Say>, hear: Vec<Hear>) -> Case {
    Case { id: id.into(), say, hear }
}

/// An update message that no other case uses.
pub fn update(bytes: usize) -> Vec<u8> {
    static CLIENT: AtomicU64 = AtomicU64::new(20_000);
    message_of(CLIENT.fetch_add(1, Ordering::Relaxed), bytes)
}

/// A whole message in one frame.
pub fn frame(opcode: u8, payload: impl Into<Vec<u8>>) -> Say {
    Say::Frame(Frame::new(opcode, payload))
}

/// The first frame of a message.
pub fn begun(opcode: u8, payload: impl Into<Vec<u8>>) -> Say {
    Say::Frame(Frame::new(opcode, payload).open())
}

/// A close frame.
pub fn close(code: u16, reason: &[u8]) -> Say {
    frame(CLOSE, [&code.to_be_bytes(), reason].concat())
}

/// A frame with reserved bits set.
pub fn reserved(opcode: u8, bits: u8) -> Say {
    Say::Frame(Frame { reserved: bits, ..Frame::new(opcode, "Hello") })
}

/// `message` in frames of `size` bytes.
pub fn fragments(message: &[u8], size: usize) -> Vec<Frame> {
    let mut opcode = BINARY;
    let mut frames: Vec<_> = message
        .chunks(size)
        .map(|chunk| Frame::new(std::mem::replace(&mut opcode, CONTINUATION), chunk).open())
        .collect();
    frames.last_mut().unwrap().fin = true;
    frames
}

/// Runs each case on a connection and a document of its own.
pub async fn run(server: &Server, cases: Vec<Case>) {
    for Case { id, say, hear } in cases {
        let mut socket = RawSocket::open(server.address(), &format!("/rfc6455-{id}")).await;
        // Joined, so that answers to a step 1 do not mix with what the case is about.
        socket.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
        while !matches!(socket.receive().await, Received::Frame { payload, .. } if payload.starts_with(&[0, 1])) {}
        for say in say {
            match say {
                Say::Frame(frame) => socket.send(frame).await,
                Say::Chopped(frame, size) => socket.write_chopped(&frame.encode(), size).await,
                Say::AtOnce(frames) => socket.write(&frames.iter().flat_map(Frame::encode).collect::<Vec<_>>()).await,
                Say::Bytes(bytes) => socket.write(&bytes).await,
                Say::Await(expected) => _ = check(&id, &mut socket, expected).await,
            }
        }
        let mut is_open = true;
        for expected in hear {
            is_open &= check(&id, &mut socket, expected).await;
        }
        if is_open {
            let last = update(30);
            socket.send(Frame::new(BINARY, last.clone())).await;
            check(&id, &mut socket, Hear::Echo(last)).await;
        }
    }
}

/// Returns whether the connection is still open.
async fn check(id: &str, socket: &mut RawSocket, expected: Hear) -> bool {
    let heard = socket.receive().await;
    match expected {
        Hear::Echo(message) => {
            let is_echo = heard == Received::Frame { opcode: BINARY, payload: message };
            assert!(is_echo, "{id}: an echo, not {}", shortened(&heard));
            return true;
        }
        Hear::Pong(payload) => {
            assert_eq!(heard, Received::Frame { opcode: PONG, payload }, "{id}: a pong");
            return true;
        }
        Hear::Failure => {
            let Received::Close { code: Some(code), .. } = heard else {
                panic!("{id}: a close frame, not {}", shortened(&heard))
            };
            assert_eq!(code, 1002, "{id}");
        }
        Hear::Refused => {
            assert!(matches!(&heard, Received::Close { code: Some(4400), .. }), "{id}: {}", shortened(&heard));
        }
        Hear::Closed(expected) => {
            assert!(matches!(&heard, Received::Close { code, .. } if *code == expected), "{id}: {}", shortened(&heard));
        }
    }
    socket.finish().await;
    assert_eq!(socket.receive().await, Received::End, "{id}: nothing follows a close frame");
    false
}

fn shortened(heard: &Received) -> String {
    format!("{heard:?}").chars().take(200).collect()
}
