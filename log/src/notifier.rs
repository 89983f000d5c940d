//! Tells documents what is on disk, from within the runtime that runs them.
//!
//! Told from the log's thread, each document whose task sleeps would wake the runtime for itself: a write to its event file,
//! and on a busy core a switch to the runtime and back. A task that is woken once a commit tells all of them.

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;

use super::thread::Committed;

/// Commits not yet told. When full, the log's thread waits: the runtime is busy with other things, and telling waits for
/// nothing.
const MAX_UNTOLD: usize = 1024;

/// A commit on its way to the task. Told when it is dropped, wherever that is: a runtime that ends drops what its task has not
/// taken, and who waits in another must not wait for ever.
struct Untold(Option<Committed>);

impl Drop for Untold {
    fn drop(&mut self) {
        if let Some(committed) = self.0.take() {
            committed.report();
        }
    }
}

/// The log thread's end.
pub(super) struct Reporter(mpsc::Sender<Untold>);

impl Reporter {
    /// Starts the task. `None`: there is no runtime here. The task ends after the thread, when everything is told.
    pub fn spawn() -> Option<(Self, JoinHandle<()>)> {
        let runtime = Handle::try_current().ok()?;
        let (committed, mut untold) = mpsc::channel::<Untold>(MAX_UNTOLD);
        let task = runtime.spawn(async move {
            while let Some(untold) = untold.recv().await {
                drop(untold);
            }
        });
        Some((Self(committed), task))
    }

    /// Has it told, in order. From here when the runtime is gone: then perhaps before what is dropped with it, and a document
    /// takes the highest number for how far it is.
    pub fn report(&self, committed: Committed) {
        if let Err(TrySendError::Full(untold)) = self.0.try_send(Untold(Some(committed))) {
            // What comes back is told.
            self.0.blocking_send(untold).ok();
        }
    }
}
