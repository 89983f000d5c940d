//! PURE: the messages of each dialect: enough to join, to send updates, and to classify a message by its first bytes, so that
//! a large one is never buffered.

use anyhow::{Result, bail};
use syncline_protocol::awareness::{self, AwarenessEntry};
use syncline_protocol::hocuspocus::{HocuspocusMessage, PONG_FRAME};
use syncline_protocol::native::{Resume, ToClient, ToServer, VERSION};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::varint::{ReadError, Reader};
use syncline_protocol::ywebsocket::YWebsocketMessage;

use super::Dialect;

/// An empty update.
const EMPTY_UPDATE: [u8; 2] = [0, 0];
/// The only channel of a native session here.
const CHANNEL: u64 = 1;

/// Type of a message, determined from its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageHead<'a> {
    /// Document data.
    Update {
        /// Offset of the update in the message.
        at: usize,
        /// Whether it answers the client's state vector: a sync step 2, or a native Diff.
        completes_join: bool,
    },
    /// Sync step 1 with the server's state vector.
    SyncStep1,
    /// The server asks for the client's state vector (native).
    WantsStateVector,
    /// SyncStatus of the oldest unanswered message (Hocuspocus).
    Status {
        /// Whether it was saved; false: it was refused.
        saved: bool,
    },
    /// Every batch up to this one is saved, if it was not refused (native).
    Acked { batch: u64 },
    /// A batch was refused (native).
    Refused { batch: u64, code: u16, reason: &'a str },
    /// An awareness update.
    Awareness,
    /// An unaddressed ping (Hocuspocus), answered with an unaddressed pong.
    Ping,
    /// The server denied access or closed the document. The code is 0 if the dialect has none.
    Closed { code: u16, reason: &'a str },
    /// Any other message.
    Other,
}

/// The messages that a client sends first on an open socket.
pub(super) fn hello(dialect: Dialect, document: &str, token: &str, state_vector: &[u8], device: u128) -> Vec<Vec<u8>> {
    let step_1 = || sync(dialect, document, SyncMessage::Step1(state_vector));
    match dialect {
        Dialect::Native => {
            // Without a cursor the server asks for the state vector.
            let (cursor, wants_state_vector) = (None, false);
            let open = ToServer::Open { channel: CHANNEL, document, token, cursor, wants_state_vector };
            vec![ToServer::Hello { version: VERSION, device }.encode(), open.encode()]
        }
        Dialect::Hocuspocus => {
            vec![HocuspocusMessage::Token { token, version: None }.encode(document), step_1()]
        }
        Dialect::YWebsocket => vec![step_1()],
    }
}

/// Sync step 2 of a client that has nothing that the server lacks.
pub(super) fn empty_step_2(dialect: Dialect, document: &str) -> Vec<u8> {
    sync(dialect, document, SyncMessage::Step2(&EMPTY_UPDATE))
}

/// The native answer to [`MessageHead::WantsStateVector`].
pub(super) fn state_vector(state_vector: &[u8]) -> Vec<u8> {
    ToServer::StateVector { channel: CHANNEL, state_vector }.encode()
}

/// The message that carries an update. `batch` numbers the updates of a native client.
pub(super) fn update(dialect: Dialect, document: &str, batch: u64, update: &[u8]) -> Vec<u8> {
    match dialect {
        Dialect::Native => ToServer::Change { channel: CHANNEL, batch, update }.encode(),
        Dialect::Hocuspocus | Dialect::YWebsocket => sync(dialect, document, SyncMessage::Update(update)),
    }
}

/// A sync message; native has none.
fn sync(dialect: Dialect, document: &str, sync: SyncMessage<'_>) -> Vec<u8> {
    match dialect {
        Dialect::Hocuspocus => HocuspocusMessage::Sync(sync).encode(document),
        Dialect::YWebsocket | Dialect::Native => YWebsocketMessage::Sync(sync).encode(),
    }
}

/// An awareness update of the size that editors send: a name, a colour, a cursor.
pub(super) fn awareness(dialect: Dialect, document: &str, client: u64, clock: u64) -> Vec<u8> {
    let state = format!(
        "{{\"user\":{{\"name\":\"Writer {client}\",\"color\":\"#30bced\"}},\"cursor\":{{\"anchor\":{clock},\"head\":{clock}}}}}"
    );
    let update = awareness::encode([AwarenessEntry { client, clock, state: &state }].into_iter());
    match dialect {
        Dialect::Native => ToServer::Presence { channel: CHANNEL, update: &update }.encode(),
        Dialect::Hocuspocus => HocuspocusMessage::Awareness(&update).encode(document),
        Dialect::YWebsocket => YWebsocketMessage::Awareness(&update).encode(),
    }
}

/// The answer to [`MessageHead::Ping`].
pub(super) fn pong() -> Vec<u8> {
    PONG_FRAME.to_vec()
}

/// Classifies a message. `head` is its beginning, or all of a small message.
///
/// # Errors
/// `head` is not the beginning of a message of this dialect.
pub(super) fn classify(dialect: Dialect, head: &[u8]) -> Result<MessageHead<'_>> {
    match dialect {
        Dialect::Native => classify_native(head),
        Dialect::Hocuspocus => classify_hocuspocus(head),
        Dialect::YWebsocket => {
            let mut reader = Reader::new(head);
            Ok(match reader.var_uint()? {
                0 => classify_sync(head, &mut reader)?,
                1 => MessageHead::Awareness,
                2 => MessageHead::Closed { code: 0, reason: denial(&mut reader)? },
                _ => MessageHead::Other,
            })
        }
    }
}

