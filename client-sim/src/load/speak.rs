//! The messages of each dialect: enough to join, to send updates, and to classify a message by its first bytes. Pure.

use std::fmt;

use anyhow::{Result, bail};
use clap::ValueEnum;
use syncline_protocol::awareness::{self, AwarenessEntry};
use syncline_protocol::hocuspocus::{self, PONG_FRAME};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::varint::{ReadError, Reader};
use syncline_protocol::ywebsocket;

/// An empty update.
const EMPTY_UPDATE: [u8; 2] = [0, 0];
/// The state vector of an empty document.
pub const EMPTY_STATE_VECTOR: [u8; 1] = [0];

/// Wire protocol of the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// One document per connection, named in the path.
    YWebsocket,
    /// Documents are named in every message.
    Hocuspocus,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::YWebsocket => "y-websocket",
            Dialect::Hocuspocus => "hocuspocus",
        })
    }
}

/// Type of a message, determined from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageHead<'a> {
    /// Document data.
    Update {
        /// Offset of the update in the message.
        at: usize,
        /// Whether it is a sync step 2.
        step_2: bool,
    },
    /// Sync step 1 with the server's state vector.
    SyncStep1,
    /// SyncStatus of an earlier update.
    Status {
        /// Whether the update was saved; false: it was refused.
        saved: bool,
    },
    /// An awareness update.
    Awareness,
    /// An unaddressed ping (Hocuspocus), answered with an unaddressed pong.
    Ping,
    /// The server denied access or closed the document. Holds the reason.
    Denied(&'a str),
    /// Any other message.
    Other,
}

impl Dialect {
    /// Path of the WebSocket URL for a document.
    pub fn path(self, base: &str, document: &str, token: Option<&str>) -> String {
        let base = base.trim_end_matches('/');
        match (self, token) {
            (Dialect::Hocuspocus, _) => format!("{base}/"),
            (Dialect::YWebsocket, None) => format!("{base}/{document}"),
            (Dialect::YWebsocket, Some(token)) => format!("{base}/{document}?token={token}"),
        }
    }

    /// The messages that a client sends first on an open socket.
    pub fn hello(self, document: &str, token: Option<&str>, state_vector: &[u8]) -> Vec<Vec<u8>> {
        let step_1 = self.sync(document, SyncMessage::Step1(state_vector));
        match self {
            Dialect::YWebsocket => vec![step_1],
            Dialect::Hocuspocus => {
                let token = hocuspocus::Message::Token { token: token.unwrap_or_default(), version: None };
                vec![token.encode(document), step_1]
            }
        }
    }

    /// Sync step 2 of a client that has nothing that the server lacks.
    pub fn empty_step_2(self, document: &str) -> Vec<u8> {
        self.sync(document, SyncMessage::Step2(&EMPTY_UPDATE))
    }

    /// The message that carries an update.
    pub fn update(self, document: &str, update: &[u8]) -> Vec<u8> {
        self.sync(document, SyncMessage::Update(update))
    }

    fn sync(self, document: &str, sync: SyncMessage<'_>) -> Vec<u8> {
        match self {
            Dialect::YWebsocket => ywebsocket::Message::Sync(sync).encode(),
            Dialect::Hocuspocus => hocuspocus::Message::Sync(sync).encode(document),
        }
    }

    /// An awareness update of the size that editors send: a name, a colour, a cursor.
    pub fn awareness(self, document: &str, client: u64, clock: u64) -> Vec<u8> {
        let state = format!(
            "{{\"user\":{{\"name\":\"Writer {client}\",\"color\":\"#30bced\"}},\"cursor\":{{\"anchor\":{clock},\"head\":{clock}}}}}"
        );
        let update = awareness::encode([AwarenessEntry { client, clock, state: &state }].into_iter());
        match self {
            Dialect::YWebsocket => ywebsocket::Message::Awareness(&update).encode(),
            Dialect::Hocuspocus => hocuspocus::Message::Awareness(&update).encode(document),
        }
    }

