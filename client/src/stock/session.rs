//! PURE: one document over one connection at a time: a state machine, the same for both dialects.
//!
//! Inputs are methods: [`Session::connected`], [`Session::received`], [`Session::edit`], [`Session::disconnected`].
//! What follows from them is put into [`Outputs`]: frames to send, in order, and events to tell.
//!
//! A connection goes like this. We ask with our state vector (SyncStep1) and the server answers with what we lack
//! (SyncStep2): we are synced. The server asks with its own, and we answer with what *it* lacks; that answer carries
//! every edit made offline or lost in flight, so edits made before the server has asked wait for it instead of being
//! sent twice.

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
use super::presence::{Heard, Presence};
use super::wire::{Incoming, Wire};

/// An update without content.
const EMPTY_UPDATE: [u8; 2] = [0, 0];

/// What it means when a y-websocket server sends our own update back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Echo {
    /// It is on disk: Syncline's promise.
    #[default]
    Saved,
    /// Nothing: npm `@y/websocket-server` sends every update to everyone at once, its author included.
    Nothing,
}

/// What a session is about.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The document.
    pub document: DocumentName,
    /// How the server is spoken to.
    pub dialect: Dialect,
    /// Sent in the Hocuspocus auth message; empty if there is none.
    pub token: String,
    /// What an echo means (y-websocket only).
    pub echo: Echo,
    /// The CRDT client id, below 2^53: random, never used by two replicas.
    pub client_id: u64,
}

/// Something that happened, for whoever holds the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Everything the server had when we asked is here.
    Synced,
    /// The server lets us in (Hocuspocus says so, y-websocket does not).
    Authenticated {
        /// We may look, not change.
        read_only: bool,
    },
    /// The document was changed by others.
    RemoteUpdate,
    /// Our edits up to this one (numbered from 1) are on the server's disk.
    Saved(u64),
    /// The server refused our edits up to this one; they stay here, unsaved.
    Refused(u64),
    /// The server will not let us in, with its reason. Trying again with the same token will not help.
    Denied(String),
    /// Somebody's presence changed.
    Presence,
}

/// Why a connection must be given up.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SessionError {
    /// A frame is no message of the dialect.
    #[error("the server sent bytes that are no message of this dialect: {0}")]
    BadFrame(String),
    /// A message holds CRDT data that cannot be used.
    #[error("the server sent an update that cannot be applied: {0}")]
    BadUpdate(String),
    /// The server ended this document's session.
    #[error("the server closed the document: {0}")]
    Left(String),
}

/// What follows from an input. The caller takes it out; the session only adds.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Frames for the socket, in this order.
    pub frames: Vec<Bytes>,
    /// Events, in this order.
    pub events: Vec<Event>,
}

/// Whether "saved" can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AckKnowledge {
    /// The server acknowledges, or has done so once.
    Known,
    /// It has said nothing yet, and maybe never will (y-websocket has no acks of its own).
    #[default]
    Unknown,
}

/// The state machine. See the module's words.
pub struct Session {
    wire: Wire,
    echo: Echo,
    doc: Doc,
    acks: Acks,
    presence: Presence,
    connected: bool,
    /// SyncStep2 has come on this connection.
    synced: bool,
    /// The server has asked and got our SyncStep2 on this connection: edits go out as they are made.
    server_asked: bool,
    /// We have asked for what is missing and it still is.
    asked_for_missing: bool,
    /// Others get our edits by another way, too: see [`Session::shares_edits`].
    shares_edits: bool,
    knowledge: AckKnowledge,
}

impl Session {
    /// An empty document, not connected.
    pub fn new(config: SessionConfig) -> Self {
        let options = Options {
            // With clean-up on, documents edit themselves.
            cleanup_formatting: false,
            offset_kind: OffsetKind::Utf16,
            // A given guid: yrs would draw a random one.
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
            presence: Presence::new(config.client_id),
            connected: false,
            synced: false,
            server_asked: false,
            asked_for_missing: false,
            shares_edits: false,
            knowledge,
        }
    }

    /// From now on others may get our edits by another way (another tab, say) and bring them to the server before we do: then
    /// that our bytes come back does not say that they are saved, and an empty update behind each change has to.
    pub fn shares_edits(&mut self) {
        self.shares_edits = true;
    }

