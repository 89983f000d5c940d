//! Accepting on the admin socket, and doing what is asked. A connection that ends takes its backup with it.

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

/// Commands at once; the next waits.
const MAX_CONNECTIONS: usize = 8;
/// The longest request, its file not counted.
const MAX_REQUEST_BYTES: u64 = 64 * 1024;
/// How long a command may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a backup tells how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What commands need of the server.
pub struct Admin {
    /// Where documents are read.
    pub log: Log,
    /// Where updates enter.
    pub registry: Arc<Registry>,
    /// Cancelled when the server stops.
    pub stop: CancellationToken,
}

/// One backup at a time.
type Turn = Mutex<()>;

/// Serves the socket until the server stops.
pub async fn run(socket: AdminSocket, admin: Arc<Admin>) {
    let turn = Arc::new(Turn::default());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = socket.listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
            // A backup is cancelled, its earlier form stays.
            () = admin.stop.cancelled() => return connections.shutdown().await,
        };
        match accepted {
            Ok((stream, _)) if may_ask(&stream, socket.owner) => {
                let (admin, turn) = (Arc::clone(&admin), Arc::clone(&turn));
                connections.spawn(async move {
                    if let Err(error) = connection(stream, &admin, &turn).await {
                        debug!(%error, "an admin command went away");
                    }
                });
            }
            Ok(_) => warn!("another user tried to use the admin socket and was refused"),
            Err(error) => {
                warn!(%error, "an admin command could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The socket's mode says the same; a second lock costs nothing.
fn may_ask(stream: &UnixStream, owner: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == owner || peer.uid() == 0)
}

async fn connection(stream: UnixStream, admin: &Admin, turn: &Turn) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let mut line = String::new();
    // The bytes behind the line stay in the buffer.
    let mut limited = (&mut reading).take(MAX_REQUEST_BYTES);
    tokio::time::timeout(REQUEST_TIMEOUT, limited.read_line(&mut line)).await??;
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => return failed(&mut writing, format!("the request was not understood: {error}")).await,
    };
    match request {
        Request::Backup { dir } => back_up(admin, turn, dir, &mut reading, &mut writing).await,
        Request::Export { document } => export(admin, &document, &mut writing).await,
        Request::Import { document, format, bytes, only_new } => {
            if bytes > MAX_IMPORT_BYTES {
                let reason = format!("the file has {bytes} bytes, the limit is {MAX_IMPORT_BYTES}");
                return failed(&mut writing, reason).await;
            }
            let mut file = Vec::new();
            reading.take(bytes).read_to_end(&mut file).await?;
            if file.len() as u64 != bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match take_file(admin, &document, format, file.into(), only_new).await {
                Ok(answer) => answer_with(&mut writing, &answer).await,
                // An error of the store names its document.
                Err(reason) if reason.contains(&format!("document {document:?}")) => failed(&mut writing, reason).await,
                Err(reason) => failed(&mut writing, format!("document {document:?}: {reason}")).await,
            }
        }
    }
}

async fn back_up(
    admin: &Admin,
    turn: &Turn,
    dir: PathBuf,
    reading: &mut BufReader<OwnedReadHalf>,
    writing: &mut OwnedWriteHalf,
) -> io::Result<()> {
    let Ok(_turn) = turn.try_lock() else {
        return failed(writing, "a backup is being taken; wait for it".into()).await;
    };
    // Whatever ends this future ends the backup.
    let stop = Cancel::default();
    let _stop = StopOnDrop(stop.clone());
    let (progress, seen) = watch::channel(Progress::default());
    let taking = admin.log.back_up(dir.clone(), Pace::Gentle, stop, move |now| _ = progress.send_replace(now));
    tokio::pin!(taking);
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    info!(dir = %dir.display(), "a backup begins");
    let taken = loop {
        let mut rest = [0];
        tokio::select! {
            taken = &mut taking => break taken,
            _ = tick.tick() => {
                let Progress { done, documents, bytes } = *seen.borrow();
                answer_with(writing, &Answer::Progress { done, documents, bytes }).await?;
            }
            // It has nothing more to say: it is gone.
            _ = reading.read(&mut rest) => {
                warn!(dir = %dir.display(), "the command that asked for a backup is gone; the backup is stopped");
                return Ok(());
            }
        }
    };
    match taken {
        Ok(taken) => {
            info!(dir = %dir.display(), documents = taken.documents, written = taken.written, "a backup is complete");
            answer_with(writing, &taken.into()).await
        }
        Err(error) => {
            warn!(dir = %dir.display(), %error, "a backup failed");
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
    let stored = stored.ok_or_else(|| format!("there is no document {document:?}"))?;
    blocking(move || import_export::export(stored)).await.map_err(|reason| format!("document {document:?}: {reason}"))
}

async fn take_file(
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
    // On a copy first, so that what it would do is known before anybody sees it.
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

/// On the blocking pool: a large document takes its time.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PortableError> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| "it was interrupted".to_owned())?.map_err(|error| error.to_string())
}

async fn failed(writing: &mut OwnedWriteHalf, reason: String) -> io::Result<()> {
    answer_with(writing, &Answer::Failed { reason }).await
}

async fn answer_with(writing: &mut OwnedWriteHalf, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    writing.write_all(&line).await
}