    /// The answer to [`MessageHead::Ping`].
    pub fn pong(self) -> &'static [u8] {
        &PONG_FRAME
    }

    /// Classifies a message. `head` is its beginning, or all of a small message.
    ///
    /// # Errors
    /// `head` is not the beginning of a message of this dialect.
    pub fn classify(self, head: &[u8]) -> Result<MessageHead<'_>> {
        let mut reader = Reader::new(head);
        Ok(match self {
            Dialect::YWebsocket => match reader.var_uint()? {
                0 => sync(head, &mut reader)?,
                1 => MessageHead::Awareness,
                2 => MessageHead::Denied(reason(&mut reader)?),
                _ => MessageHead::Other,
            },
            Dialect::Hocuspocus => {
                match head {
                    [9] => return Ok(MessageHead::Ping),
                    [10] => return Ok(MessageHead::Other),
                    _ => {}
                }
                reader.var_bytes()?;
                match reader.var_uint()? {
                    0 | 4 => sync(head, &mut reader)?,
                    1 => MessageHead::Awareness,
                    2 => match reader.var_uint()? {
                        1 => MessageHead::Denied(reader.var_str()?),
                        _ => MessageHead::Other,
                    },
                    7 => MessageHead::Denied(reader.var_str().unwrap_or("the document was closed")),
                    8 => MessageHead::Status { saved: reader.var_uint()? == 1 },
                    _ => MessageHead::Other,
                }
            }
        })
    }
}

fn reason<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ReadError> {
    reader.var_uint()?;
    reader.var_str()
}

fn sync<'a>(head: &'a [u8], reader: &mut Reader<'a>) -> Result<MessageHead<'a>> {
    let kind = reader.var_uint()?;
    // The length of the update, whose bytes may be incomplete in `head`.
    reader.var_uint()?;
    let at = head.len() - reader.remaining();
    Ok(match kind {
        0 => MessageHead::SyncStep1,
        1 => MessageHead::Update { at, step_2: true },
        2 => MessageHead::Update { at, step_2: false },
        other => bail!("the server sent a sync message of unknown type {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classify_recognises_messages_of_both_dialects() {
        for dialect in [Dialect::YWebsocket, Dialect::Hocuspocus] {
            let update = dialect.update("a document", b"\x00\x00");
            let MessageHead::Update { at, step_2: false } = dialect.classify(&update).unwrap() else {
                panic!("{update:?}")
            };
            assert_eq!(update[at..], [0, 0]);
            let step_2 = dialect.empty_step_2("d");
            assert!(matches!(dialect.classify(&step_2).unwrap(), MessageHead::Update { step_2: true, .. }));
            let hello = dialect.hello("d", None, &EMPTY_STATE_VECTOR);
            assert_eq!(dialect.classify(hello.last().unwrap()).unwrap(), MessageHead::SyncStep1);
            assert_eq!(dialect.classify(&dialect.awareness("d", 7, 1)).unwrap(), MessageHead::Awareness);
        }
        let dialect = Dialect::Hocuspocus;
        let status = hocuspocus::Message::SyncStatus(true).encode("d");
        assert_eq!(dialect.classify(&status).unwrap(), MessageHead::Status { saved: true });
        let denied = hocuspocus::Message::PermissionDenied("no").encode("d");
        assert_eq!(dialect.classify(&denied).unwrap(), MessageHead::Denied("no"));
        assert_eq!(dialect.classify(&[9]).unwrap(), MessageHead::Ping);
    }

    #[test]
    fn awareness_message_passes_the_server_check() {
        let message = Dialect::YWebsocket.awareness("d", 7, 3);
        let Ok(ywebsocket::Message::Awareness(update)) = ywebsocket::Message::decode(&message) else {
            panic!("not an awareness message")
        };
        assert_eq!(awareness::AwarenessUpdate::scan(update, &Default::default()).unwrap().len(), 1);
    }
}
