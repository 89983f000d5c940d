//! A device: documents with durable queues over one native session, on its own disk, which can crash and fail.
//!
//! Drives the real [`Machine`] like a device's task: it writes to the journal before it sends frames, opens documents on
//! a new connection, and reopens documents that the server closed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use syncline_client::document::driver::{JournalWrite, Machine};
use syncline_client::{Event, SyncState, Ulid};
use syncline_log::Store;
use syncline_log::store::Write;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_protocol::native::{self, Channel, ToClient, ToServer, Version};
use yrs::TransactionMut;

use crate::disk::Disk;
use crate::socket::Socket;

/// Updates after which a journal is compacted. Small, so that plans reach it.
const COMPACT_UPDATES: usize = 6;
/// The epoch of all journals, which is never compared.
const JOURNAL: Epoch = Epoch(1);

/// An event that a device reports.
#[derive(Debug)]
pub enum DeviceEvent {
    /// An entry of this document is on the device's disk, and was reported as accepted.
    Accepted(usize, Ulid),
    /// An event of this document.
    Document(usize, Event),
    /// The device sends this write to a register of this document, based on this version.
    Proposed(usize, u128, String, Option<Version>),
}

struct DeviceDocument {
    name: DocumentName,
    machine: Machine,
    channel: Option<Channel>,
    /// Entries that are not yet synced, with their journal records, in order.
    unsynced_entries: VecDeque<(Seq, Ulid)>,
    /// The last durable journal record reported to the machine.
    stored: Seq,
}

/// One device.
pub struct Device {
    disk: Arc<Disk>,
    documents: Vec<DeviceDocument>,
    /// Journal writes that are not yet synced.
    unsynced_writes: VecDeque<Write>,
    /// The disk has failed, and the journal accepts no writes.
    failed: bool,
    /// The connection; `None` while disconnected.
    pub socket: Option<Socket>,
    channels: BTreeMap<Channel, usize>,
    next_channel: Channel,
    events: Vec<DeviceEvent>,
}

impl Device {
    /// Starts a device from its disk.
    pub fn start(disk: Arc<Disk>, names: &[DocumentName]) -> Result<Self, String> {
        let mut documents = Vec::new();
        for name in names {
            let (mut machine, problems) = Machine::load(disk.stored(name).as_ref());
            if !problems.is_empty() {
                return Err(format!("a journal cannot be read after a crash: {problems:?}"));
            }
            machine.compact_after(COMPACT_UPDATES);
            let (name, unsynced_entries, stored) = (name.clone(), VecDeque::new(), Seq::ZERO);
            documents.push(DeviceDocument { name, machine, channel: None, unsynced_entries, stored });
        }
        let (unsynced_writes, channels, events) = (VecDeque::new(), BTreeMap::new(), Vec::new());
        Ok(Self { disk, documents, unsynced_writes, failed: false, socket: None, channels, next_channel: 0, events })
    }

