//! PURE: the sync protocol of one document, in the native dialect. Part of [`Core`].
//!
//! The client opens the document with its cursor. The server answers with the changes since that cursor, asks for the
//! client's state vector, or reports another history. After that the client sends the queue, merged into few messages,
//! and receives remote changes. The document is synced at the first `Durable`.

use bytes::Bytes;
use syncline_protocol::close::{Close, may_reconnect};
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Channel, Cursor, Resume, ToClient, ToServer};
use syncline_protocol::update::{EMPTY_STATE_VECTOR, ScanLimits, scan_state_vector};
use thiserror::Error;
use ulid::Ulid;

use super::batch::{self, MAX_BATCH_BYTES, MAX_IN_FLIGHT};
use super::core::{Core, Outputs};
use super::journal::Note;
use super::queue::State;
use super::report::Divergence;
use super::status::{Event, SyncReport, SyncState};

/// Number of changes after which a new cursor is recorded in the journal. After a crash the changes since the recorded
/// cursor are received again.
const NOTE_EVERY: u64 = 64;
/// Size of the queue, in bytes, from which the server is asked for its state vector, to skip what it has.
const WORTH_ASKING_BYTES: usize = 4 * 1024;

/// An error in the server's messages.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum Fault {
    #[error("the server sent an invalid update: {0}")]
    BadUpdate(String),
}

/// State of the document on the current connection.
#[derive(Debug)]
pub(crate) enum Link {
    Down,
    Up(Box<Joining>),
    /// The channel is closed: the history changed, access was denied, or the document was deleted.
    Shut,
}

#[derive(Debug)]
pub(crate) struct Joining {
    pub(super) channel: Channel,
    /// The server's cursor, once it has answered.
    pub(super) cursor: Option<Cursor>,
    /// The state vector was sent, and the `Diff` has not arrived.
    pub(super) awaits_diff: bool,
    /// The first `Durable` has arrived.
    pub(super) in_step: bool,
    pub(super) last_batch: u64,
    pub(super) read_only: bool,
    /// The last batch of remote changes that were sent again. The cursor is not advanced until it is acknowledged, so
    /// that these changes still count as unconfirmed if the connection is lost.
    pub(super) sent_again: Option<u64>,
    /// The newest `Durable` received while `sent_again` is set.
    pub(super) durable_meanwhile: Option<Seq>,
    /// The server's state vector was requested.
    asked: bool,
    /// The server's state vector at that time; batches leave out what it covers.
    pub(super) server_has: Option<Bytes>,
    pub(super) report: SyncReport,
    /// Both sides' states, until the document is synced; only if edits are queued.
    pub(super) divergence: Option<Divergence>,
    /// A new history is being fetched; see [`Core::begin_rebase`].
    pub(super) rebasing: bool,
    /// Parts of the new history received so far, each with the sequence number up to which the history is complete.
    pub(super) new_history: Vec<(Seq, Bytes)>,
}

impl Link {
    pub(super) fn is_rebasing(&self) -> bool {
        matches!(self, Link::Up(joining) if joining.rebasing)
    }
}

impl Core {
    /// A connection is up: opens the document on it. Returns false if the document is open already, or if its history
    /// changed or it was deleted.
    pub(crate) fn connected(
        &mut self,
        channel: Channel,
        name: &str,
        token: &str,
        now_ms: u64,
        out: &mut Outputs,
    ) -> bool {
        let is_open = matches!(self.link, Link::Up(_));
        if is_open || matches!(self.sync, SyncState::HistoryChanged | SyncState::Deleted) {
            return false;
        }
        let offline_ms = self.in_step.map_or(0, |(_, at_ms)| now_ms.saturating_sub(at_ms));
        self.open(channel, name, token, offline_ms, false, out);
        true
    }

    /// True if the caller must open the document again after a delay: the server closed it, or it adopted a new history.
    pub(crate) fn wants_reopening(&self) -> bool {
        matches!(self.link, Link::Down) && self.sync == SyncState::Offline
    }

