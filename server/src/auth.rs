//! Who may do what: a token becomes a grant and perhaps a user, once per session and document. Nothing below asks again.

use std::future::Future;
use std::pin::Pin;

use syncline_protocol::ids::DocumentName;

use crate::ids::UserId;

/// What a session may do with a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Look only; presence is allowed.
    Read,
    /// Look and change.
    ReadWrite,
}

/// What a token gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// What the session may do with the document.
    pub grant: Grant,
    /// In whose name, if that is known: a user's connections are limited together.
    pub user: Option<UserId>,
}

impl From<Grant> for Admission {
    fn from(grant: Grant) -> Self {
        Self { grant, user: None }
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct AccessRequest {
    /// Which document.
    pub document: DocumentName,
    /// The Hocuspocus token as sent; `None` in dialects that have none.
    pub token: Option<String>,
}

/// The answer, some time later. `Err` is the reason told to the client.
pub type Access = Pin<Box<dyn Future<Output = Result<Admission, String>> + Send>>;

/// Decides on access. May take its time: the session's messages wait.
pub trait Authorize: Send + Sync + 'static {
    /// Decides on one request.
    fn authorize(&self, request: AccessRequest) -> Access;
}

/// Everyone may read and write: for a trusted network, or behind a proxy that decides.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenToAll;

impl Authorize for OpenToAll {
    fn authorize(&self, _request: AccessRequest) -> Access {
        Box::pin(std::future::ready(Ok(Grant::ReadWrite.into())))
    }
}
