//! A minimal server for the tests of the core.

use std::collections::HashMap;

use bytes::Bytes;
use syncline_protocol::ids::Seq;
use syncline_protocol::native::{Channel, Cursor, Resume, ToClient, ToServer};
use syncline_replica::{Decision, PendingLimits, RegisterState, Replica, UpdateOutcome, decide};

use super::world::{Device, Dice, EPOCH};

#[derive(Default)]
pub(super) struct Server {
    pub(super) replica: Replica,
    pub(super) records: Vec<Bytes>,
    pub(super) durable: usize,
    /// (device, number of records that must be durable, the answer)
    pub(super) waiting: Vec<(usize, usize, Bytes)>,
    pub(super) joined: HashMap<usize, Channel>,
    /// Never requests the state vector of a device that has a cursor: a change that the device misses once stays missing.
    pub(super) knows_all_cursors: bool,
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

    pub(super) fn send_durable(&mut self, devices: &mut [Device]) {
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

    pub(super) fn take(&mut self, device: usize, dice: &mut Dice, reliable: bool, devices: &mut [Device]) {
        let Some(frame) = devices[device].to_server.pop_front() else { return };
        let answer = |devices: &mut [Device], message: ToClient<'_>| {
            devices[device].to_client.push_back(message.encode().into());
        };
        match ToServer::decode(&frame).unwrap() {
            ToServer::Open { channel, cursor, wants_state_vector, .. } => {
                assert!(cursor.is_none_or(|cursor| cursor.seq.0 <= self.durable as u64), "a cursor from the future");
                let from = cursor.filter(|_| self.knows_all_cursors || dice.below(2) == 0);
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
                if !reliable && dice.below(6) == 0 {
                    let code = if dice.below(2) == 0 { 4403 } else { 4507 };
                    return answer(devices, ToClient::Refused { channel, batch, code, reason: "no" });
                }
                let update = Bytes::copy_from_slice(update);
                match self.replica.take(&update, &PendingLimits::default()).unwrap() {
                    UpdateOutcome::Known => {}
                    UpdateOutcome::Pending => self.records.push(update),
                    _ => {
                        self.append(&update, Some(device), devices);
                        for released in self.replica.take_released() {
                            self.append(&released, None, devices);
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
