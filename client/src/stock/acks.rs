//! Which local edits are saved. Edits are numbered from 1; everything here is about prefixes of that numbering.
//!
//! A server handles one connection's messages in order, so an ack for one message covers the messages before it. An
//! entry lives from the moment it is sent until its answer, or until the connection is gone: then the state vector
//! exchange of the next connection carries whatever the server lacks, as one entry that covers every edit so far.

use std::collections::VecDeque;

use bytes::Bytes;

// A server that never echoes would let the queue grow. Dropping the oldest only delays an ack: a later one covers it.
/// Most sent messages remembered for comparison with echoes.
const MAX_ECHO_CANDIDATES: usize = 1024;

/// What a sent message carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// Everything the server lacked (SyncStep2).
    Everything,
    /// One edit.
    OneEdit,
}

#[derive(Debug)]
struct Sent {
    carried: Carried,
    /// The last edit that this message and those before it cover.
    through: u64,
    /// The payload as sent, to recognise its echo.
    update: Bytes,
}

/// What an answer told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Edits up to and including this number are saved.
    Saved(u64),
    /// The server will not have them; they stay here.
    Refused(u64),
    /// Nothing new.
    Nothing,
}

/// Written by the session only.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// How many edits were made here.
    edits: u64,
    /// How many of them are saved.
    saved: u64,
    /// In order of sending, on this connection.
    sent: VecDeque<Sent>,
    /// An edit was refused and nothing that includes it has been saved since: later single acks prove no prefix.
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

    /// The same for a server that may never answer.
    pub(crate) fn sent_hoping_for_echo(&mut self, carried: Carried, update: Bytes) {
        if self.sent.len() == MAX_ECHO_CANDIDATES {
            self.sent.pop_front();
        }
        self.sent(carried, update);
    }

    pub(crate) fn connection_lost(&mut self) {
        self.sent.clear();
        self.hole = false;
    }

    /// A Hocuspocus SyncStatus: it answers the oldest message not answered yet.
    pub(crate) fn status(&mut self, saved: bool) -> Answer {
        let Some(entry) = self.sent.pop_front() else { return Answer::Nothing };
        if saved {
            return self.save(&entry);
        }
        self.hole = true;
        if entry.through > self.saved { Answer::Refused(entry.through) } else { Answer::Nothing }
    }

    /// `update` came from the server: true, with the answer, if it is one of ours coming back.
    pub(crate) fn echo(&mut self, update: &[u8]) -> Option<Answer> {
        let at = self.sent.iter().position(|sent| sent.update == update)?;
        let mut answer = Answer::Nothing;
        for entry in self.sent.drain(..=at).collect::<Vec<_>>() {
            match self.save(&entry) {
                Answer::Nothing => {}
                news => answer = news,
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
    fn statuses_answer_in_order_of_sending() {
        let mut acks = Acks::default();
        edit(&mut acks, b"a");
        edit(&mut acks, b"b");
        assert_eq!(acks.status(true), Answer::Saved(1));
        assert_eq!(acks.unsaved(), 1);
        assert_eq!(acks.status(true), Answer::Saved(2));
        assert_eq!(acks.status(true), Answer::Nothing);
    }

    #[test]
    fn after_a_refusal_only_a_whole_sync_saves() {
        let mut acks = Acks::default();
        edit(&mut acks, b"a");
        edit(&mut acks, b"b");
        assert_eq!(acks.status(false), Answer::Refused(1));
        assert_eq!(acks.status(true), Answer::Nothing, "edit 1 is not saved, so 2 is no prefix");
        acks.sent(Carried::Everything, Bytes::new());
        assert_eq!(acks.status(true), Answer::Saved(2));
    }

    #[test]
    fn an_echo_covers_what_was_sent_before_it() {
        let mut acks = Acks::default();
        edit(&mut acks, b"a");
        edit(&mut acks, b"b");
        assert_eq!(acks.echo(b"x"), None);
        assert_eq!(acks.echo(b"b"), Some(Answer::Saved(2)));
    }

    #[test]
    fn a_server_that_never_echoes_does_not_fill_memory() {
        let mut acks = Acks::default();
        for _ in 0..3 * MAX_ECHO_CANDIDATES {
            acks.edited();
            acks.sent_hoping_for_echo(Carried::OneEdit, Bytes::from_static(b"a"));
        }
        assert_eq!(acks.sent.len(), MAX_ECHO_CANDIDATES);
    }

    #[test]
    fn what_was_in_flight_is_unsaved_until_the_next_sync() {
        let mut acks = Acks::default();
        edit(&mut acks, b"a");
        acks.connection_lost();
        assert_eq!(acks.status(true), Answer::Nothing);
        assert_eq!(acks.unsaved(), 1);
    }
}
