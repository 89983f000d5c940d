//! Drives the core of a document as its task does, without a log and readers: every event through `Core::handle`.

use syncline_protocol::ids::{Epoch, Seq};
use syncline_replica::{HubDocument, HubLimits};
use syncline_server::internals::{Core, CoreLimits, Effect, Event, LoadedDocument};

/// The epoch of [`new_core`].
pub const EPOCH: Epoch = Epoch(1);

/// The core of a new document.
pub fn new_core(limits: HubLimits) -> Core {
    let limits = CoreLimits { hub: limits, ..CoreLimits::default() };
    Core::new(LoadedDocument::empty(HubDocument::default(), EPOCH), limits)
}

/// The effects of one event.
pub fn handle(core: &mut Core, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    core.handle(event, &mut effects);
    effects
}

/// The effects of the disk reaching the record `upto`.
pub fn durable(core: &mut Core, upto: u64) -> Vec<Effect> {
    handle(core, Event::Durable { upto: Seq(upto) })
}
