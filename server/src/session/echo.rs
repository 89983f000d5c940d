//! Echoes every message: the server side of WebSocket conformance tests (`examples/echo.rs`,
//! `SessionLimits::echoes`).
//!
//! No dialect uses text, so UTF-8 is checked only here; everything else is the code that every session runs.

use std::sync::Arc;

use bytes::Bytes;
use syncline_protocol::close::Close;

use crate::outbox::Outbox;

/// A session that opens no document.
pub(super) struct Echo {
    outbox: Arc<Outbox>,
}

impl Echo {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        Self { outbox }
    }

    pub(super) fn frame(&self, message: &Bytes) {
        self.outbox.push_control(message.clone());
        self.outbox.send();
    }

    pub(super) fn text(&self, message: &Bytes) -> Result<(), Close> {
        std::str::from_utf8(message).map_err(|_| Close::BadText("a text message is not UTF-8".into()))?;
        self.outbox.push_text(message.clone());
        self.outbox.send();
        Ok(())
    }
}
