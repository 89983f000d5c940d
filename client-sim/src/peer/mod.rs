//! PURE: one client of one document on a Yjs server, without its socket: messages to bytes and bytes to their meaning, in
//! every dialect. `load` drives thousands of these over mio, `faults` a few over Tokio.
//!
//! ```text
//! frame       WebSocket frames
//! message     the messages of each dialect
//! unanswered  the own updates that the server has not answered
//! ```

pub(crate) mod frame;
mod message;
mod unanswered;

use std::collections::VecDeque;
use std::fmt;

use anyhow::Result;
use clap::ValueEnum;
use syncline_protocol::update::EMPTY_STATE_VECTOR;

use self::frame::{OVERLAP_BYTES, Piece};
use self::message::MessageHead;
pub(crate) use self::unanswered::Unanswered;

/// Wire protocol of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dialect {
    /// Syncline's own protocol; the server acknowledges numbered batches.
    Native,
    /// Documents are named in every message; a SyncStatus answers each update, in order.
    Hocuspocus,
    /// One document per connection, named in the path; Syncline echoes an update when it is saved.
    YWebsocket,
}

impl Dialect {
    /// Every dialect.
    pub(crate) const ALL: [Dialect; 3] = [Dialect::Native, Dialect::Hocuspocus, Dialect::YWebsocket];

    /// Name of the dialect on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Dialect::Native => "native",
            Dialect::Hocuspocus => "hocuspocus",
            Dialect::YWebsocket => "y-websocket",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Meaning of a message of the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<'a> {
    /// Document data, or a piece of it: see [`Piece`]. In y-websocket it may be the echo of an own update.
    Data {
        /// Bytes of an update.
        bytes: &'a [u8],
        /// Whether the update begins in this piece.
        first: bool,
        /// Whether the update ends in this piece.
        last: bool,
    },
    /// The server saved the oldest unanswered updates, this many (native, Hocuspocus).
    Saved(u64),
    /// The server refused the oldest unanswered update; the code if there is one, and the reason.
    Refused(String),
    /// The server denied access or closed the document.
    Closed {
        /// Close code; 0 if the dialect has none.
        code: u16,
        /// The reason as text.
        reason: &'a str,
    },
    /// An awareness update.
    Awareness,
    /// A message without consequences for the caller.
    Other,
}

/// A client. The caller sends what [`Peer::hello`] returns when its socket is open, then passes every message of the server
/// to [`Peer::receive`].
#[derive(Debug)]
pub(crate) struct Peer {
    /// Wire protocol.
    pub dialect: Dialect,
    /// Name of its document.
    pub document: String,
    /// Bytes of document data received.
    pub data_bytes: u64,
    token: String,
    /// State vector of its copy when it joins.
    state_vector: Vec<u8>,
    /// Identifies it to a native server.
    device: u128,
    /// Whether the server has sent everything that it lacked when it joined.
    joined: bool,
    /// Whether the server has sent its sync step 1.
    asked: bool,
    /// Set within a message of document data; true if it is the answer to its state vector.
    inside: Option<bool>,
    /// Number of messages sent that the server answers: updates and, in Hocuspocus, sync step 2.
    sent: u64,
    /// Number of these that the server has answered, in order.
    answered: u64,
    /// Positions in `sent` of unanswered sync step 2 messages.
    steps_2: VecDeque<u64>,
}

impl Peer {
    /// A client with an empty copy of `document` and no token. `device` identifies it to a native server.
    pub(crate) fn new(dialect: Dialect, document: String, device: u128) -> Self {
        Self {
            dialect,
            document,
            data_bytes: 0,
            token: String::new(),
            state_vector: EMPTY_STATE_VECTOR.to_vec(),
            device,
            joined: false,
            asked: false,
            inside: None,
            sent: 0,
            answered: 0,
            steps_2: VecDeque::new(),
        }
    }

    /// Sets its token.
    pub(crate) fn with_token(mut self, token: Option<&str>) -> Self {
        self.token = token.unwrap_or_default().to_owned();
        self
    }

    /// Sets the encoded state vector of its copy.
    pub(crate) fn with_state_vector(mut self, state_vector: &[u8]) -> Self {
        self.state_vector = state_vector.to_vec();
        self
    }

