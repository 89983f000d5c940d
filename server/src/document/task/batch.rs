//! A batch: the events that were queued when the document's task came to its inbox, in order.

use std::collections::VecDeque;

use super::{Envelope, Task};
use crate::document::event::{Event, SessionEvent};
use crate::ids::LeaseId;

/// Bytes of updates of a batch that are not sent to readers and the log yet. Smaller ones are sent together.
const MAX_UNSENT_BYTES: usize = 64 * 1024;

impl Envelope {
    /// True if the frames of earlier messages must be queued first: they must not follow the diff that contains
    /// them, and a reader that leaves still gets them.
    fn follows_queued_frames(&self) -> bool {
        matches!(self, Envelope::Resync { .. } | Envelope::Leave { .. })
    }

    /// Bytes of the update, or zero.
    fn update_bytes(&self) -> usize {
        match self {
            Envelope::Session(_, SessionEvent::Update { update, .. }, _) => update.len(),
            _ => 0,
        }
    }

    fn is_step1_of(&self, of: LeaseId) -> bool {
        matches!(self, Envelope::Session(lease, SessionEvent::Step1 { .. }, _) if *lease == of)
    }
}

impl Task {
    /// Handles the messages of a batch. The rest stays in it while the log has no room for this document. When the
    /// server gives up, the rest is dropped: none of it was acknowledged. Returns false if they show no use of the
    /// document.
    pub(super) fn handle_batch(&mut self, batch: &mut VecDeque<Envelope>) -> bool {
        let (mut is_used, mut unsent_bytes) = (false, 0);
        // One message may take a second in a large document, so each is preceded by the checks.
        while !self.options.give_up.is_cancelled()
            && self.may_take_events()
            && let Some(envelope) = batch.pop_front()
        {
            if envelope.follows_queued_frames() {
                self.execute();
            }
            let may_grow = self.usage.may_grow();
            if may_grow != self.core.may_grow() {
                self.handle(Event::LimitGrowth { may_grow });
            }
            unsent_bytes += envelope.update_bytes();
            is_used |= self.handle_envelope(envelope, batch);
            if unsent_bytes > MAX_UNSENT_BYTES {
                // The log counts what it has.
                self.execute();
                unsent_bytes = 0;
            }
        }
        if self.options.give_up.is_cancelled() {
            batch.clear();
        }
        is_used
    }

    /// False while more waits for the disk than the document's share. Readers still receive what is queued for them.
    pub(super) fn may_take_events(&mut self) -> bool {
        !self.core.must_wait_for_disk() && self.log.has_room()
    }

    /// Handles one message of the inbox; `later` are those behind it. Returns false if it shows no use of the document.
    fn handle_envelope(&mut self, envelope: Envelope, later: &VecDeque<Envelope>) -> bool {
        match envelope {
            Envelope::Open { lease, outbox, encoder, documents } => {
                let acks = encoder.acks();
                self.readers.add(lease, outbox, encoder);
                self.handle(Event::Open { lease, acks, documents });
            }
            Envelope::Resync { lease } if self.readers.may_resync(lease) => {
                self.metrics.resyncs.inc();
                self.handle(Event::Resync { lease, floor: self.readers.floor(lease) });
            }
            Envelope::Resync { .. } => {}
            Envelope::Leave { lease } => {
                self.readers.remove(lease);
                self.handle(Event::Leave { lease });
            }
            Envelope::Session(lease, SessionEvent::Step1 { state_vector }, _permit)
                if later.iter().any(|later| later.is_step1_of(lease)) || self.readers.must_defer_diff(lease) =>
            {
                self.handle(Event::DeferStep1 { lease, state_vector });
            }
            Envelope::Session(lease, event, _permit) => self.handle(Event::Session(lease, event)),
            Envelope::FreeMemory => {
                self.idle.request_memory();
                return false;
            }
        }
        true
    }
}
