//! A device: documents with durable queues over one native session, on a disk of its own that can crash and fail.
//!
//! Around the real [`Machine`] this does what a device's task does: writes before frames, documents opened on a
//! connection, opened again when the server closed one.

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

/// Updates after which a journal is compacted: few, so that plans reach it.
const COMPACT_UPDATES: usize = 6;
/// The identity of a journal's history. Nobody compares it.
const JOURNAL: Epoch = Epoch(1);

/// What a device tells of itself.
#[derive(Debug)]
pub enum DeviceEvent {
    /// This entry of this document is on the device's disk: its author was told so.
    Accepted(usize, Ulid),
    /// Something of this document.
    Document(usize, Event),
    /// It sends this write to a register, based on this version.
    Proposed(usize, u128, String, Option<Version>),
}

struct Doc {
    name: DocumentName,
    machine: Machine,
    channel: Option<Channel>,
    /// In the order of their notes.
    waiting: VecDeque<(Seq, Ulid)>,
    /// How far its journal has told.
    stored: Seq,
}

/// One device.
pub struct Device {
    disk: Arc<Disk>,
    documents: Vec<Doc>,
    /// Handed to the journal, not synced.
    writing: VecDeque<Write>,
    /// The journal takes nothing.
    failed: bool,
    /// The connection, if there is one.
    pub socket: Option<Socket>,
    channels: BTreeMap<Channel, usize>,
    next_channel: Channel,
    told: Vec<DeviceEvent>,
}

impl Device {
    /// A device as its disk tells it.
    pub fn start(disk: Arc<Disk>, names: &[DocumentName]) -> Result<Self, String> {
        let mut documents = Vec::new();
        for name in names {
            let (mut machine, problems) = Machine::load(disk.stored(name).as_ref());
            if !problems.is_empty() {
                return Err(format!("a journal cannot be read after a crash: {problems:?}"));
            }
            machine.compact_after(COMPACT_UPDATES);
            let (name, waiting, stored) = (name.clone(), VecDeque::new(), Seq::ZERO);
            documents.push(Doc { name, machine, channel: None, waiting, stored });
        }
        let (writing, channels, told) = (VecDeque::new(), BTreeMap::new(), Vec::new());
        Ok(Self { disk, documents, writing, failed: false, socket: None, channels, next_channel: 0, told })
    }

    /// Its disk: what survives it.
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// A document.
    pub fn machine(&self, document: usize) -> &Machine {
        &self.documents[document].machine
    }

    /// What it told since this was asked last.
    pub fn take_told(&mut self) -> Vec<DeviceEvent> {
        std::mem::take(&mut self.told)
    }

    /// Uses a new connection.
    pub fn connect(&mut self, mut socket: Socket, now_ms: u64) {
        socket.send(ToServer::Hello { version: native::VERSION, device: 1 }.encode().into());
        self.socket = Some(socket);
        self.next_channel = 0;
        for document in 0..self.documents.len() {
            self.open(document, now_ms);
        }
    }

    /// The connection is gone.
    pub fn disconnect(&mut self, now_ms: u64) {
        if let Some(socket) = self.socket.take() {
            socket.pipe().client_leaves();
        }
        self.channels.clear();
        for document in 0..self.documents.len() {
            self.documents[document].channel = None;
            self.documents[document].machine.disconnected(now_ms);
            self.flush(document, now_ms);
        }
    }

    /// Opens every document that the server closed, and tries again what it refused.
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

    /// Takes the server's history where it has another one.
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

    /// A message came.
    pub fn received(&mut self, frame: &Bytes, now_ms: u64) -> Result<(), String> {
        let message = ToClient::decode(frame).map_err(|error| format!("the server sent no message: {error}"))?;
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

    /// Changes a document. `None`: nothing was changed, or the change was refused.
    pub fn edit(
        &mut self,
        document: usize,
        id: Ulid,
        now_ms: u64,
        change: impl FnOnce(&mut TransactionMut<'_>),
    ) -> Option<Ulid> {
        self.store_again(now_ms);
        let doc = &mut self.documents[document];
        let seq = doc.machine.edit(id, now_ms, change).ok().flatten()?;
        doc.waiting.push_back((seq, id));
        self.flush(document, now_ms);
        Some(id)
    }

    /// Writes a versioned register.
    pub fn propose(&mut self, document: usize, id: Ulid, now_ms: u64, register: &str) {
        self.store_again(now_ms);
        let doc = &mut self.documents[document];
        if let Ok(seq) = doc.machine.propose(id, now_ms, register, &yrs::Any::from(id.to_string())) {
            doc.waiting.push_back((seq, id));
        }
        self.flush(document, now_ms);
    }

    /// How many writes wait for its disk.
    pub fn unsynced(&self) -> usize {
        self.writing.len()
    }

    /// Its disk syncs up to `count` writes.
    pub fn sync(&mut self, count: usize, now_ms: u64) {
        for _ in 0..count {
            let Some(write) = self.writing.pop_front() else { break };
            if self.disk.commit(&[write]).is_err() {
                return self.fail(now_ms);
            }
        }
        for document in 0..self.documents.len() {
            let doc = &mut self.documents[document];
            let Some((_, upto)) = self.disk.last(&doc.name) else { continue };
            while let Some((_, id)) = doc.waiting.pop_front_if(|(seq, _)| *seq <= upto) {
                self.told.push(DeviceEvent::Accepted(document, id));
            }
            // A snapshot is nothing new.
            if upto != std::mem::replace(&mut doc.stored, upto) {
                doc.machine.stored(upto);
                self.flush(document, now_ms);
            }
        }
    }

    /// Its disk takes no more.
    pub fn fail(&mut self, now_ms: u64) {
        self.disk.crash_during(self.writing.make_contiguous());
        self.writing.clear();
        self.failed = true;
        for document in 0..self.documents.len() {
            self.documents[document].waiting.clear();
            self.documents[document].machine.storage_failed();
            self.flush(document, now_ms);
        }
    }

    /// Its disk takes writes again: everything is written anew, as before the next edit.
    pub fn store_again(&mut self, now_ms: u64) {
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

    /// Ends without a word: what was not synced is lost, but for some of it. The disk is left.
    pub fn crash(mut self) -> Arc<Disk> {
        if let Some(socket) = self.socket.take() {
            socket.pipe().client_leaves();
        }
        self.disk.crash_during(self.writing.make_contiguous());
        self.disk.recover();
        self.disk
    }

    /// Writes before frames, as the device's task does.
    fn flush(&mut self, document: usize, now_ms: u64) {
        let doc = &mut self.documents[document];
        let follows = doc.machine.take(now_ms);
        if !self.failed {
            let name = &doc.name;
            self.writing.extend(follows.writes.into_iter().map(|write| match write {
                JournalWrite::Append(record) => {
                    Write::Append { document: name.clone(), epoch: JOURNAL, records: vec![record] }
                }
                JournalWrite::Compact(snapshot) => Write::Compact { document: name.clone(), snapshot },
            }));
        }
        if let Some(socket) = &mut self.socket {
            for frame in follows.frames {
                if let Ok(ToServer::Propose { proposal, .. }) = ToServer::decode(&frame) {
                    let register = proposal.register.to_owned();
                    self.told.push(DeviceEvent::Proposed(document, proposal.id, register, proposal.based_on));
                }
                socket.send(frame);
            }
        }
        self.told.extend(follows.events.into_iter().map(|event| DeviceEvent::Document(document, event)));
    }
}