    /// Sets the size limit of messages to the server.
    pub(crate) fn set_limit(&mut self, max_message_bytes: usize) {
        self.max_message_bytes = max_message_bytes;
    }

    pub(super) fn open(
        &mut self,
        channel: Channel,
        name: &str,
        token: &str,
        offline_ms: u64,
        rebasing: bool,
        out: &mut Outputs,
    ) {
        let cursor = self.in_step.map(|(cursor, _)| cursor).filter(|_| !rebasing);
        let queued: usize = self.queue.iter().map(|entry| batch::size(&entry.what)).sum();
        let wants_state_vector = (queued >= WORTH_ASKING_BYTES || self.has_wrong_stamps()) && !rebasing;
        self.link = Link::Up(Box::new(Joining {
            channel,
            cursor: None,
            awaits_diff: cursor.is_none(),
            in_step: false,
            last_batch: 0,
            sent_again: None,
            durable_meanwhile: None,
            read_only: false,
            asked: wants_state_vector,
            server_has: None,
            report: SyncReport { offline_ms, ..SyncReport::default() },
            divergence: None,
            rebasing,
            new_history: Vec::new(),
        }));
        self.sync = if rebasing { SyncState::HistoryChanged } else { SyncState::Syncing };
        self.send(&ToServer::Open { channel, document: name, token, cursor, wants_state_vector }, out);
        if cursor.is_none() {
            let state_vector =
                if rebasing { Bytes::from_static(&EMPTY_STATE_VECTOR) } else { self.replica.state_vector() };
            self.send(&ToServer::StateVector { channel, state_vector: &state_vector }, out);
        }
    }

    /// The connection was lost. Entries that were sent and not confirmed become pending again.
    pub(crate) fn disconnected(&mut self, now_ms: u64, out: &mut Outputs) {
        if matches!(&self.link, Link::Up(joining) if joining.in_step) {
            self.note_in_step(now_ms, out);
        }
        self.link = Link::Down;
        self.requeue_sent(out);
        if matches!(self.sync, SyncState::Syncing | SyncState::Synced | SyncState::Refused(_)) {
            self.sync = SyncState::Offline;
        }
    }

    /// Makes entries that were sent and not confirmed pending again.
    fn requeue_sent(&mut self, out: &mut Outputs) {
        if let Some(through) = self.queue.newest_sent() {
            self.note(Note::Sent { through }, out);
        }
        self.queue.connection_lost();
        self.finish_resend(false);
    }

    /// Makes refused entries pending again, and closes the channel: its access was granted with the old token. The caller
    /// opens the document on another channel.
    pub(crate) fn retry_refused(&mut self, now_ms: u64, out: &mut Outputs) {
        self.leave(now_ms, out);
        if self.queue.retry() {
            self.note(Note::Retry, out);
        }
    }

    /// Closes this document's channel if it has one; the connection stays open. Entries that were sent and not confirmed
    /// become pending again.
    pub(crate) fn leave(&mut self, now_ms: u64, out: &mut Outputs) {
        if let Link::Up(joining) = &self.link {
            out.frames.push(ToServer::Leave { channel: joining.channel }.encode().into());
            self.disconnected(now_ms, out);
        }
    }

