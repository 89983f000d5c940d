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

/// The log thread's end.
pub(super) struct Reporter(mpsc::Sender<Committed>);

impl Reporter {
    /// Starts the task. `None`: there is no runtime here. The task ends after the thread, when everything is told.
    pub fn spawn() -> Option<(Self, JoinHandle<()>)> {
        let runtime = Handle::try_current().ok()?;
        let (committed, mut untold) = mpsc::channel::<Committed>(MAX_UNTOLD);
        let task = runtime.spawn(async move {
            while let Some(committed) = untold.recv().await {
                committed.report();
            }
        });
        Some((Self(committed), task))
    }

    /// Has it told. In order: what is later is told later.
    pub fn report(&self, committed: Committed) {
        let untold = match self.0.try_send(committed) {
            Ok(()) => return,
            Err(TrySendError::Full(committed)) => self.0.blocking_send(committed).map_err(|error| error.0),
            Err(TrySendError::Closed(committed)) => Err(committed),
        };
        // The runtime is gone. Who waits elsewhere is told from here.
        if let Err(committed) = untold {
            committed.report();
        }
    }
}
