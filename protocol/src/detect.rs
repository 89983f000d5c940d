//! Which stock dialect a session speaks (a native one says so itself: [`crate::native::is_hello`]), decided from its first frame. The rule is in SPEC.md, section "Told apart".
//!
//! A y-websocket client's first frame is a sync message and begins with byte 0. A Hocuspocus frame begins with the
//! length of a non-empty name, so 0 decides. Only a name of 1, 2 or 3 bytes looks like another y-websocket type
//! (awareness, auth, query awareness); there the frame must be exactly the Auth message with which every
//! Hocuspocus provider opens a document.

use crate::hocuspocus::{End, Frame, Message};

/// The wire format of a stock client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// npm `y-websocket`: one document, named by the path.
    YWebsocket,
    /// npm `@hocuspocus/provider`: many documents, named in each frame.
    Hocuspocus,
}

/// Decides from a session's first frame. A frame that is of neither dialect is taken for the one its first byte
/// belongs to, whose decoder then says what is wrong with it.
pub fn detect(first_frame: &[u8]) -> Dialect {
    match first_frame.first() {
        None | Some(0) => Dialect::YWebsocket,
        Some(1..=3) => match Frame::decode(first_frame, End::Server) {
            Ok(Frame::Addressed { message: Message::Token { .. }, .. }) => Dialect::Hocuspocus,
            _ => Dialect::YWebsocket,
        },
        Some(_) => Dialect::Hocuspocus,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::SyncMessage;
    use crate::ywebsocket;

    #[test]
    fn the_first_frames_of_stock_clients_are_told_apart() {
        let step1 = ywebsocket::Message::Sync(SyncMessage::Step1(&[0])).encode();
        assert_eq!(detect(&step1), Dialect::YWebsocket);
        for name in ["a", "ab", "abc", "abcd", "a name of some length", &"x".repeat(300)] {
            let token = Message::Token { token: "secret", version: Some("4.8.0") }.encode(name);
            assert_eq!(detect(&token), Dialect::Hocuspocus, "{name}");
            let old = Message::Token { token: "", version: None }.encode(name);
            assert_eq!(detect(&old), Dialect::Hocuspocus, "{name}");
        }
    }

    #[test]
    fn other_y_websocket_messages_first_are_still_y_websocket() {
        // One client, id 7, clock 0, state "{}".
        let awareness = ywebsocket::Message::Awareness(&[1, 7, 0, 2, b'{', b'}']).encode();
        assert_eq!(detect(&awareness), Dialect::YWebsocket);
        assert_eq!(detect(&ywebsocket::Message::QueryAwareness.encode()), Dialect::YWebsocket);
    }

    #[test]
    fn a_name_of_length_zero_is_never_hocuspocus() {
        let token = Message::Token { token: "t", version: None }.encode("");
        assert_eq!(detect(&token), Dialect::YWebsocket);
    }

    #[test]
    fn a_bare_ping_is_hocuspocus() {
        assert_eq!(detect(&crate::hocuspocus::PING_FRAME), Dialect::Hocuspocus);
    }
}
