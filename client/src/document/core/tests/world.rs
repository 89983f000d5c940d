//! The simulated world of the core's tests: devices with disks that fail, and random steps.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Channel, ToClient};
use yrs::{GetString, ReadTxn, Text, TransactionMut, WriteTxn};

use super::server::Server;
use crate::document::core::{Core, Outputs, Write};
use crate::document::journal::{Note, Snapshot};
use crate::document::registers;
use crate::document::status::Event;

pub(super) const EPOCH: Epoch = Epoch(7);

pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// An edit of a token: typed or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Did {
    Type(String),
    Delete(String),
}

/// The stored data, which survives a crash of the app.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) snapshot: Option<Bytes>,
    pub(super) notes: Vec<Bytes>,
    pub(super) last: u64,
}

impl Disk {
    pub(super) fn commit(&mut self, write: &Write) {
        match write {
            Write::Note(note) => {
                self.notes.push(note.encode());
                self.last += 1;
            }
            Write::Snapshot(snapshot) => {
                self.snapshot = Some(snapshot.encode());
                self.notes.clear();
            }
        }
    }

    pub(super) fn load(&self) -> Core {
        let snapshot = self.snapshot.as_ref().map_or_else(Snapshot::default, |bytes| Snapshot::decode(bytes).unwrap());
        let notes = self.notes.iter().map(|note| Note::decode(note).unwrap()).collect();
        let (core, problems) = Core::load(snapshot, notes, Seq(self.last));
        assert_eq!(problems, Vec::<String>::new());
        core
    }
}

pub(super) struct Device {
    pub(super) disk: Disk,
    pub(super) core: Core,
    pub(super) out: Outputs,
    /// Handed to the journal, not on disk yet.
    pub(super) writing: VecDeque<Write>,
    pub(super) storage_failed: bool,
    /// Edits that were not reported as stored yet, with the sequence numbers of their notes.
    pub(super) waiting: Vec<(Seq, Did)>,
    pub(super) channel: Option<Channel>,
    pub(super) to_server: VecDeque<Bytes>,
    pub(super) to_client: VecDeque<Bytes>,
    pub(super) decided: HashMap<u128, bool>,
}

impl Device {
    pub(super) fn new() -> Self {
        let disk = Disk::default();
        let core = disk.load();
        Self {
            disk,
            core,
            out: Outputs::default(),
            writing: VecDeque::new(),
            storage_failed: false,
            waiting: Vec::new(),
            channel: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            decided: HashMap::new(),
        }
    }

    /// Carries out the outputs as the device's task does: writes before frames.
    pub(super) fn flush(&mut self) {
        let writes = std::mem::take(&mut self.out.writes);
        if !self.storage_failed {
            self.writing.extend(writes);
        }
        let frames = std::mem::take(&mut self.out.frames);
        if self.channel.is_some() {
            self.to_server.extend(frames);
        }
        for event in std::mem::take(&mut self.out.events) {
            if let Event::Decided { entry, accepted, .. } = event {
                let before = self.decided.insert(entry.0, accepted);
                assert!(before.is_none_or(|before| before == accepted), "decided twice, differently");
            }
        }
        if self.core.wants_reopening() {
            self.channel = None;
        }
    }

    pub(super) fn store(&mut self, count: usize, accepted: &mut HashSet<Did>) {
        for _ in 0..count {
            let Some(write) = self.writing.pop_front() else { break };
            self.disk.commit(&write);
        }
        let upto = Seq(self.disk.last);
        self.waiting.retain(|(seq, did)| *seq > upto || !accepted.insert(did.clone()));
        self.core.stored(upto, &mut self.out);
        self.core.compact(&mut self.out);
        self.flush();
    }

    pub(super) fn fail_storage(&mut self) {
        self.writing.clear();
        self.waiting.clear();
        self.storage_failed = true;
        self.core.storage_failed();
        self.flush();
    }

    pub(super) fn storage_is_back(&mut self) {
        if std::mem::replace(&mut self.storage_failed, false) {
            self.out.writes.clear();
            self.core.storage_is_back(Seq(self.disk.last), &mut self.out);
            self.flush();
        }
    }

    pub(super) fn cut(&mut self) {
        self.channel = None;
        self.to_server.clear();
        self.to_client.clear();
        self.core.disconnected(1, &mut self.out);
        self.out.frames.clear();
        self.flush();
    }

    pub(super) fn crash(&mut self) {
        self.cut_silently();
        self.writing.clear();
        self.waiting.clear();
        self.storage_failed = false;
        self.core = self.disk.load();
    }

    pub(super) fn cut_silently(&mut self) {
        self.channel = None;
        self.to_server.clear();
        self.to_client.clear();
        self.out = Outputs::default();
    }

