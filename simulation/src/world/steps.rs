//! Performs the steps of a plan.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_protocol::close::{Close, may_reconnect};

use super::{REGISTERS, World};
use crate::client::{Client, ClientKind};
use crate::disk::find_marks;
use crate::ledger::{Action, Ledger};
use crate::pipe::Pipe;
use crate::plan::StepKind;
use crate::server::Server;
use crate::socket::Received;
use crate::text;

impl World {
    pub(super) fn perform(&mut self, kind: StepKind) -> Result<(), String> {
        let client = self.rng.usize(..self.clients.len());
        match kind {
            StepKind::Type | StepKind::Delete => return self.edit(client, kind),
            StepKind::Propose => self.propose(client),
            StepKind::Awareness => {
                if let ClientKind::Stock(stock) = &mut self.clients[client].kind {
                    stock.set_awareness(format!("{{\"at\":{}}}", self.step));
                }
            }
            StepKind::PeerSync => return self.sync_from_peer(),
            StepKind::Lease => return self.slow_session_step(),
            StepKind::Calm => return self.calm(),
            StepKind::Deliver => self.deliver(),
            StepKind::Receive => {
                let bytes = [1, 30, 200, 5_000, usize::MAX][self.rng.usize(..5)];
                return self.receive(client, bytes);
            }
            StepKind::Disk => return self.disk_step().map(drop),
            StepKind::Sync => {
                let count = self.rng.usize(1..5);
                return self.sync(client, count);
            }
            StepKind::Connect => return self.connect(client),
            StepKind::Cut => return self.cut(client),
            StepKind::HangUp => {
                if !self.half_open.is_empty() {
                    let at = self.rng.usize(..self.half_open.len());
                    self.half_open.swap_remove(at).disconnect_server();
                    self.trace_line(|_| "the server notices that a connection is closed".into());
                }
            }
            StepKind::Wait => {
                let ms = self.rng.u64(2..80);
                self.trace_line(|_| format!("{ms} ms pass"));
                self.advance(ms);
            }
            StepKind::WaitLong => {
                self.trace_line(|_| "a minute without a byte".into());
                self.advance(61_000);
                self.counts.add("long silences", 1);
            }
            StepKind::ClockJump => self.clients[client].clock_ms = self.rng.i64(-10_000_000..10_000_000),
            StepKind::ClientCrash => return self.crash_client(client),
            StepKind::DeviceDiskFails => return self.device_disk_fails(client),
            StepKind::DiskFails => {
                self.disk.fail_next();
                self.trace_line(|_| "the server's next commit will fail".into());
                self.counts.add("disk errors", 1);
            }
            StepKind::Crash => return self.crash(),
            StepKind::Restart => return self.restart(),
            StepKind::DeleteDocument => return self.delete_document(),
            StepKind::ReplaceHistory => return self.replace_history(),
        }
        Ok(())
    }

    pub(super) fn edit(&mut self, client: usize, kind: StepKind) -> Result<(), String> {
        self.edit_at(client, kind, None)
    }

