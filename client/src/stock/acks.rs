//! Tracks which local edits are saved. Edits are numbered from 1; what is saved is a prefix of that numbering.
//!
//! A server handles the messages of a connection in order, so an acknowledgement of one message covers the messages
//! before it. An entry is kept from the time it is sent until it is answered or the connection is lost. After a lost
//! connection, the state vector exchange of the next one sends whatever the server lacks, as one entry that covers
//! every edit so far.

use std::collections::VecDeque;

use bytes::Bytes;

// Bounds the queue for a server that never echoes. Dropping the oldest only delays an ack: a later one covers it.
/// Limit of sent messages kept for comparison with echoes.
const MAX_ECHO_CANDIDATES: usize = 1024;

/// The content of a sent message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// Everything that the server lacked (SyncStep2).
    Everything,
    /// A single edit.
    OneEdit,
}

#[derive(Debug)]
struct Sent {
    carried: Carried,
    /// The last edit that this message and those before it cover.
    through: u64,
    /// The payload as sent, to recognize its echo.
    update: Bytes,
}

/// The meaning of a server's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Edits up to and including this number are saved.
    Saved(u64),
    /// Edits up to and including this number were refused; they stay in the local document.
    Refused(u64),
    /// No change.
    Nothing,
}

/// Saved and sent edits of one session. Written by the session only.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// Number of local edits.
    edits: u64,
    /// Number of local edits that are saved.
    saved: u64,
    /// Unanswered messages of this connection, in order of sending.
    sent: VecDeque<Sent>,
    /// An edit was refused, and no later message that includes it was saved: acks of single edits do not prove that all
    /// earlier edits are saved.
    hole: bool,
}

impl Acks {
    pub(crate) fn edited(&mut self) {
        self.edits += 1;
    }

    pub(crate) fn unsaved(&self) -> u64 {
        self.edits - self.saved
    }

    pub(crate) fn sent(&mut self, carried: Carried, update: Bytes) {
        self.sent.push_back(Sent { carried, through: self.edits, update });
    }

    /// Like [`Acks::sent`], for a server that may never answer: the number of entries is bounded.
    pub(crate) fn sent_with_possible_echo(&mut self, carried: Carried, update: Bytes) {
        if self.sent.len() == MAX_ECHO_CANDIDATES {
            self.sent.pop_front();
        }
        self.sent(carried, update);
    }

    pub(crate) fn connection_lost(&mut self) {
        self.sent.clear();
        self.hole = false;
    }

    /// Handles a Hocuspocus SyncStatus, which answers the oldest unanswered message.
    pub(crate) fn status(&mut self, saved: bool) -> Answer {
        let Some(entry) = self.sent.pop_front() else { return Answer::Nothing };
        if saved {
            return self.save(&entry);
        }
        self.hole = true;
        if entry.through > self.saved { Answer::Refused(entry.through) } else { Answer::Nothing }
    }

    /// Handles an update received from the server: returns the answer if it is the echo of one of ours.
    pub(crate) fn echo(&mut self, update: &[u8]) -> Option<Answer> {
        let at = self.sent.iter().position(|sent| sent.update == update)?;
        let mut answer = Answer::Nothing;
        for entry in self.sent.drain(..=at).collect::<Vec<_>>() {
            match self.save(&entry) {
                Answer::Nothing => {}
                change => answer = change,
            }
        }
        Some(answer)
    }

    fn save(&mut self, entry: &Sent) -> Answer {
        match entry.carried {
            Carried::Everything => self.hole = false,
            Carried::OneEdit if self.hole => return Answer::Nothing,
            Carried::OneEdit => {}
        }
        if entry.through <= self.saved {
            return Answer::Nothing;
        }
        self.saved = entry.through;
        Answer::Saved(self.saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(acks: &mut Acks, bytes: &'static [u8]) {
        acks.edited();
        acks.sent(Carried::OneEdit, Bytes::from_static(bytes));
    }

    #[test]
    fn statuses_answer_messages_in_order() {
        let mut acks = Acks::default();
        edit(&mut acks, b"a");
        edit(&mut acks, b"b");
        assert_eq!(acks.status(true), Answer::Saved(1));
        assert_eq!(acks.unsaved(), 1);
        assert_eq!(acks.status(true), Answer::Saved(2));
        assert_eq!(acks.status(true), Answer::Nothing);
    }

    #[test]
    fn after_a_refusal_only_a_full_sync_saves() {
        let mut acks = Acks::default();
        edit(&mut acks, b"a");
        edit(&mut acks, b"b");
        assert_eq!(acks.status(false), Answer::Refused(1));
        assert_eq!(acks.status(true), Answer::Nothing, "edit 1 is not saved, so edits 1 to 2 are not");
        acks.sent(Carried::Everything, Bytes::new());
        assert_eq!(acks.status(true), Answer::Saved(2));
    }

    #[test]
    fn echo_covers_earlier_messages() {
        let mut acks = Acks::default();
        edit(&mut acks, b"a");
        edit(&mut acks, b"b");
        assert_eq!(acks.echo(b"x"), None);
        assert_eq!(acks.echo(b"b"), Some(Answer::Saved(2)));
    }

    #[test]
    fn sent_queue_is_bounded_without_echoes() {
        let mut acks = Acks::default();
        for _ in 0..3 * MAX_ECHO_CANDIDATES {
            acks.edited();
            acks.sent_with_possible_echo(Carried::OneEdit, Bytes::from_static(b"a"));
        }
        assert_eq!(acks.sent.len(), MAX_ECHO_CANDIDATES);
    }

    #[test]
    fn edits_in_flight_are_unsaved_until_the_next_sync() {
        let mut acks = Acks::default();
        edit(&mut acks, b"a");
        acks.connection_lost();
        assert_eq!(acks.status(true), Answer::Nothing);
        assert_eq!(acks.unsaved(), 1);
    }
}
