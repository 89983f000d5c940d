//! A client of either sort, as the world sees it.

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

/// Which, and with what.
pub enum Sort {
    /// With a disk.
    Device(Device),
    /// In memory.
    Stock(Stock),
}

/// What a client told the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// Its own disk has it.
    Accepted(Action),
    /// The server's disk has it.
    Saved(Action),
    /// It sends this write to a register, based on this version.
    Proposed(u128, String, Option<Version>),
    /// The server decided on a register write: its id, and whether it was accepted.
    Decided(u128, bool),
    /// The server has another history.
    HistoryChanged,
    /// The server says that it was deleted.
    Deleted,
    /// It was synced with the server as it was then.
    Synced,
    /// Anything else, for the timeline.
    Other(String),
}

/// One client.
pub struct Client {
    /// What it is.
    pub sort: Sort,
    /// What its entries are: on a device.
    entries: BTreeMap<Ulid, (usize, Action)>,
    /// Those of them that its disk has and nobody has reported as saved.
    unsaved: BTreeSet<Ulid>,
    /// Up to which entry a document's queue was put upon another history: as one edit, under the newest one's name.
    one_edit: BTreeMap<usize, Ulid>,
    /// What its edits are, from number 1: in a stock client.
    edits: Vec<Action>,
    /// Of these, how many are saved.
    saved: u64,
    /// How wrong its clock is.
    pub clock_ms: i64,
}

impl Client {
    /// A device as its disk tells it.
    pub fn device(device: Device) -> Self {
        Self::new(Sort::Device(device))
    }

    /// A stock client.
    pub fn stock(stock: Stock) -> Self {
        Self::new(Sort::Stock(stock))
    }

    fn new(sort: Sort) -> Self {
        let (entries, unsaved, one_edit) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { sort, entries, unsaved, one_edit, edits: Vec::new(), saved: 0, clock_ms: 0 }
    }

    /// A device crashes and starts again from its disk; a stock client has nothing to start from.
    pub fn restart(self, names: &[DocumentName]) -> Result<Self, String> {
        let sort = match self.sort {
            Sort::Device(device) => Sort::Device(Device::start(device.crash(), names)?),
            Sort::Stock(stock) => Sort::Stock(stock),
        };
        Ok(Self { sort, ..self })
    }

    /// Its connection.
    pub fn socket(&mut self) -> Option<&mut Socket> {
        match &mut self.sort {
            Sort::Device(device) => device.socket.as_mut(),
            Sort::Stock(stock) => stock.socket.as_mut(),
        }
    }

    /// Which documents it edits.
    pub fn documents(&self, all: usize) -> std::ops::Range<usize> {
        match &self.sort {
            Sort::Device(_) => 0..all,
            Sort::Stock(stock) => stock.document..stock.document + 1,
        }
    }

    /// A document's text.
    pub fn text(&self, document: usize) -> String {
        match &self.sort {
            Sort::Device(device) => device.machine(document).read(text::read),
            Sort::Stock(stock) => stock.session.read(text::read),
        }
    }

    /// A document's whole state, as an update.
    pub fn state(&self, document: usize) -> Bytes {
        let encode = |txn: &Transaction<'_>| txn.encode_state_as_update_v1(&StateVector::default());
        match &self.sort {
            Sort::Device(device) => device.machine(document).read(encode),
            Sort::Stock(stock) => stock.session.read(encode),
        }
        .into()
    }

