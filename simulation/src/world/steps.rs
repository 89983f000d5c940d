//! What happens, kind by kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_protocol::close::{Close, may_reconnect};

use super::{REGISTERS, World};
use crate::client::{Client, Sort};
use crate::disk::find_marks;
use crate::ledger::{Action, Ledger};
use crate::pipe::Pipe;
use crate::plan::Kind;
use crate::server::Server;
use crate::socket::Received;
use crate::text;

impl World {
    pub(super) fn happen(&mut self, kind: Kind) -> Result<(), String> {
        let client = self.dice.usize(..self.clients.len());
        match kind {
            Kind::Type | Kind::Delete => return self.edit(client, kind),
            Kind::Propose => self.propose(client),
            Kind::Presence => {
                if let Sort::Stock(stock) = &mut self.clients[client].sort {
                    stock.set_presence(format!("{{\"at\":{}}}", self.step));
                }
            }
            Kind::Aside => return self.hear_aside(),
            Kind::Lease => return self.lease(),
            Kind::Calm => return self.calm(),
            Kind::Deliver => self.deliver(),
            Kind::Receive => {
                let bytes = [1, 30, 200, 5_000, usize::MAX][self.dice.usize(..5)];
                return self.receive(client, bytes);
            }
            Kind::Disk => return self.disk_step().map(drop),
            Kind::Sync => {
                let count = self.dice.usize(1..5);
                return self.sync(client, count);
            }
            Kind::Connect => return self.connect(client),
            Kind::Cut => return self.cut(client),
            Kind::HangUp => {
                if !self.left_behind.is_empty() {
                    let at = self.dice.usize(..self.left_behind.len());
                    self.left_behind.swap_remove(at).hang_up();
                    self.note(|_| "the server learns that a connection is gone".into());
                }
            }
            Kind::Wait => {
                let ms = self.dice.u64(2..80);
                self.note(|_| format!("{ms} ms pass"));
                self.pass(ms);
            }
            Kind::WaitLong => {
                self.note(|_| "a minute without a byte".into());
                self.pass(61_000);
                self.counts.add("long silences", 1);
            }
            Kind::ClockJump => self.clients[client].clock_ms = self.dice.i64(-10_000_000..10_000_000),
            Kind::ClientCrash => return self.crash_client(client),
            Kind::DeviceDiskFails => return self.device_disk_fails(client),
            Kind::DiskFails => {
                self.disk.fail_next();
                self.note(|_| "the server's next commit will fail".into());
                self.counts.add("disk errors", 1);
            }
            Kind::Crash => return self.crash(),
            Kind::Restart => return self.restart(),
            Kind::DeleteDocument => return self.delete_document(),
            Kind::OtherHistory => return self.other_history(),
        }
        Ok(())
    }

    pub(super) fn edit(&mut self, client: usize, kind: Kind) -> Result<(), String> {
        self.edit_at(client, kind, None)
    }

    /// An edit at the mark in this place, or anywhere.
    pub(super) fn edit_at(&mut self, client: usize, kind: Kind, place: Option<usize>) -> Result<(), String> {
        let documents = self.clients[client].documents(self.names.len());
        let document = self.dice.usize(documents);
        let there: Vec<u32> = text::marks(&self.clients[client].text(document)).collect();
        let place = place.unwrap_or_else(|| self.dice.usize(..=there.len()));
        let action = match (kind, there.get(place)) {
            (Kind::Delete, Some(&mark)) => Action::Delete(mark),
            (Kind::Delete, None) => return Ok(()),
            _ => Action::Insert(self.next_mark()),
        };
        let ledger = &mut self.ledgers[document];
        match action {
            Action::Insert(mark) => {
                ledger.typed.insert(mark);
            }
            Action::Delete(mark) => {
                ledger.deleted.insert(mark);
            }
        }
        let (id, now_ms) = (self.next_id(), self.now_ms);
        self.note(|world| {
            format!("client {client} ({}): {action:?} in {}", world.clients[client].kind(), world.names[document])
        });
        self.clients[client].edit(document, id, action, (self.shape, place), now_ms);
        self.counts.add("edits", 1);
        self.hear(client)
    }

    fn propose(&mut self, client: usize) {
        let (document, id, now_ms) = (self.dice.usize(..self.names.len()), self.next_id(), self.now_ms);
        let register = REGISTERS[self.dice.usize(..REGISTERS.len())];
        if let Sort::Device(device) = &mut self.clients[client].sort {
            device.propose(document, id, now_ms, register);
            self.note(|_| format!("client {client} writes register {register}"));
        }
    }

    fn deliver(&mut self) {
        let mut pipes: Vec<Pipe> = self.left_behind.clone();
        pipes.extend(self.clients.iter_mut().filter_map(|client| client.socket().map(|socket| socket.pipe().clone())));
        pipes.retain(|pipe| pipe.waiting_for_server() > 0);
        if pipes.is_empty() {
            return;
        }
        // One connection, or several at once: their messages race.
        for _ in 0..self.dice.usize(1..=2) {
            let pipe = &pipes[self.dice.usize(..pipes.len())];
            let count = pipe.deliver(self.dice.usize(1..6));
            self.note(|_| format!("{count} messages reach the server"));
        }
    }

    pub(crate) fn receive(&mut self, client: usize, bytes: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        let Some(socket) = self.clients[client].socket() else { return Ok(()) };
        for received in socket.receive(bytes) {
            let frame = match received {
                Received::Frame(frame) => frame,
                Received::End(code) => {
                    self.note(|_| format!("the connection of client {client} ends, code {code:?}"));
                    self.counts.add("connections ended by the server", 1);
                    self.ended(client, code)?;
                    return self.lose(client);
                }
            };
            self.note(|_| format!("client {client} receives {} bytes", frame.len()));
            let mut marks = BTreeSet::new();
            find_marks(&frame, &mut marks);
            for ledger in &mut self.ledgers {
                ledger.relayed(&marks);
            }
            let understood = self.clients[client].received(&frame, now_ms);
            understood.map_err(|error| format!("A CLIENT UNDERSTANDS: client {client}: {error}"))?;
            self.hear(client)?;
        }
        Ok(())
    }

