//! A client of either kind, with the same interface for the world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use syncline_client::{Dialect, Event, SyncState, Ulid, session};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::native::Version;
use yrs::{ReadTxn, StateVector, Transaction, TransactionMut};

use crate::device::{Device, DeviceEvent};
use crate::disk::Disk;
use crate::ledger::Action;
use crate::socket::Socket;
use crate::stock::Stock;
use crate::text::{self, Shape};

/// The kind of a client, with its state.
pub enum ClientKind {
    /// A device, which has a disk.
    Device(Device),
    /// A stock client, in memory only.
    Stock(Stock),
}

/// An event that a client reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The edit is on the device's disk.
    Accepted(Action),
    /// The server has acknowledged the edit.
    Saved(Action),
    /// The client sends this write to a register, based on this version.
    Proposed(u128, String, Option<Version>),
    /// A register accepted (true) or refused this write.
    Decided(u128, bool),
    /// The server has a different history.
    HistoryChanged,
    /// The document was deleted on the server.
    Deleted,
    /// The client is in sync with the server.
    Synced,
    /// Any other event, for the trace.
    Other(String),
}

/// One client.
pub struct Client {
    /// The kind of client.
    pub kind: ClientKind,
    /// Device: the document and action of each entry.
    entries: BTreeMap<Ulid, (usize, Action)>,
    /// Device: entries on its disk that are not yet acknowledged.
    unsaved: BTreeSet<Ulid>,
    /// Device: the last entry of each document's queue when it was last rebased. The rebased queue is one edit with the id
    /// of that entry.
    rebased_upto: BTreeMap<usize, Ulid>,
    /// Stock client: its edits, numbered from 1.
    edits: Vec<Action>,
    /// Stock client: how many of its edits are acknowledged.
    saved: u64,
    /// The error of its clock.
    pub clock_ms: i64,
}

impl Client {
    /// A device.
    pub fn device(device: Device) -> Self {
        Self::new(ClientKind::Device(device))
    }

    /// A stock client.
    pub fn stock(stock: Stock) -> Self {
        Self::new(ClientKind::Stock(stock))
    }

    fn new(kind: ClientKind) -> Self {
        let (entries, unsaved, rebased_upto) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { kind, entries, unsaved, rebased_upto, edits: Vec::new(), saved: 0, clock_ms: 0 }
    }

    /// Restarts a crashed device from its disk. A stock client is unchanged, because it has no disk.
    pub fn restart(self, names: &[DocumentName]) -> Result<Self, String> {
        let kind = match self.kind {
            ClientKind::Device(device) => ClientKind::Device(Device::start(device.crash(), names)?),
            ClientKind::Stock(stock) => ClientKind::Stock(stock),
        };
        Ok(Self { kind, ..self })
    }

    /// The connection; `None` while disconnected.
    pub fn socket(&mut self) -> Option<&mut Socket> {
        match &mut self.kind {
            ClientKind::Device(device) => device.socket.as_mut(),
            ClientKind::Stock(stock) => stock.socket.as_mut(),
        }
    }

    /// The indexes of the documents it edits, of `all`.
    pub fn documents(&self, all: usize) -> std::ops::Range<usize> {
        match &self.kind {
            ClientKind::Device(_) => 0..all,
            ClientKind::Stock(stock) => stock.document..stock.document + 1,
        }
    }

    /// A document's text.
    pub fn text(&self, document: usize) -> String {
        match &self.kind {
            ClientKind::Device(device) => device.machine(document).read(text::read),
            ClientKind::Stock(stock) => stock.session.read(text::read),
        }
    }

    /// A document's complete state as an update.
    pub fn state(&self, document: usize) -> Bytes {
        let encode = |txn: &Transaction<'_>| txn.encode_state_as_update_v1(&StateVector::default());
        match &self.kind {
            ClientKind::Device(device) => device.machine(document).read(encode),
            ClientKind::Stock(stock) => stock.session.read(encode),
        }
        .into()
    }

