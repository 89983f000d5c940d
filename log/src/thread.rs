//! The log's thread: takes what is queued, commits it in one commit, reports it, and repeats. A simulation
//! drives the same [`Committer`] step by step.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use syncline_protocol::ids::{DocumentName, Seq};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task;
use tracing::{error, warn};

use super::commit_delay::{CommitPacing, CommitStart};
use super::engine_error::panic_message;
use super::handle::{Document, Shared};
use super::notifier::Reporter;
use super::queue::{Command, Queue};
use super::store::{StoreError, Write};

const NAME: &str = "syncline-log";

/// The running thread, and the task that reports its commits.
pub(super) struct Running {
    thread: JoinHandle<()>,
    reporting: Option<task::JoinHandle<()>>,
}

/// Starts the thread. It ends when the log is closed, or when its last handle is dropped.
#[expect(clippy::expect_used, reason = "a server that cannot start its log must not start")]
pub(super) fn spawn(committer: Committer, commit_interval: Duration) -> Running {
    let (reporter, reporting) = Reporter::spawn().unzip();
    let run = move || run(committer, commit_interval, reporter);
    let thread = Builder::new().name(NAME.into()).spawn(run).expect("the log's thread cannot be started");
    Running { thread, reporting }
}

impl Running {
    /// Waits until everything is committed and reported. Blocks, so call it on a blocking thread of the runtime.
    pub(crate) fn join(self) {
        // The thread catches its panics, and the reporting task cannot panic.
        self.thread.join().ok();
        if let Some(reporting) = self.reporting {
            Handle::current().block_on(reporting).ok();
        }
    }
}

fn run(mut committer: Committer, commit_interval: Duration, reporter: Option<Reporter>) {
    let mut pacing = CommitPacing::new(commit_interval);
    let mut began = Instant::now();
    while committer.queue.wait() {
        // A sleeping thread is not woken by new commands, so queueing them meanwhile costs no context switch.
        thread::sleep(pacing.delay(began.elapsed()));
        let period = began.elapsed();
        began = Instant::now();
        let batch = committer.gather();
        pacing.record(CommitStart { documents: batch.documents.len(), returning: batch.returning, period });
        let committed = committer.commit(batch);
        committer.shared.counts.record_commit(began.elapsed());
        match &reporter {
            Some(reporter) => reporter.report(committed),
            None => committed.report(),
        }
    }
    committer.close();
}

/// Takes queued commands, commits them and reports them, as separate steps, so that a simulation can stop or crash
/// between any two of them.
pub struct Committer {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    /// Commits started so far.
    commits: u64,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, queue: Arc<Queue>) -> Self {
        Self { shared, queue, commits: 0 }
    }

    /// Takes one commit's share of what is queued now. `None`: the queue is empty.
    pub fn take(&mut self) -> Option<Batch> {
        let batch = self.gather();
        (!batch.documents.is_empty()).then_some(batch)
    }

    fn gather(&mut self) -> Batch {
        self.commits += 1;
        let mut batch = Batch::new(Arc::clone(&self.queue), self.commits);
        self.queue.take(|document, command, bytes| batch.add(document, command, bytes));
        batch
    }

    /// Makes the batch durable, unless an earlier one failed. [`Committed::report`] publishes the outcome.
    pub fn commit(&self, batch: Batch) -> Committed {
        let outcome = match self.shared.latched() {
            Some(error) => Err(error),
            None if batch.writes.is_empty() => Ok(()),
            None => catch_panic(|| self.shared.store.commit(&batch.writes)).inspect_err(|error| {
                if self.shared.latch(error) {
                    error!(
                        %error,
                        "the store failed: from now on no edit is saved or acknowledged. Documents can still be read. \
                         Free disk space or repair the disk, then restart the server"
                    );
                }
            }),
        };
        Committed { batch, outcome }
    }

    fn close(&self) {
        if let Err(error) = catch_panic(|| self.shared.store.close()) {
            warn!(%error, "the store did not close cleanly; the next start verifies it");
        }
    }
}

/// A batch that is durable or has failed.
pub struct Committed {
    batch: Batch,
    outcome: Result<(), StoreError>,
}

impl Committed {
    /// Publishes the outcome to the documents of the batch.
    pub fn report(self) {
        match self.outcome {
            Ok(()) => self.batch.report(),
            Err(error) => self.batch.report_failed(&error),
        }
    }
}

fn catch_panic(work: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(StoreError::Io(format!("the store panicked: {}", panic_message(panic.as_ref())))))
}

