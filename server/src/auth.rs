//! Access control: turns a token into a grant and an optional user, whenever a session opens a document or sends
//! a new token for it. Only this module decides on access.

use std::future::Future;
use std::pin::Pin;

use syncline_protocol::ids::DocumentName;

use crate::ids::UserId;

/// Access that a session has to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Read the document and publish awareness.
    Read,
    /// Read and change the document, and publish awareness.
    ReadWrite,
}

/// A granted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Access to the document.
    pub grant: Grant,
    /// The user, if known. Limits per user count all connections of the same user.
    pub user: Option<UserId>,
}

impl From<Grant> for Admission {
    fn from(grant: Grant) -> Self {
        Self { grant, user: None }
    }
}

/// A request to open a document.
#[derive(Debug, Clone)]
pub struct AccessRequest {
    /// The document to open.
    pub document: DocumentName,
    /// The token as the client sent it; `None` if it sent none (y-websocket never does).
    pub token: Option<String>,
}

/// The pending decision. `Err` holds the reason that is sent to the client.
pub type Access = Pin<Box<dyn Future<Output = Result<Admission, String>> + Send>>;

/// Decides on access. A decision may be slow: the session's messages for the document wait for it.
pub trait Authorize: Send + Sync + 'static {
    /// Decides on one request. Called when a session opens a document, and again for each further token.
    fn authorize(&self, request: AccessRequest) -> Access;
}

/// Lets everyone read and write: for a trusted network, or behind a proxy that controls access.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenToAll;

impl Authorize for OpenToAll {
    fn authorize(&self, _request: AccessRequest) -> Access {
        Box::pin(std::future::ready(Ok(Grant::ReadWrite.into())))
    }
}