    /// Path of the WebSocket URL. `base` is the path in front of document names.
    pub(crate) fn path(&self, base: &str) -> String {
        let (base, Self { document, token, .. }) = (base.trim_end_matches('/'), self);
        match self.dialect {
            Dialect::Native | Dialect::Hocuspocus => format!("{base}/"),
            Dialect::YWebsocket if token.is_empty() => format!("{base}/{document}"),
            Dialect::YWebsocket => format!("{base}/{document}?token={token}"),
        }
    }

    /// Whether the server has sent everything that the client lacked when it joined.
    pub(crate) fn joined(&self) -> bool {
        self.joined
    }

    /// Whether the server, too, has what it lacked: no message of the exchange of state vectors is outstanding.
    pub(crate) fn exchanged(&self) -> bool {
        self.joined && (self.asked || self.dialect == Dialect::Native)
    }

    /// The first messages on an open socket.
    pub(crate) fn hello(&self) -> Vec<Vec<u8>> {
        message::hello(self.dialect, &self.document, &self.token, &self.state_vector, self.device)
    }

    /// The message that carries an update.
    pub(crate) fn update(&mut self, update: &[u8]) -> Vec<u8> {
        self.sent += 1;
        message::update(self.dialect, &self.document, self.sent, update)
    }

    /// An awareness update of the size that editors send: a name, a colour, a cursor.
    pub(crate) fn awareness(&self, client: u64, clock: u64) -> Vec<u8> {
        message::awareness(self.dialect, &self.document, client, clock)
    }

