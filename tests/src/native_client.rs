//! A client of the native dialect that sends and receives single messages over a [`Socket`].

use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Channel, Cursor, Proposal, Resume, ToClient, ToServer, VERSION, Version};
use syncline_replica::{RegisterState, parse_ulid};
use syncline_server::Server;
use yrs::Any;
use yrs::updates::decoder::DecoderV1;

use crate::live::{Incoming, Socket};

/// An owned copy of [`ToClient`].
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of `ToClient`")]
pub enum ServerMessage {
    Welcome { version: u64, time_ms: u64, max_message_bytes: u64 },
    Opened { channel: Channel, cursor: Cursor, read_only: bool, resume: Resume, state_vector: Option<Vec<u8>> },
    Change { channel: Channel, seq: Seq, update: Vec<u8> },
    Diff { channel: Channel, seq: Seq, update: Vec<u8> },
    Durable { channel: Channel, seq: Seq },
    Ack { channel: Channel, batch: u64, seq: Seq },
    Refused { channel: Channel, batch: u64, code: u16 },
    Decided { channel: Channel, batch: u64, accepted: bool, register: Option<RegisterState> },
    Presence { channel: Channel, update: Vec<u8> },
    Closed { channel: Channel, code: u16, reason: String },
    Pong,
}

fn owned(message: ToClient<'_>) -> ServerMessage {
    match message {
        ToClient::Welcome { version, time_ms, max_message_bytes } => {
            ServerMessage::Welcome { version, time_ms, max_message_bytes }
        }
        ToClient::Opened { channel, cursor, read_only, resume, state_vector } => {
            ServerMessage::Opened { channel, cursor, read_only, resume, state_vector: state_vector.map(<[u8]>::to_vec) }
        }
        ToClient::Change { channel, seq, update } => ServerMessage::Change { channel, seq, update: update.to_vec() },
        ToClient::Diff { channel, seq, update } => ServerMessage::Diff { channel, seq, update: update.to_vec() },
        ToClient::Durable { channel, seq } => ServerMessage::Durable { channel, seq },
        ToClient::Ack { channel, batch, seq } => ServerMessage::Ack { channel, batch, seq },
        ToClient::Refused { channel, batch, code, .. } => ServerMessage::Refused { channel, batch, code },
        ToClient::Decided { channel, batch, accepted, register } => {
            let register = (!register.is_empty()).then(|| {
                let any = Any::decode(&mut DecoderV1::from(register)).expect("lib0 Any");
                RegisterState::from_any(&any).expect("a register")
            });
            ServerMessage::Decided { channel, batch, accepted, register }
        }
        ToClient::Presence { channel, update } => ServerMessage::Presence { channel, update: update.to_vec() },
        ToClient::Closed { channel, code, reason } => {
            ServerMessage::Closed { channel, code, reason: reason.to_owned() }
        }
        ToClient::Pong => ServerMessage::Pong,
    }
}

/// A native session that counts its bytes.
pub struct Native {
    /// The connection.
    pub socket: Socket,
    /// Bytes of the sent messages, without framing.
    pub sent_bytes: usize,
    /// Bytes of the received messages, without framing.
    pub received_bytes: usize,
}

impl Native {
    /// Connects, sends Hello and receives the Welcome.
    pub async fn connect(server: &Server) -> Self {
        Self::over(Socket::open(server, "/").await).await
    }

    /// Starts a native session on an open socket.
    pub async fn over(socket: Socket) -> Self {
        let mut native = Self { socket, sent_bytes: 0, received_bytes: 0 };
        native.send(ToServer::Hello { version: VERSION, device: 7 }).await;
        let welcome = native.receive().await;
        assert!(matches!(welcome, ServerMessage::Welcome { version: VERSION, .. }), "{welcome:?}");
        native
    }

    /// Sends a message.
    pub async fn send(&mut self, message: ToServer<'_>) {
        let frame = message.encode();
        self.sent_bytes += frame.len();
        self.socket.send(frame).await;
    }

    /// Receives the next message.
    pub async fn receive(&mut self) -> ServerMessage {
        match self.socket.receive().await {
            Incoming::Frame(frame) => {
                self.received_bytes += frame.len();
                owned(ToClient::decode(&frame).expect("a native message"))
            }
            other => panic!("expected a message, received {other:?}"),
        }
    }

