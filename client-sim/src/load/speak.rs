//! What is said on the wire in each dialect: enough to join, to send updates, and to see what a message is from its
//! first bytes. Pure.

use std::fmt;

use anyhow::{Result, bail};
use clap::ValueEnum;
use syncline_protocol::awareness::{self, AwarenessEntry};
use syncline_protocol::hocuspocus::{self, PONG_FRAME};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::varint::{ReadError, Reader};
use syncline_protocol::ywebsocket;

/// An update, and a state vector, without content.
const EMPTY_UPDATE: [u8; 2] = [0, 0];
/// The state vector of a client that has nothing.
pub const EMPTY_STATE_VECTOR: [u8; 1] = [0];

/// The wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// One document a connection, named by the path.
    YWebsocket,
    /// Documents named in every message.
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

/// What a message is, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Document data; it begins at this byte of the message.
    Update {
        /// Where the update begins.
        at: usize,
        /// It answers our question.
        answer: bool,
    },
    /// The server's question, with its state vector.
    Question,
    /// The update before is saved, or refused.
    Status {
        /// Saved.
        saved: bool,
    },
    /// Presence.
    Awareness,
    /// A bare ping that wants a bare pong.
    Ping,
    /// The server will not have us.
    Denied(&'a str),
    /// Anything else.
    Other,
}

impl Dialect {
    /// The path to connect to for a document.
    pub fn path(self, base: &str, document: &str, token: Option<&str>) -> String {
        let base = base.trim_end_matches('/');
        match (self, token) {
            (Dialect::Hocuspocus, _) => format!("{base}/"),
            (Dialect::YWebsocket, None) => format!("{base}/{document}"),
            (Dialect::YWebsocket, Some(token)) => format!("{base}/{document}?token={token}"),
        }
    }

    /// What a client says first, when the socket is open: messages.
    pub fn hello(self, document: &str, token: Option<&str>, state_vector: &[u8]) -> Vec<Vec<u8>> {
        let question = self.sync(document, SyncMessage::Step1(state_vector));
        match self {
            Dialect::YWebsocket => vec![question],
            Dialect::Hocuspocus => {
                let token = hocuspocus::Message::Token { token: token.unwrap_or_default(), version: None };
                vec![token.encode(document), question]
            }
        }
    }

    /// The answer to the server's question: a client that has nothing the server lacks.
    pub fn nothing_new(self, document: &str) -> Vec<u8> {
        self.sync(document, SyncMessage::Step2(&EMPTY_UPDATE))
    }

    /// The message that tells of an update.
    pub fn update(self, document: &str, update: &[u8]) -> Vec<u8> {
        self.sync(document, SyncMessage::Update(update))
    }

    fn sync(self, document: &str, sync: SyncMessage<'_>) -> Vec<u8> {
        match self {
            Dialect::YWebsocket => ywebsocket::Message::Sync(sync).encode(),
            Dialect::Hocuspocus => hocuspocus::Message::Sync(sync).encode(document),
        }
    }

    /// A presence of the size that editors send: a name, a colour, a cursor.
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

    /// The answer to [`Heard::Ping`].
    pub fn pong(self) -> &'static [u8] {
        &PONG_FRAME
    }

    /// What a message is. `head` is its beginning; of small messages, all of it.
    ///
    /// # Errors
    /// It is no message of this dialect.
    pub fn hear(self, head: &[u8]) -> Result<Heard<'_>> {
        let mut reader = Reader::new(head);
        Ok(match self {
            Dialect::YWebsocket => match reader.var_uint()? {
                0 => sync(head, &mut reader)?,
                1 => Heard::Awareness,
                2 => Heard::Denied(reason(&mut reader)?),
                _ => Heard::Other,
            },
            Dialect::Hocuspocus => {
                match head {
                    [9] => return Ok(Heard::Ping),
                    [10] => return Ok(Heard::Other),
                    _ => {}
                }
                reader.var_bytes()?;
                match reader.var_uint()? {
                    0 | 4 => sync(head, &mut reader)?,
                    1 => Heard::Awareness,
                    2 => match reader.var_uint()? {
                        1 => Heard::Denied(reader.var_str()?),
                        _ => Heard::Other,
                    },
                    7 => Heard::Denied(reader.var_str().unwrap_or("the document was closed")),
                    8 => Heard::Status { saved: reader.var_uint()? == 1 },
                    _ => Heard::Other,
                }
            }
        })
    }
}

fn reason<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ReadError> {
    reader.var_uint()?;
    reader.var_str()
}

fn sync<'a>(head: &'a [u8], reader: &mut Reader<'a>) -> Result<Heard<'a>> {
    let kind = reader.var_uint()?;
    // The length; the bytes need not all be here.
    reader.var_uint()?;
    let at = head.len() - reader.remaining();
    Ok(match kind {
        0 => Heard::Question,
        1 => Heard::Update { at, answer: true },
        2 => Heard::Update { at, answer: false },
        other => bail!("a sync message of unknown type {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_in_both_dialects() {
        for dialect in [Dialect::YWebsocket, Dialect::Hocuspocus] {
            let update = dialect.update("a document", b"\x00\x00");
            let Heard::Update { at, answer: false } = dialect.hear(&update).unwrap() else { panic!("{update:?}") };
            assert_eq!(update[at..], [0, 0]);
            assert!(matches!(dialect.hear(&dialect.nothing_new("d")).unwrap(), Heard::Update { answer: true, .. }));
            let hello = dialect.hello("d", None, &EMPTY_STATE_VECTOR);
            assert_eq!(dialect.hear(hello.last().unwrap()).unwrap(), Heard::Question);
            assert_eq!(dialect.hear(&dialect.awareness("d", 7, 1)).unwrap(), Heard::Awareness);
        }
        let dialect = Dialect::Hocuspocus;
        let status = hocuspocus::Message::SyncStatus(true).encode("d");
        assert_eq!(dialect.hear(&status).unwrap(), Heard::Status { saved: true });
        let denied = hocuspocus::Message::PermissionDenied("no").encode("d");
        assert_eq!(dialect.hear(&denied).unwrap(), Heard::Denied("no"));
        assert_eq!(dialect.hear(&[9]).unwrap(), Heard::Ping);
    }

    #[test]
    fn the_presence_is_one_that_the_gate_lets_through() {
        let message = Dialect::YWebsocket.awareness("d", 7, 3);
        let Ok(ywebsocket::Message::Awareness(update)) = ywebsocket::Message::decode(&message) else {
            panic!("no presence")
        };
        assert_eq!(awareness::AwarenessUpdate::scan(update, &Default::default()).unwrap().len(), 1);
    }
}
