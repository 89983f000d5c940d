//! `POST /admin/backups`: takes a backup. The answer is lines of JSON: any number of [`BackupLine::Progress`], then one
//! other line, the result. A backup is cancelled when its connection ends.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use syncline_log::backup::{self, BackupError, Cancel, Pace, Progress};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::{Instant, Interval, interval_at, timeout};
use tracing::{info, warn};

use super::Operator;
use crate::http::problem::Problem;
use crate::http::respond;

/// Maximum length of a request's JSON, in bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// How long a command may take to send it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a backup reports its progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BackupRequest {
    /// Directory of the backup, an absolute path.
    pub dir: PathBuf,
}

/// A line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BackupLine {
    /// The backup is in progress.
    Progress {
        /// Documents processed so far.
        done: u64,
        /// Documents in total.
        documents: u64,
        /// Bytes written so far.
        bytes: u64,
    },
    /// The backup is complete and on disk.
    Complete(BackupSummary),
    /// The backup failed.
    Failed(Problem),
}

/// A completed backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupSummary {
    /// Documents in the backup.
    pub documents: u64,
    /// Documents written by this request: those that had changed.
    pub written: u64,
    /// Bytes written by this request.
    pub bytes: u64,
    /// Names of documents that could not be read, each with the reason.
    pub damaged: Vec<(String, String)>,
}

impl From<backup::CompletedBackup> for BackupSummary {
    fn from(taken: backup::CompletedBackup) -> Self {
        let damaged = taken.damaged.into_iter().map(|(document, why)| (document.to_string(), why)).collect();
        Self { documents: taken.documents, written: taken.written, bytes: taken.bytes, damaged }
    }
}

/// Takes a backup. A backup that fails before the first line is answered with the problem itself.
pub(in crate::http) async fn take(State(operator): State<Arc<Operator>>, body: Body) -> Result<Response, Problem> {
    let unusable = |why: &str| Problem::new(StatusCode::BAD_REQUEST, format!("cannot parse the request: {why}"));
    let read = timeout(REQUEST_TIMEOUT, to_bytes(body, MAX_REQUEST_BYTES)).await;
    let body = read.map_err(|_| unusable("it took too long"))?.map_err(|error| unusable(&error.to_string()))?;
    let BackupRequest { dir } = serde_json::from_slice(&body).map_err(|error| unusable(&error.to_string()))?;
    if !dir.is_absolute() {
        return Err(unusable("the path of the directory is not absolute"));
    }
    let lock = Arc::clone(&operator.backup)
        .try_lock_owned()
        .map_err(|_| Problem::new(StatusCode::CONFLICT, "another backup is being taken; wait until it is complete"))?;
    match RunningBackup::start(&operator, dir, lock).next().await {
        (BackupLine::Failed(problem), _) => Err(problem),
        (line, rest) => {
            let rest = stream::unfold(rest, async |rest| Some(rest?.next().await));
            let lines = stream::once(async { line }).chain(rest).map(|line| Ok::<_, Infallible>(encode(&line)));
            Ok(respond(StatusCode::OK, "application/jsonl", Body::from_stream(lines)))
        }
    }
}

fn encode(line: &BackupLine) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

/// A backup that is being taken. Dropping it cancels the backup; an earlier one stays valid.
struct RunningBackup {
    taken: Pin<Box<dyn Future<Output = Result<backup::CompletedBackup, BackupError>> + Send>>,
    /// Written by the thread that takes the backup.
    progress: watch::Receiver<Progress>,
    tick: Interval,
    cancel: CancelOnDrop,
    _lock: OwnedMutexGuard<()>,
}

impl RunningBackup {
    fn start(operator: &Operator, dir: PathBuf, lock: OwnedMutexGuard<()>) -> Self {
        info!(dir = %dir.display(), "backup started");
        let cancel = CancelOnDrop { cancel: Cancel::default(), dir: dir.clone(), has_ended: false };
        let (report, progress) = watch::channel(Progress::default());
        let (log, stop) = (operator.log.clone(), cancel.cancel.clone());
        let taken = async move { log.back_up(dir, Pace::Gentle, stop, move |now| _ = report.send_replace(now)).await };
        let tick = interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
        Self { taken: Box::pin(taken), progress, tick, cancel, _lock: lock }
    }

    /// The next line, and the backup if it continues.
    async fn next(mut self) -> (BackupLine, Option<Self>) {
        let taken = tokio::select! {
            taken = &mut self.taken => taken,
            _ = self.tick.tick() => {
                let Progress { done, documents, bytes } = *self.progress.borrow();
                return (BackupLine::Progress { done, documents, bytes }, Some(self));
            }
        };
        self.cancel.has_ended = true;
        let dir = self.cancel.dir.display();
        let line = match taken {
            Ok(taken) => {
                info!(%dir, documents = taken.documents, written = taken.written, "backup complete");
                BackupLine::Complete(taken.into())
            }
            Err(error) => {
                warn!(%dir, %error, "backup failed");
                BackupLine::Failed(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
            }
        };
        (line, None)
    }
}

struct CancelOnDrop {
    cancel: Cancel,
    dir: PathBuf,
    has_ended: bool,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.has_ended {
            self.cancel.cancel();
            warn!(dir = %self.dir.display(), "backup cancelled: the connection of the command has ended");
        }
    }
}
