//! The end of a plan: no more faults. Everything is delivered and synced until nothing moves any more; then all have the
//! same, in memory and on disk, and every promise was kept.

use std::collections::BTreeSet;

use syncline_client::Dialect;
use syncline_replica::HeldLimits;

use crate::client::{Client, Sort};
use crate::disk::find_marks;
use crate::text::{self, Shape};
use crate::world::{REGISTERS, World, build};

/// Rounds in which a world without faults must come to rest.
const ROUNDS: usize = 400;
/// Rounds without unrest that count as rest.
const QUIET_ROUNDS: usize = 2;

impl World {
    pub(crate) fn finale(&mut self) -> Result<(), String> {
        self.note(|_| "no more faults".into());
        while self.use_lease()? {}
        for client in 0..self.clients.len() {
            // What came past the server goes to it with the next connection.
            if matches!(&self.clients[client].sort, Sort::Stock(page) if page.heard_aside) {
                self.lose(client)?;
            }
        }
        self.disk.recover();
        if self.server().log_has_failed() {
            self.restart()?;
        }
        self.ask_anew()?;
        self.come_to_rest()?;
        self.all_have_the_same("in memory")?;
        self.crashed_now_all_is_kept()?;
        self.stop()?;
        self.the_disk_has_the_same()?;
        self.start()?;
        // As their own disks tell it: devices start again. Stock clients' memory is their only copy.
        for client in 0..self.clients.len() {
            if let Sort::Device(_) = self.clients[client].sort {
                self.crash_client(client)?;
            }
        }
        self.all_have_the_same("after a restart of everyone")?;
        self.newcomers_from = self.clients.len();
        for document in 0..self.names.len() {
            let page = self.new_page(document, Dialect::YWebsocket);
            self.clients.push(Client::stock(page));
        }
        self.come_to_rest()?;
        self.all_have_the_same("with newcomers")
    }

    fn come_to_rest(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let moved = self.round()?;
            let is_quiet = !moved && self.unrest().is_empty();
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet == QUIET_ROUNDS {
                return Ok(());
            }
        }
        Err(format!("IT COMES TO REST: it does not: {}", self.unrest()))
    }

    fn unrest(&mut self) -> String {
        let unrest = self.clients.iter().map(|client| client.unrest(&self.deleted)).enumerate();
        unrest.filter(|(_, unrest)| !unrest.is_empty()).map(|(at, unrest)| format!("client {at}: {unrest}. ")).collect()
    }

    /// Everything that is on its way arrives. Returns whether something was.
    pub(crate) fn round(&mut self) -> Result<bool, String> {
        let mut moved = false;
        for pipe in std::mem::take(&mut self.left_behind) {
            pipe.deliver(usize::MAX);
            self.pass(1);
            pipe.hang_up();
        }
        let now_ms = self.now_ms;
        for client in 0..self.clients.len() {
            if let Sort::Device(device) = &mut self.clients[client].sort {
                device.store_again(now_ms);
            }
            self.sync(client, usize::MAX)?;
            // A stock client that is refused stays away.
            if !matches!(&self.clients[client].sort, Sort::Stock(page) if page.refused.is_some()) {
                self.connect(client)?;
            }
            if let Sort::Device(device) = &mut self.clients[client].sort {
                device.rebase(now_ms);
            }
            self.hear(client)?;
            if let Some(socket) = self.clients[client].socket() {
                let pipe = socket.pipe().clone();
                moved |= pipe.deliver(usize::MAX) > 0;
            }
        }
        self.pass(1);
        while self.disk_step()? {
            moved = true;
        }
        self.pass(1);
        for client in 0..self.clients.len() {
            let waiting = self.clients[client].socket().map_or(0, |socket| socket.pipe().waiting_for_client());
            moved |= waiting > 0;
            self.receive(client, usize::MAX)?;
        }
        self.disk.violation().map_or(Ok(moved), Err)
    }

    fn all_have_the_same(&mut self, when: &str) -> Result<(), String> {
        for document in 0..self.names.len() {
            let waiting = self.waits_for_ever(document)?;
            let mut first: Option<String> = None;
            for (at, client) in self.clients.iter().enumerate() {
                if !client.documents(self.names.len()).contains(&document) {
                    continue;
                }
                if self.deleted[document] {
                    self.keeps_what_it_has(at, document, at >= self.newcomers_from)?;
                    continue;
                }
                let text = client.text(document);
                self.ledgers[document].end(&format!("client {at} ({}), {when}", client.kind()), &text, &waiting)?;
                let first = first.get_or_insert_with(|| text.clone());
                if *first != text {
                    return Err(format!("ALL CONVERGE: {when} client {at} has {text}, another {first}"));
                }
            }
        }
        Ok(())
    }

    fn the_disk_has_the_same(&mut self) -> Result<(), String> {
        self.deleted_stays_deleted()?;
        for document in (0..self.names.len()).filter(|&document| !self.deleted[document]).collect::<Vec<_>>() {
            let replica = build(self.disk.stored(&self.names[document]).as_ref(), u64::MAX)?;
            let there = replica.read(text::read);
            let waiting = self.waits_for_ever(document)?;
            self.ledgers[document].end("the disk", &there, &waiting)?;
            for register in REGISTERS {
                let state = replica.read_register(register).map_err(|error| error.to_string())?;
                self.ledgers[document].register(register, state.as_ref())?;
            }
            let mut others =
                self.clients.iter().filter(|client| client.documents(self.names.len()).contains(&document));
            if let Some(other) = others.find(|client| client.text(document) != there) {
                let here = other.text(document);
                return Err(format!("ALL CONVERGE: the disk has {there}, a {} {here}", other.kind()));
            }
        }
        Ok(())
    }

    /// The marks of updates that wait for others on the disk. By now all that anybody has was brought.
    fn waits_for_ever(&mut self, document: usize) -> Result<BTreeSet<u32>, String> {
        if self.deleted[document] {
            return Ok(BTreeSet::new());
        }
        let mut replica = build(self.disk.stored(&self.names[document]).as_ref(), u64::MAX)?;
        let held = replica.held().len();
        if held == 0 {
            return Ok(BTreeSet::new());
        }
        self.counts.add("documents with updates that wait for ever", 1);
        // After another history nothing of the one before is brought, so nothing waits for it.
        if self.shape == Shape::Map {
            return Err(format!("ALL CONVERGE: on the disk {held} updates wait for others"));
        }
        for client in &self.clients {
            if client.documents(self.names.len()).contains(&document) {
                replica.take(&client.state(document), &HeldLimits::default()).map_err(|error| error.to_string())?;
            }
        }
        if replica.held().len() < held {
            return Err(format!("WHAT IS MISSING IS ASKED FOR: {held} updates wait for what a client has"));
        }
        let mut marks = BTreeSet::new();
        replica.held().for_each(|update| find_marks(update, &mut marks));
        Ok(marks)
    }
}
