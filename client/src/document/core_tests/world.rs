//! A world for the tests beside this: devices on disks that fail, and a server just as good as it must be.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use syncline_protocol::ids::{Epoch, Seq};
use syncline_protocol::native::{Channel, Cursor, Resume, ToClient, ToServer};
use syncline_replica::{Decision, HeldLimits, RegisterState, Replica, Taken, decide};
use yrs::{GetString, ReadTxn, Text, TransactionMut, WriteTxn};

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

/// What survives the app.
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
    /// Handed to the journal, not on disk.
    pub(super) writing: VecDeque<Write>,
    pub(super) storage_failed: bool,
    /// By their notes: what was done and its author was not told of.
    pub(super) waiting: Vec<(Seq, String)>,
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

    /// As the device's task does: writes before frames.
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
                assert!(before.is_none_or(|before| before == accepted), "decided both ways");
            }
        }
        if self.core.wants_reopening() {
            self.channel = None;
        }
    }

    pub(super) fn store(&mut self, count: usize, accepted: &mut HashSet<String>) {
        for _ in 0..count {
            let Some(write) = self.writing.pop_front() else { break };
            self.disk.commit(&write);
        }
        let upto = Seq(self.disk.last);
        self.waiting.retain(|(seq, token)| *seq > upto || !accepted.insert(token.clone()));
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

#[derive(Default)]
pub(super) struct Server {
    pub(super) replica: Replica,
    pub(super) records: Vec<Bytes>,
    pub(super) durable: usize,
    /// (device, batch, needed records, the answer)
    pub(super) waiting: Vec<(usize, usize, Bytes)>,
    pub(super) joined: HashMap<usize, Channel>,
}

impl Server {
    pub(super) fn last(&self) -> Cursor {
        Cursor { epoch: EPOCH, seq: Seq(self.records.len() as u64) }
    }

    pub(super) fn append(&mut self, update: &Bytes, author: Option<usize>, devices: &mut [Device]) {
        self.records.push(update.clone());
        for (&reader, &channel) in self.joined.iter().filter(|(reader, _)| Some(**reader) != author) {
            let seq = self.last().seq;
            devices[reader].to_client.push_back(ToClient::Change { channel, seq, update }.encode().into());
        }
    }

    pub(super) fn tell_durable(&mut self, devices: &mut [Device]) {
        self.waiting.retain(|(device, needed, answer)| {
            let stays = *needed > self.durable;
            if !stays {
                devices[*device].to_client.push_back(answer.clone());
            }
            stays
        });
        for (&reader, &channel) in &self.joined {
            let seq = Seq(self.durable as u64);
            devices[reader].to_client.push_back(ToClient::Durable { channel, seq }.encode().into());
        }
    }

    pub(super) fn leave(&mut self, device: usize) {
        self.joined.remove(&device);
        self.waiting.retain(|(of, ..)| *of != device);
    }

    pub(super) fn crash(&mut self, devices: &mut [Device]) {
        self.records.truncate(self.durable);
        self.replica = Replica::load(self.records.iter().cloned()).unwrap();
        for (at, device) in devices.iter_mut().enumerate() {
            self.leave(at);
            device.cut();
        }
    }

    pub(super) fn take(&mut self, device: usize, dice: &mut Dice, calm: bool, devices: &mut [Device]) {
        let Some(frame) = devices[device].to_server.pop_front() else { return };
        let answer = |devices: &mut [Device], message: ToClient<'_>| {
            devices[device].to_client.push_back(message.encode().into());
        };
        match ToServer::decode(&frame).unwrap() {
            ToServer::Open { channel, cursor, wants_state_vector, .. } => {
                assert!(cursor.is_none_or(|cursor| cursor.seq.0 <= self.durable as u64), "a cursor from the future");
                let from = cursor.filter(|_| dice.below(2) == 0);
                let resume = if from.is_some() { Resume::FromCursor } else { Resume::SendStateVector };
                let state_vector = self.replica.state_vector();
                let state_vector = wants_state_vector.then_some(&state_vector[..]);
                let cursor = self.last();
                answer(devices, ToClient::Opened { channel, cursor, read_only: false, resume, state_vector });
                if let Some(from) = from {
                    self.joined.insert(device, channel);
                    for (at, update) in self.records.iter().enumerate().skip(from.seq.0 as usize) {
                        answer(devices, ToClient::Change { channel, seq: Seq(at as u64 + 1), update });
                    }
                    answer(devices, ToClient::Durable { channel, seq: Seq(self.durable as u64) });
                }
            }
            ToServer::StateVector { channel, state_vector } => {
                self.joined.insert(device, channel);
                let update = self.replica.diff(state_vector).unwrap();
                answer(devices, ToClient::Diff { channel, seq: self.last().seq, update: &update });
                answer(devices, ToClient::Durable { channel, seq: Seq(self.durable as u64) });
            }
            ToServer::Change { channel, batch, update } => {
                if !calm && dice.below(6) == 0 {
                    let code = if dice.below(2) == 0 { 4403 } else { 4507 };
                    return answer(devices, ToClient::Refused { channel, batch, code, reason: "no" });
                }
                let update = Bytes::copy_from_slice(update);
                match self.replica.take(&update, &HeldLimits::default()).unwrap() {
                    Taken::Known => {}
                    Taken::Held => self.records.push(update),
                    _ => {
                        self.append(&update, Some(device), devices);
                        for freed in self.replica.take_freed() {
                            self.append(&freed, None, devices);
                        }
                    }
                }
                let seq = self.last().seq;
                self.waiting.push((device, self.records.len(), ToClient::Ack { channel, batch, seq }.encode().into()));
            }
            ToServer::Propose { channel, batch, proposal } => {
                let name = proposal.register;
                let current = self.replica.read_register(name).unwrap();
                let (accepted, state) = match decide(current.as_ref(), &proposal.into()) {
                    Decision::Accept(state) => {
                        let update = self.replica.write_register(name, &state).unwrap();
                        self.append(&update, None, devices);
                        (true, Some(state))
                    }
                    Decision::AcceptedBefore => (true, current),
                    Decision::Refuse => (false, current),
                };
                let register = state.as_ref().map_or_else(Bytes::new, RegisterState::encode);
                let decided = ToClient::Decided { channel, batch, accepted, register: &register }.encode();
                self.waiting.push((device, self.records.len(), decided.into()));
            }
            ToServer::Leave { .. } => self.leave(device),
            _ => {}
        }
    }
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) server: Server,
    pub(super) devices: Vec<Device>,
    pub(super) accepted: HashSet<String>,
    pub(super) next: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let devices = (0..2).map(|_| Device::new()).collect();
        Self { dice: Dice(seed), server: Server::default(), devices, accepted: HashSet::new(), next: 1 }
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
            // Between tokens.
            let starts: Vec<_> = text.get_string(txn).match_indices('<').map(|(at, _)| at as u32).collect();
            let end = text.len(txn);
            let start = starts.get(place).copied().unwrap_or(end);
            text.insert(txn, start, &typed);
        };
        let (_, seq) = device.core.edit(id, 5, change, &mut device.out).unwrap();
        device.waiting.push((seq.unwrap(), token));
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

    pub(super) fn deliver(&mut self, at: usize, calm: bool) {
        self.server.take(at, &mut self.dice, calm, &mut self.devices);
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
            0..10 => self.edit(at),
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
                self.server.tell_durable(&mut self.devices);
            }
        }
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            for at in 0..self.devices.len() {
                let device = &mut self.devices[at];
                device.storage_is_back();
                device.core.retry_refused(4, &mut device.out);
                device.flush();
                self.connect(at);
            }
            for _ in 0..200 {
                for at in 0..self.devices.len() {
                    self.deliver(at, true);
                    self.devices[at].store(1000, &mut self.accepted);
                }
                self.server.durable = self.server.records.len();
                self.server.tell_durable(&mut self.devices);
                if self.devices.iter().all(|device| device.to_client.is_empty() && device.to_server.is_empty()) {
                    break;
                }
            }
        }
    }
}