    pub(super) fn text(&self) -> String {
        self.core.read(|txn| txn.get_text("text").map_or(String::new(), |text| text.get_string(txn)))
    }
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) server: Server,
    pub(super) devices: Vec<Device>,
    pub(super) accepted: HashSet<Did>,
    /// Tokens that any device deleted, accepted or not.
    pub(super) doubtful: HashSet<String>,
    pub(super) next: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let devices = (0..2).map(|_| Device::new()).collect();
        let server = Server { knows_all_cursors: seed.is_multiple_of(2), ..Server::default() };
        Self { dice: Dice(seed), server, devices, accepted: HashSet::new(), doubtful: HashSet::new(), next: 1 }
    }

    pub(super) fn edit(&mut self, at: usize) {
        let (device, token) = (&mut self.devices[at], format!("<{}>", self.next));
        device.storage_is_back();
        let id = u128::from(self.next);
        self.next += 1;
        let typed = token.clone();
        let place = self.dice.below(3);
        let change = move |txn: &mut TransactionMut<'_>| {
            let text = txn.get_or_insert_text("text");
            // Insert between tokens.
            let starts: Vec<_> = text.get_string(txn).match_indices('<').map(|(at, _)| at as u32).collect();
            let end = text.len(txn);
            let start = starts.get(place).copied().unwrap_or(end);
            text.insert(txn, start, &typed);
        };
        let (_, seq) = device.core.edit(id, 5, change, &mut device.out).unwrap();
        device.waiting.push((seq.unwrap(), Did::Type(token)));
        device.flush();
    }

    /// Deletes one token, if there is any.
    pub(super) fn delete(&mut self, at: usize) {
        let device = &mut self.devices[at];
        device.storage_is_back();
        let text = device.text();
        let tokens: Vec<&str> = text.split_inclusive('>').collect();
        if tokens.is_empty() {
            return;
        }
        // Often a token that the other device deletes too.
        let among = if self.dice.below(2) == 0 { 2 } else { 50 };
        let token = tokens[tokens.len() - 1 - self.dice.below(tokens.len().min(among))].to_owned();
        let (start, len) = (text.find(&token).unwrap() as u32, token.len() as u32);
        let id = u128::from(self.next);
        self.next += 1;
        let change = move |txn: &mut TransactionMut<'_>| txn.get_or_insert_text("text").remove_range(txn, start, len);
        let (_, seq) = device.core.edit(id, 5, change, &mut device.out).unwrap();
        self.doubtful.insert(token.clone());
        device.waiting.push((seq.unwrap(), Did::Delete(token)));
        device.flush();
    }

    pub(super) fn propose(&mut self, at: usize) {
        let device = &mut self.devices[at];
        device.storage_is_back();
        let value = registers::encode(&yrs::Any::from("x"));
        device.core.propose(u128::from(self.next), 5, "status".into(), "Ana".into(), value, &mut device.out).unwrap();
        self.next += 1;
        device.flush();
    }

    pub(super) fn connect(&mut self, at: usize) {
        let device = &mut self.devices[at];
        if device.channel.is_none() {
            self.server.leave(at);
            device.to_server.clear();
            device.to_client.clear();
            device.channel = Some(self.next);
            assert!(device.core.connected(self.next, "doc", "", 2, &mut device.out));
            self.next += 1;
            device.flush();
        }
    }

    pub(super) fn deliver(&mut self, at: usize, reliable: bool) {
        self.server.take(at, &mut self.dice, reliable, &mut self.devices);
        let device = &mut self.devices[at];
        let Some(frame) = device.to_client.pop_front() else { return };
        let message = ToClient::decode(&frame).unwrap();
        if message.channel() == device.channel {
            device.core.received(&message, frame.len(), 3, &mut device.out).unwrap();
        }
        device.flush();
    }

    pub(super) fn step(&mut self) {
        let at = self.dice.below(self.devices.len());
        match self.dice.below(40) {
            0..7 => self.edit(at),
            7..10 => self.delete(at),
            10 => self.propose(at),
            11..20 => self.deliver(at, false),
            20..25 => {
                let count = self.dice.below(4);
                self.devices[at].store(count, &mut self.accepted);
            }
            25 => {
                self.server.leave(at);
                self.devices[at].cut();
            }
            26..29 => self.connect(at),
            29 => {
                self.server.leave(at);
                self.devices[at].crash();
            }
            30 => self.devices[at].fail_storage(),
            31 => {
                self.devices[at].storage_is_back();
            }
            32 => {
                let device = &mut self.devices[at];
                device.core.retry_refused(4, &mut device.out);
                device.flush();
            }
            33 if self.dice.below(4) == 0 => self.server.crash(&mut self.devices),
            _ => {
                let records = self.server.records.len();
                self.server.durable += self.dice.below(records - self.server.durable + 1);
                self.server.send_durable(&mut self.devices);
            }
        }
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            for at in 0..self.devices.len() {
                let device = &mut self.devices[at];
                device.storage_is_back();
                // Retrying starts a new sync, which would hide missing changes: only for devices with refused entries.
                if device.core.queue.counts().refused > 0 {
                    device.core.retry_refused(4, &mut device.out);
                }
                device.flush();
                self.connect(at);
            }
            for _ in 0..200 {
                for at in 0..self.devices.len() {
                    self.deliver(at, true);
                    self.devices[at].store(1000, &mut self.accepted);
                }
                self.server.durable = self.server.records.len();
                self.server.send_durable(&mut self.devices);
                if self.devices.iter().all(|device| device.to_client.is_empty() && device.to_server.is_empty()) {
                    break;
                }
            }
        }
    }
}
