//! The log's thread: take everything queued, one commit, report, again. A simulation drives the same [`Committer`] step
//! by step.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use syncline_protocol::ids::{DocumentName, Seq};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task;
use tracing::{error, warn};

use super::commit_delay::{Begun, Pace};
use super::handle::{Command, Document, Shared};
use super::notifier::Reporter;
use super::sled::words;
use super::store::{StoreError, Write};

const NAME: &str = "syncline-log";

/// The thread, and the task that tells for it.
pub(super) struct Running {
    thread: JoinHandle<()>,
    telling: Option<task::JoinHandle<()>>,
}

/// Starts the thread. It ends when it is told to, or when no handle is left.
#[expect(clippy::expect_used, reason = "a server that cannot start its log must not start")]
pub(super) fn spawn(committer: Committer, distance: Duration) -> Running {
    let (reporter, telling) = Reporter::spawn().unzip();
    let run = move || run(committer, distance, reporter);
    let thread = Builder::new().name(NAME.into()).spawn(run).expect("no thread for the log");
    Running { thread, telling }
}

impl Running {
    /// Waits until everything is committed and everybody told. Blocks: on the pool of the runtime it was started in.
    pub fn join(self) {
        // The thread contains its panics and so never passes one on; telling has none.
        self.thread.join().ok();
        if let Some(telling) = self.telling {
            Handle::current().block_on(telling).ok();
        }
    }
}

fn run(mut committer: Committer, distance: Duration, reporter: Option<Reporter>) {
    let mut pace = Pace::new(distance);
    let mut began = Instant::now();
    while let Some(command) = committer.queue.blocking_recv() {
        // Asleep, the thread is woken by nobody: what is handed in meanwhile costs no switch.
        thread::sleep(pace.wait(began.elapsed()));
        let period = began.elapsed();
        began = Instant::now();
        let batch = committer.gather(command);
        pace.note(Begun { documents: batch.documents.len(), returned: batch.returned, period });
        let committed = committer.commit(batch);
        committer.shared.counts.note(began.elapsed());
        match &reporter {
            Some(reporter) => reporter.report(committed),
            None => committed.report(),
        }
    }
    committer.close();
}

/// Takes what is queued, commits it and reports. Each step for itself, so that a simulation can stop, or crash, between
/// any two of them.
pub struct Committer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Command>,
    /// Commits begun.
    commits: u64,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Command>) -> Self {
        Self { shared, queue, commits: 0 }
    }

    /// Everything that is queued now, as one commit. `None`: nothing is.
    pub fn take(&mut self) -> Option<Batch> {
        let command = self.queue.try_recv().ok()?;
        Some(self.gather(command))
    }

    fn gather(&mut self, command: Command) -> Batch {
        self.commits += 1;
        let mut batch = Batch { number: self.commits, ..Batch::default() };
        batch.add(command, &mut self.queue);
        // The queue is bounded in bytes, and what is in the batch holds its room: so is the batch.
        while let Ok(command) = self.queue.try_recv() {
            batch.add(command, &mut self.queue);
        }
        batch
    }

    /// Makes the batch durable, unless an earlier one failed. Nobody knows of it until [`Committed::report`].
    pub fn commit(&self, batch: Batch) -> Committed {
        let outcome = match self.shared.latched() {
            Some(error) => Err(error),
            None if batch.writes.is_empty() => Ok(()),
            None => guarded(|| self.shared.store.commit(&batch.writes)).inspect_err(|error| {
                if self.shared.latch(error) {
                    error!(
                        %error,
                        "the store failed: from now on no edit is saved or reported as saved. Documents can still be \
                         read. Free space or repair the disk, then restart: the start checks what is there"
                    );
                }
            }),
        };
        Committed { batch, outcome }
    }

    fn close(&self) {
        if let Err(error) = guarded(|| self.shared.store.close()) {
            warn!(%error, "the store did not close cleanly; the next start checks it");
        }
    }
}

/// A batch that is durable, or failed.
pub struct Committed {
    batch: Batch,
    outcome: Result<(), StoreError>,
}

impl Committed {
    /// Tells the documents.
    pub fn report(self) {
        match self.outcome {
            Ok(()) => self.batch.report(),
            Err(error) => self.batch.refuse(&error),
        }
    }
}

fn guarded(work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(StoreError::Io(format!("the store panicked: {}", words(panic.as_ref())))))
}

/// Commands on their way to one commit.
#[derive(Default)]
pub struct Batch {
    writes: Vec<Write>,
    /// For each document its last step in `writes`, if records may be added to it.
    open: HashMap<DocumentName, usize>,
    /// In the order in which they came: a simulation replays it.
    documents: Vec<Progress>,
    /// Where in `documents`, by address.
    places: HashMap<usize, usize>,
    deletes: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// Counts commits, from 1.
    number: u64,
    /// Documents that were in one of the last two as well.
    returned: usize,
    /// Given back when the batch is done.
    room: Vec<OwnedSemaphorePermit>,
}

struct Progress {
    document: Arc<Document>,
    upto: Option<Seq>,
    commands: u64,
}

impl Batch {
    /// The steps, as the store is given them.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

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
        let place = *self.places.entry(Arc::as_ptr(document).addr()).or_insert(self.documents.len());
        if place == self.documents.len() {
            let last = document.commit.swap(self.number, Ordering::Relaxed);
            if last != 0 && last + 2 >= self.number {
                self.returned += 1;
            }
            self.documents.push(Progress { document: Arc::clone(document), upto: None, commands: 0 });
        }
        let progress = &mut self.documents[place];
        progress.upto = upto.or(progress.upto);
        progress.commands += 1;
    }

    fn report(self) {
        for Progress { document, upto, commands } in self.documents {
            document.committed(upto, commands);
        }
        for reply in self.deletes {
            // Whoever asked may have gone.
            reply.send(Ok(())).ok();
        }
    }

    fn refuse(self, error: &StoreError) {
        for Progress { document, commands, .. } in self.documents {
            document.dropped(commands);
        }
        for reply in self.deletes {
            reply.send(Err(error.clone())).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use syncline_protocol::ids::Epoch;

    use super::super::handle::{DocumentLog, Log};
    use super::super::memory::MemoryStore;
    use super::super::store::Record;
    use super::*;

    async fn write(document: &DocumentLog, seq: u64) {
        document.append(vec![Record { seq: Seq(seq), time_ms: 0, update: Bytes::from_static(b"an update") }]).await;
    }

    #[tokio::test]
    async fn documents_that_are_back_from_one_of_the_last_two_commits_are_counted() {
        let (log, mut committer) = Log::by_hand(Arc::new(MemoryStore::new()));
        let open = |name| log.document(DocumentName::parse(name).unwrap(), Epoch(1), Seq::ZERO);
        let (a, b, c) = (open("a"), open("b"), open("c"));
        let returned = |committer: &mut Committer| {
            let batch = committer.take().unwrap();
            let returned = batch.returned;
            committer.commit(batch).report();
            returned
        };
        write(&a, 1).await;
        write(&a, 2).await;
        assert_eq!(returned(&mut committer), 0, "twice in one commit is not back");
        write(&b, 1).await;
        assert_eq!(returned(&mut committer), 0);
        write(&a, 3).await;
        write(&b, 2).await;
        write(&c, 1).await;
        assert_eq!(returned(&mut committer), 2);
        for (seq, document) in [(2, &c), (3, &c), (4, &a)] {
            write(document, seq).await;
            let expected = usize::from(seq < 4);
            assert_eq!(returned(&mut committer), expected, "record {seq}");
        }
    }
}