    /// Handles a message of the server for this document.
    pub(crate) fn received(
        &mut self,
        message: &ToClient<'_>,
        len: usize,
        now_ms: u64,
        out: &mut Outputs,
    ) -> Result<(), Fault> {
        let Link::Up(joining) = &mut self.link else { return Ok(()) };
        joining.report.received_bytes += len as u64;
        match *message {
            ToClient::Opened { cursor, read_only, resume, state_vector, .. } => {
                self.opened(cursor, read_only, resume, state_vector, out)?;
            }
            ToClient::Change { seq, update, .. } | ToClient::Diff { seq, update, .. } if self.link.is_rebasing() => {
                self.fetched(seq, update)?;
            }
            ToClient::Change { seq, update, .. } => self.apply(seq, update, out)?,
            ToClient::Diff { seq, update, .. } => {
                self.apply(seq, update, out)?;
                if let Link::Up(joining) = &mut self.link {
                    joining.awaits_diff = false;
                }
            }
            ToClient::Durable { seq, .. } if self.link.is_rebasing() => return self.rebase_if_stored(seq, now_ms, out),
            ToClient::Durable { seq, .. } => self.durable(seq, now_ms, out),
            ToClient::Ack { batch, .. } => {
                self.acked(batch, out);
                self.batch_answered(batch, now_ms, out);
            }
            // A temporary refusal: close the channel, and send everything again in order after reopening.
            ToClient::Refused { code, .. } if may_reconnect(code) => self.leave(now_ms, out),
            ToClient::Refused { batch, code, reason, .. } => {
                self.refused(batch, code, reason, out);
                // Without write access the resend is pointless; other clients have these changes.
                self.batch_answered(batch, now_ms, out);
            }
            ToClient::Decided { batch, accepted, register, .. } => self.decided(batch, accepted, register, out)?,
            ToClient::Closed { code, reason, .. } => self.closed(code, reason, out),
            ToClient::Welcome { .. } | ToClient::Presence { .. } | ToClient::Pong => {}
        }
        self.pump(out);
        Ok(())
    }

    fn opened(
        &mut self,
        cursor: Cursor,
        read_only: bool,
        resume: Resume,
        state_vector: Option<&[u8]>,
        out: &mut Outputs,
    ) -> Result<(), Fault> {
        let resume = if self.is_of_another_history(cursor) { Resume::OtherHistory } else { resume };
        let Link::Up(joining) = &mut self.link else { return Ok(()) };
        joining.read_only = read_only;
        if let Some(state_vector) = state_vector {
            scan_state_vector(state_vector, &ScanLimits::STORED).map_err(bad_update)?;
            joining.server_has = Some(Bytes::copy_from_slice(state_vector));
        } else if joining.asked {
            // The server does not send its state vector. Use an empty one, so that it is not requested again.
            joining.server_has = Some(Bytes::from_static(&EMPTY_STATE_VECTOR));
        }
        let channel = joining.channel;
        match resume {
            Resume::OtherHistory => {
                let was = self.in_step.map_or(cursor, |(cursor, _)| cursor);
                self.link = Link::Shut;
                self.sync = SyncState::HistoryChanged;
                out.events.push(Event::HistoryChanged { was, now: cursor });
                out.frames.push(ToServer::Leave { channel }.encode().into());
            }
            Resume::FromCursor => {
                joining.cursor = Some(cursor);
                self.resend_unconfirmed(out);
            }
            Resume::SendStateVector => {
                joining.cursor = Some(cursor);
                self.resend_unconfirmed(out);
                let Link::Up(joining) = &mut self.link else { return Ok(()) };
                if !joining.awaits_diff {
                    joining.awaits_diff = true;
                    let state_vector = self.replica.state_vector();
                    self.send(&ToServer::StateVector { channel, state_vector: &state_vector }, out);
                }
            }
        }
        Ok(())
    }

    /// For a cursor at zero the server does not report another history, since every history starts there. If this device
    /// has saved changes since, which the journal's cursor does not cover yet, another epoch is another history.
    fn is_of_another_history(&self, now: Cursor) -> bool {
        let is_other = self.in_step.is_some_and(|(known, _)| known.epoch != now.epoch);
        is_other && !self.is_rebasing() && self.has_something_saved()
    }

    pub(super) fn durable(&mut self, seq: Seq, now_ms: u64, out: &mut Outputs) {
        let Link::Up(joining) = &mut self.link else { return };
        let Some(cursor) = joining.cursor.filter(|_| !joining.awaits_diff && !joining.rebasing) else { return };
        if joining.sent_again.is_some() {
            joining.durable_meanwhile = Some(seq);
            return;
        }
        self.in_step = Some((Cursor { epoch: cursor.epoch, seq }, now_ms));
        let first = !std::mem::replace(&mut joining.in_step, true);
        if first {
            self.sync = SyncState::Synced;
            self.pump(out);
            self.make_report(out);
        }
        let noted = self.noted.map_or(0, |cursor| cursor.seq.0);
        if first || seq.0 >= noted + NOTE_EVERY {
            self.note_in_step(now_ms, out);
        }
    }

