//! Client of the admin socket, used by commands.

use std::io;
use std::os::unix::net::UnixStream as ProbeStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use syncline_log::backup::Progress;
use syncline_protocol::ids::DocumentName;
use tokio::net::UnixStream;
use tokio::runtime::Builder;

use super::socket::SOCKET_FILE;
use crate::http::operator::backups::{BackupLine, BackupRequest, BackupSummary};
use crate::http::operator::documents::{ImportAnswer, Imported, PENDING_UPDATES};
use crate::http::problem::Problem;
use crate::import_export::{Exported, Format, MAX_IMPORT_BYTES, too_large};

const LOST: &str = "lost the connection to the server before it answered; the outcome is unknown";
const NOT_UNDERSTOOD: &str = "cannot parse the server's answer; command and server must be the same version";

/// A running server, reached over its admin socket. Each request opens a connection.
#[derive(Debug)]
pub struct Running {
    path: PathBuf,
}

impl Running {
    /// The server that has this data directory open; `None` if no server listens on its socket.
    pub fn find(data_dir: &Path) -> io::Result<Option<Self>> {
        let path = data_dir.join(SOCKET_FILE);
        match ProbeStream::connect(&path) {
            Ok(_) => Ok(Some(Self { path })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            // The path is too long for a socket: no server could have created one.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes a backup in `dir`, an absolute path, and calls `show` with its progress.
    ///
    /// Errors: the server refuses the request, the backup fails, or the connection is lost.
    pub fn back_up(&self, dir: &Path, mut show: impl FnMut(Progress)) -> anyhow::Result<BackupSummary> {
        let body = serde_json::to_vec(&BackupRequest { dir: dir.to_owned() })?;
        run(async {
            let response = self.send(Method::POST, "/admin/backups", body.into()).await?;
            let (mut body, mut unread) = (response.into_body(), BytesMut::new());
            while let Some(frame) = body.frame().await {
                unread.extend_from_slice(frame.map_err(lost)?.data_ref().map_or(&[], |data| data));
                while let Some(end) = unread.iter().position(|&byte| byte == b'\n') {
                    match parse(&unread.split_to(end + 1))? {
                        BackupLine::Progress { done, documents, bytes } => show(Progress { done, documents, bytes }),
                        BackupLine::Complete(summary) => return Ok(summary),
                        BackupLine::Failed(problem) => bail!(problem.detail),
                    }
                }
            }
            bail!(LOST)
        })
    }

    /// A document as one update.
    ///
    /// Errors: the document cannot be exported, or the connection is lost.
    pub fn export(&self, document: &DocumentName) -> anyhow::Result<Exported> {
        run(async {
            let response = self.send(Method::GET, &path_of(document), Bytes::new()).await?;
            let pending = response.headers().get(PENDING_UPDATES).and_then(|count| count.to_str().ok()?.parse().ok());
            let bytes = response.into_body().collect().await.map_err(lost)?.to_bytes();
            Ok(Exported { bytes: bytes.into(), pending: pending.context(NOT_UNDERSTOOD)? })
        })
    }

    /// Merges a file into a document. When this returns, the change is on disk.
    ///
    /// Errors: the server refuses the file, or the connection is lost.
    pub fn import(
        &self,
        document: &DocumentName,
        file: Bytes,
        format: Format,
        only_new: bool,
    ) -> anyhow::Result<Imported> {
        // The server would refuse it before reading it, and the answer could be lost.
        if file.len() as u64 > MAX_IMPORT_BYTES {
            bail!("document {document:?}: {}", too_large());
        }
        let path = format!("{}?format={}&only_new={only_new}", path_of(document), format.as_str());
        run(async {
            let response = self.send(Method::POST, &path, file).await?;
            let answer = response.into_body().collect().await.map_err(lost)?.to_bytes();
            Ok(parse::<ImportAnswer>(&answer)?.outcome)
        })
    }

    /// Sends a request on a new connection. Errors: those of the server as well, with their detail.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.path).await.context("cannot connect to the server's admin socket")?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // Its errors are those of the request and of the body.
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, "localhost").body(Full::new(body))?;
        let response = sender.send_request(request).await.map_err(lost)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let problem = response.into_body().collect().await.map_err(lost)?.to_bytes();
        bail!(parse::<Problem>(&problem)?.detail)
    }
}

/// Commands have no runtime of their own.
fn run<T>(request: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    Builder::new_current_thread().enable_io().build().context("cannot start the runtime")?.block_on(request)
}

fn path_of(document: &DocumentName) -> String {
    format!("/admin/documents/{}", utf8_percent_encode(document.as_str(), NON_ALPHANUMERIC))
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(json).context(NOT_UNDERSTOOD)
}

fn lost(error: hyper::Error) -> anyhow::Error {
    match error {
        error if error.is_parse() => anyhow!(error).context(NOT_UNDERSTOOD),
        error if error.is_incomplete_message() => anyhow!(LOST),
        error => anyhow!(error).context(LOST),
    }
}