    /// What time it takes it to be.
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
        match &mut self.sort {
            Sort::Device(device) => {
                if let Some(id) = device.edit(document, id, now_ms, change) {
                    self.entries.insert(id, (document, action));
                }
            }
            Sort::Stock(stock) => {
                let before = stock.edits;
                stock.edit(change);
                if stock.edits > before {
                    self.edits.push(action);
                }
            }
        }
    }

    /// A message came.
    pub fn received(&mut self, frame: &Bytes, now_ms: u64) -> Result<(), String> {
        let now_ms = self.now(now_ms);
        match &mut self.sort {
            Sort::Device(device) => device.received(frame, now_ms),
            Sort::Stock(stock) => stock.received(frame),
        }
    }

    /// Uses a new connection.
    pub fn connect(&mut self, socket: Socket, now_ms: u64) {
        let now_ms = self.now(now_ms);
        match &mut self.sort {
            Sort::Device(device) => device.connect(socket, now_ms),
            Sort::Stock(stock) => stock.connect(socket),
        }
    }

    /// Its connection is gone.
    pub fn disconnect(&mut self, now_ms: u64) {
        let now_ms = self.now(now_ms);
        match &mut self.sort {
            Sort::Device(device) => device.disconnect(now_ms),
            Sort::Stock(stock) => stock.disconnect(),
        }
    }

    /// What it told since this was asked last, with the document.
    pub fn news(&mut self) -> Vec<(usize, ClientEvent)> {
        match &mut self.sort {
            Sort::Device(device) => {
                let told = device.take_told();
                told.into_iter().flat_map(|told| self.of_device(told)).collect()
            }
            Sort::Stock(stock) => {
                let document = stock.document;
                let told = stock.take_told();
                told.into_iter().flat_map(|event| self.of_stock(event)).map(|news| (document, news)).collect()
            }
        }
    }

    fn of_device(&mut self, told: DeviceEvent) -> Vec<(usize, ClientEvent)> {
        match told {
            DeviceEvent::Accepted(_, id) => {
                let Some(&(document, action)) = self.entries.get(&id) else { return Vec::new() };
                self.unsaved.insert(id);
                vec![(document, ClientEvent::Accepted(action))]
            }
            DeviceEvent::Document(document, Event::Saved { entries }) => {
                let entries = entries.into_iter().flat_map(|id| self.saved_with(document, id)).collect::<Vec<_>>();
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
                self.one_edit.extend(newest.map(|(&id, _)| (document, id)));
                vec![(document, ClientEvent::Other("rebased".into()))]
            }
            DeviceEvent::Document(document, other) => vec![(document, ClientEvent::Other(format!("{other:?}")))],
        }
    }

    /// This entry is saved, and what lay before it in a queue that became one edit.
    fn saved_with(&mut self, document: usize, id: Ulid) -> Vec<Ulid> {
        let upto = self.one_edit.get(&document).copied().unwrap_or_default().min(id);
        let entries = &self.entries;
        let with_it =
            |entry: &Ulid| *entry == id || (*entry < upto && entries.get(entry).is_some_and(|e| e.0 == document));
        let (saved, unsaved) = std::mem::take(&mut self.unsaved).into_iter().partition(with_it);
        self.unsaved = unsaved;
        let mut saved: BTreeSet<Ulid> = saved;
        // Also once more: it may be another history's by now.
        saved.insert(id);
        saved.into_iter().collect()
    }

    fn of_stock(&mut self, event: session::Event) -> Vec<ClientEvent> {
        match event {
            session::Event::Saved(through) => {
                let from = std::mem::replace(&mut self.saved, through) as usize;
                let saved = self.edits.get(from..through as usize).unwrap_or_default();
                saved.iter().map(|action| ClientEvent::Saved(*action)).collect()
            }
            session::Event::Synced => vec![ClientEvent::Synced],
            session::Event::Denied(_) => vec![ClientEvent::Deleted],
            other => vec![ClientEvent::Other(format!("{other:?}"))],
        }
    }

    /// How it stands, in a few words: empty when everything it did is saved and everything there is has come, and of a
    /// deleted document when it was told so.
    pub fn unrest(&self, deleted: &[bool]) -> String {
        match &self.sort {
            Sort::Device(device) => {
                let mut unrest = String::new();
                for (document, is_deleted) in deleted.iter().enumerate() {
                    let status = device.machine(document).status();
                    let open = status.pending + status.sent + status.refused;
                    let is_at_rest = if *is_deleted {
                        status.sync == SyncState::Deleted
                    } else {
                        status.sync == SyncState::Synced && open == 0
                    };
                    if !is_at_rest {
                        unrest += &format!("document {document}: {:?}, {open} not saved; ", status.sync);
                    }
                }
                if device.unsynced() > 0 {
                    unrest += "its disk is behind";
                }
                unrest
            }
            Sort::Stock(stock) if deleted[stock.document] => {
                if stock.refused.is_some() {
                    String::new()
                } else {
                    "not told that it was deleted".into()
                }
            }
            Sort::Stock(stock) if stock.socket.is_none() => "not connected".into(),
            Sort::Stock(stock) if !stock.session.is_synced() => "not synced".into(),
            Sort::Stock(stock) if stock.session.unsaved() > 0 => format!("{} not saved", stock.session.unsaved()),
            Sort::Stock(_) => String::new(),
        }
    }

    /// What it is, for people.
    pub fn kind(&self) -> &'static str {
        match &self.sort {
            Sort::Device(_) => "device",
            Sort::Stock(Stock { dialect: Dialect::YWebsocket, .. }) => "y-websocket",
            Sort::Stock(_) => "Hocuspocus",
        }
    }

    /// Its disk, if it has one.
    pub fn disk(&self) -> Option<&Arc<Disk>> {
        if let Sort::Device(device) = &self.sort { Some(device.disk()) } else { None }
    }
}
