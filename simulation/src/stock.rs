//! A stock client: one in-memory document over y-websocket or Hocuspocus. The real session over a simulated connection.

use bytes::Bytes;
use syncline_client::Dialect;
use syncline_client::session::{Echo, Session, SessionConfig, SessionEvent, SessionOutputs};
use syncline_protocol::close::Close;
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::update::EMPTY_UPDATE;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use yrs::{ReadTxn, TransactionMut};

use crate::socket::Socket;

/// A stock client.
pub struct Stock {
    /// The client's state machine.
    pub session: Session,
    /// The index of its document in the plan.
    pub document: usize,
    /// Its protocol.
    pub dialect: Dialect,
    /// The connection; `None` while disconnected.
    pub socket: Option<Socket>,
    /// The number of edits so far; edits are numbered from 1.
    pub edits: u64,
    /// It has changes from a peer that it sends only after its next connect.
    pub has_unsent_peer_changes: bool,
    /// The close code with which the server ended the last connection permanently.
    pub refused: Option<u16>,
    events: Vec<SessionEvent>,
}

impl Stock {
    /// A newly opened page.
    pub fn start(name: &DocumentName, document: usize, dialect: Dialect, client_id: u64) -> Self {
        let config =
            SessionConfig { document: name.clone(), dialect, token: String::new(), echo: Echo::Saved, client_id };
        let session = Session::new(config);
        Self {
            session,
            document,
            dialect,
            socket: None,
            edits: 0,
            has_unsent_peer_changes: false,
            refused: None,
            events: Vec::new(),
        }
    }

    /// Makes the session share its edits with peers.
    pub fn sharing_edits(mut self) -> Self {
        self.session.shares_edits();
        self
    }

    /// Starts to use a new connection.
    pub fn connect(&mut self, socket: Socket) {
        self.socket = Some(socket);
        (self.has_unsent_peer_changes, self.refused) = (false, None);
        let mut out = SessionOutputs::default();
        self.session.connected(&mut out);
        self.flush(out);
    }

    /// Drops the connection.
    pub fn disconnect(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.pipe().disconnect_client();
        }
        self.session.disconnected();
    }

    /// Handles a message from the server.
    pub fn received(&mut self, frame: &Bytes) -> Result<(), String> {
        let mut out = SessionOutputs::default();
        let received = self.session.received(frame, &mut out);
        self.flush(out);
        received.map_err(|error| error.to_string())
    }

    /// Receives the state of another page directly. It is handled like a message from the server, so it is not sent to the
    /// server. (npm y-websocket handles updates from the browser's BroadcastChannel like this.) `None`: nothing was
    /// missing.
    pub fn receive_from_peer(&mut self, name: &DocumentName, other: &Self) -> Option<Result<(), String>> {
        let lacks = self.session.read(|txn| txn.state_vector());
        let update = other.session.read(|txn| txn.encode_state_as_update_v1(&lacks));
        if update == EMPTY_UPDATE {
            return None;
        }
        self.has_unsent_peer_changes = true;
        let message = SyncMessage::Update(&update);
        let frame = match self.dialect {
            Dialect::YWebsocket => YWebsocketMessage::Sync(message).encode(),
            Dialect::Hocuspocus => HocuspocusMessage::Sync(message).encode(name.as_str()),
        };
        Some(self.received(&frame.into()))
    }

    /// Edits the document.
    pub fn edit(&mut self, change: impl FnOnce(&mut TransactionMut<'_>)) {
        let (mut out, before) = (SessionOutputs::default(), self.session.unsaved());
        self.session.edit(change, &mut out);
        self.edits += self.session.unsaved() - before;
        self.flush(out);
    }

    /// Sets the awareness state.
    pub fn set_awareness(&mut self, state: String) {
        let mut out = SessionOutputs::default();
        self.session.set_presence(Some(state), &mut out);
        self.flush(out);
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<SessionEvent> {
        std::mem::take(&mut self.events)
    }

    fn flush(&mut self, out: SessionOutputs) {
        if let Some(socket) = &mut self.socket {
            out.frames.into_iter().for_each(|frame| socket.send(frame));
        }
        // Hocuspocus denies a deleted document without closing the socket. The simulation denies nothing else.
        if out.events.iter().any(|event| matches!(event, SessionEvent::Denied(_))) {
            self.refused = Some(Close::DocumentDeleted.code());
        }
        self.events.extend(out.events);
    }
}