    /// A connection is open.
    pub fn connected(&mut self, out: &mut Outputs) {
        self.disconnected();
        self.connected = true;
        out.frames.extend(self.wire.token());
        self.ask(out);
        self.say_we_are_here(out);
    }

    /// The connection is gone. Edits in flight count as unsent until the next sync.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.synced = false;
        self.server_asked = false;
        self.asked_for_missing = false;
        self.acks.connection_lost();
        self.presence.connection_lost();
    }

    /// The server sent a frame. After an error this connection must be closed.
    pub fn received(&mut self, frame: &[u8], out: &mut Outputs) -> Result<(), SessionError> {
        match self.wire.read(frame)? {
            Incoming::Sync(SyncMessage::Step1(state_vector)) => self.answer(state_vector, out)?,
            Incoming::Sync(SyncMessage::Step2(update)) => {
                self.apply(update, out)?;
                if !self.synced {
                    self.synced = true;
                    out.events.push(Event::Synced);
                }
            }
            Incoming::Sync(SyncMessage::Update(update)) => match self.acks.echo(update) {
                Some(answer) => {
                    self.knowledge = AckKnowledge::Known;
                    tell(answer, out);
                }
                None => self.apply(update, out)?,
            },
            Incoming::Status { saved } => tell(self.acks.status(saved), out),
            Incoming::Awareness(update) => {
                match self.presence.hear(update).map_err(|error| SessionError::BadFrame(error.to_string()))? {
                    Heard::Nothing => {}
                    Heard::Changed => out.events.push(Event::Presence),
                    Heard::WeAreGone => self.say_we_are_here(out),
                }
            }
            Incoming::QueryAwareness => self.say_we_are_here(out),
            Incoming::Authenticated(scope) => {
                out.events.push(Event::Authenticated { read_only: scope == Scope::ReadOnly });
            }
            Incoming::TokenWanted => out.frames.extend(self.wire.token()),
            Incoming::Denied(reason) => out.events.push(Event::Denied(reason.to_owned())),
            Incoming::Left(reason) => return Err(SessionError::Left(reason.to_owned())),
            Incoming::Ping => out.frames.push(self.wire.pong()),
            Incoming::Ignored => {}
        }
        Ok(())
    }

    /// Changes the document and sends the change, now or with the next sync.
    // Not by yrs' update observer: with one registered an append costs up to a hundred times more.
    pub fn edit<R>(&mut self, change: impl FnOnce(&mut TransactionMut<'_>) -> R, out: &mut Outputs) -> R {
        let (result, update) = {
            let mut txn = self.doc.transact_mut();
            let result = change(&mut txn);
            (result, if txn.has_changes() { txn.encode_update_v1() } else { EMPTY_UPDATE.to_vec() })
        };
        if update != EMPTY_UPDATE {
            self.acks.edited();
            if self.server_asked {
                out.frames.push(self.wire.sync(SyncMessage::Update(&update)));
                self.remember(Carried::OneEdit, update, out);
            }
        }
        result
    }

    /// Looks at the document.
    pub fn read<R>(&self, look: impl FnOnce(&Transaction<'_>) -> R) -> R {
        look(&self.doc.transact())
    }

    /// Sets (JSON) or clears our presence.
    pub fn set_presence(&mut self, state: Option<String>, out: &mut Outputs) {
        let update = self.presence.set(state);
        if self.connected {
            out.frames.push(self.wire.awareness(&update));
        }
    }

    /// Everyone else who is here: client id and state as JSON.
    pub fn presence(&self) -> impl Iterator<Item = (u64, &str)> {
        self.presence.others()
    }

    /// Something harmless for a silent connection; in y-websocket there is only our presence, if set.
    pub fn keep_alive(&mut self, out: &mut Outputs) {
        match self.wire.ping() {
            Some(ping) => out.frames.push(ping),
            None => self.say_we_are_here(out),
        }
    }

    /// True once everything the server had on this connection is here.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// How many edits the server has not confirmed as saved.
    pub fn unsaved(&self) -> u64 {
        self.acks.unsaved()
    }

    /// Whether the server tells what is saved.
    pub fn ack_knowledge(&self) -> AckKnowledge {
        self.knowledge
    }

    /// True while yrs sits on updates whose predecessors have not come.
    pub fn has_missing_updates(&self) -> bool {
        self.doc.transact().has_missing_updates()
    }

    fn ask(&self, out: &mut Outputs) {
        let state_vector = self.doc.transact().state_vector().encode_v1();
        out.frames.push(self.wire.sync(SyncMessage::Step1(&state_vector)));
    }

    fn answer(&mut self, state_vector: &[u8], out: &mut Outputs) -> Result<(), SessionError> {
        check_state_vector(state_vector)?;
        let theirs = StateVector::decode_v1(state_vector).map_err(bad_update)?;
        let update = self.doc.transact().encode_state_as_update_v1(&theirs);
        // A change is acknowledged by every server. Of the steps 2 Syncline echoes none to clients of Yjs 13, and in Hocuspocus
        // acknowledges the first.
        let frame = match (self.wire.dialect(), self.echo) {
            (Dialect::YWebsocket, Echo::Saved) => self.wire.sync(SyncMessage::Update(&update)),
            (Dialect::Hocuspocus, _) if self.server_asked => self.wire.sync(SyncMessage::Update(&update)),
            _ => self.wire.sync(SyncMessage::Step2(&update)),
        };
        out.frames.push(frame);
        self.remember(Carried::Everything, update, out);
        self.server_asked = true;
        Ok(())
    }

    /// Waits for the answer to what was just put into `out`.
    fn remember(&mut self, carried: Carried, update: Vec<u8>, out: &mut Outputs) {
        match (self.wire.dialect(), self.echo) {
            // Answered by position; the bytes are not needed.
            (Dialect::Hocuspocus, _) => self.acks.sent(carried, Bytes::new()),
            (Dialect::YWebsocket, Echo::Saved) if update == EMPTY_UPDATE || self.is_ours_alone(carried, &update) => {
                self.acks.sent_hoping_for_echo(carried, update.into());
            }
            // Somebody who deletes the same letter sends the same bytes, and those come to us before they are on any
            // disk. An empty update after it is echoed too, and never relayed: it can only be ours.
            (Dialect::YWebsocket, Echo::Saved) => {
                out.frames.push(self.wire.sync(SyncMessage::Update(&EMPTY_UPDATE)));
                self.acks.sent_hoping_for_echo(carried, Bytes::from_static(&EMPTY_UPDATE));
            }
            (Dialect::YWebsocket, Echo::Nothing) => {}
        }
    }

    /// True when nobody else would send these bytes: they insert something in our name just now.
    fn is_ours_alone(&self, carried: Carried, update: &[u8]) -> bool {
        if self.shares_edits {
            return false;
        }
        let own = self.doc.client_id().get();
        carried == Carried::OneEdit && update_ranges(update).any(|range| range.client == own)
    }

    fn apply(&mut self, update: &[u8], out: &mut Outputs) -> Result<(), SessionError> {
        check_update(update)?;
        let update = Update::decode_v1(update).map_err(bad_update)?;
        let (changed, missing) = {
            let mut txn = self.doc.transact_mut();
            txn.apply_update(update).map_err(bad_update)?;
            (txn.has_changes(), txn.has_missing_updates())
        };
        if changed {
            out.events.push(Event::RemoteUpdate);
        }
        if missing && !self.asked_for_missing {
            self.ask(out);
        }
        self.asked_for_missing = missing;
        Ok(())
    }

    fn say_we_are_here(&mut self, out: &mut Outputs) {
        if let Some(update) = self.presence.renew() {
            out.frames.push(self.wire.awareness(&update));
        }
    }
}

fn tell(answer: Answer, out: &mut Outputs) {
    match answer {
        Answer::Saved(through) => out.events.push(Event::Saved(through)),
        Answer::Refused(through) => out.events.push(Event::Refused(through)),
        Answer::Nothing => {}
    }
}

/// The gate before yrs, without limits on size: a server's whole document may be an old and large one.
fn check_update(update: &[u8]) -> Result<(), SessionError> {
    scan_update(update, &ScanLimits::STORED).map(drop).map_err(bad_update)
}

fn check_state_vector(state_vector: &[u8]) -> Result<(), SessionError> {
    scan_state_vector(state_vector, &ScanLimits::STORED).map(drop).map_err(bad_update)
}

fn bad_update(error: impl std::fmt::Display) -> SessionError {
    SessionError::BadUpdate(error.to_string())
}
