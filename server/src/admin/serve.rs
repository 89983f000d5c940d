//! Accepts connections on the admin socket and carries out requests. A backup is cancelled when its connection ends.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use syncline_log::backup::{Cancel, Pace, Progress};
use syncline_log::{Log, StoreError};
use syncline_protocol::ids::DocumentName;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::import::import;
use super::message::{Answer, Request};
use super::socket::AdminSocket;
use crate::import_export::{self, Change, Format, MAX_IMPORT_BYTES, PortableError};
use crate::registry::Registry;

/// Connections served at the same time; further ones wait.
const MAX_CONNECTIONS: usize = 8;
/// Maximum length of a request, not counting its file.
const MAX_REQUEST_BYTES: u64 = 64 * 1024;
/// How long a command may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a backup reports its progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The parts of the server that requests use.
pub struct Admin {
    /// Documents are read from it.
    pub log: Log,
    /// Updates are imported through it.
    pub registry: Arc<Registry>,
    /// Cancelled when the server stops.
    pub stop: CancellationToken,
}

/// Held while a backup is taken: one at a time.
type BackupLock = Mutex<()>;

/// Serves the socket until the server stops.
pub async fn run(socket: AdminSocket, admin: Arc<Admin>) {
    let lock = Arc::new(BackupLock::default());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = socket.listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
            // Cancels a backup that is being taken; the earlier one stays valid.
            () = admin.stop.cancelled() => return connections.shutdown().await,
        };
        match accepted {
            Ok((stream, _)) if is_allowed(&stream, socket.owner) => {
                let (admin, lock) = (Arc::clone(&admin), Arc::clone(&lock));
                connections.spawn(async move {
                    if let Err(error) = connection(stream, &admin, &lock).await {
                        debug!(%error, "admin connection lost");
                    }
                });
            }
            Ok(_) => warn!("refused a connection of another user to the admin socket"),
            Err(error) => {
                warn!(%error, "cannot accept a connection on the admin socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the peer is the socket's owner or root. The socket's mode already enforces this; a second check is free.
fn is_allowed(stream: &UnixStream, owner: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == owner || peer.uid() == 0)
}

async fn connection(stream: UnixStream, admin: &Admin, lock: &BackupLock) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let mut line = String::new();
    // The bytes after the line stay in `reading`'s buffer.
    let mut limited = (&mut reading).take(MAX_REQUEST_BYTES);
    tokio::time::timeout(REQUEST_TIMEOUT, limited.read_line(&mut line)).await??;
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => return failed(&mut writing, format!("cannot parse the request: {error}")).await,
    };
    match request {
        Request::Backup { dir } => back_up(admin, lock, dir, &mut reading, &mut writing).await,
        Request::Export { document } => export(admin, &document, &mut writing).await,
        Request::Import { document, format, bytes, only_new } => {
            if bytes > MAX_IMPORT_BYTES {
                return failed(&mut writing, format!("document {document:?}: {}", import_export::too_large())).await;
            }
            let mut file = Vec::new();
            reading.take(bytes).read_to_end(&mut file).await?;
            if file.len() as u64 != bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match import_file(admin, &document, format, file.into(), only_new).await {
                Ok(answer) => answer_with(&mut writing, &answer).await,
                // A store error already names its document.
                Err(reason) if reason.contains(&format!("document {document:?}")) => failed(&mut writing, reason).await,
                Err(reason) => failed(&mut writing, format!("document {document:?}: {reason}")).await,
            }
        }
    }
}

async fn back_up(
    admin: &Admin,
    lock: &BackupLock,
    dir: PathBuf,
    reading: &mut BufReader<OwnedReadHalf>,
    writing: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let Ok(_guard) = lock.try_lock() else {
        return failed(writing, "another backup is being taken; wait until it is complete".into()).await;
    };
    // Dropping this future cancels the backup.
    let stop = Cancel::default();
    let _stop = StopOnDrop(stop.clone());
    let (progress, seen) = watch::channel(Progress::default());
    let taking = admin.log.back_up(dir.clone(), Pace::Gentle, stop, move |now| _ = progress.send_replace(now));
    tokio::pin!(taking);
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    info!(dir = %dir.display(), "backup started");
    let taken = loop {
        let mut rest = [0];
        tokio::select! {
            taken = &mut taking => break taken,
            _ = tick.tick() => {
                let Progress { done, documents, bytes } = *seen.borrow();
                answer_with(writing, &Answer::Progress { done, documents, bytes }).await?;
            }
            // A command sends nothing after its request, so this is the end of the connection.
            _ = reading.read(&mut rest) => {
                warn!(dir = %dir.display(), "backup cancelled: the command that requested it has disconnected");
                return Ok(());
            }
        }
    };
    match taken {
        Ok(taken) => {
            info!(dir = %dir.display(), documents = taken.documents, written = taken.written, "backup complete");
            answer_with(writing, &taken.into()).await
        }
        Err(error) => {
            warn!(dir = %dir.display(), %error, "backup failed");
            failed(writing, error.to_string()).await
        }
    }
}

struct StopOnDrop(Cancel);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn export(admin: &Admin, document: &str, writing: &mut OwnedWriteHalf) -> io::Result<()> {
    match exported(admin, document).await {
        Ok(exported) => {
            let bytes = exported.bytes.len() as u64;
            answer_with(writing, &Answer::Exported { bytes, waiting: exported.waiting }).await?;
            writing.write_all(&exported.bytes).await
        }
        Err(reason) => failed(writing, reason).await,
    }
}

async fn exported(admin: &Admin, document: &str) -> Result<import_export::Exported, String> {
    let name = DocumentName::exact(document).map_err(|error| error.to_string())?;
    let stored = admin.log.load(&name).await.map_err(|error| error.to_string())?;
    let stored = stored.ok_or_else(|| format!("document {document:?} does not exist"))?;
    blocking(move || import_export::export(stored)).await.map_err(|reason| format!("document {document:?}: {reason}"))
}

async fn import_file(
    admin: &Admin,
    document: &str,
    format: Format,
    file: Bytes,
    only_new: bool,
) -> Result<Answer, String> {
    let name = DocumentName::exact(document).map_err(|error| error.to_string())?;
    let stored = admin.log.load(&name).await.map_err(|error: StoreError| error.to_string())?;
    if stored.is_some() && only_new {
        return Ok(Answer::Exists);
    }
    // Applied to a copy first, so that an invalid or unnecessary update never reaches the open document.
    let (update, change) = blocking(move || {
        let update = import_export::read(file, format)?;
        let change = import_export::try_on(stored, &update)?;
        Ok((update, change))
    })
    .await?;
    if change == Change::Something {
        import(&admin.registry, &name, update).await?;
    }
    Ok(Answer::Imported { changed: change == Change::Something })
}

/// Runs work on the blocking pool: a large document takes long.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PortableError> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| "the operation was interrupted".to_owned())?.map_err(|error| error.to_string())
}

async fn failed(writing: &mut OwnedWriteHalf, reason: String) -> io::Result<()> {
    answer_with(writing, &Answer::Failed { reason }).await
}

async fn answer_with(writing: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    writing.write_all(&line).await
}
