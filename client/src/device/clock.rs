//! When the server tells the time: the device goes by its clock, and what it stamped by a wrong one is corrected. Part
//! of [`Task`].

use syncline_protocol::ids::DocumentName;
use tracing::{debug, info};

use super::task::Task;
use crate::document::Event;
use crate::types::clock::MAX_DRIFT_MS;

/// A clock that is off by less is left alone.
const TOLERANCE_MS: u64 = 1_000;

impl Task {
    /// Comes before anything is sent: documents answer to `Opened`, which follows the time.
    pub(super) async fn set_clock(&mut self, server_ms: u64) {
        let offset = server_ms.cast_signed().saturating_sub(self.config.clock.now_ms().cast_signed());
        let by_ms = offset.saturating_sub(self.identity.clock_offset_ms);
        if by_ms.unsigned_abs() <= TOLERANCE_MS {
            return;
        }
        self.identity.clock_offset_ms = offset;
        if let Err(error) = self.identity.write(&self.config.directory) {
            debug!(%error, "the clock's offset could not be stored; it is found anew at the next connection");
        }
        let drifted = by_ms.unsigned_abs() > MAX_DRIFT_MS;
        if drifted {
            info!(by_ms, "this device's clock is wrong; going by the server's");
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

    /// After the server said something: moves wrong stamps once it has told what it has, and asks it if it was not asked.
    /// The caller flushes.
    pub(super) async fn correct_stamps(&mut self, name: &DocumentName) {
        let (stamp, now_ms) = (self.stamp(), self.now_ms());
        let Some(open) = self.documents.get_mut(name) else { return };
        // A store that takes nothing takes no correction: what is queued waits, and is corrected when it is back.
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
