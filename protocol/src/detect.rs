//! Detects which stock dialect a session speaks from its first frame. Native sessions are recognised by
//! [`crate::native::is_hello`]. SPEC.md describes the rule.
//!
//! A y-websocket client's first frame is a sync message and starts with byte 0. A Hocuspocus frame starts with the length
//! of a name. A name of 1, 2 or 3 bytes looks like another y-websocket type (awareness, auth, query awareness). In that
//! case the frame counts as Hocuspocus only if it is exactly a message with which a provider opens a document: Auth, or
//! the sync message of a provider 2.x without a token. An empty name (refused later, with a reason) looks like a sync
//! message. In that case the frame must be exactly an Auth message, which for y-websocket would be a change of zero bytes
//! with trailing bytes.

use crate::hocuspocus::{End, Frame, HocuspocusMessage};

/// The wire format of a stock client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// npm `y-websocket`: one document, named by the path.
    YWebsocket,
    /// npm `@hocuspocus/provider`: many documents, named in each frame.
    Hocuspocus,
}

/// Detects the dialect from a session's first frame. `None` if the frame belongs to neither dialect: an application may
/// send a message of its own before the provider's first, so the caller tries the next frame.
pub fn detect(first_frame: &[u8]) -> Option<Dialect> {
    match first_frame.first()? {
        0..=3 => match Frame::decode(first_frame, End::Server) {
            Ok(Frame::Addressed { address, message }) if is_opening_message(address, &message) => {
                Some(Dialect::Hocuspocus)
            }
            _ => Some(Dialect::YWebsocket),
        },
        _ => match Frame::decode_prefix(first_frame, End::Server) {
            Ok((Frame::Addressed { address, .. }, _)) if is_printable(address) => Some(Dialect::Hocuspocus),
            Ok((Frame::Addressed { message: HocuspocusMessage::Token { .. }, .. } | Frame::Ping | Frame::Pong, _)) => {
                Some(Dialect::Hocuspocus)
            }
            _ => None,
        },
    }
}

/// True for text without control characters other than the NUL before a session id.
fn is_printable(address: &str) -> bool {
    !address.chars().any(|char| char.is_control() && char != '\0')
}

/// True for the first message of a Hocuspocus provider. The second byte of a y-websocket message of type 1 or 2 is a
/// length or a subtype. Read as a name it is a control character, or the rest of the frame is not one of these messages.
fn is_opening_message(address: &str, message: &HocuspocusMessage<'_>) -> bool {
    match message {
        HocuspocusMessage::Token { .. } => true,
        HocuspocusMessage::Sync(_) => !address.is_empty() && !address.chars().any(char::is_control),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::SyncMessage;
    use crate::ywebsocket::YWebsocketMessage;

    #[test]
    fn first_frames_of_stock_clients_are_detected() {
        let step1 = YWebsocketMessage::Sync(SyncMessage::Step1(&[0])).encode();
        assert_eq!(detect(&step1), Some(Dialect::YWebsocket));
        for name in ["a", "ab", "abc", "abcd", "a name of some length", &"x".repeat(300)] {
            let token = HocuspocusMessage::Token { token: "secret", version: Some("4.8.0") }.encode(name);
            assert_eq!(detect(&token), Some(Dialect::Hocuspocus), "{name}");
            let old = HocuspocusMessage::Token { token: "", version: None }.encode(name);
            assert_eq!(detect(&old), Some(Dialect::Hocuspocus), "{name}");
        }
    }

    #[test]
    fn awareness_as_first_message_is_detected_as_y_websocket() {
        // One client, id 7, clock 0, state "{}".
        let awareness = YWebsocketMessage::Awareness(&[1, 7, 0, 2, b'{', b'}']).encode();
        assert_eq!(detect(&awareness), Some(Dialect::YWebsocket));
        assert_eq!(detect(&YWebsocketMessage::QueryAwareness.encode()), Some(Dialect::YWebsocket));
    }

    #[test]
    fn hocuspocus_provider_without_token_is_detected_by_its_step1() {
        for name in ["a", "ab", "abc", "d2"] {
            let step1 = HocuspocusMessage::Sync(SyncMessage::Step1(&[1, 7, 3])).encode(name);
            assert_eq!(detect(&step1), Some(Dialect::Hocuspocus), "{name}");
        }
    }

    #[test]
    fn short_y_websocket_messages_are_not_detected_as_hocuspocus() {
        for frame in [&[1, 1, 0][..], &[2, 0, 0], &[3], &[3, 0, 0, 0]] {
            assert_eq!(detect(frame), Some(Dialect::YWebsocket), "{frame:?}");
        }
        // Awareness of one client with a state of any length below 200.
        for len in 0..200 {
            let state = format!("\"{}\"", "x".repeat(len));
            let mut update = vec![1, 7, 0];
            crate::varint::write_var_bytes(&mut update, state.as_bytes());
            let awareness = YWebsocketMessage::Awareness(&update).encode();
            assert_eq!(detect(&awareness), Some(Dialect::YWebsocket), "{len}");
        }
    }

    #[test]
    fn auth_message_for_an_empty_name_is_detected_as_hocuspocus() {
        for (token, version) in [("t", None), ("", Some("4.8.0")), ("secret", Some("4.8.0"))] {
            let token = HocuspocusMessage::Token { token, version }.encode("");
            assert_eq!(detect(&token), Some(Dialect::Hocuspocus));
        }
        for sync in [SyncMessage::Step1(&[0]), SyncMessage::Step2(&[0, 0]), SyncMessage::Update(&[0, 0])] {
            assert_eq!(detect(&YWebsocketMessage::Sync(sync).encode()), Some(Dialect::YWebsocket));
        }
    }

    #[test]
    fn bare_ping_is_detected_as_hocuspocus() {
        assert_eq!(detect(&crate::hocuspocus::PING_FRAME), Some(Dialect::Hocuspocus));
    }

    #[test]
    fn application_messages_are_not_detected_as_any_dialect() {
        let long = [&[101][..], &[b'x'; 200]].concat();
        for frame in
            [&[101, 5, b'h', b'e', b'l', b'l', b'o'][..], &[101], &long, &[102, 1, 7], &[4, 0xff, 0xfe, 0xfd, 0xfc, 2]]
        {
            assert_eq!(detect(frame), None, "{frame:?}");
        }
    }
}
