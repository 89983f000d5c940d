//! Access control: turns a token, or anything else that a client sent with its handshake, into a grant and an optional
//! user, whenever a session opens a document or sends a new token for it. Only this module decides on access.
//!
//! A decision lasts until the session leaves the document, unless it has an end ([`Admission::ends`]) or the authorizer
//! changes it ([`GrantControl`]).

mod changes;
mod handshake;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use syncline_protocol::ids::DocumentName;
use tokio::time::Instant;

pub use self::changes::{GrantChanges, GrantControl};
pub use self::handshake::Handshake;
use crate::ids::UserId;

/// The reason of a refusal because [`Admission::ends`] has passed.
pub(crate) const ENDED: &str = "your access to this document has ended";

/// Access that a session has to a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Read the document and publish awareness.
    Read,
    /// Read and change the document, and publish awareness.
    ReadWrite,
}

/// A granted request.
#[derive(Debug, Clone)]
pub struct Admission {
    /// Access to the document.
    pub grant: Grant,
    /// The user, if known. Limits per user count all connections of the same user.
    pub user: Option<UserId>,
    /// When the grant ends, as if it were revoked then; `None` if it does not.
    pub ends: Option<Instant>,
    /// Later changes of the grant, made with a [`GrantControl`]. If its control has been set to another grant than
    /// `grant`, or revoked, that counts.
    pub changes: Option<GrantChanges>,
}

impl Admission {
    /// The grant in force now. `Err` holds the reason why there is none.
    pub fn current(&self) -> Result<Grant, String> {
        if self.ends.is_some_and(|ends| ends <= Instant::now()) {
            return Err(ENDED.into());
        }
        self.changes.as_ref().map_or(Ok(self.grant), GrantChanges::current)
    }
}

impl From<Grant> for Admission {
    fn from(grant: Grant) -> Self {
        Self { grant, user: None, ends: None, changes: None }
    }
}

/// The wire protocol of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// npm `y-websocket`: one document, named by the path.
    YWebsocket,
    /// npm `@hocuspocus/provider`: many documents, each with its own token.
    Hocuspocus,
    /// The client of this project: many documents, each with its own token.
    Native,
}

impl Dialect {
    /// Its name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::YWebsocket => "y-websocket",
            Dialect::Hocuspocus => "Hocuspocus",
            Dialect::Native => "native",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request to open a document. Its `Debug` output omits the token.
///
/// The token is what each dialect calls so. An authorizer that expects it elsewhere reads the handshake:
///
/// ```
/// use syncline_server::auth::AccessRequest;
///
/// /// A token from the client, else the one that a reverse proxy has put into a cookie.
/// fn token(request: &AccessRequest) -> Option<String> {
///     let cookie = || {
///         let cookies = request.handshake.headers().get("cookie")?.to_str().ok()?;
///         cookies.split("; ").find_map(|cookie| cookie.strip_prefix("session=")).map(str::to_owned)
///     };
///     request.token.clone().or_else(cookie)
/// }
/// ```
#[derive(Clone)]
pub struct AccessRequest {
    /// The document to open.
    pub document: DocumentName,
    /// The token as the client sent it. y-websocket: the URL's parameter `token` (`params: { token }`); Hocuspocus and
    /// native: the token in the message that opens the document. `None` if it sent none.
    pub token: Option<String>,
    /// The session's wire protocol.
    pub dialect: Dialect,
    /// The request that began the session: address, query and headers.
    pub handshake: Arc<Handshake>,
}

impl fmt::Debug for AccessRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessRequest")
            .field("document", &self.document)
            .field("has_token", &self.token.is_some())
            .field("dialect", &self.dialect)
            .field("handshake", &self.handshake)
            .finish()
    }
}

/// The pending decision. `Err` holds the reason that is sent to the client.
pub type Access = Pin<Box<dyn Future<Output = Result<Admission, String>> + Send>>;

/// Decides on access. A decision may be slow: the session's messages for the document wait for it.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
///
/// use syncline_server::auth::{Access, AccessRequest, Admission, Authorize, Grant, GrantControl};
///
/// /// Knows the tokens that an application has handed out, and can revoke them.
/// #[derive(Default)]
/// struct Tokens(Mutex<HashMap<String, GrantControl>>);
///
/// impl Tokens {
///     /// Closes every document that a session has opened with this token.
///     fn revoke(&self, token: &str) {
///         if let Some(control) = self.0.lock().unwrap().remove(token) {
///             control.revoke("the owner has removed you from this document");
///         }
///     }
/// }
///
/// impl Authorize for Tokens {
///     fn authorize(&self, request: AccessRequest) -> Access {
///         let tokens = self.0.lock().unwrap();
///         let control = request.token.as_ref().and_then(|token| tokens.get(token));
///         let decision = control.map(Admission::from).ok_or_else(|| "this token is not known".to_owned());
///         Box::pin(std::future::ready(decision))
///     }
/// }
///
/// let tokens = Tokens::default();
/// tokens.0.lock().unwrap().insert("secret".into(), GrantControl::new(Grant::ReadWrite));
/// tokens.revoke("secret");
/// ```
pub trait Authorize: Send + Sync + 'static {
    /// Decides on one request. Called when a session opens a document, and again for each further token.
    fn authorize(&self, request: AccessRequest) -> Access;

    /// False if no decision needs what came with the handshake. Sessions then do not keep it: the query and the headers
    /// of [`AccessRequest::handshake`] are empty, and y-websocket sessions have no token. If true, y-websocket sessions
    /// keep it until they have opened their document, others until they end, because they may open further ones.
    fn reads_handshake(&self) -> bool {
        true
    }
}

/// Lets everyone read and write: for a trusted network, or behind a proxy that controls access.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenToAll;

impl Authorize for OpenToAll {
    fn authorize(&self, _request: AccessRequest) -> Access {
        Box::pin(std::future::ready(Ok(Grant::ReadWrite.into())))
    }

    fn reads_handshake(&self) -> bool {
        false
    }
}