    /// The time on its clock.
    pub fn now(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.clock_ms)
    }

    /// Makes an edit.
    pub fn edit(&mut self, document: usize, id: Ulid, action: Action, (shape, place): (Shape, usize), now_ms: u64) {
        let now_ms = self.now(now_ms);
        let change = move |txn: &mut TransactionMut<'_>| match action {
            Action::Insert(mark) => text::insert(txn, shape, place, mark),
            Action::Delete(mark) => text::delete(txn, shape, mark),
        };
        match &mut self.kind {
            ClientKind::Device(device) => {
                if let Some(id) = device.edit(document, id, now_ms, change) {
                    self.entries.insert(id, (document, action));
                }
            }
            ClientKind::Stock(stock) => {
                let before = stock.edits;
                stock.edit(change);
                if stock.edits > before {
                    self.edits.push(action);
                }
            }
        }
    }

    /// Handles a message from the server.
    pub fn received(&mut self, frame: &Bytes, now_ms: u64) -> Result<(), String> {
        let now_ms = self.now(now_ms);
        match &mut self.kind {
            ClientKind::Device(device) => device.received(frame, now_ms),
            ClientKind::Stock(stock) => stock.received(frame),
        }
    }

    /// Starts to use a new connection.
    pub fn connect(&mut self, socket: Socket, now_ms: u64) {
        let now_ms = self.now(now_ms);
        match &mut self.kind {
            ClientKind::Device(device) => device.connect(socket, now_ms),
            ClientKind::Stock(stock) => stock.connect(socket),
        }
    }

    /// Drops the connection.
    pub fn disconnect(&mut self, now_ms: u64) {
        let now_ms = self.now(now_ms);
        match &mut self.kind {
            ClientKind::Device(device) => device.disconnect(now_ms),
            ClientKind::Stock(stock) => stock.disconnect(),
        }
    }

    /// The events since the last call, each with its document.
    pub fn take_events(&mut self) -> Vec<(usize, ClientEvent)> {
        match &mut self.kind {
            ClientKind::Device(device) => {
                let events = device.take_events();
                events.into_iter().flat_map(|event| self.map_device_event(event)).collect()
            }
            ClientKind::Stock(stock) => {
                let document = stock.document;
                let events = stock.take_events();
                events
                    .into_iter()
                    .flat_map(|event| self.map_session_event(event))
                    .map(|event| (document, event))
                    .collect()
            }
        }
    }

    fn map_device_event(&mut self, event: DeviceEvent) -> Vec<(usize, ClientEvent)> {
        match event {
            DeviceEvent::Accepted(_, id) => {
                let Some(&(document, action)) = self.entries.get(&id) else { return Vec::new() };
                self.unsaved.insert(id);
                vec![(document, ClientEvent::Accepted(action))]
            }
            DeviceEvent::Document(document, Event::Saved { entries }) => {
                let entries = entries.into_iter().flat_map(|id| self.saved_entries(document, id)).collect::<Vec<_>>();
                let actions = entries.iter().filter_map(|id| self.entries.get(id));
                actions.map(|&(document, action)| (document, ClientEvent::Saved(action))).collect()
            }
            DeviceEvent::Document(document, Event::Decided { entry, accepted, .. }) => {
                vec![(document, ClientEvent::Decided(entry.0, accepted))]
            }
            DeviceEvent::Proposed(document, id, register, based_on) => {
                vec![(document, ClientEvent::Proposed(id, register, based_on))]
            }
            DeviceEvent::Document(document, Event::Synced(_)) => vec![(document, ClientEvent::Synced)],
            DeviceEvent::Document(document, Event::Deleted) => vec![(document, ClientEvent::Deleted)],
            DeviceEvent::Document(document, Event::HistoryChanged { .. }) => {
                vec![(document, ClientEvent::HistoryChanged)]
            }
            DeviceEvent::Document(document, Event::Rebased(_)) => {
                let newest = self.entries.iter().rev().find(|(_, (of, _))| *of == document);
                self.rebased_upto.extend(newest.map(|(&id, _)| (document, id)));
                vec![(document, ClientEvent::Other("rebased".into()))]
            }
            DeviceEvent::Document(document, other) => vec![(document, ClientEvent::Other(format!("{other:?}")))],
        }
    }

    /// The entries that the acknowledgement of this entry covers: itself, and the earlier ones that were rebased with it.
    fn saved_entries(&mut self, document: usize, id: Ulid) -> Vec<Ulid> {
        let upto = self.rebased_upto.get(&document).copied().unwrap_or_default().min(id);
        let entries = &self.entries;
        let is_covered =
            |entry: &Ulid| *entry == id || (*entry < upto && entries.get(entry).is_some_and(|e| e.0 == document));
        let (saved, unsaved) = std::mem::take(&mut self.unsaved).into_iter().partition(is_covered);
        self.unsaved = unsaved;
        let mut saved: BTreeSet<Ulid> = saved;
        // Also if it was acknowledged before: it may be part of another history now.
        saved.insert(id);
        saved.into_iter().collect()
    }

    fn map_session_event(&mut self, event: session::SessionEvent) -> Vec<ClientEvent> {
        match event {
            session::SessionEvent::Saved(through) => {
                let from = std::mem::replace(&mut self.saved, through) as usize;
                let saved = self.edits.get(from..through as usize).unwrap_or_default();
                saved.iter().map(|action| ClientEvent::Saved(*action)).collect()
            }
            session::SessionEvent::Synced => vec![ClientEvent::Synced],
            session::SessionEvent::Denied(_) => vec![ClientEvent::Deleted],
            other => vec![ClientEvent::Other(format!("{other:?}"))],
        }
    }

    /// Why the client is not settled. Empty when all its edits are acknowledged and it has received everything, or, for a
    /// deleted document, when it has been notified.
    pub fn unsettled(&self, deleted: &[bool]) -> String {
        match &self.kind {
            ClientKind::Device(device) => {
                let mut unrest = String::new();
                for (document, is_deleted) in deleted.iter().enumerate() {
                    let status = device.machine(document).status();
                    let unacked = status.pending + status.sent + status.refused;
                    let is_settled = if *is_deleted {
                        status.sync == SyncState::Deleted
                    } else {
                        status.sync == SyncState::Synced && unacked == 0
                    };
                    if !is_settled {
                        unrest += &format!("document {document}: {:?}, {unacked} edits not saved; ", status.sync);
                    }
                }
                if device.unsynced() > 0 {
                    unrest += "its disk has unsynced writes";
                }
                unrest
            }
            ClientKind::Stock(stock) if deleted[stock.document] => {
                if stock.refused.is_some() {
                    String::new()
                } else {
                    "not notified of the deletion".into()
                }
            }
            ClientKind::Stock(stock) if stock.socket.is_none() => "not connected".into(),
            ClientKind::Stock(stock) if !stock.session.is_synced() => "not synced".into(),
            ClientKind::Stock(stock) if stock.session.unsaved() > 0 => {
                format!("{} edits not saved", stock.session.unsaved())
            }
            ClientKind::Stock(_) => String::new(),
        }
    }

    /// The kind of client, for traces and failures.
    pub fn label(&self) -> &'static str {
        match &self.kind {
            ClientKind::Device(_) => "device",
            ClientKind::Stock(Stock { dialect: Dialect::YWebsocket, .. }) => "y-websocket",
            ClientKind::Stock(_) => "Hocuspocus",
        }
    }

    /// The device's disk; `None` for a stock client.
    pub fn disk(&self) -> Option<&Arc<Disk>> {
        if let ClientKind::Device(device) = &self.kind { Some(device.disk()) } else { None }
    }
}