    /// Receives messages until `wanted` returns a value for one. Returns that value and the skipped messages.
    pub async fn receive_first<T>(
        &mut self,
        mut wanted: impl FnMut(&ServerMessage) -> Option<T>,
    ) -> (T, Vec<ServerMessage>) {
        let mut skipped = Vec::new();
        loop {
            let message = self.receive().await;
            if let Some(found) = wanted(&message) {
                return (found, skipped);
            }
            skipped.push(message);
        }
    }

    /// Returns the next message for which `wanted` is true; skips the others.
    pub async fn receive_until(&mut self, wanted: impl Fn(&ServerMessage) -> bool) -> ServerMessage {
        self.receive_first(|message| wanted(message).then(|| message.clone())).await.0
    }

    /// Sends a ping and returns all messages that arrive before its answer.
    pub async fn receive_pending(&mut self) -> Vec<ServerMessage> {
        self.send(ToServer::Ping).await;
        self.receive_first(|message| (*message == ServerMessage::Pong).then_some(())).await.1
    }

    /// Opens a document at `cursor`. Returns the cursor and the resume mode of the answer.
    pub async fn open_at(&mut self, channel: Channel, document: &str, cursor: Option<Cursor>) -> (Cursor, Resume) {
        let open = ToServer::Open { channel, document, token: "", cursor, wants_state_vector: false };
        self.send(open).await;
        self.receive_first(|message| match message {
            ServerMessage::Opened { channel: of, cursor, resume, .. } if *of == channel => Some((*cursor, *resume)),
            ServerMessage::Closed { .. } => panic!("{message:?}"),
            _ => None,
        })
        .await
        .0
    }

    /// Opens a document without a cursor and syncs from an empty state vector. Returns the document's epoch and
    /// the diff.
    pub async fn join(&mut self, channel: Channel, document: &str) -> (Epoch, Vec<u8>) {
        let (cursor, resume) = self.open_at(channel, document, None).await;
        assert_eq!(resume, Resume::SendStateVector);
        self.send(ToServer::StateVector { channel, state_vector: &[0] }).await;
        let diff = self.receive_first(|message| match message {
            ServerMessage::Diff { update, .. } => Some(update.clone()),
            _ => None,
        });
        let diff = diff.await.0;
        self.receive_until(|message| matches!(message, ServerMessage::Durable { .. })).await;
        (cursor.epoch, diff)
    }

    /// Sends an update with the batch number `batch`.
    pub async fn change(&mut self, channel: Channel, batch: u64, update: &[u8]) {
        self.send(ToServer::Change { channel, batch, update }).await;
    }

    /// Waits until `batch` is acknowledged; returns the sequence number of the acknowledgement.
    pub async fn wait_for_ack(&mut self, batch: u64) -> Seq {
        let ack = |message: &ServerMessage| match message {
            ServerMessage::Ack { batch: of, seq, .. } if *of >= batch => Some(*seq),
            _ => None,
        };
        self.receive_first(ack).await.0
    }

    /// Sends an update and waits until it is acknowledged; returns its sequence number.
    pub async fn save_change(&mut self, channel: Channel, batch: u64, update: &[u8]) -> Seq {
        self.change(channel, batch, update).await;
        self.wait_for_ack(batch).await
    }

    /// Waits until everything up to `seq` is durable.
    pub async fn wait_for_durable(&mut self, seq: Seq) {
        self.receive_until(|message| matches!(message, ServerMessage::Durable { seq: of, .. } if *of >= seq)).await;
    }

    /// Proposes the version `id` of the register "status", based on the version `based_on`.
    pub async fn propose(&mut self, channel: Channel, batch: u64, id: u128, based_on: Option<Version>) {
        let value = &[125, 7];
        let proposal = Proposal { register: "status", id, based_on, author: "Ana", at_ms: 1 << 40, value };
        self.send(ToServer::Propose { channel, batch, proposal }).await;
    }

    /// Waits for the decision on the proposal of `batch`: whether it was accepted, and the register's state.
    pub async fn wait_for_decision(&mut self, batch: u64) -> (bool, Option<RegisterState>) {
        let decided = |message: &ServerMessage| match message {
            ServerMessage::Decided { batch: of, accepted, register, .. } if *of == batch => {
                Some((*accepted, register.clone()))
            }
            ServerMessage::Refused { batch: of, .. } if *of == batch => panic!("{message:?}"),
            _ => None,
        };
        self.receive_first(decided).await.0
    }
}

/// Parses the text form of a ULID.
pub fn ulid(text: &str) -> u128 {
    parse_ulid(text).expect("a ULID")
}
