//! Runs work on a whole large document without blocking the other tasks of its thread.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work`. If it takes long, tokio moves the other tasks of this thread elsewhere first.
pub(super) fn block_in_place_if<R>(takes_long: bool, work: impl FnOnce() -> R) -> R {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) if takes_long => tokio::task::block_in_place(work),
        _ => work(),
    }
}