    /// Returns whether there was anything to do.
    pub(crate) fn disk_step(&mut self) -> Result<bool, String> {
        let Some(did) = self.server().disk_step() else { return Ok(false) };
        self.note(|_| format!("the disk {did}"));
        if did == "commits it" {
            for (document, ledger) in self.ledgers.iter().enumerate() {
                ledger.acked_is_durable(&self.on_disk(document))?;
            }
            if self.dice.u32(..8) == 0 {
                self.back_up();
            }
        }
        Ok(true)
    }

    pub(crate) fn sync(&mut self, client: usize, count: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        if let Sort::Device(device) = &mut self.clients[client].sort {
            device.sync(count, now_ms);
        }
        self.hear(client)
    }

    fn device_disk_fails(&mut self, client: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        if let Sort::Device(device) = &mut self.clients[client].sort {
            device.fail(now_ms);
            self.note(|_| format!("the disk of client {client} fails"));
            self.counts.add("devices' disks failed", 1);
        }
        self.hear(client)
    }

    pub(crate) fn connect(&mut self, client: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        if self.clients[client].socket().is_none() {
            let path = match &self.clients[client].sort {
                Sort::Stock(stock) => self.names[stock.document].as_str().to_owned(),
                Sort::Device(_) => String::new(),
            };
            let socket = self.server().accept(&path);
            self.note(|_| format!("client {client} connects"));
            self.clients[client].connect(socket, now_ms);
        } else if let Sort::Device(device) = &mut self.clients[client].sort {
            device.reopen(now_ms);
            if self.dice.bool() {
                device.rebase(now_ms);
            }
        }
        self.hear(client)
    }

    /// The client knows at once; what it sent is still on its way.
    fn cut(&mut self, client: usize) -> Result<(), String> {
        if self.clients[client].socket().is_some() {
            self.note(|_| format!("client {client} loses its connection"));
            self.counts.add("connections cut", 1);
        }
        self.lose(client)
    }

    /// The server ended the connection; some codes are for good.
    fn ended(&mut self, client: usize, code: Option<u16>) -> Result<(), String> {
        let Sort::Stock(page) = &mut self.clients[client].sort else { return Ok(()) };
        page.refused = code.filter(|&code| !may_reconnect(code));
        match page.refused {
            None => Ok(()),
            Some(code) if code == Close::DocumentDeleted.code() && self.deleted[page.document] => {
                self.counts.add("told of a deletion", 1);
                Ok(())
            }
            Some(code) => Err(format!("A GOOD CLIENT STAYS: client {client} was refused with {code}")),
        }
    }

    pub(crate) fn lose(&mut self, client: usize) -> Result<(), String> {
        if let Some(socket) = self.clients[client].socket() {
            self.left_behind.push(socket.pipe().clone());
        }
        self.clients[client].disconnect(self.now_ms);
        self.hear(client)
    }

    pub(crate) fn crash_client(&mut self, client: usize) -> Result<(), String> {
        self.note(|_| format!("client {client} crashes and starts again"));
        self.counts.add("clients crashed", 1);
        self.hear(client)?;
        let mut gone = self.clients.remove(client);
        if let Some(socket) = gone.socket() {
            self.left_behind.push(socket.pipe().clone());
            socket.pipe().client_leaves();
        }
        let again = match &gone.sort {
            Sort::Stock(stock) => Client::stock(self.new_page(stock.document, stock.dialect)),
            Sort::Device(_) => gone.restart(&self.names)?,
        };
        self.clients.insert(client, again);
        self.started_again(client);
        Ok(())
    }

    fn crash(&mut self) -> Result<(), String> {
        self.note(|_| "the server crashes".into());
        self.counts.add("server crashes", 1);
        self.count_server();
        self.leases.clear();
        if let Some(server) = self.server.take() {
            server.crash();
        }
        self.ledgers.iter_mut().for_each(Ledger::server_crashed);
        self.start()
    }

    /// Stops the server in order and starts it again.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        self.note(|_| "the server stops in order and starts again".into());
        self.counts.add("server restarts", 1);
        self.stop()?;
        self.start()
    }

    pub(crate) fn stop(&mut self) -> Result<(), String> {
        self.count_server();
        self.drop_leases();
        let Some(server) = self.server.take() else { return Ok(()) };
        let log = server.log();
        if !server.stop() {
            return Err("A STOP ENDS: the server did not stop".into());
        }
        if log.failed().is_some() {
            self.ledgers.iter_mut().for_each(Ledger::server_crashed);
        }
        for (document, ledger) in self.ledgers.iter().enumerate() {
            let on_disk = self.on_disk(document);
            ledger.acked_is_durable(&on_disk)?;
            ledger.retired(&on_disk)?;
        }
        self.disk.violation().map_or(Ok(()), Err)
    }

    pub(crate) fn start(&mut self) -> Result<(), String> {
        self.disk.recover();
        for client in 0..self.clients.len() {
            self.clients[client].disconnect(self.now_ms);
            self.hear(client)?;
        }
        self.left_behind.clear();
        self.server = Some(Server::start(Arc::clone(&self.disk), self.settings, self.draw.clone()));
        Ok(())
    }

    fn count_server(&mut self) {
        let (resyncs, compactions) = self.server().counted();
        self.counts.add("slow readers brought up to date", resyncs);
        self.counts.add("snapshots", compactions);
    }
}
