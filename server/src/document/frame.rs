//! One message to readers, encoded at most once per dialect and shared by reference.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::{hocuspocus, ywebsocket};

/// How one lease's frames are written.
#[derive(Debug, Clone)]
pub enum Framing {
    /// Bare messages.
    YWebsocket,
    /// Messages under this address: the name, or name NUL session.
    Hocuspocus {
        /// As the client wrote it.
        address: Arc<str>,
    },
}

/// What the server says about a document. Payloads are v1 updates, state vectors and awareness updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// "Send me what I lack."
    Step1(Bytes),
    /// The answer to a step 1.
    Step2(Bytes),
    /// A change.
    Update(Bytes),
    /// Presence.
    Awareness(Bytes),
}

/// A message and its encodings so far.
#[derive(Debug)]
pub struct Frame {
    message: Message,
    ywebsocket: OnceLock<Bytes>,
    hocuspocus: OnceLock<Bytes>,
}

impl Frame {
    /// Nothing is encoded yet.
    pub fn new(message: Message) -> Arc<Self> {
        Arc::new(Self { message, ywebsocket: OnceLock::new(), hocuspocus: OnceLock::new() })
    }

    /// What it says.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The bytes for a reader of `document`. Only a Hocuspocus session id costs an encoding of its own.
    pub fn encode(&self, document: &DocumentName, framing: &Framing) -> Bytes {
        match framing {
            Framing::YWebsocket => self.ywebsocket.get_or_init(|| self.encode_ywebsocket()).clone(),
            Framing::Hocuspocus { address } if **address == *document.as_str() => {
                self.hocuspocus.get_or_init(|| self.encode_hocuspocus(address)).clone()
            }
            Framing::Hocuspocus { address } => self.encode_hocuspocus(address),
        }
    }

    fn encode_ywebsocket(&self) -> Bytes {
        let message = match &self.message {
            Message::Step1(payload) => ywebsocket::Message::Sync(SyncMessage::Step1(payload)),
            Message::Step2(payload) => ywebsocket::Message::Sync(SyncMessage::Step2(payload)),
            Message::Update(payload) => ywebsocket::Message::Sync(SyncMessage::Update(payload)),
            Message::Awareness(payload) => ywebsocket::Message::Awareness(payload),
        };
        message.encode().into()
    }

    fn encode_hocuspocus(&self, address: &str) -> Bytes {
        let message = match &self.message {
            Message::Step1(payload) => hocuspocus::Message::Sync(SyncMessage::Step1(payload)),
            Message::Step2(payload) => hocuspocus::Message::Sync(SyncMessage::Step2(payload)),
            Message::Update(payload) => hocuspocus::Message::Sync(SyncMessage::Update(payload)),
            Message::Awareness(payload) => hocuspocus::Message::Awareness(payload),
        };
        message.encode(address).into()
    }
}
