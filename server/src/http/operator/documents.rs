//! `GET /admin/documents/{name}`: exports a document as one update. `POST /admin/documents/{name}`: merges a file into a
//! document. The name is percent-encoded, and otherwise exactly as stored.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use syncline_log::StoreError;
use syncline_log::store::Stored;
use syncline_protocol::ids::DocumentName;

use super::Operator;
use super::import::import as import_update;
use crate::http::problem::Problem;
use crate::http::respond;
use crate::import_export::{self, Format, ImportEffect, ImportExportError, MAX_IMPORT_BYTES};

/// Header of an export: the number of pending updates in the body. Readers keep them until their dependencies arrive.
pub(crate) const PENDING_UPDATES: HeaderName = HeaderName::from_static("syncline-pending-updates");

/// The query of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ImportQuery {
    /// The file's format.
    pub format: Format,
    /// Do not change a document that exists.
    pub only_new: bool,
}

/// The result of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Imported {
    /// The file was merged and changed the document. The change is on disk.
    Changed,
    /// The document already had everything in the file.
    Known,
    /// The document exists and was not changed, because only new ones were to be imported.
    Exists,
}

/// The body of the answer to an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportAnswer {
    /// What the import did.
    pub outcome: Imported,
}

/// Exports a document.
pub(in crate::http) async fn export(
    State(operator): State<Arc<Operator>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let name = parse(name)?;
    let stored = load(&operator, &name).await?;
    let stored =
        stored.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("document {name:?} does not exist")))?;
    let exported = blocking(move || import_export::export(stored)).await;
    let exported = exported.map_err(|problem| problem.with_context(&format!("document {name:?}")))?;
    let mut response = respond(StatusCode::OK, "application/octet-stream", Body::from(exported.bytes));
    response.headers_mut().insert(PENDING_UPDATES, HeaderValue::from(exported.pending));
    Ok(response)
}

/// Merges a file into a document.
pub(in crate::http) async fn import(
    State(operator): State<Arc<Operator>>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<ImportQuery>, QueryRejection>,
    body: Body,
) -> Result<Response, Problem> {
    let name = parse(name)?;
    let Query(query) = query?;
    let imported = async {
        let file = read_file(body).await?;
        import_file(&operator, &name, file, query).await
    };
    let outcome = imported.await.map_err(|problem| problem.with_context(&format!("document {name:?}")))?;
    let answer = serde_json::to_string(&ImportAnswer { outcome }).unwrap_or_default();
    Ok(respond(StatusCode::OK, "application/json", answer).into_response())
}

async fn import_file(
    operator: &Operator,
    name: &DocumentName,
    file: Bytes,
    query: ImportQuery,
) -> Result<Imported, Problem> {
    let stored = load(operator, name).await?;
    if stored.is_some() && query.only_new {
        return Ok(Imported::Exists);
    }
    // Applied to a copy first, so that an invalid or unnecessary update never reaches the open document.
    let (update, change) = blocking(move || {
        let update = import_export::parse(file, query.format)?;
        let change = import_export::check(stored, &update)?;
        Ok((update, change))
    })
    .await?;
    if change == ImportEffect::Nothing {
        return Ok(Imported::Known);
    }
    let imported = import_update(&operator.registry, name, update).await;
    imported.map_err(|reason| Problem::new(StatusCode::CONFLICT, reason))?;
    Ok(Imported::Changed)
}

/// Reads the file, which may have [`MAX_IMPORT_BYTES`].
async fn read_file(body: Body) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, import_export::too_large());
    // Nothing is read of a file that announces a larger size.
    if body.size_hint().lower() > MAX_IMPORT_BYTES {
        return Err(too_large());
    }
    let max = usize::try_from(MAX_IMPORT_BYTES).unwrap_or(usize::MAX);
    match Limited::new(body, max).collect().await {
        Ok(file) => Ok(file.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("cannot read the file: {error}"))),
    }
}

fn parse(name: Result<Path<String>, PathRejection>) -> Result<DocumentName, Problem> {
    let Path(name) = name?;
    DocumentName::exact(&name).map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn load(operator: &Operator, name: &DocumentName) -> Result<Option<Stored>, Problem> {
    let failed = |error: StoreError| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    operator.log.load(name).await.map_err(failed)
}

/// Runs work on the blocking pool: a large document takes long.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImportExportError> + Send + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    let interrupted = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the operation was interrupted");
    done.map_err(interrupted)?.map_err(|error| {
        let status = match error {
            ImportExportError::Deleted => StatusCode::GONE,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Problem::new(status, error.to_string())
    })
}
