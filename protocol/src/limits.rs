//! Every limit of the wire, by name, and how they relate. SPEC.md lists them for other implementers.

/// Longest document name, in bytes.
pub const MAX_DOCUMENT_NAME_BYTES: usize = 512;

/// Longest Hocuspocus session id (the part after NUL in an address), in bytes.
pub const MAX_SESSION_ID_BYTES: usize = 128;

/// Longest Hocuspocus address: a name, NUL, a session id.
pub const MAX_ADDRESS_BYTES: usize = MAX_DOCUMENT_NAME_BYTES + 1 + MAX_SESSION_ID_BYTES;

/// Longest token in a Hocuspocus auth message, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Largest message by default, in bytes. Configurable; a client that must ever send more is closed with 4413.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

// RFC 6455 section 5.5: a control frame carries at most 125 bytes, 2 of them the close code.
/// Longest close reason, in bytes.
pub const MAX_CLOSE_REASON_BYTES: usize = 123;

const _: () = assert!(MAX_ADDRESS_BYTES < DEFAULT_MAX_MESSAGE_BYTES);