    /// Records the synced position in the journal.
    pub(crate) fn note_in_step(&mut self, now_ms: u64, out: &mut Outputs) {
        let Some((cursor, at_ms)) = &mut self.in_step else { return };
        *at_ms = now_ms;
        let cursor = *cursor;
        self.noted = Some(cursor);
        self.note(Note::InStep { cursor, at_ms: now_ms }, out);
    }

    fn acked(&mut self, batch: u64, out: &mut Outputs) {
        let Some(through) = self.queue.last_edit_of(batch) else { return };
        let entries: Vec<Ulid> = self.queue.save(through).into_iter().map(Ulid).collect();
        self.note(Note::Saved { through }, out);
        self.saved += entries.len() as u64;
        out.events.push(Event::Saved { entries });
    }

    fn refused(&mut self, batch: u64, code: u16, reason: &str, out: &mut Outputs) {
        for id in self.queue.find_batch(batch) {
            self.queue.refuse(id, code, reason);
            self.note(Note::Refused { id, code, reason: reason.to_owned() }, out);
            out.events.push(Event::Refused { entry: Ulid(id), code, reason: reason.to_owned() });
        }
    }

    fn closed(&mut self, code: u16, reason: &str, out: &mut Outputs) {
        let was_rebasing = self.link.is_rebasing();
        self.link = Link::Shut;
        self.requeue_sent(out);
        if code == Close::DocumentDeleted.code() {
            self.sync = SyncState::Deleted;
            out.events.push(Event::Deleted);
        } else if was_rebasing {
            // The state stays `HistoryChanged`.
        } else if may_reconnect(code) {
            // The caller opens the document again after a delay.
            self.link = Link::Down;
            self.sync = SyncState::Offline;
        } else {
            self.sync = SyncState::Refused(reason.to_owned());
        }
    }

    /// Sends stored entries of the queue, if the document is open and the limits allow it.
    pub(super) fn pump(&mut self, out: &mut Outputs) {
        loop {
            let Link::Up(joining) = &mut self.link else { return };
            if joining.cursor.is_none() || joining.rebasing || !self.clock.allows_sending(&self.queue) {
                return;
            }
            let oldest = self.queue.iter().find_map(|entry| match entry.state {
                State::Sent(batch) => Some(batch),
                _ => None,
            });
            if oldest.is_some_and(|oldest| joining.last_batch - oldest >= MAX_IN_FLIGHT) {
                return;
            }
            let limit_bytes = MAX_BATCH_BYTES.min(self.max_message_bytes / 2);
            let Some(batch) = batch::next(&self.queue, joining.server_has.as_deref(), limit_bytes) else { return };
            let (channel, number) = (joining.channel, joining.last_batch + 1);
            let frame = batch.frame(channel, number);
            let is_too_large = frame.len() > self.max_message_bytes;
            joining.last_batch = number;
            if !joining.in_step && !is_too_large {
                joining.report.sent_entries += batch.entries.len() as u64;
            }
            self.queue.send(batch.entries.clone(), number);
            if is_too_large {
                let close = Close::MessageTooLarge { limit_bytes: self.max_message_bytes };
                self.refused(number, close.code(), &close.reason(), out);
                continue;
            }
            self.count_and_push(frame, out);
        }
    }

    pub(super) fn send(&mut self, message: &ToServer<'_>, out: &mut Outputs) {
        self.count_and_push(message.encode().into(), out);
    }

    fn count_and_push(&mut self, frame: Bytes, out: &mut Outputs) {
        if let Link::Up(joining) = &mut self.link {
            joining.report.sent_bytes += frame.len() as u64;
        }
        out.frames.push(frame);
    }
}

pub(super) fn bad_update(error: impl std::fmt::Display) -> Fault {
    Fault::BadUpdate(error.to_string())
}
