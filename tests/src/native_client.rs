//! A native client of bytes: says and hears native messages on a raw socket.

use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Channel, Cursor, Proposal, Resume, ToClient, ToServer, VERSION, Version};
use syncline_replica::{RegisterState, parse_ulid};
use syncline_server::Server;
use yrs::Any;
use yrs::updates::decoder::DecoderV1;

use crate::live::{Heard, Socket};

/// What came, owned.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of `ToClient`")]
pub enum Said {
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

fn owned(message: ToClient<'_>) -> Said {
    match message {
        ToClient::Welcome { version, time_ms, max_message_bytes } => {
            Said::Welcome { version, time_ms, max_message_bytes }
        }
        ToClient::Opened { channel, cursor, read_only, resume, state_vector } => {
            Said::Opened { channel, cursor, read_only, resume, state_vector: state_vector.map(<[u8]>::to_vec) }
        }
        ToClient::Change { channel, seq, update } => Said::Change { channel, seq, update: update.to_vec() },
        ToClient::Diff { channel, seq, update } => Said::Diff { channel, seq, update: update.to_vec() },
        ToClient::Durable { channel, seq } => Said::Durable { channel, seq },
        ToClient::Ack { channel, batch, seq } => Said::Ack { channel, batch, seq },
        ToClient::Refused { channel, batch, code, .. } => Said::Refused { channel, batch, code },
        ToClient::Decided { channel, batch, accepted, register } => {
            let register = (!register.is_empty()).then(|| {
                let any = Any::decode(&mut DecoderV1::from(register)).expect("lib0 Any");
                RegisterState::from_any(&any).expect("a register")
            });
            Said::Decided { channel, batch, accepted, register }
        }
        ToClient::Presence { channel, update } => Said::Presence { channel, update: update.to_vec() },
        ToClient::Closed { channel, code, reason } => Said::Closed { channel, code, reason: reason.to_owned() },
        ToClient::Pong => Said::Pong,
    }
}

/// A native session, and the bytes that went over it.
pub struct Native {
    /// The connection.
    pub socket: Socket,
    /// Bytes sent, without framing.
    pub sent: usize,
    /// Bytes received, without framing.
    pub heard: usize,
}

impl Native {
    /// Says hello and hears the welcome.
    pub async fn begin(server: &Server) -> Self {
        Self::over(Socket::open(server, "/").await).await
    }

    /// A native session over an open socket.
    pub async fn over(socket: Socket) -> Self {
        let mut native = Self { socket, sent: 0, heard: 0 };
        native.say(ToServer::Hello { version: VERSION, device: 7 }).await;
        let welcome = native.hear().await;
        assert!(matches!(welcome, Said::Welcome { version: VERSION, .. }), "{welcome:?}");
        native
    }

    /// Sends a message.
    pub async fn say(&mut self, message: ToServer<'_>) {
        let frame = message.encode();
        self.sent += frame.len();
        self.socket.send(frame).await;
    }

    /// The next message.
    pub async fn hear(&mut self) -> Said {
        match self.socket.hear().await {
            Heard::Frame(frame) => {
                self.heard += frame.len();
                owned(ToClient::decode(&frame).expect("a native message"))
            }
            other => panic!("waiting for a message, heard {other:?}"),
        }
    }

    /// Hears until `wanted` picks something out of a message. What is skipped is returned, too.
    pub async fn hear_for<T>(&mut self, mut wanted: impl FnMut(&Said) -> Option<T>) -> (T, Vec<Said>) {
        let mut skipped = Vec::new();
        loop {
            let said = self.hear().await;
            if let Some(found) = wanted(&said) {
                return (found, skipped);
            }
            skipped.push(said);
        }
    }

    /// The next message that is `wanted`; others are skipped.
    pub async fn hear_until(&mut self, wanted: impl Fn(&Said) -> bool) -> Said {
        self.hear_for(|said| wanted(said).then(|| said.clone())).await.0
    }

    /// Everything that was said to this session before now: what comes before the answer to a ping.
    pub async fn hear_all(&mut self) -> Vec<Said> {
        self.say(ToServer::Ping).await;
        self.hear_for(|said| (*said == Said::Pong).then_some(())).await.1
    }

    /// Opens a document at `cursor`. Returns the cursor and the way to resume from the answer.
    pub async fn open_at(&mut self, channel: Channel, document: &str, cursor: Option<Cursor>) -> (Cursor, Resume) {
        let open = ToServer::Open { channel, document, token: "", cursor, wants_state_vector: false };
        self.say(open).await;
        self.hear_for(|said| match said {
            Said::Opened { channel: of, cursor, resume, .. } if *of == channel => Some((*cursor, *resume)),
            Said::Closed { .. } => panic!("{said:?}"),
            _ => None,
        })
        .await
        .0
    }

    /// Opens without a cursor and becomes a reader from nothing. Returns the document's epoch and the diff.
    pub async fn join(&mut self, channel: Channel, document: &str) -> (Epoch, Vec<u8>) {
        let (cursor, resume) = self.open_at(channel, document, None).await;
        assert_eq!(resume, Resume::SendStateVector);
        self.say(ToServer::StateVector { channel, state_vector: &[0] }).await;
        let diff = self.hear_for(|said| match said {
            Said::Diff { update, .. } => Some(update.clone()),
            _ => None,
        });
        let diff = diff.await.0;
        self.hear_until(|said| matches!(said, Said::Durable { .. })).await;
        (cursor.epoch, diff)
    }

    /// Sends an update as this batch.
    pub async fn change(&mut self, channel: Channel, batch: u64, update: &[u8]) {
        self.say(ToServer::Change { channel, batch, update }).await;
    }

    /// Waits until a batch is acknowledged; returns its Seq.
    pub async fn acked(&mut self, batch: u64) -> Seq {
        let ack = |said: &Said| match said {
            Said::Ack { batch: of, seq, .. } if *of >= batch => Some(*seq),
            _ => None,
        };
        self.hear_for(ack).await.0
    }

    /// Sends an update and waits until it is acknowledged; returns its Seq.
    pub async fn change_saved(&mut self, channel: Channel, batch: u64, update: &[u8]) -> Seq {
        self.change(channel, batch, update).await;
        self.acked(batch).await
    }

    /// Waits until everything up to `seq` is durable.
    pub async fn durable(&mut self, seq: Seq) {
        self.hear_until(|said| matches!(said, Said::Durable { seq: of, .. } if *of >= seq)).await;
    }

    /// Proposes a write of the register "status": `id`, on the version `based_on`.
    pub async fn propose(&mut self, channel: Channel, batch: u64, id: u128, based_on: Option<Version>) {
        let value = &[125, 7];
        let proposal = Proposal { register: "status", id, based_on, author: "Ana", at_ms: 1 << 40, value };
        self.say(ToServer::Propose { channel, batch, proposal }).await;
    }

    /// What became of a proposal.
    pub async fn decided(&mut self, batch: u64) -> (bool, Option<RegisterState>) {
        let decided = |said: &Said| match said {
            Said::Decided { batch: of, accepted, register, .. } if *of == batch => Some((*accepted, register.clone())),
            Said::Refused { batch: of, .. } if *of == batch => panic!("{said:?}"),
            _ => None,
        };
        self.hear_for(decided).await.0
    }
}

/// An id as people write it.
pub fn ulid(text: &str) -> u128 {
    parse_ulid(text).expect("a ULID")
}
