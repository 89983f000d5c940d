//! Why a session ends: close code, reason, and whether the client may reconnect.
//!
//! y-websocket 3.1 never reconnects after 4400-4499 and reconnects after every other code, so transient causes use
//! 1012 or 45xx. The Hocuspocus provider ignores close codes: it is denied access by a PermissionDenied message.

use std::borrow::Cow;

use crate::limits::MAX_CLOSE_REASON_BYTES;

/// Why the server ends a session. [`Close::code`] and [`Close::may_reconnect`] follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// The server is stopping or restarting (1012).
    ServerStopping,
    /// The bytes are not a message of the session's dialect, or the scanner refuses the CRDT data (4400).
    BadMessage(Cow<'static, str>),
    /// The bytes are not RFC 6455 frames (1002).
    BadFrame(Cow<'static, str>),
    /// The reason in a close frame, or a text message, is not UTF-8 (1007).
    BadText(Cow<'static, str>),
    /// The document name is invalid (4404).
    BadDocumentName(Cow<'static, str>),
    /// The token does not permit this (4403).
    Forbidden(Cow<'static, str>),
    /// The document was deleted on the server; clients keep their local copies (4410).
    DocumentDeleted,
    /// The document is at its size limit and the update would make it larger (4414).
    DocumentFull(Cow<'static, str>),
    /// The message is larger than the server accepts (4413).
    MessageTooLarge {
        /// The limit in force, in bytes.
        limit_bytes: usize,
    },
    /// The client reads its data too slowly, or not at all (4508).
    TooSlow,
    /// A limit is reached, and there may be room later (4529).
    TooMany(Cow<'static, str>),
    /// The document could not be loaded; nothing was changed (4503).
    DocumentUnavailable,
    /// The document was dropped from memory and is being reloaded from its log (4500).
    DocumentReloading,
    /// The disk refuses writes; the client keeps its unacknowledged edits (4507).
    StorageFailed,
    /// The client did not send a first message in time, or stopped responding. 4504 rather than 4408, after which
    /// clients would not reconnect.
    TimedOut,
    /// A Hocuspocus client neither sent a token nor opened a document in time (4504).
    NotAuthenticated,
}

impl Close {
    /// A read-only client sent a change (4403).
    pub fn read_only() -> Self {
        Close::Forbidden("your access to this document is read-only".into())
    }

    /// The WebSocket close code.
    pub fn code(&self) -> u16 {
        match self {
            Close::BadFrame(_) => 1002,
            Close::BadText(_) => 1007,
            Close::ServerStopping => 1012,
            Close::BadMessage(_) => 4400,
            Close::Forbidden(_) => 4403,
            Close::BadDocumentName(_) => 4404,
            Close::DocumentDeleted => 4410,
            Close::MessageTooLarge { .. } => 4413,
            Close::DocumentFull(_) => 4414,
            Close::DocumentReloading => 4500,
            Close::DocumentUnavailable => 4503,
            Close::TimedOut | Close::NotAuthenticated => 4504,
            Close::StorageFailed => 4507,
            Close::TooSlow => 4508,
            Close::TooMany(_) => 4529,
        }
    }

    /// The reason as text for people, at most [`MAX_CLOSE_REASON_BYTES`] long.
    pub fn reason(&self) -> Cow<'_, str> {
        let text: Cow<'_, str> = match self {
            Close::ServerStopping => "the server is restarting; please reconnect".into(),
            Close::BadMessage(why)
            | Close::BadFrame(why)
            | Close::BadText(why)
            | Close::BadDocumentName(why)
            | Close::Forbidden(why)
            | Close::DocumentFull(why)
            | Close::TooMany(why) => Cow::Borrowed(why.as_ref()),
            Close::MessageTooLarge { limit_bytes } => {
                format!("the message is larger than this server's limit of {limit_bytes} bytes").into()
            }
            Close::DocumentDeleted => "the document was deleted from the server; your local copy is kept".into(),
            Close::DocumentReloading => "the document is being reloaded; please reconnect".into(),
            Close::DocumentUnavailable => {
                "the document could not be loaded; nothing was changed; please try again later".into()
            }
            Close::TimedOut => "the server received nothing from this client for too long".into(),
            Close::NotAuthenticated => {
                "no token was received for any document in time; configure a token in the client and reconnect".into()
            }
            Close::StorageFailed => {
                "the server cannot write to its disk; your unsaved edits stay in the client and are sent again later"
                    .into()
            }
            Close::TooSlow => "this client reads its data too slowly; please reconnect".into(),
        };
        truncate(text)
    }

    /// All open documents use the memory that they may, and none of them can free enough.
    pub fn memory_full() -> Self {
        Self::TooMany("memory limit for open documents on this server reached; try again later".into())
    }

    /// True when reconnecting may succeed.
    pub fn may_reconnect(&self) -> bool {
        may_reconnect(self.code())
    }
}

/// True when a client may reconnect after `code`: after every code but 4400-4499, as y-websocket 3.1 does.
pub fn may_reconnect(code: u16) -> bool {
    !(4400..4500).contains(&code)
}

fn truncate(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= MAX_CLOSE_REASON_BYTES {
        return text;
    }
    let end = text.floor_char_boundary(MAX_CLOSE_REASON_BYTES);
    Cow::Owned(text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Close> {
        vec![
            Close::ServerStopping,
            Close::BadMessage("é".repeat(200).into()),
            Close::BadFrame("unmasked".into()),
            Close::BadText("not UTF-8".into()),
            Close::BadDocumentName("empty".into()),
            Close::DocumentDeleted,
            Close::Forbidden("no".into()),
            Close::DocumentFull("full".into()),
            Close::MessageTooLarge { limit_bytes: usize::MAX },
            Close::TooSlow,
            Close::TooMany("documents".into()),
            Close::DocumentUnavailable,
            Close::DocumentReloading,
            Close::StorageFailed,
            Close::TimedOut,
            Close::NotAuthenticated,
        ]
    }

    #[test]
    fn every_reason_fits_a_close_frame() {
        for close in all() {
            assert!(!close.reason().is_empty(), "{close:?}");
            assert!(close.reason().len() <= MAX_CLOSE_REASON_BYTES, "{close:?}");
        }
    }

    #[test]
    fn only_permanent_causes_forbid_reconnecting() {
        for close in all() {
            let is_final = matches!(
                close,
                Close::BadMessage(_)
                    | Close::BadDocumentName(_)
                    | Close::DocumentDeleted
                    | Close::Forbidden(_)
                    | Close::DocumentFull(_)
                    | Close::MessageTooLarge { .. }
            );
            assert_eq!(close.may_reconnect(), !is_final, "{close:?}");
        }
    }
}
