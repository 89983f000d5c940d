//! A turn of a document: all queued events are processed, then the resulting frames are sent together.

use syncline_log::store::{Record, Snapshot};
use tracing::debug;

use super::Task;
use crate::document::event::Effect;
use crate::unix_time::now_ms;

/// What the effects of a turn have for the log.
#[derive(Default)]
struct ForLog {
    records: Vec<Record>,
    snapshot: Option<Snapshot>,
}

impl Task {
    /// Executes the effects so far, in the middle of a turn: changes are sent, awareness waits for the end of
    /// the turn.
    pub(super) fn execute(&mut self) {
        let for_log = self.apply_effects();
        self.send(for_log);
    }

    /// Executes the effects and ends the turn: awareness follows the changes, which it may refer to.
    pub(super) fn end_turn(&mut self) {
        let for_log = self.apply_effects();
        self.queue_awareness();
        self.send(for_log);
    }

    /// Queues frames for readers in order. Returns what the log gets.
    fn apply_effects(&mut self) -> ForLog {
        let mut for_log = ForLog::default();
        for effect in std::mem::take(&mut self.effects) {
            if !effect.may_pass_changes() {
                self.queue_changes();
            }
            match effect {
                Effect::Append { seq, update } => {
                    self.snapshots.note_record(update.len());
                    for_log.records.push(Record { seq, time_ms: now_ms(), update });
                }
                Effect::Snapshot { upto, update } => {
                    self.snapshots.note_snapshot(update.len());
                    self.metrics.compactions.inc();
                    for_log.snapshot = Some(Snapshot { upto, update });
                }
                Effect::Broadcast { frame, author } => self.outgoing.push_change(frame, author),
                Effect::Awareness { clients } => self.outgoing.changed_awareness.extend(clients),
                Effect::AllAwareness { lease } => _ = self.outgoing.all_awareness.insert(lease),
                Effect::AwarenessDropped { states } => _ = self.metrics.awareness_dropped.inc_by(states as u64),
                Effect::Reply { lease, frame } => self.readers.push_reply(lease, &frame),
                Effect::Diff { lease, frame } => self.readers.push_diff(lease, &frame),
                Effect::Opened { lease, cursor, read_only, resume, state_vector } => {
                    self.readers.push_opened(lease, cursor, read_only, resume, state_vector.as_deref());
                }
                Effect::Missed { lease, frame } => self.readers.push_missed(lease, &frame),
                Effect::Pending { lease, frame } => self.readers.push_pending(lease, &frame),
                Effect::Durable { lease, seq } => self.readers.push_durable(lease, seq),
                Effect::Ack { lease, batch, seq, outcome, count, echo } => {
                    self.readers.push_acks(lease, (batch, seq), (outcome, count), echo.as_deref());
                }
                Effect::Decided { lease, batch, accepted, register } => {
                    self.readers.push_decision(lease, batch, accepted, &register);
                }
                Effect::Close { lease, close } => {
                    debug!(
                        document = self.name.as_str(),
                        ?lease,
                        code = close.code(),
                        reason = &*close.reason(),
                        "session closed by its document"
                    );
                    self.readers.close(lease, close);
                }
            }
        }
        self.queue_changes();
        for_log
    }

    /// Sends to readers first, then to the log. The snapshot follows the records through the same queue, so they are in
    /// the log when it replaces those that it covers.
    fn send(&mut self, ForLog { records, snapshot }: ForLog) {
        self.readers.send(self.is_busy);
        if !records.is_empty() {
            self.metrics.updates.inc_by(records.len() as u64);
            self.log.append(records);
        }
        if let Some(snapshot) = snapshot {
            self.log.compact(snapshot);
        }
    }

    /// Queues the changes that were held back to be coalesced.
    fn queue_changes(&mut self) {
        let delivered = self.readers.broadcast(&self.outgoing.changes);
        self.metrics.delivered.inc_by(delivered as u64);
        self.outgoing.changes.clear();
    }

    /// Queues awareness: all states for the sessions that asked, then the changed ones for everyone. Each is
    /// encoded once.
    fn queue_awareness(&mut self) {
        if !self.outgoing.all_awareness.is_empty()
            && let Some(all) = self.core.all_awareness()
        {
            self.outgoing.all_awareness.iter().for_each(|&lease| self.readers.push_reply(lease, &all));
        }
        self.outgoing.all_awareness.clear();
        if !self.outgoing.changed_awareness.is_empty() {
            let changed = std::mem::take(&mut self.outgoing.changed_awareness);
            self.readers.push_awareness(&self.core.awareness_of(changed.into_iter()));
        }
    }
}
