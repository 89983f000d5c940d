//! Clock correction: the device follows the server's clock, and corrects stamps made by its own wrong clock. Part of
//! [`Task`].

use syncline_protocol::ids::DocumentName;
use tracing::{debug, info};

use super::task::Task;
use crate::document::Event;
use crate::types::clock::MAX_DRIFT_MS;

/// Offsets up to this are not corrected.
const TOLERANCE_MS: u64 = 1_000;

impl Task {
    /// Sets the clock from the server's `Welcome`. This precedes every `Opened`, and so everything that documents send.
    pub(super) async fn set_clock(&mut self, server_ms: u64) {
        let offset = server_ms.cast_signed().saturating_sub(self.config.clock.now_ms().cast_signed());
        let by_ms = offset.saturating_sub(self.identity.clock_offset_ms);
        if by_ms.unsigned_abs() <= TOLERANCE_MS {
            return;
        }
        self.identity.clock_offset_ms = offset;
        if let Err(error) = self.identity.write(&self.config.directory) {
            debug!(%error, "the clock offset could not be stored; it is determined again on the next connection");
        }
        let drifted = by_ms.unsigned_abs() > MAX_DRIFT_MS;
        if drifted {
            info!(by_ms, "the device's clock is wrong; using the server's time");
        }
        let names: Vec<DocumentName> = self.documents.keys().cloned().collect();
        for name in names {
            let Some(open) = self.documents.get_mut(&name) else { continue };
            open.core.set_clock(offset);
            if drifted {
                if !open.core.has_wrong_stamps() {
                    open.hlc.correct(by_ms);
                }
                open.out.events.push(Event::ClockCorrected { offset_ms: by_ms });
            }
            self.flush(&name).await;
        }
    }

    /// After a message of the server: corrects wrong stamps once the server's state vector is known, and opens the
    /// document again if it was not requested. The caller flushes.
    pub(super) async fn correct_stamps(&mut self, name: &DocumentName) {
        let (stamp, now_ms) = (self.stamp(), self.now_ms());
        let Some(open) = self.documents.get_mut(name) else { return };
        // While the store fails no correction can be stored: the queue stays pending, and is corrected afterwards.
        if open.core.can_correct_stamps() && !open.failed {
            if let Some(by_ms) = open.core.correct_stamps(stamp.device, stamp.id.0, stamp.at_ms, &mut open.out) {
                open.hlc.correct(by_ms);
            }
        } else if open.core.must_ask_for_correction() {
            open.core.leave(now_ms, &mut open.out);
            if let Some(channel) = open.channel.take() {
                self.channels.remove(&channel);
            }
            self.join(name).await;
        }
    }
}
