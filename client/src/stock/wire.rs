//! The two dialects behind one set of messages, so that the session does not depend on the dialect.

use bytes::Bytes;
use syncline_protocol::detect::Dialect;
use syncline_protocol::hocuspocus::{
    End, Frame, HocuspocusMessage, HocuspocusMessageError, PING_FRAME, PONG_FRAME, Scope, split_address,
};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::{YWebsocketMessage, YWebsocketMessageError};

use super::session::SessionError;

/// A decoded frame of the server, in either dialect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    Sync(SyncMessage<'a>),
    Awareness(&'a [u8]),
    QueryAwareness,
    TokenWanted,
    Denied(&'a str),
    Authenticated(Scope),
    Status {
        saved: bool,
    },
    Left(&'a str),
    Ping,
    /// Meant for the application or another document, or of an unknown type.
    Ignored,
}

/// Encodes and decodes the frames of a session.
#[derive(Debug)]
pub(crate) struct Wire {
    dialect: Dialect,
    document: DocumentName,
    token: String,
}

impl Wire {
    pub(crate) fn new(dialect: Dialect, document: DocumentName, token: String) -> Self {
        Self { dialect, document, token }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn read<'a>(&self, frame: &'a [u8]) -> Result<Incoming<'a>, SessionError> {
        match self.dialect {
            Dialect::YWebsocket => read_ywebsocket(frame),
            Dialect::Hocuspocus => self.read_hocuspocus(frame),
        }
    }

    fn read_hocuspocus<'a>(&self, frame: &'a [u8]) -> Result<Incoming<'a>, SessionError> {
        let (address, message) = match Frame::decode(frame, End::Client) {
            Ok(Frame::Ping) => return Ok(Incoming::Ping),
            Ok(Frame::Pong) | Err(HocuspocusMessageError::UnknownType(_)) => return Ok(Incoming::Ignored),
            Ok(Frame::Addressed { address, message }) => (address, message),
            Err(error) => return Err(SessionError::BadFrame(error.to_string())),
        };
        if split_address(address).0 != self.document.as_str() {
            return Ok(Incoming::Ignored);
        }
        Ok(match message {
            HocuspocusMessage::Sync(sync) | HocuspocusMessage::SyncReply(sync) => Incoming::Sync(sync),
            HocuspocusMessage::Awareness(update) => Incoming::Awareness(update),
            HocuspocusMessage::QueryAwareness => Incoming::QueryAwareness,
            HocuspocusMessage::TokenWanted => Incoming::TokenWanted,
            HocuspocusMessage::PermissionDenied(reason) => Incoming::Denied(reason),
            HocuspocusMessage::Authenticated(scope) => Incoming::Authenticated(scope),
            HocuspocusMessage::SyncStatus(saved) => Incoming::Status { saved },
            HocuspocusMessage::Close(reason) => Incoming::Left(reason),
            HocuspocusMessage::Token { .. }
            | HocuspocusMessage::Stateless(_)
            | HocuspocusMessage::BroadcastStateless(_) => Incoming::Ignored,
        })
    }

    /// Returns the token message, the first message in Hocuspocus. In y-websocket the token is in the URL instead.
    pub(crate) fn token(&self) -> Option<Bytes> {
        match self.dialect {
            Dialect::YWebsocket => None,
            Dialect::Hocuspocus => {
                let message = HocuspocusMessage::Token { token: &self.token, version: None };
                Some(message.encode(self.document.as_str()).into())
            }
        }
    }

    pub(crate) fn sync(&self, sync: SyncMessage<'_>) -> Bytes {
        match self.dialect {
            Dialect::YWebsocket => YWebsocketMessage::Sync(sync).encode().into(),
            Dialect::Hocuspocus => HocuspocusMessage::Sync(sync).encode(self.document.as_str()).into(),
        }
    }

    pub(crate) fn awareness(&self, update: &[u8]) -> Bytes {
        match self.dialect {
            Dialect::YWebsocket => YWebsocketMessage::Awareness(update).encode().into(),
            Dialect::Hocuspocus => HocuspocusMessage::Awareness(update).encode(self.document.as_str()).into(),
        }
    }

    pub(crate) fn ping(&self) -> Option<Bytes> {
        (self.dialect == Dialect::Hocuspocus).then(|| Bytes::from_static(&PING_FRAME))
    }

    pub(crate) fn pong(&self) -> Bytes {
        Bytes::from_static(&PONG_FRAME)
    }
}

fn read_ywebsocket(frame: &[u8]) -> Result<Incoming<'_>, SessionError> {
    Ok(match YWebsocketMessage::decode(frame) {
        Ok(YWebsocketMessage::Sync(sync)) => Incoming::Sync(sync),
        Ok(YWebsocketMessage::Awareness(update)) => Incoming::Awareness(update),
        Ok(YWebsocketMessage::QueryAwareness) => Incoming::QueryAwareness,
        Ok(YWebsocketMessage::PermissionDenied(reason)) => Incoming::Denied(reason),
        // Applications may add message types; stock clients ignore unknown ones too.
        Err(YWebsocketMessageError::UnknownType(_)) => Incoming::Ignored,
        Err(error) => return Err(SessionError::BadFrame(error.to_string())),
    })
}
