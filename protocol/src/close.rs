//! Why a session ends: the one table of codes, reasons and whether coming back can help.
//!
//! y-websocket 3.1 stops for good on 4400-4499 and retries everything else, so whatever is transient uses 1012,
//! 1013 or 45xx. The Hocuspocus provider ignores codes: a denial there is its PermissionDenied message.

use std::borrow::Cow;

use crate::limits::MAX_CLOSE_REASON_BYTES;

/// Why the server ends a session. [`Close::code`] and [`Close::may_reconnect`] follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// The server is stopping or restarting (1012).
    ServerStopping,
    /// Bytes that are no message of the session's dialect, or CRDT data the scanner refuses (4400).
    BadMessage(Cow<'static, str>),
    /// Bytes that are no frames of RFC 6455 (1002).
    BadFrame(Cow<'static, str>),
    /// Text that is not UTF-8 (1007).
    BadText(Cow<'static, str>),
    /// The document name breaks the rules (4404).
    BadDocumentName(Cow<'static, str>),
    /// The token does not allow this (4403).
    Forbidden(Cow<'static, str>),
    /// The document was deleted; its edits are kept by those who have them (4410).
    DocumentDeleted,
    /// The document has grown to its limit: this would make it larger (4414).
    DocumentFull(Cow<'static, str>),
    /// The message is larger than the server will ever accept (4413).
    MessageTooLarge {
        /// The limit in force, in bytes.
        limit_bytes: usize,
    },
    /// The socket took no byte for too long (4508).
    TooSlow,
    /// Too much of something that may be less later (4529).
    TooMany(Cow<'static, str>),
    /// The document could not be loaded; nothing was changed (4503).
    DocumentUnavailable,
    /// The document was thrown away and is loaded again from its log (4500).
    DocumentReloading,
    /// The disk refuses writes; what was not acknowledged stays with the client (4507).
    StorageFailed,
    /// The client said nothing that identifies it in time, or vanished (4408 would stop clients: 4504).
    TimedOut,
    /// A Hocuspocus client opened no document in time (4504).
    NotAuthenticated,
}

impl Close {
    /// A change by one who may only look (4403).
    pub fn read_only() -> Self {
        Close::Forbidden("you may read this document, not change it".into())
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

    /// The reason in plain words, at most [`MAX_CLOSE_REASON_BYTES`] long.
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
            Close::DocumentDeleted => "the document was deleted; what you have of it stays with you".into(),
            Close::DocumentReloading => "the document is being reloaded; please reconnect".into(),
            Close::DocumentUnavailable => {
                "the document could not be loaded; nothing was changed, please try again later".into()
            }
            Close::TimedOut => "nothing was heard from this client for too long".into(),
            Close::NotAuthenticated => {
                "no token came for any document in time; configure a token in the client and reconnect".into()
            }
            Close::StorageFailed => {
                "the server cannot write to its disk; your unsaved edits stay with you, it will be retried".into()
            }
            Close::TooSlow => "this connection took no data for too long; please reconnect".into(),
        };
        truncate(text)
    }

    /// True when the same client may connect again and hope for better.
    pub fn may_reconnect(&self) -> bool {
        may_reconnect(self.code())
    }
}

/// True when a session closed with `code` may be tried again: everything but 4400-4499 (as y-websocket 3.1 reads it).
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
    fn only_what_cannot_change_stops_a_client_for_good() {
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
