//! The log's thread: take everything queued, one commit, report, again.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use syncline_protocol::ids::{DocumentName, Seq};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{error, warn};

use super::handle::{Command, Document, Shared};
use super::sled::words;
use super::store::{StoreError, Write};

const NAME: &str = "syncline-log";

/// Starts the thread. It ends when it is told to, or when no handle is left.
#[expect(clippy::expect_used, reason = "a server that cannot start its log must not start")]
pub(super) fn spawn(shared: Arc<Shared>, queue: mpsc::Receiver<Command>) -> JoinHandle<()> {
    Builder::new().name(NAME.into()).spawn(move || run(&shared, queue)).expect("no thread for the log")
}

fn run(shared: &Shared, mut queue: mpsc::Receiver<Command>) {
    while let Some(command) = queue.blocking_recv() {
        let mut batch = Batch::default();
        batch.add(command, &mut queue);
        // The queue is bounded in bytes, and what is in the batch holds its room: so is the batch.
        while let Ok(command) = queue.try_recv() {
            batch.add(command, &mut queue);
        }
        match shared.latched() {
            Some(error) => batch.refuse(&error),
            None => commit(shared, batch),
        }
    }
    if let Err(error) = guarded(|| shared.store.close()) {
        warn!(%error, "the store did not close cleanly; the next start checks it");
    }
}

fn commit(shared: &Shared, batch: Batch) {
    if batch.writes.is_empty() {
        return;
    }
    match guarded(|| shared.store.commit(&batch.writes)) {
        Ok(()) => batch.report(),
        Err(error) => {
            if shared.latch(&error) {
                error!(
                    %error,
                    "the store failed: from now on no edit is saved or reported as saved. Documents can still be \
                     read. Free space or repair the disk, then restart: the start checks what is there"
                );
            }
            batch.refuse(&error);
        }
    }
}

fn guarded(work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(StoreError::Io(format!("the store panicked: {}", words(panic.as_ref())))))
}

/// Commands on their way to one commit.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    /// For each document its last step in `writes`, if records may be added to it.
    open: HashMap<DocumentName, usize>,
    documents: HashMap<*const Document, Progress>,
    deletes: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// Given back when the batch is done.
    room: Vec<OwnedSemaphorePermit>,
}

struct Progress {
    document: Arc<Document>,
    upto: Option<Seq>,
    commands: u64,
}

impl Batch {
    fn add(&mut self, command: Command, queue: &mut mpsc::Receiver<Command>) {
        match command {
            Command::Append { document, epoch, records, room } => {
                self.room.push(room);
                self.count(&document, records.last().map(|record| record.seq));
                if let Some(Write::Append { records: before, .. }) =
                    self.open.get(&document.name).and_then(|&at| self.writes.get_mut(at))
                {
                    before.extend(records);
                    return;
                }
                let document = document.name.clone();
                self.open.insert(document.clone(), self.writes.len());
                self.writes.push(Write::Append { document, epoch, records });
            }
            Command::Compact { document, snapshot, room } => {
                self.room.push(room);
                self.count(&document, None);
                let document = document.name.clone();
                self.open.remove(&document);
                self.writes.push(Write::Compact { document, snapshot });
            }
            Command::Delete { document, reply } => {
                self.deletes.push(reply);
                self.open.remove(&document);
                self.writes.push(Write::Delete { document });
            }
            // What is queued already still comes.
            Command::Close => queue.close(),
        }
    }

    fn count(&mut self, document: &Arc<Document>, upto: Option<Seq>) {
        let progress = self.documents.entry(Arc::as_ptr(document)).or_insert_with(|| Progress {
            document: Arc::clone(document),
            upto: None,
            commands: 0,
        });
        progress.upto = upto.or(progress.upto);
        progress.commands += 1;
    }

    fn report(self) {
        for Progress { document, upto, commands } in self.documents.into_values() {
            document.committed(upto, commands);
        }
        for reply in self.deletes {
            // Whoever asked may have gone.
            reply.send(Ok(())).ok();
        }
    }

    fn refuse(self, error: &StoreError) {
        for Progress { document, commands, .. } in self.documents.into_values() {
            document.dropped(commands);
        }
        for reply in self.deletes {
            reply.send(Err(error.clone())).ok();
        }
    }
}