    /// The disk, which survives a crash of the device.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// The state machine of a document.
    pub fn machine(&self, document: usize) -> &Machine {
        &self.documents[document].machine
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<DeviceEvent> {
        std::mem::take(&mut self.events)
    }

    /// Starts to use a new connection.
    pub fn connect(&mut self, mut socket: Socket, now_ms: u64) {
        socket.send(ToServer::Hello { version: native::VERSION, device: 1 }.encode().into());
        self.socket = Some(socket);
        self.next_channel = 0;
        for document in 0..self.documents.len() {
            self.open(document, now_ms);
        }
    }

    /// Drops the connection.
    pub fn disconnect(&mut self, now_ms: u64) {
        if let Some(socket) = self.socket.take() {
            socket.pipe().disconnect_client();
        }
        self.channels.clear();
        for document in 0..self.documents.len() {
            self.documents[document].channel = None;
            self.documents[document].machine.disconnected(now_ms);
            self.flush(document, now_ms);
        }
    }

    /// Reopens every document that the server closed, and retries refused edits.
    pub fn reopen(&mut self, now_ms: u64) {
        for document in 0..self.documents.len() {
            if self.documents[document].machine.status().refused > 0 {
                self.documents[document].machine.retry_refused(now_ms);
                if let Some(channel) = self.documents[document].channel.take() {
                    self.channels.remove(&channel);
                }
                self.flush(document, now_ms);
            }
            if self.documents[document].channel.is_none() && self.socket.is_some() {
                self.open(document, now_ms);
            }
        }
    }

    /// Rebases documents whose history on the server has changed.
    pub fn rebase(&mut self, now_ms: u64) {
        for document in 0..self.documents.len() {
            let doc = &mut self.documents[document];
            if self.socket.is_some() && doc.machine.status().sync == SyncState::HistoryChanged {
                let channel = self.next_channel;
                if doc.machine.begin_rebase(channel, doc.name.as_str()) {
                    self.next_channel += 1;
                    doc.channel = Some(channel);
                    self.channels.insert(channel, document);
                }
                self.flush(document, now_ms);
            }
        }
    }

    fn open(&mut self, document: usize, now_ms: u64) {
        let doc = &mut self.documents[document];
        let channel = self.next_channel;
        if doc.machine.connected(channel, doc.name.as_str(), now_ms) {
            self.next_channel += 1;
            doc.channel = Some(channel);
            self.channels.insert(channel, document);
        }
        self.flush(document, now_ms);
    }

    /// Handles a message from the server.
    pub fn received(&mut self, frame: &Bytes, now_ms: u64) -> Result<(), String> {
        let message =
            ToClient::decode(frame).map_err(|error| format!("the server sent an invalid message: {error}"))?;
        let Some(channel) = message.channel() else { return Ok(()) };
        let Some(&document) = self.channels.get(&channel) else { return Ok(()) };
        let doc = &mut self.documents[document];
        let received = doc.machine.received(&message, frame.len(), now_ms);
        if matches!(message, ToClient::Closed { .. }) || doc.machine.wants_reopening() {
            doc.channel = None;
            self.channels.remove(&channel);
        }
        self.flush(document, now_ms);
        received
    }

    /// Edits a document. `None`: nothing was changed, or the edit was refused.
    pub fn edit(
        &mut self,
        document: usize,
        id: Ulid,
        now_ms: u64,
        change: impl FnOnce(&mut TransactionMut<'_>),
    ) -> Option<Ulid> {
        self.resume_storage(now_ms);
        let doc = &mut self.documents[document];
        let seq = doc.machine.edit(id, now_ms, change).ok().flatten()?;
        doc.unsynced_entries.push_back((seq, id));
        self.flush(document, now_ms);
        Some(id)
    }

    /// Writes to a versioned register.
    pub fn propose(&mut self, document: usize, id: Ulid, now_ms: u64, register: &str) {
        self.resume_storage(now_ms);
        let doc = &mut self.documents[document];
        if let Ok(seq) = doc.machine.propose(id, now_ms, register, &yrs::Any::from(id.to_string())) {
            doc.unsynced_entries.push_back((seq, id));
        }
        self.flush(document, now_ms);
    }

    /// The number of journal writes that are not yet synced.
    pub fn unsynced(&self) -> usize {
        self.unsynced_writes.len()
    }

    /// Syncs up to `count` journal writes.
    pub fn sync(&mut self, count: usize, now_ms: u64) {
        for _ in 0..count {
            let Some(write) = self.unsynced_writes.pop_front() else { break };
            if self.disk.commit(&[write]).is_err() {
                return self.fail(now_ms);
            }
        }
        for document in 0..self.documents.len() {
            let doc = &mut self.documents[document];
            let Some((_, upto)) = self.disk.last(&doc.name) else { continue };
            while let Some((_, id)) = doc.unsynced_entries.pop_front_if(|(seq, _)| *seq <= upto) {
                self.events.push(DeviceEvent::Accepted(document, id));
            }
            // A snapshot does not change the position.
            if upto != std::mem::replace(&mut doc.stored, upto) {
                doc.machine.stored(upto);
                self.flush(document, now_ms);
            }
        }
    }

    /// Fails the disk: some of the unsynced writes are stored, and later ones fail.
    pub fn fail(&mut self, now_ms: u64) {
        self.disk.crash_during(self.unsynced_writes.make_contiguous());
        self.unsynced_writes.clear();
        self.failed = true;
        for document in 0..self.documents.len() {
            self.documents[document].unsynced_entries.clear();
            self.documents[document].machine.storage_failed();
            self.flush(document, now_ms);
        }
    }

    /// After a failure, lets the disk accept writes again and rewrites every journal. A real device does this before the
    /// next edit.
    pub fn resume_storage(&mut self, now_ms: u64) {
        if !std::mem::replace(&mut self.failed, false) {
            return;
        }
        self.disk.recover();
        for document in 0..self.documents.len() {
            let doc = &mut self.documents[document];
            doc.machine.storage_is_back(self.disk.last(&doc.name).map_or(Seq::ZERO, |(_, last)| last));
            self.flush(document, now_ms);
        }
    }

    /// Crashes the device and returns its disk. Some of the unsynced writes are stored, the others are lost.
    pub fn crash(mut self) -> Arc<Disk> {
        if let Some(socket) = self.socket.take() {
            socket.pipe().disconnect_client();
        }
        self.disk.crash_during(self.unsynced_writes.make_contiguous());
        self.disk.recover();
        self.disk
    }

    /// Takes the machine's outputs: writes before frames, like the device's task.
    fn flush(&mut self, document: usize, now_ms: u64) {
        let doc = &mut self.documents[document];
        let outputs = doc.machine.take(now_ms);
        if !self.failed {
            let name = &doc.name;
            self.unsynced_writes.extend(outputs.writes.into_iter().map(|write| match write {
                JournalWrite::Append(record) => {
                    Write::Append { document: name.clone(), epoch: JOURNAL, records: vec![record] }
                }
                JournalWrite::Compact(snapshot) => Write::Compact { document: name.clone(), snapshot },
            }));
        }
        if let Some(socket) = &mut self.socket {
            for frame in outputs.frames {
                if let Ok(ToServer::Propose { proposal, .. }) = ToServer::decode(&frame) {
                    let register = proposal.register.to_owned();
                    self.events.push(DeviceEvent::Proposed(document, proposal.id, register, proposal.based_on));
                }
                socket.send(frame);
            }
        }
        self.events.extend(outputs.events.into_iter().map(|event| DeviceEvent::Document(document, event)));
    }
}
