//! PURE: a message on its way to a socket: in one piece, or as a short head and a payload that lies elsewhere.

use bytes::{Bytes, BytesMut};

/// One message. The payload of a large answer is the document's own memory: no reader costs a copy of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Before the payload.
    pub head: Bytes,
    /// The rest.
    pub payload: Bytes,
}

impl Packet {
    /// Bytes of both.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// True for a message of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In one piece.
    pub fn into_bytes(self) -> Bytes {
        if self.head.is_empty() {
            return self.payload;
        }
        let mut whole = BytesMut::from(self.head);
        whole.extend_from_slice(&self.payload);
        whole.freeze()
    }
}

impl From<Bytes> for Packet {
    fn from(payload: Bytes) -> Self {
        Self { head: Bytes::new(), payload }
    }
}
