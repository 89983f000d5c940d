//! Every limit of the wire protocol. SPEC.md lists them for other implementers.

/// Longest document name, in characters (Unicode scalar values).
pub const MAX_DOCUMENT_NAME_CHARS: usize = 512;

/// Longest document name in UTF-8, in bytes: a character has at most four.
pub const MAX_DOCUMENT_NAME_BYTES: usize = 4 * MAX_DOCUMENT_NAME_CHARS;

/// Longest encoded document name, in bytes: every byte percent-encoded.
pub const MAX_ENCODED_NAME_BYTES: usize = 3 * MAX_DOCUMENT_NAME_BYTES;

/// Longest Hocuspocus session id (the part after NUL in an address), in bytes.
pub const MAX_SESSION_ID_BYTES: usize = 128;

/// Longest Hocuspocus address: a name, NUL, a session id.
pub const MAX_ADDRESS_BYTES: usize = MAX_ENCODED_NAME_BYTES + 1 + MAX_SESSION_ID_BYTES;

/// Longest token in a Hocuspocus auth message, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Default limit for the encoded state of a document, in bytes. Configurable.
pub const DEFAULT_MAX_DOCUMENT_BYTES: usize = 64 * 1024 * 1024;

/// Default limit for a message, in bytes: a whole document, with room for its address and lengths. Configurable.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = DEFAULT_MAX_DOCUMENT_BYTES + 1024 * 1024;

// RFC 6455 section 5.5: a control frame carries at most 125 bytes, 2 of them the close code.
/// Longest close reason, in bytes.
pub const MAX_CLOSE_REASON_BYTES: usize = 123;

// What an update may hold (checked by the scanner, `update`). Reasons and measurements: SPEC.md, "What an update must be".

/// Most clients in one list: the sections of an update, a state vector or a delete set. Each page load is a client, and
/// a hub keeps up to 256 bytes for each.
pub const MAX_CLIENTS: u64 = 200_000;

/// Deepest nesting of arrays and maps in a value, `Any` and JSON alike. Clients read values by recursion.
pub const MAX_VALUE_DEPTH: usize = 100;

/// Deepest nesting of types in a document of the Rust client. yrs deletes a type by recursion, with about 275 bytes of
/// stack per level in a release build; a thread has 2 MiB by default. A hub builds no tree.
pub const MAX_TREE_TYPE_DEPTH: u64 = 2_000;

/// Largest clock that the structs of a client may end at. Beyond it, readers that count in 32 bits overflow (yrs subtracts
/// clocks as `i32`).
pub const MAX_CLOCK: u64 = i32::MAX as u64;

/// Most clients in one awareness update.
pub const MAX_AWARENESS_CLIENTS: u64 = 10_000;

/// Largest awareness state of one client that is relayed, in bytes of JSON. The y-websocket reference server relays
/// 900 KB.
pub const MAX_AWARENESS_STATE_BYTES: usize = 1024 * 1024;

/// Largest awareness clock: the same state can still be announced at clock + 1 within 32 bits.
pub const MAX_AWARENESS_CLOCK: u64 = u32::MAX as u64 - 1;

/// Most registers of one document that a hub tracks: each takes some hundred bytes besides its name and value. Further
/// keys are ordinary entries of the map.
pub const MAX_REGISTERS: usize = 50_000;

/// Longest name of a register (native dialect), in bytes.
pub const MAX_REGISTER_NAME_BYTES: usize = 256;

/// Longest name of a register write's author, in bytes.
pub const MAX_REGISTER_AUTHOR_BYTES: usize = 256;

/// Largest value of a register, in bytes of lib0 `Any`. Every write adds the whole value to the document's history.
pub const MAX_REGISTER_VALUE_BYTES: usize = 64 * 1024;

const _: () = assert!(MAX_VALUE_DEPTH <= crate::update::VALUE_DEPTH_CEILING);
const _: () = assert!(MAX_ADDRESS_BYTES < DEFAULT_MAX_MESSAGE_BYTES);
