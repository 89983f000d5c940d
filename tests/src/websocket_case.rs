//! Cases of a WebSocket conformance suite: the steps to send over a raw socket, and the expected answers.

use std::sync::atomic::{AtomicU64, Ordering};

use syncline_server::Server;

use crate::raw_websocket::{BINARY, CLOSE, CONTINUATION, Frame, PONG, RawSocket, Received, message_of};

/// One step of a case.
pub enum Step {
    /// One frame.
    Frame(Frame),
    /// One frame, written in pieces of this many bytes.
    Chopped(Frame, usize),
    /// Several frames in one write.
    OneWrite(Vec<Frame>),
    /// Bytes, valid frame or not.
    Bytes(Vec<u8>),
    /// Wait for this answer before the next step: the server echoes an update only when it is stored.
    Await(Expected),
}

/// The next answer, which must be exactly this.
pub enum Expected {
    /// This binary message.
    Echo(Vec<u8>),
    /// A pong with this payload.
    Pong(Vec<u8>),
    /// The connection fails: a close frame with 1002 (RFC 6455 section 7.4.1), then the end.
    Failure,
    /// The message was refused: a close frame with 4400, then the end.
    Refused,
    /// A close frame with this code, then the end.
    Closed(Option<u16>),
}

/// One case of a suite.
pub struct Case {
    id: String,
    steps: Vec<Step>,
    expected: Vec<Expected>,
}

/// Builds the case `id`: sends `steps` on one connection and then expects `expected`.
pub fn case(id: impl Into<String>, steps: Vec<Step>, expected: Vec<Expected>) -> Case {
    Case { id: id.into(), steps, expected }
}

/// An update message of `bytes` bytes, different from every other one.
pub fn update(bytes: usize) -> Vec<u8> {
    static CLIENT: AtomicU64 = AtomicU64::new(20_000);
    message_of(CLIENT.fetch_add(1, Ordering::Relaxed), bytes)
}

/// A complete message in one frame.
pub fn frame(opcode: u8, payload: impl Into<Vec<u8>>) -> Step {
    Step::Frame(Frame::new(opcode, payload))
}

/// The first frame of a message.
pub fn begun(opcode: u8, payload: impl Into<Vec<u8>>) -> Step {
    Step::Frame(Frame::new(opcode, payload).open())
}

/// A close frame.
pub fn close(code: u16, reason: &[u8]) -> Step {
    frame(CLOSE, [&code.to_be_bytes(), reason].concat())
}

/// A frame with reserved bits set.
pub fn reserved(opcode: u8, bits: u8) -> Step {
    Step::Frame(Frame { reserved: bits, ..Frame::new(opcode, "Hello") })
}

/// Splits `message` into frames of `size` bytes.
pub fn fragments(message: &[u8], size: usize) -> Vec<Frame> {
    let mut opcode = BINARY;
    let mut frames: Vec<_> = message
        .chunks(size)
        .map(|chunk| Frame::new(std::mem::replace(&mut opcode, CONTINUATION), chunk).open())
        .collect();
    frames.last_mut().unwrap().fin = true;
    frames
}

/// Runs each case on its own connection and document.
pub async fn run(server: &Server, cases: Vec<Case>) {
    for Case { id, steps, expected: expectations } in cases {
        let mut socket = RawSocket::open(server.address(), &format!("/rfc6455-{id}")).await;
        // Syncs first, so that the answers to a step 1 do not mix with those of the case.
        socket.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
        while !matches!(socket.receive().await, Received::Frame { payload, .. } if payload.starts_with(&[0, 1])) {}
        for step in steps {
            match step {
                Step::Frame(frame) => socket.send(frame).await,
                Step::Chopped(frame, size) => socket.write_chopped(&frame.encode(), size).await,
                Step::OneWrite(frames) => {
                    socket.write(&frames.iter().flat_map(Frame::encode).collect::<Vec<_>>()).await
                }
                Step::Bytes(bytes) => socket.write(&bytes).await,
                Step::Await(expected) => _ = check(&id, &mut socket, expected).await,
            }
        }
        let mut is_open = true;
        for expected in expectations {
            is_open &= check(&id, &mut socket, expected).await;
        }
        if is_open {
            let last = update(30);
            socket.send(Frame::new(BINARY, last.clone())).await;
            check(&id, &mut socket, Expected::Echo(last)).await;
        }
    }
}

/// Receives one answer and checks it. Returns whether the connection is still open.
async fn check(id: &str, socket: &mut RawSocket, expected: Expected) -> bool {
    let received = socket.receive().await;
    match expected {
        Expected::Echo(message) => {
            let is_echo = received == Received::Frame { opcode: BINARY, payload: message };
            assert!(is_echo, "{id}: expected an echo, received {}", shortened(&received));
            return true;
        }
        Expected::Pong(payload) => {
            assert_eq!(received, Received::Frame { opcode: PONG, payload }, "{id}: expected a pong");
            return true;
        }
        Expected::Failure => {
            let Received::Close { code: Some(code), .. } = received else {
                panic!("{id}: expected a close frame, received {}", shortened(&received))
            };
            assert_eq!(code, 1002, "{id}");
        }
        Expected::Refused => {
            assert!(matches!(&received, Received::Close { code: Some(4400), .. }), "{id}: {}", shortened(&received));
        }
        Expected::Closed(expected) => {
            assert!(
                matches!(&received, Received::Close { code, .. } if *code == expected),
                "{id}: {}",
                shortened(&received)
            );
        }
    }
    socket.finish().await;
    assert_eq!(socket.receive().await, Received::End, "{id}: nothing follows a close frame");
    false
}

fn shortened(received: &Received) -> String {
    format!("{received:?}").chars().take(200).collect()
}
