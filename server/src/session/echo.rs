//! Echoes every message: the server side of WebSocket conformance tests (`examples/echo.rs`,
//! `SessionLimits::echoes`).
//!
//! No dialect uses text, so UTF-8 is checked only here; everything else is the code that every session runs.

use bytes::Bytes;
use syncline_protocol::close::Close;

use crate::outbox::Outbox;

/// Handles a binary message.
pub(super) fn binary(outbox: &Outbox, message: &Bytes) {
    outbox.push_control(message.clone());
    outbox.send();
}

/// Handles a text message.
pub(super) fn text(outbox: &Outbox, message: &Bytes) -> Result<(), Close> {
    std::str::from_utf8(message).map_err(|_| Close::BadText("a text message is not UTF-8".into()))?;
    outbox.push_text(message.clone());
    outbox.send();
    Ok(())
}