    /// An edit at the mark with index `place`, or at a random one.
    pub(super) fn edit_at(&mut self, client: usize, kind: StepKind, place: Option<usize>) -> Result<(), String> {
        let documents = self.clients[client].documents(self.names.len());
        let document = self.rng.usize(documents);
        let marks: Vec<u32> = text::marks(&self.clients[client].text(document)).collect();
        let place = place.unwrap_or_else(|| self.rng.usize(..=marks.len()));
        let action = match (kind, marks.get(place)) {
            (StepKind::Delete, Some(&mark)) => Action::Delete(mark),
            (StepKind::Delete, None) => return Ok(()),
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
        self.trace_line(|world| {
            format!("client {client} ({}): {action:?} in {}", world.clients[client].label(), world.names[document])
        });
        self.clients[client].edit(document, id, action, (self.shape, place), now_ms);
        self.counts.add("edits", 1);
        self.process_events(client)
    }

    fn propose(&mut self, client: usize) {
        let (document, id, now_ms) = (self.rng.usize(..self.names.len()), self.next_id(), self.now_ms);
        let register = REGISTERS[self.rng.usize(..REGISTERS.len())];
        if let ClientKind::Device(device) = &mut self.clients[client].kind {
            device.propose(document, id, now_ms, register);
            self.trace_line(|_| format!("client {client} writes register {register}"));
        }
    }

    fn deliver(&mut self) {
        let mut pipes: Vec<Pipe> = self.half_open.clone();
        pipes.extend(self.clients.iter_mut().filter_map(|client| client.socket().map(|socket| socket.pipe().clone())));
        pipes.retain(|pipe| pipe.writes_in_flight() > 0);
        if pipes.is_empty() {
            return;
        }
        // Messages of several connections can race.
        for _ in 0..self.rng.usize(1..=2) {
            let pipe = &pipes[self.rng.usize(..pipes.len())];
            let count = pipe.deliver(self.rng.usize(1..6));
            self.trace_line(|_| format!("{count} messages reach the server"));
        }
    }

    pub(crate) fn receive(&mut self, client: usize, bytes: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        let Some(socket) = self.clients[client].socket() else { return Ok(()) };
        for received in socket.receive(bytes) {
            let frame = match received {
                Received::Frame(frame) => frame,
                Received::End(code) => {
                    let with_code =
                        code.map_or_else(|| "without a code".to_owned(), |code| format!("with code {code}"));
                    self.trace_line(|_| format!("the connection of client {client} ends {with_code}"));
                    self.counts.add("connections ended by the server", 1);
                    self.connection_ended(client, code)?;
                    return self.disconnect(client);
                }
            };
            self.trace_line(|_| format!("client {client} receives {} bytes", frame.len()));
            let mut marks = BTreeSet::new();
            find_marks(&frame, &mut marks);
            for ledger in &mut self.ledgers {
                ledger.relayed(&marks);
            }
            let understood = self.clients[client].received(&frame, now_ms);
            understood.map_err(|error| format!("A CLIENT UNDERSTANDS: client {client}: {error}"))?;
            self.process_events(client)?;
        }
        Ok(())
    }

    /// Lets the server's log perform one step. Returns whether there was anything to do.
    pub(crate) fn disk_step(&mut self) -> Result<bool, String> {
        let Some(did) = self.server().disk_step() else { return Ok(false) };
        self.trace_line(|_| format!("the log {did}"));
        if did == "commits the batch" {
            for (document, ledger) in self.ledgers.iter().enumerate() {
                ledger.acked_is_durable(&self.on_disk(document))?;
            }
            if self.rng.u32(..8) == 0 {
                self.back_up();
            }
        }
        Ok(true)
    }

    pub(crate) fn sync(&mut self, client: usize, count: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        if let ClientKind::Device(device) = &mut self.clients[client].kind {
            device.sync(count, now_ms);
        }
        self.process_events(client)
    }

    fn device_disk_fails(&mut self, client: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        if let ClientKind::Device(device) = &mut self.clients[client].kind {
            device.fail(now_ms);
            self.trace_line(|_| format!("the disk of client {client} fails"));
            self.counts.add("devices' disks failed", 1);
        }
        self.process_events(client)
    }

    pub(crate) fn connect(&mut self, client: usize) -> Result<(), String> {
        let now_ms = self.now_ms;
        if self.clients[client].socket().is_none() {
            let path = match &self.clients[client].kind {
                ClientKind::Stock(stock) => self.names[stock.document].as_str().to_owned(),
                ClientKind::Device(_) => String::new(),
            };
            let socket = self.server().accept(&path);
            self.trace_line(|_| format!("client {client} connects"));
            self.clients[client].connect(socket, now_ms);
        } else if let ClientKind::Device(device) = &mut self.clients[client].kind {
            device.reopen(now_ms);
            if self.rng.bool() {
                device.rebase(now_ms);
            }
        }
        self.process_events(client)
    }

    /// The client notices immediately; what it sent is still in flight.
    fn cut(&mut self, client: usize) -> Result<(), String> {
        if self.clients[client].socket().is_some() {
            self.trace_line(|_| format!("client {client} loses its connection"));
            self.counts.add("connections cut", 1);
        }
        self.disconnect(client)
    }

    /// The server ended the connection. After some close codes the client must not reconnect.
    fn connection_ended(&mut self, client: usize, code: Option<u16>) -> Result<(), String> {
        let ClientKind::Stock(page) = &mut self.clients[client].kind else { return Ok(()) };
        page.refused = code.filter(|&code| !may_reconnect(code));
        match page.refused {
            None => Ok(()),
            Some(code) if code == Close::DocumentDeleted.code() && self.deleted[page.document] => {
                self.counts.add("deletions reported", 1);
                Ok(())
            }
            Some(code) => Err(format!("CORRECT CLIENTS ARE NOT REFUSED: client {client} was closed with {code}")),
        }
    }

    pub(crate) fn disconnect(&mut self, client: usize) -> Result<(), String> {
        if let Some(socket) = self.clients[client].socket() {
            self.half_open.push(socket.pipe().clone());
        }
        self.clients[client].disconnect(self.now_ms);
        self.process_events(client)
    }

    pub(crate) fn crash_client(&mut self, client: usize) -> Result<(), String> {
        self.trace_line(|_| format!("client {client} crashes and starts again"));
        self.counts.add("clients crashed", 1);
        self.process_events(client)?;
        let mut gone = self.clients.remove(client);
        if let Some(socket) = gone.socket() {
            self.half_open.push(socket.pipe().clone());
            socket.pipe().disconnect_client();
        }
        let again = match &gone.kind {
            ClientKind::Stock(stock) => Client::stock(self.new_page(stock.document, stock.dialect)),
            ClientKind::Device(_) => gone.restart(&self.names)?,
        };
        self.clients.insert(client, again);
        self.device_restarted(client);
        Ok(())
    }

    fn crash(&mut self) -> Result<(), String> {
        self.trace_line(|_| "the server crashes".into());
        self.counts.add("server crashes", 1);
        self.add_server_counts();
        self.slow_sessions.clear();
        if let Some(server) = self.server.take() {
            server.crash();
        }
        self.ledgers.iter_mut().for_each(Ledger::server_crashed);
        self.start()
    }

    /// Shuts the server down cleanly and starts it again.
    pub(crate) fn restart(&mut self) -> Result<(), String> {
        self.trace_line(|_| "the server shuts down cleanly and starts again".into());
        self.counts.add("server restarts", 1);
        self.stop()?;
        self.start()
    }

    pub(crate) fn stop(&mut self) -> Result<(), String> {
        self.add_server_counts();
        self.end_slow_sessions();
        let Some(server) = self.server.take() else { return Ok(()) };
        let log = server.log();
        if !server.stop() {
            return Err("A SHUTDOWN ENDS: the server did not stop".into());
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
            self.process_events(client)?;
        }
        self.half_open.clear();
        self.server = Some(Server::start(Arc::clone(&self.disk), self.settings, self.draw.clone()));
        Ok(())
    }

    fn add_server_counts(&mut self) {
        let (resyncs, compactions) = self.server().resyncs_and_compactions();
        self.counts.add("slow readers resynced", resyncs);
        self.counts.add("snapshots", compactions);
    }
}
