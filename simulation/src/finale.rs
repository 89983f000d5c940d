//! The end of a plan, without further faults. Everything is delivered and synced until the system has settled. Then all
//! replicas must be equal, in memory and on disk, and every promise must have been kept.

use std::collections::BTreeSet;

use syncline_client::Dialect;
use syncline_replica::PendingLimits;

use crate::client::{Client, ClientKind};
use crate::disk::find_marks;
use crate::text::{self, Shape};
use crate::world::{REGISTERS, World, build};

/// The limit of rounds within which a world without faults must settle.
const ROUNDS: usize = 400;
/// Consecutive quiet rounds after which the world is settled.
const QUIET_ROUNDS: usize = 2;

impl World {
    pub(crate) fn finish(&mut self) -> Result<(), String> {
        self.trace_line(|_| "no more faults".into());
        while self.advance_slow_session()? {}
        for client in 0..self.clients.len() {
            // Changes received directly from a peer are sent to the server on the next connect.
            if matches!(&self.clients[client].kind, ClientKind::Stock(page) if page.has_unsent_peer_changes) {
                self.disconnect(client)?;
            }
        }
        self.disk.recover();
        if self.server().log_has_failed() {
            self.restart()?;
        }
        self.restart_outdated_devices()?;
        self.settle()?;
        self.check_convergence("in memory")?;
        self.check_state_after_crash()?;
        self.stop()?;
        self.check_disk_convergence()?;
        self.start()?;
        // Devices must have everything on their disks. Stock clients only have their memory, so they are not restarted.
        for client in 0..self.clients.len() {
            if let ClientKind::Device(_) = self.clients[client].kind {
                self.crash_client(client)?;
            }
        }
        self.check_convergence("after a restart of all devices")?;
        self.newcomers_from = self.clients.len();
        for document in 0..self.names.len() {
            let page = self.new_page(document, Dialect::YWebsocket);
            self.clients.push(Client::stock(page));
        }
        self.settle()?;
        self.check_convergence("with newcomers")
    }

    fn settle(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let moved = self.round()?;
            let is_quiet = !moved && self.unsettled().is_empty();
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet == QUIET_ROUNDS {
                return Ok(());
            }
        }
        Err(format!("IT COMES TO REST: clients are not settled: {}", self.unsettled()))
    }

    fn unsettled(&mut self) -> String {
        let unrest = self.clients.iter().map(|client| client.unsettled(&self.deleted)).enumerate();
        unrest.filter(|(_, unrest)| !unrest.is_empty()).map(|(at, unrest)| format!("client {at}: {unrest}. ")).collect()
    }

    /// Delivers everything in flight. Returns whether there was anything.
    pub(crate) fn round(&mut self) -> Result<bool, String> {
        let mut moved = false;
        for pipe in std::mem::take(&mut self.half_open) {
            pipe.deliver(usize::MAX);
            self.advance(1);
            pipe.disconnect_server();
        }
        let now_ms = self.now_ms;
        for client in 0..self.clients.len() {
            if let ClientKind::Device(device) = &mut self.clients[client].kind {
                device.resume_storage(now_ms);
            }
            self.sync(client, usize::MAX)?;
            // A refused stock client does not reconnect.
            if !matches!(&self.clients[client].kind, ClientKind::Stock(page) if page.refused.is_some()) {
                self.connect(client)?;
            }
            if let ClientKind::Device(device) = &mut self.clients[client].kind {
                device.rebase(now_ms);
            }
            self.process_events(client)?;
            if let Some(socket) = self.clients[client].socket() {
                let pipe = socket.pipe().clone();
                moved |= pipe.deliver(usize::MAX) > 0;
            }
        }
        self.advance(1);
        while self.disk_step()? {
            moved = true;
        }
        self.advance(1);
        for client in 0..self.clients.len() {
            let waiting = self.clients[client].socket().map_or(0, |socket| socket.pipe().bytes_in_flight());
            moved |= waiting > 0;
            self.receive(client, usize::MAX)?;
        }
        self.disk.violation().map_or(Ok(moved), Err)
    }

    fn check_convergence(&mut self, when: &str) -> Result<(), String> {
        for document in 0..self.names.len() {
            let pending = self.permanently_pending(document)?;
            let mut first: Option<String> = None;
            for (at, client) in self.clients.iter().enumerate() {
                if !client.documents(self.names.len()).contains(&document) {
                    continue;
                }
                if self.deleted[document] {
                    self.check_copy_of_deleted(at, document, at >= self.newcomers_from)?;
                    continue;
                }
                let text = client.text(document);
                self.ledgers[document].check_final_text(
                    &format!("client {at} ({}), {when}", client.label()),
                    &text,
                    &pending,
                )?;
                let first = first.get_or_insert_with(|| text.clone());
                if *first != text {
                    return Err(format!("ALL CONVERGE: {when} client {at} has {text}, another client has {first}"));
                }
            }
        }
        Ok(())
    }

    fn check_disk_convergence(&mut self) -> Result<(), String> {
        self.check_deleted_stays_deleted()?;
        for document in (0..self.names.len()).filter(|&document| !self.deleted[document]).collect::<Vec<_>>() {
            let replica = build(self.disk.stored(&self.names[document]).as_ref(), u64::MAX)?;
            let on_disk = replica.read(text::read);
            let pending = self.permanently_pending(document)?;
            self.ledgers[document].check_final_text("the disk", &on_disk, &pending)?;
            for register in REGISTERS {
                let state = replica.read_register(register).map_err(|error| error.to_string())?;
                self.ledgers[document].register(register, state.as_ref())?;
            }
            let mut others =
                self.clients.iter().filter(|client| client.documents(self.names.len()).contains(&document));
            if let Some(other) = others.find(|client| client.text(document) != on_disk) {
                let in_memory = other.text(document);
                return Err(format!("ALL CONVERGE: the disk has {on_disk}, a {} has {in_memory}", other.label()));
            }
        }
        Ok(())
    }

    /// The marks of stored updates that stay pending although every client has sent everything it has.
    fn permanently_pending(&mut self, document: usize) -> Result<BTreeSet<u32>, String> {
        if self.deleted[document] {
            return Ok(BTreeSet::new());
        }
        let mut replica = build(self.disk.stored(&self.names[document]).as_ref(), u64::MAX)?;
        let pending = replica.pending().len();
        if pending == 0 {
            return Ok(BTreeSet::new());
        }
        self.counts.add("documents with permanently pending updates", 1);
        // Clients send nothing that depends on a replaced history, so nothing can be pending for it.
        if self.shape == Shape::Map {
            return Err(format!("ALL CONVERGE: {pending} updates on the disk are pending"));
        }
        for client in &self.clients {
            if client.documents(self.names.len()).contains(&document) {
                replica.take(&client.state(document), &PendingLimits::default()).map_err(|error| error.to_string())?;
            }
        }
        if replica.pending().len() < pending {
            return Err(format!(
                "WHAT IS MISSING IS ASKED FOR: {pending} updates are pending although a client has their dependencies"
            ));
        }
        let mut marks = BTreeSet::new();
        replica.pending().for_each(|update| find_marks(update, &mut marks));
        Ok(marks)
    }
}