fn denial<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ReadError> {
    reader.var_uint()?;
    reader.var_str()
}

fn classify_hocuspocus(head: &[u8]) -> Result<MessageHead<'_>> {
    match head {
        [9] => return Ok(MessageHead::Ping),
        [10] => return Ok(MessageHead::Other),
        _ => {}
    }
    let mut reader = Reader::new(head);
    reader.var_bytes()?;
    Ok(match reader.var_uint()? {
        0 | 4 => classify_sync(head, &mut reader)?,
        1 => MessageHead::Awareness,
        2 => match reader.var_uint()? {
            1 => MessageHead::Closed { code: 0, reason: reader.var_str()? },
            _ => MessageHead::Other,
        },
        7 => MessageHead::Closed { code: 0, reason: reader.var_str().unwrap_or("the document was closed") },
        8 => MessageHead::Status { saved: reader.var_uint()? == 1 },
        _ => MessageHead::Other,
    })
}

fn classify_sync<'a>(head: &'a [u8], reader: &mut Reader<'a>) -> Result<MessageHead<'a>> {
    let kind = reader.var_uint()?;
    // The length of the update, whose bytes may be incomplete in `head`.
    reader.var_uint()?;
    let at = head.len() - reader.remaining();
    Ok(match kind {
        0 => MessageHead::SyncStep1,
        1 => MessageHead::Update { at, completes_join: true },
        2 => MessageHead::Update { at, completes_join: false },
        other => bail!("the server sent a sync message of unknown type {other}"),
    })
}

fn classify_native(head: &[u8]) -> Result<MessageHead<'_>> {
    // An update is the rest of its message, so the beginning of the message decodes like all of it.
    Ok(match ToClient::decode(head)? {
        ToClient::Opened { resume: Resume::SendStateVector, .. } => MessageHead::WantsStateVector,
        ToClient::Change { update, .. } => MessageHead::Update { at: head.len() - update.len(), completes_join: false },
        ToClient::Diff { update, .. } => MessageHead::Update { at: head.len() - update.len(), completes_join: true },
        ToClient::Ack { batch, .. } => MessageHead::Acked { batch },
        ToClient::Refused { batch, code, reason, .. } => MessageHead::Refused { batch, code, reason },
        ToClient::Presence { .. } => MessageHead::Awareness,
        ToClient::Closed { code, reason, .. } => MessageHead::Closed { code, reason },
        _ => MessageHead::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classify_recognises_messages_of_both_stock_dialects() {
        for dialect in [Dialect::YWebsocket, Dialect::Hocuspocus] {
            let update = update(dialect, "a document", 1, b"\x00\x00");
            let MessageHead::Update { at, completes_join: false } = classify(dialect, &update).unwrap() else {
                panic!("{update:?}")
            };
            assert_eq!(update[at..], [0, 0]);
            let step_2 = empty_step_2(dialect, "d");
            assert!(matches!(classify(dialect, &step_2).unwrap(), MessageHead::Update { completes_join: true, .. }));
            let hello = hello(dialect, "d", "", &[0], 1);
            assert_eq!(classify(dialect, hello.last().unwrap()).unwrap(), MessageHead::SyncStep1);
            assert_eq!(classify(dialect, &awareness(dialect, "d", 7, 1)).unwrap(), MessageHead::Awareness);
        }
        let dialect = Dialect::Hocuspocus;
        let status = HocuspocusMessage::SyncStatus(true).encode("d");
        assert_eq!(classify(dialect, &status).unwrap(), MessageHead::Status { saved: true });
        let denied = HocuspocusMessage::PermissionDenied("no").encode("d");
        assert_eq!(classify(dialect, &denied).unwrap(), MessageHead::Closed { code: 0, reason: "no" });
        assert_eq!(classify(dialect, &[9]).unwrap(), MessageHead::Ping);
    }

    #[test]
    fn awareness_message_passes_the_server_check() {
        let scan = |update| awareness::AwarenessUpdate::scan(update, &Default::default()).unwrap().len();
        let message = awareness(Dialect::YWebsocket, "d", 7, 3);
        let Ok(YWebsocketMessage::Awareness(update)) = YWebsocketMessage::decode(&message) else {
            panic!("not an awareness message")
        };
        assert_eq!(scan(update), 1);
        let message = awareness(Dialect::Native, "d", 7, 3);
        let Ok(ToServer::Presence { update, .. }) = ToServer::decode(&message) else {
            panic!("not a presence message")
        };
        assert_eq!(scan(update), 1);
    }
}
