//! Tests that the server keeps what it acknowledged: authors of every dialect record their edits in a ledger while the server
//! crashes, loses power or loses its disk; then the documents are read again and compared with the ledger.
//!
//! ```text
//! ledger   edits sent and acknowledged, and their comparison with a document; pure
//! link     a client of `peer` over a Tokio socket
//! author   one author: edits, receives acknowledgements, disconnects and reconnects
//! fleet    many authors, and visitors that open documents
//! crash    `syncline-sim crash`: signal 9, and failpoints
//! mount    a separate file system whose power can be cut
//! power    `syncline-sim power-cut`
//! disk     `syncline-sim disk-fault`
//! ```

mod author;
pub(crate) mod crash;
pub(crate) mod disk;
mod fleet;
mod ledger;
mod link;
mod mount;
pub(crate) mod power;
