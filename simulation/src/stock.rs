//! A stock client: one document in memory over y-websocket or Hocuspocus. The real session, over a simulated connection.

use bytes::Bytes;
use syncline_client::Dialect;
use syncline_client::session::{Echo, Event, Outputs, Session, SessionConfig};
use syncline_protocol::close::Close;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::EMPTY_UPDATE;
use syncline_protocol::{hocuspocus, ywebsocket};
use yrs::{ReadTxn, TransactionMut};

use crate::socket::Socket;

/// One client.
pub struct Stock {
    /// Its state machine.
    pub session: Session,
    /// Which of the plan's documents.
    pub document: usize,
    /// How it speaks.
    pub dialect: Dialect,
    /// The connection, if there is one.
    pub socket: Option<Socket>,
    /// Edits so far; they are numbered from 1.
    pub edits: u64,
    /// It has something that it passes on only when it connects the next time.
    pub heard_aside: bool,
    /// With this code the server ended its last connection for good.
    pub refused: Option<u16>,
    told: Vec<Event>,
}

impl Stock {
    /// A page that was just opened.
    pub fn start(name: &DocumentName, document: usize, dialect: Dialect, client_id: u64) -> Self {
        let config =
            SessionConfig { document: name.clone(), dialect, token: String::new(), echo: Echo::Saved, client_id };
        let session = Session::new(config);
        Self { session, document, dialect, socket: None, edits: 0, heard_aside: false, refused: None, told: Vec::new() }
    }

    /// Others will hear from it past the server.
    pub fn is_tab(mut self) -> Self {
        self.session.shares_edits();
        self
    }

    /// Uses a new connection.
    pub fn connect(&mut self, socket: Socket) {
        self.socket = Some(socket);
        (self.heard_aside, self.refused) = (false, None);
        let mut out = Outputs::default();
        self.session.connected(&mut out);
        self.flush(out);
    }

    /// The connection is gone.
    pub fn disconnect(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.pipe().client_leaves();
        }
        self.session.disconnected();
    }

    /// A message came.
    pub fn received(&mut self, frame: &Bytes) -> Result<(), String> {
        let mut out = Outputs::default();
        let received = self.session.received(frame, &mut out);
        self.flush(out);
        received.map_err(|error| error.to_string())
    }

    /// Hears what another page has, by a way past the server: taken as if the server had said it, so it is not passed on.
    /// (npm y-websocket does so with what comes through the browser's BroadcastChannel.) `None`: it lacked nothing.
    pub fn hear_aside(&mut self, name: &DocumentName, other: &Self) -> Option<Result<(), String>> {
        let lacks = self.session.read(|txn| txn.state_vector());
        let update = other.session.read(|txn| txn.encode_state_as_update_v1(&lacks));
        if update == EMPTY_UPDATE {
            return None;
        }
        self.heard_aside = true;
        let message = SyncMessage::Update(&update);
        let frame = match self.dialect {
            Dialect::YWebsocket => ywebsocket::Message::Sync(message).encode(),
            Dialect::Hocuspocus => hocuspocus::Message::Sync(message).encode(name.as_str()),
        };
        Some(self.received(&frame.into()))
    }

    /// Changes the document.
    pub fn edit(&mut self, change: impl FnOnce(&mut TransactionMut<'_>)) {
        let (mut out, before) = (Outputs::default(), self.session.unsaved());
        self.session.edit(change, &mut out);
        self.edits += self.session.unsaved() - before;
        self.flush(out);
    }

    /// Says who is here.
    pub fn set_presence(&mut self, state: String) {
        let mut out = Outputs::default();
        self.session.set_presence(Some(state), &mut out);
        self.flush(out);
    }

    /// What it told since this was asked last.
    pub fn take_told(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.told)
    }

    fn flush(&mut self, out: Outputs) {
        if let Some(socket) = &mut self.socket {
            out.frames.into_iter().for_each(|frame| socket.send(frame));
        }
        // In Hocuspocus a deleted document is denied while its socket stays. Nothing else is denied in a simulation.
        if out.events.iter().any(|event| matches!(event, Event::Denied(_))) {
            self.refused = Some(Close::DocumentDeleted.code());
        }
        self.told.extend(out.events);
    }
}
