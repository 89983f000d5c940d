//! A message about a document, as neutral data: a dialect encodes it (`encoder.rs`), a frame shares the encodings (`frame.rs`).

use bytes::Bytes;
use syncline_replica::Pieces;

/// A message about a document. Payloads are v1 updates, state vectors and awareness updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The server's state vector: a request for what the server lacks.
    Step1(Bytes),
    /// The reply to a step 1.
    Step2(Pieces),
    /// A change.
    Update(Bytes),
    /// Awareness states.
    Awareness(Bytes),
}
