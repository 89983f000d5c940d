//! Encodes and decodes the messages of every dialect that Syncline speaks. The wire specification is
//! `protocol/SPEC.md`.
//!
//! ```text
//! varint      lib0's variable-length integers, strings and byte arrays
//! names       which percent-encoded characters of a document name are decoded
//! ids         document names, sequence numbers and epochs
//! limits      named constants for every wire limit
//! close       why a session ends: close code, reason, may the client reconnect
//! update      the scanner: validates every update and state vector before a CRDT library sees it
//! awareness   validates and encodes awareness updates
//! sync        y-protocols sync messages, shared by all dialects
//! ywebsocket  the y-websocket dialect
//! hocuspocus  the Hocuspocus 4 dialect
//! native      the native dialect: many documents over one socket, resumed by a cursor
//! detect      detects a session's dialect from its first frame
//! ```
//!
//! Architecture invariants: decoding borrows its payload, never panics, never recurses and never allocates by a
//! length that it has not checked against the remaining bytes. This crate contains no CRDT, no runtime and no I/O.

pub mod awareness;
pub mod close;
pub mod detect;
pub mod hocuspocus;
pub mod ids;
pub mod limits;
pub mod names;
pub mod native;
pub mod sync;
pub mod update;
pub mod varint;
pub mod ywebsocket;