    /// Reads a message of the server, or a piece of one. Calls `reply` with the message that answers it, if any.
    ///
    /// # Errors
    /// The bytes are not a message of the dialect.
    pub(crate) fn receive<'a>(&mut self, piece: Piece<'a>, reply: impl FnOnce(Vec<u8>)) -> Result<Received<'a>> {
        let Piece { bytes, first, last, .. } = piece;
        if !first {
            let Some(completes_join) = self.inside else { return Ok(Received::Other) };
            self.data_bytes += bytes.len().saturating_sub(OVERLAP_BYTES) as u64;
            self.joined |= completes_join && last;
            return Ok(Received::Data { bytes, first, last });
        }
        self.inside = None;
        Ok(match message::classify(self.dialect, bytes)? {
            MessageHead::Update { at, completes_join } => {
                let bytes = &bytes[at..];
                self.data_bytes += bytes.len() as u64;
                self.inside = Some(completes_join);
                self.joined |= completes_join && last;
                Received::Data { bytes, first, last }
            }
            MessageHead::SyncStep1 => {
                self.asked = true;
                if self.dialect == Dialect::Hocuspocus {
                    self.steps_2.push_back(self.sent);
                    self.sent += 1;
                }
                reply(message::empty_step_2(self.dialect, &self.document));
                Received::Other
            }
            MessageHead::WantsStateVector => {
                reply(message::state_vector(&self.state_vector));
                Received::Other
            }
            MessageHead::Status { saved } => self.take_status(saved),
            MessageHead::Acked { batch } => {
                let count = batch.min(self.sent).saturating_sub(self.answered);
                self.answered += count;
                Received::Saved(count)
            }
            MessageHead::Refused { batch, code, reason } => {
                self.answered = batch;
                Received::Refused(format!("{code} {reason}"))
            }
            MessageHead::Awareness => Received::Awareness,
            MessageHead::Ping => {
                reply(message::pong());
                Received::Other
            }
            MessageHead::Closed { code, reason } => Received::Closed { code, reason },
            MessageHead::Other => Received::Other,
        })
    }

    /// A SyncStatus answers the oldest unanswered message.
    fn take_status(&mut self, saved: bool) -> Received<'static> {
        let position = self.answered;
        self.answered += 1;
        if self.steps_2.front() == Some(&position) {
            self.steps_2.pop_front();
            return Received::Other;
        }
        match saved {
            true => Received::Saved(1),
            false => Received::Refused("SyncStatus(0)".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use syncline_protocol::hocuspocus::HocuspocusMessage;
    use syncline_protocol::ids::{Epoch, Seq};
    use syncline_protocol::native::{Cursor, Resume, ToClient};
    use syncline_protocol::sync::SyncMessage;
    use syncline_protocol::ywebsocket::YWebsocketMessage;

    use super::*;

    fn peer(dialect: Dialect) -> Peer {
        Peer::new(dialect, "d".into(), 7)
    }

    /// Passes a whole message; returns its meaning as text and the reply.
    fn pass(peer: &mut Peer, message: &[u8]) -> (String, Option<Vec<u8>>) {
        let mut reply = None;
        let received = peer.receive(Piece::whole(message), |message| reply = Some(message)).unwrap();
        (format!("{received:?}"), reply)
    }

    #[test]
    fn document_is_joined_with_the_last_piece_of_the_answer() {
        let update = [5; 40];
        for (dialect, answer) in [
            (Dialect::YWebsocket, YWebsocketMessage::Sync(SyncMessage::Step2(&update)).encode()),
            (Dialect::Hocuspocus, HocuspocusMessage::Sync(SyncMessage::Step2(&update)).encode("d")),
            (Dialect::Native, ToClient::Diff { channel: 1, seq: Seq(3), update: &update }.encode()),
        ] {
            let mut peer = peer(dialect);
            let (front, back) = (&answer[..30], &answer[30 - OVERLAP_BYTES..]);
            let piece = |bytes, first| Piece { opcode: frame::BINARY, bytes, first, last: !first };
            assert!(matches!(peer.receive(piece(front, true), |_| ()).unwrap(), Received::Data { last: false, .. }));
            assert!(!peer.joined());
            assert!(matches!(peer.receive(piece(back, false), |_| ()).unwrap(), Received::Data { last: true, .. }));
            assert_eq!((peer.joined(), peer.data_bytes), (true, 40), "{dialect}");
            assert_eq!(peer.exchanged(), dialect == Dialect::Native);
        }
    }

    #[test]
    fn servers_step_1_and_ping_are_answered() {
        let mut stock = peer(Dialect::YWebsocket);
        let step_1 = YWebsocketMessage::Sync(SyncMessage::Step1(&EMPTY_STATE_VECTOR)).encode();
        let (_, reply) = pass(&mut stock, &step_1);
        assert_eq!(reply.unwrap(), YWebsocketMessage::Sync(SyncMessage::Step2(&[0, 0])).encode());
        let (_, reply) = pass(&mut peer(Dialect::Hocuspocus), &[9]);
        assert_eq!(reply.unwrap(), [10]);
        let cursor = Cursor { epoch: Epoch(1), seq: Seq(0) };
        let resume = Resume::SendStateVector;
        let opened = ToClient::Opened { channel: 1, cursor, read_only: false, resume, state_vector: None }.encode();
        assert!(pass(&mut peer(Dialect::Native), &opened).1.is_some());
    }

    #[test]
    fn status_of_a_step_2_between_updates_is_no_answer_to_an_update() {
        let mut peer = peer(Dialect::Hocuspocus);
        peer.update(&[0, 0]);
        let step_1 = HocuspocusMessage::Sync(SyncMessage::Step1(&EMPTY_STATE_VECTOR)).encode("d");
        pass(&mut peer, &step_1);
        peer.update(&[0, 0]);
        let status = |saved| HocuspocusMessage::SyncStatus(saved).encode("d");
        let meanings = [true, true, false].map(|saved| pass(&mut peer, &status(saved)).0);
        assert_eq!(meanings, ["Saved(1)", "Other", "Refused(\"SyncStatus(0)\")"]);
    }

    #[test]
    fn native_ack_answers_all_batches_up_to_its_own_once() {
        let mut peer = peer(Dialect::Native);
        for _ in 0..5 {
            peer.update(&[0, 0]);
        }
        let ack = |batch| ToClient::Ack { channel: 1, batch, seq: Seq(batch) }.encode();
        let refused = ToClient::Refused { channel: 1, batch: 4, code: 4507, reason: "no" }.encode();
        let messages = [ack(2), ack(2), ack(3), refused, ack(9)];
        let meanings = messages.map(|message| pass(&mut peer, &message).0);
        assert_eq!(meanings, ["Saved(2)", "Saved(0)", "Saved(1)", "Refused(\"4507 no\")", "Saved(1)"]);
    }
}
