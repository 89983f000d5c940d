//! PURE: the state machine of one document over one connection at a time, the same for both dialects.
//!
//! Inputs are methods: [`Session::connected`], [`Session::received`], [`Session::edit`], [`Session::disconnected`].
//! Their results are added to [`SessionOutputs`]: frames to send and events, in order.
//!
//! On a connection the client sends its state vector (SyncStep1), and the server answers with what the client lacks
//! (SyncStep2): the session is synced. The server sends its own state vector, and the client answers with what the
//! *server* lacks. That answer contains every edit made offline or lost in flight, so edits made before the server's
//! SyncStep1 are not sent separately.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use syncline_protocol::detect::Dialect;
use syncline_protocol::hocuspocus::Scope;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::{ScanLimits, scan_state_vector, scan_update, update_ranges};
use thiserror::Error;
use yrs::updates::decoder::Decode;
use yrs::updates::encoder::Encode;
use yrs::{ClientID, Doc, OffsetKind, Options, ReadTxn, StateVector, Transact, Transaction, TransactionMut, Update};

use super::acks::{Acks, Answer, Carried};
use super::presence::{Awareness, AwarenessChange};
use super::wire::{Incoming, Wire};

/// The encoding of an empty update.
const EMPTY_UPDATE: [u8; 2] = [0, 0];

/// The meaning of a y-websocket server echoing our own update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Echo {
    /// The update is on disk, as Syncline guarantees.
    #[default]
    Saved,
    /// Nothing: npm `@y/websocket-server` relays every update immediately to all clients, its author included.
    Nothing,
}

/// Settings of a session.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Name of the document.
    pub document: DocumentName,
    /// The server's dialect.
    pub dialect: Dialect,
    /// Token of the Hocuspocus authentication message; empty if there is none.
    pub token: String,
    /// The meaning of an echo (y-websocket only).
    pub echo: Echo,
    /// The CRDT client id, below 2^53. It must be random: two replicas must never use the same id.
    pub client_id: u64,
}

/// An event of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The document contains everything that the server had when it answered our SyncStep1. Once per connection.
    Synced,
    /// The server accepted the token. Hocuspocus only: y-websocket has no such message.
    Authenticated {
        /// True if the server grants read access only.
        read_only: bool,
    },
    /// A remote update changed the document.
    RemoteUpdate,
    /// All local edits up to this one (numbered from 1) are on the server's disk.
    Saved(u64),
    /// The server refused local edits up to this one (numbered from 1). They stay in the local document, unsaved.
    Refused(u64),
    /// The server denied access, with its reason. Retrying with the same token cannot succeed.
    Denied(String),
    /// The awareness state of another client changed.
    Presence,
}

/// Why a connection must be closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SessionError {
    /// A frame is not a valid message of the dialect.
    #[error("the server sent an invalid message for this dialect: {0}")]
    BadFrame(String),
    /// A message contains invalid CRDT data.
    #[error("the server sent an invalid update: {0}")]
    BadUpdate(String),
    /// The server ended this document's session.
    #[error("the server closed the document: {0}")]
    Left(String),
}

/// The results of inputs. The session adds to them; the caller takes them out.
#[derive(Debug, Default)]
pub struct SessionOutputs {
    /// Frames for the socket, in order.
    pub frames: Vec<Bytes>,
    /// Events, in order.
    pub events: Vec<SessionEvent>,
}

/// Whether the server acknowledges saved edits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AckKnowledge {
    /// It does: the dialect has acknowledgements, or an edit was acknowledged.
    Known,
    /// No edit was acknowledged yet, and possibly none ever will be: y-websocket has no acknowledgements of its own.
    #[default]
    Unknown,
}

/// The state machine of one document. See the module documentation.
pub struct Session {
    wire: Wire,
    echo: Echo,
    doc: Doc,
    acks: Acks,
    awareness: Awareness,
    connected: bool,
    /// SyncStep2 was received on this connection.
    synced: bool,
    /// The server's SyncStep1 was answered on this connection: edits are sent as they are made.
    server_asked: bool,
    /// Missing updates were requested and have not arrived yet.
    asked_for_missing: bool,
    /// Others can get our edits from elsewhere; see [`Session::shares_edits`].
    shares_edits: bool,
    knowledge: AckKnowledge,
}

impl Session {
    /// Creates a session with an empty document, not connected.
    pub fn new(config: SessionConfig) -> Self {
        let options = Options {
            // With clean-up enabled, yrs edits documents without an edit by the user.
            cleanup_formatting: false,
            offset_kind: OffsetKind::Utf16,
            // A fixed guid, or yrs would generate a random one.
            ..Options::with_guid_and_client_id(config.document.as_str().into(), ClientID::new(config.client_id))
        };
        let knowledge = match config.dialect {
            Dialect::Hocuspocus => AckKnowledge::Known,
            Dialect::YWebsocket => AckKnowledge::Unknown,
        };
        Self {
            wire: Wire::new(config.dialect, config.document, config.token),
            echo: config.echo,
            doc: Doc::with_options(options),
            acks: Acks::default(),
            awareness: Awareness::new(config.client_id),
            connected: false,
            synced: false,
            server_asked: false,
            asked_for_missing: false,
            shares_edits: false,
            knowledge,
        }
    }