/// The commands of one commit.
pub struct Batch {
    queue: Arc<Queue>,
    writes: Vec<Write>,
    /// For each document, the index in `writes` of its last step, if that is an append that can take more records.
    open_appends: HashMap<DocumentName, usize>,
    /// In the order of their first commands, which is deterministic in a simulation.
    documents: Vec<DocumentProgress>,
    /// The index in `documents`, by the address of the document.
    indexes: HashMap<usize, usize>,
    deletes: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// The number of the commit, from 1.
    number: u64,
    /// Documents that were also in one of the last two commits.
    returning: usize,
}

/// What a commit does for one document.
struct DocumentProgress {
    document: Arc<Document>,
    /// The last record.
    upto: Option<Seq>,
    commands: u64,
    /// Their bytes, which the queue counts until the commit is done.
    bytes: usize,
}

impl Batch {
    fn new(queue: Arc<Queue>, number: u64) -> Self {
        Self {
            queue,
            writes: Vec::new(),
            open_appends: HashMap::new(),
            documents: Vec::new(),
            indexes: HashMap::new(),
            deletes: Vec::new(),
            number,
            returning: 0,
        }
    }

    /// The steps that [`Committer::commit`] passes to the store.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    fn add(&mut self, document: &Arc<Document>, command: Command, bytes: usize) {
        let progress = self.progress_of(document);
        progress.commands += 1;
        progress.bytes += bytes;
        match command {
            Command::Append { epoch, records } => {
                progress.upto = records.last().map(|record| record.seq).or(progress.upto);
                if let Some(Write::Append { records: before, .. }) =
                    self.open_appends.get(&document.name).and_then(|&at| self.writes.get_mut(at))
                {
                    before.extend(records);
                    return;
                }
                let document = document.name.clone();
                self.open_appends.insert(document.clone(), self.writes.len());
                self.writes.push(Write::Append { document, epoch, records });
            }
            Command::Compact { snapshot } => {
                self.open_appends.remove(&document.name);
                self.writes.push(Write::Compact { document: document.name.clone(), snapshot });
            }
            Command::Delete { reply } => {
                self.deletes.push(reply);
                self.open_appends.remove(&document.name);
                self.writes.push(Write::Delete { document: document.name.clone() });
            }
        }
    }

    fn progress_of(&mut self, document: &Arc<Document>) -> &mut DocumentProgress {
        let index = *self.indexes.entry(Arc::as_ptr(document).addr()).or_insert(self.documents.len());
        if index == self.documents.len() {
            let last = document.commit.swap(self.number, Ordering::Relaxed);
            if last != 0 && last + 2 >= self.number {
                self.returning += 1;
            }
            let document = Arc::clone(document);
            self.documents.push(DocumentProgress { document, upto: None, commands: 0, bytes: 0 });
        }
        &mut self.documents[index]
    }

    fn report(self) {
        for DocumentProgress { document, upto, commands, bytes } in self.documents {
            self.queue.release(&document, bytes);
            document.committed(upto, commands);
        }
        for reply in self.deletes {
            // The caller may have been cancelled.
            reply.send(Ok(())).ok();
        }
    }

    fn report_failed(self, error: &StoreError) {
        for DocumentProgress { document, commands, bytes, .. } in self.documents {
            self.queue.release(&document, bytes);
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

    fn write(document: &mut DocumentLog, seq: u64) {
        document.append(vec![Record { seq: Seq(seq), time_ms: 0, update: Bytes::from_static(b"an update") }]);
    }

    #[test]
    fn documents_also_in_one_of_the_last_two_commits_are_counted() {
        let (log, mut committer) = Log::with_committer(Arc::new(MemoryStore::new()));
        let open = |name| log.document(DocumentName::parse(name).unwrap(), Epoch(1), Seq::ZERO);
        let (mut a, mut b, mut c) = (open("a"), open("b"), open("c"));
        let returning = |committer: &mut Committer| {
            let batch = committer.take().unwrap();
            let returning = batch.returning;
            committer.commit(batch).report();
            returning
        };
        write(&mut a, 1);
        write(&mut a, 2);
        assert_eq!(returning(&mut committer), 0, "two appends in one commit do not count");
        write(&mut b, 1);
        assert_eq!(returning(&mut committer), 0);
        write(&mut a, 3);
        write(&mut b, 2);
        write(&mut c, 1);
        assert_eq!(returning(&mut committer), 2);
        for (seq, name) in [(2, 'c'), (3, 'c'), (4, 'a')] {
            write(if name == 'a' { &mut a } else { &mut c }, seq);
            let expected = usize::from(seq < 4);
            assert_eq!(returning(&mut committer), expected, "record {seq}");
        }
    }
}
