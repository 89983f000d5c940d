//! Bytes to messages and back, for every dialect Syncline speaks. The wire specification is `protocol/SPEC.md`.
//!
//! ```text
//! varint      lib0's variable-length integers, strings and byte arrays: the alphabet
//! names       which percent-encoded characters are part of a document name
//! ids         document names and sequence numbers, validated where they are made
//! limits      every wire limit by name
//! close       why a session ends: code, reason, may the client come back
//! update      the scanner: the gate that every CRDT byte passes before a CRDT library sees it
//! awareness   the same gate for presence
//! sync        y-protocols sync messages, shared by all dialects
//! ywebsocket  the y-websocket dialect
//! hocuspocus  the Hocuspocus 4 dialect
//! native      the native dialect: many documents over one socket, resumed by a cursor
//! detect      which of them a session speaks, from its first frame
//! ```
//!
//! Architecture invariants: decoding borrows its payload, never panics, never recurses and never allocates by a
//! length it has not checked against the bytes that are there. This crate knows no CRDT, no runtime and no I/O.

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