    /// From now on other clients may get our edits from elsewhere, for example from another tab, and send them to the
    /// server before we do. Receiving our own bytes then does not prove that they are saved. Instead, the echo of an
    /// empty update sent after each change does.
    pub fn shares_edits(&mut self) {
        self.shares_edits = true;
    }

    /// A connection was opened: sends token, SyncStep1 and awareness state.
    pub fn connected(&mut self, out: &mut SessionOutputs) {
        self.disconnected();
        self.connected = true;
        out.frames.extend(self.wire.token());
        self.ask(out);
        self.send_awareness(out);
    }

    /// The connection was lost. Edits in flight count as unsent until the next sync.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.synced = false;
        self.server_asked = false;
        self.asked_for_missing = false;
        self.acks.connection_lost();
        self.awareness.connection_lost();
    }

    /// Handles a frame of the server.
    ///
    /// # Errors
    /// [`SessionError`] if the frame is invalid or the server closed the document; the connection must be closed then.
    pub fn received(&mut self, frame: &[u8], out: &mut SessionOutputs) -> Result<(), SessionError> {
        match self.wire.read(frame)? {
            Incoming::Sync(SyncMessage::Step1(state_vector)) => self.answer(state_vector, out)?,
            Incoming::Sync(SyncMessage::Step2(update)) => {
                self.apply(update, out)?;
                if !self.synced {
                    self.synced = true;
                    out.events.push(SessionEvent::Synced);
                }
            }
            Incoming::Sync(SyncMessage::Update(update)) => match self.acks.echo(update) {
                Some(answer) => {
                    self.knowledge = AckKnowledge::Known;
                    push_answer(answer, out);
                }
                None => self.apply(update, out)?,
            },
            Incoming::Status { saved } => push_answer(self.acks.status(saved), out),
            Incoming::Awareness(update) => {
                match self.awareness.apply(update).map_err(|error| SessionError::BadFrame(error.to_string()))? {
                    AwarenessChange::Unchanged => {}
                    AwarenessChange::Changed => out.events.push(SessionEvent::Presence),
                    AwarenessChange::DeclaredGone => self.send_awareness(out),
                }
            }
            Incoming::QueryAwareness => self.send_awareness(out),
            Incoming::Authenticated(scope) => {
                out.events.push(SessionEvent::Authenticated { read_only: scope == Scope::ReadOnly });
            }
            Incoming::TokenWanted => out.frames.extend(self.wire.token()),
            Incoming::Denied(reason) => out.events.push(SessionEvent::Denied(reason.to_owned())),
            Incoming::Left(reason) => return Err(SessionError::Left(reason.to_owned())),
            Incoming::Ping => out.frames.push(self.wire.pong()),
            Incoming::Ignored => {}
        }
        Ok(())
    }

    /// Changes the document, and sends the change immediately or with the next sync.
    // Without yrs' update observer, which makes an append up to a hundred times slower.
    pub fn edit<R>(&mut self, change: impl FnOnce(&mut TransactionMut<'_>) -> R, out: &mut SessionOutputs) -> R {
        let (result, update) = {
            let mut txn = self.doc.transact_mut();
            let result = change(&mut txn);
            (result, if txn.has_changes() { txn.encode_update_v1() } else { EMPTY_UPDATE.to_vec() })
        };
        if update != EMPTY_UPDATE {
            self.acks.edited();
            if self.server_asked {
                out.frames.push(self.wire.sync(SyncMessage::Update(&update)));
                self.expect_answer(Carried::OneEdit, update, out);
            }
        }
        result
    }

    /// Reads the document in one transaction.
    pub fn read<R>(&self, look: impl FnOnce(&Transaction<'_>) -> R) -> R {
        look(&self.doc.transact())
    }

    /// Sets our awareness state (JSON), or clears it.
    pub fn set_presence(&mut self, state: Option<String>, out: &mut SessionOutputs) {
        let update = self.awareness.set(state);
        if self.connected {
            out.frames.push(self.wire.awareness(&update));
        }
    }

    /// Returns client id and awareness state (JSON) of every other client.
    pub fn presence(&self) -> impl Iterator<Item = (u64, &str)> {
        self.awareness.others()
    }

    /// Sends a message that keeps an idle connection alive: a ping, or in y-websocket our awareness state, if set.
    pub fn keep_alive(&mut self, out: &mut SessionOutputs) {
        match self.wire.ping() {
            Some(ping) => out.frames.push(ping),
            None => self.send_awareness(out),
        }
    }

    /// True if the document contains everything that the server had when it answered on this connection.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Returns the number of local edits that the server has not confirmed as saved.
    pub fn unsaved(&self) -> u64 {
        self.acks.unsaved()
    }

    /// Returns whether the server acknowledges saved edits.
    pub fn ack_knowledge(&self) -> AckKnowledge {
        self.knowledge
    }

    /// True while yrs holds pending updates whose dependencies are missing.
    pub fn has_missing_updates(&self) -> bool {
        self.doc.transact().has_missing_updates()
    }

    fn ask(&self, out: &mut SessionOutputs) {
        let state_vector = self.doc.transact().state_vector().encode_v1();
        out.frames.push(self.wire.sync(SyncMessage::Step1(&state_vector)));
    }

    fn answer(&mut self, state_vector: &[u8], out: &mut SessionOutputs) -> Result<(), SessionError> {
        check_state_vector(state_vector)?;
        let theirs = StateVector::decode_v1(state_vector).map_err(bad_update)?;
        let update = self.doc.transact().encode_state_as_update_v1(&theirs);
        // Every server acknowledges an Update. A SyncStep2 is not echoed by Syncline to clients of Yjs 13, and in
        // Hocuspocus only the first one is acknowledged.
        let frame = match (self.wire.dialect(), self.echo) {
            (Dialect::YWebsocket, Echo::Saved) => self.wire.sync(SyncMessage::Update(&update)),
            (Dialect::Hocuspocus, _) if self.server_asked => self.wire.sync(SyncMessage::Update(&update)),
            _ => self.wire.sync(SyncMessage::Step2(&update)),
        };
        out.frames.push(frame);
        self.expect_answer(Carried::Everything, update, out);
        self.server_asked = true;
        Ok(())
    }

    /// Records the message that was just added to `out`, to match its answer.
    fn expect_answer(&mut self, carried: Carried, update: Vec<u8>, out: &mut SessionOutputs) {
        match (self.wire.dialect(), self.echo) {
            // Matched by order; the bytes are not needed.
            (Dialect::Hocuspocus, _) => self.acks.sent(carried, Bytes::new()),
            (Dialect::YWebsocket, Echo::Saved) if update == EMPTY_UPDATE || self.is_ours_alone(carried, &update) => {
                self.acks.sent_with_possible_echo(carried, update.into());
            }
            // Another client that deletes the same letter sends the same bytes, and they reach us before they are on
            // disk. An empty update after the change is echoed too, but never relayed: its echo can only be ours.
            (Dialect::YWebsocket, Echo::Saved) => {
                out.frames.push(self.wire.sync(SyncMessage::Update(&EMPTY_UPDATE)));
                self.acks.sent_with_possible_echo(carried, Bytes::from_static(&EMPTY_UPDATE));
            }
            (Dialect::YWebsocket, Echo::Nothing) => {}
        }
    }

    /// True if no other client can send these bytes: they contain a new insertion under our client id.
    fn is_ours_alone(&self, carried: Carried, update: &[u8]) -> bool {
        if self.shares_edits {
            return false;
        }
        let own = self.doc.client_id().get();
        carried == Carried::OneEdit && update_ranges(update).any(|range| range.client == own)
    }

    fn apply(&mut self, update: &[u8], out: &mut SessionOutputs) -> Result<(), SessionError> {
        check_update(update)?;
        let update = Update::decode_v1(update).map_err(bad_update)?;
        let (changed, missing) = {
            let mut txn = self.doc.transact_mut();
            txn.apply_update(update).map_err(bad_update)?;
            (txn.has_changes(), txn.has_missing_updates())
        };
        if changed {
            out.events.push(SessionEvent::RemoteUpdate);
        }
        // In Hocuspocus a step 1 is a new beginning: the server would acknowledge only the reply to its own step 1. A server
        // sends what was missing when it has it, and then what depended on it again.
        if missing && !self.asked_for_missing && self.wire.dialect() == Dialect::YWebsocket {
            self.ask(out);
        }
        self.asked_for_missing = missing;
        Ok(())
    }

    fn send_awareness(&mut self, out: &mut SessionOutputs) {
        if let Some(update) = self.awareness.renew() {
            out.frames.push(self.wire.awareness(&update));
        }
    }
}

fn push_answer(answer: Answer, out: &mut SessionOutputs) {
    match answer {
        Answer::Saved(through) => out.events.push(SessionEvent::Saved(through)),
        Answer::Refused(through) => out.events.push(SessionEvent::Refused(through)),
        Answer::Nothing => {}
    }
}

/// Validates an update before it reaches yrs. Without size limits: the document on a server may be old and large.
fn check_update(update: &[u8]) -> Result<(), SessionError> {
    scan_update(update, &ScanLimits::STORED).map(drop).map_err(bad_update)
}

fn check_state_vector(state_vector: &[u8]) -> Result<(), SessionError> {
    scan_state_vector(state_vector, &ScanLimits::STORED).map(drop).map_err(bad_update)
}

fn bad_update(error: impl std::fmt::Display) -> SessionError {
    SessionError::BadUpdate(error.to_string())
}
