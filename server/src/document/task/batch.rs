//! A batch: the events that were queued when the document's task came to its inbox, in order.

use std::collections::VecDeque;

use super::{Envelope, Task};
use crate::document::event::{Event, SessionEvent};
use crate::ids::LeaseId;

impl Envelope {
    /// True if the frames of earlier messages must be queued first: they must not follow the diff that contains
    /// them, and a reader that leaves still gets them.
    fn follows_queued_frames(&self) -> bool {
        matches!(self, Envelope::Resync { .. } | Envelope::Leave { .. })
    }

    fn is_step1_of(&self, of: LeaseId) -> bool {
        matches!(self, Envelope::Session(lease, SessionEvent::Step1 { .. }, _) if *lease == of)
    }
}

impl Task {
    /// Handles the messages of a batch, up to the moment at which the server gives up: the rest is dropped, and none of
    /// it was acknowledged. Returns false if they show no use of the document.
    pub(super) async fn handle_batch(&mut self, batch: &mut VecDeque<Envelope>) -> bool {
        let mut is_used = false;
        // One message may take a second in a large document, so each is preceded by the check.
        while !self.options.give_up.is_cancelled()
            && let Some(envelope) = batch.pop_front()
        {
            if envelope.follows_queued_frames() {
                self.execute().await;
            }
            is_used |= self.handle_envelope(envelope, batch);
        }
        batch.clear();
        is_used
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
