//! Reports commits to the documents from a task in their runtime.
//!
//! If the log's thread reported to each document directly, every sleeping document task would wake the runtime
//! separately: one write to the runtime's eventfd each, and on a busy core a context switch to the runtime and back. The
//! reporting task is woken once for each commit and notifies all documents.

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;

use super::thread::Committed;

/// Commits that are not yet reported. When the channel is full, the log's thread waits until the runtime schedules the
/// reporting task, which itself waits for nothing.
const MAX_PENDING_REPORTS: usize = 1024;

/// A commit on its way to the reporting task. Dropping it reports it, on whatever thread: a runtime that shuts down drops
/// the reports that its task has not received, and tasks in other runtimes must not wait for them forever.
struct PendingReport(Option<Committed>);

impl Drop for PendingReport {
    fn drop(&mut self) {
        if let Some(committed) = self.0.take() {
            committed.report();
        }
    }
}

/// The sending side, used by the log's thread.
pub(super) struct Reporter(mpsc::Sender<PendingReport>);

impl Reporter {
    /// Starts the reporting task. `None`: the caller is not in a runtime. The task ends after the log's thread, when
    /// everything is reported.
    pub(crate) fn spawn() -> Option<(Self, JoinHandle<()>)> {
        let runtime = Handle::try_current().ok()?;
        let (sender, mut reports) = mpsc::channel::<PendingReport>(MAX_PENDING_REPORTS);
        let task = runtime.spawn(async move {
            while let Some(report) = reports.recv().await {
                drop(report);
            }
        });
        Some((Self(sender), task))
    }

    /// Queues the commit for reporting, in order. If the runtime has shut down, the commit is reported here. It may then
    /// overtake reports that the runtime drops, which is harmless: a document keeps the highest sequence number.
    pub(crate) fn report(&self, committed: Committed) {
        if let Err(TrySendError::Full(report)) = self.0.try_send(PendingReport(Some(committed))) {
            // If sending fails, dropping the returned report publishes it.
            self.0.blocking_send(report).ok();
        }
    }
}
