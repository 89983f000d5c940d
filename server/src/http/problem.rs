//! PURE: errors as problem details (RFC 9457).

use std::borrow::Cow;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::respond;

/// An error response. Its `type` is absent: the status and the text say everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// What failed and why, for people.
    pub detail: String,
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: Cow<'static, str>,
}

impl Problem {
    /// A problem with the title of its status.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").into();
        Self { detail: detail.into(), status: status.as_u16(), title }
    }

    /// Puts `context` before the detail.
    #[must_use]
    pub(crate) fn with_context(self, context: &str) -> Self {
        // An error of the store already names its document.
        if self.detail.contains(context) {
            return self;
        }
        Self { detail: format!("{context}: {}", self.detail), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).unwrap_or_default();
        respond(status, "application/problem+json", body.into())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}
