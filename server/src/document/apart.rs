//! Work that goes through all of a large document, apart from the other tasks of its thread.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work`; if it takes long, the other tasks of this thread go on elsewhere.
pub(super) fn apart_if<R>(takes_long: bool, work: impl FnOnce() -> R) -> R {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) if takes_long => tokio::task::block_in_place(work),
        _ => work(),
    }
}
