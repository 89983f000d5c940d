//! Fuzz target for the WebSocket decoder: the result must not depend on how the network cuts the bytes.

use bytes::BytesMut;

use crate::websocket::{Decoder, Incoming};

/// Maximum message size, small enough for fuzz inputs to reach it.
const MAX_MESSAGE_BYTES: usize = 300;

/// The first byte is the size of the pieces in which the other bytes arrive.
pub fn frames(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let whole = decode(bytes, bytes.len().max(1));
    let pieces = decode(bytes, usize::from(size).max(1));
    assert_eq!(whole, pieces, "the decoded messages depend on how the input is cut");
    for incoming in whole.0 {
        if let Incoming::Binary(message) = incoming {
            assert!(message.len() <= MAX_MESSAGE_BYTES);
        }
    }
}

fn decode(bytes: &[u8], size: usize) -> (Vec<Incoming>, Option<String>) {
    let (mut decoder, mut input, mut decoded) = (Decoder::new(MAX_MESSAGE_BYTES), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(incoming)) => {
                    let ends = matches!(incoming, Incoming::Text(_) | Incoming::Close(_));
                    decoded.push(incoming);
                    if ends {
                        return (decoded, None);
                    }
                }
                Ok(None) => break,
                Err(error) => return (decoded, Some(error.to_string())),
            }
        }
    }
    (decoded, None)
}
