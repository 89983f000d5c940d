//! The task that owns a device's documents, its store and its socket.
//!
//! Its inputs are commands from handles, the journal's progress, and events of the connection. No command waits for the
//! network, so edits do not depend on it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use syncline_log::{Durable, Log, StoreError};
use syncline_protocol::ids::{DocumentName, Seq};
use syncline_protocol::native::{Channel, ToServer};
use syncline_protocol::varint::MAX_SAFE_INTEGER;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};
use ulid::Ulid;

use super::identity::Identity;
use super::net::Net;
use super::open::{Open, journal_epoch, read};
use super::storage::{REOPEN_STORE, open_store};
use super::{Change, Command, Commands, Counters, DeviceConfig, DeviceError};
use crate::backoff::Backoff;
use crate::document::{Document, EditStamp};
use crate::socket::Endpoint;
use crate::stock::driver::Connection;

/// Capacity of the queue of journal progress reports.
const PROGRESS_QUEUE: usize = 1024;

/// Document, number of its journal, and what is durable.
type Progress = (DocumentName, u64, Durable);

pub(super) struct Task {
    pub(super) config: DeviceConfig,
    pub(super) endpoint: Endpoint,
    pub(super) id: Ulid,
    pub(super) identity: Identity,
    pub(super) last_id: u128,
    pub(super) log: Log,
    pub(super) inbox: mpsc::Receiver<Command>,
    /// For timers; weak, so that it does not keep the task alive.
    pub(super) commands: mpsc::WeakSender<Command>,
    pub(super) progress: mpsc::Receiver<Progress>,
    pub(super) report_progress: mpsc::Sender<Progress>,
    /// Delays before the store is opened again after a failure.
    pub(super) store_backoff: Backoff,
    /// True while a retry is scheduled.
    pub(super) store_retry: bool,
    /// Number of journals started; distinguishes reports of an earlier journal of a document from the current one.
    journals: u64,
    pub(super) connection: watch::Sender<Connection>,
    pub(super) traffic: Arc<Counters>,
    pub(super) documents: HashMap<DocumentName, Open>,
    pub(super) net: Net,
    pub(super) online: bool,
    pub(super) backoff: Backoff,
    pub(super) next_channel: Channel,
    pub(super) channels: HashMap<Channel, DocumentName>,
    /// Size limit of messages to the server, from its `Welcome`.
    pub(super) server_limit: Option<usize>,
}

impl Task {
    pub(super) async fn open(
        config: DeviceConfig,
        inbox: mpsc::Receiver<Command>,
        commands: mpsc::WeakSender<Command>,
        connection: watch::Sender<Connection>,
        traffic: Arc<Counters>,
    ) -> Result<Self, DeviceError> {
        let endpoint = Endpoint::new(&config.url, config.max_message_bytes, config.connect_timeout)
            .map_err(|reason| DeviceError::BadUrl { url: config.url.clone(), reason })?;
        let fresh = Ulid::from_parts(config.clock.now_ms(), rand::random());
        let (id, identity) = Identity::read_or_create(&config.directory, fresh).map_err(|error| {
            DeviceError::Directory { directory: config.directory.clone(), reason: error.to_string() }
        })?;
        let log = Log::start(open_store(&config).await?);
        let (report_progress, progress) = mpsc::channel(PROGRESS_QUEUE);
        Ok(Self {
            endpoint,
            id,
            identity,
            last_id: 0,
            log,
            inbox,
            commands,
            progress,
            report_progress,
            store_backoff: Backoff::new(REOPEN_STORE),
            store_retry: false,
            journals: 0,
            connection,
            traffic,
            documents: HashMap::new(),
            net: Net::Off,
            online: !config.offline,
            backoff: Backoff::new(config.backoff),
            next_channel: 0,
            channels: HashMap::new(),
            server_limit: None,
            config,
        })
    }

    pub(super) fn id(&self) -> Ulid {
        self.id
    }

    pub(super) async fn run(mut self) {
        if self.online {
            self.connect();
        }
        loop {
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(Command::Close { reply }) => {
                        self.close().await;
                        // The caller may have been cancelled.
                        reply.send(()).ok();
                        return;
                    }
                    None => return self.close().await,
                    Some(command) => self.handle_command(command).await,
                },
                Some((document, journal, durable)) = self.progress.recv() => {
                    self.progressed(&document, journal, durable).await;
                }
                event = self.net.next() => self.net_event(event).await,
            }
        }
    }

    async fn handle_command(&mut self, command: Command) {
        match command {
            Command::OpenDocument { document, reply } => drop(reply.send(self.open_document(document).await)),
            Command::CloseDocument { document } => self.close_document(&document).await,
            Command::Documents { reply } => {
                let names = self.log.list().await.map_err(DeviceError::from);
                drop(reply.send(names.map(|names| names.iter().map(|name| name.as_str().to_owned()).collect())));
            }
            Command::Work { document, writes, work, refused } => {
                if writes && let Err(error) = self.reopen_store().await {
                    drop(refused.send(error));
                    return;
                }
                let (stamp, device) = (self.stamp_for(&document), self.id);
                match self.documents.get_mut(&document) {
                    None => drop(refused.send(DeviceError::Closed)),
                    Some(open) => {
                        drop(refused);
                        open.work(work, stamp, device);
                        self.flush(&document).await;
                    }
                }
            }
            Command::ReopenStore => {
                self.store_retry = false;
                if let Err(error) = self.reopen_store().await {
                    debug!(%error, "the device's store cannot be opened yet; retrying later");
                    self.reopen_store_later();
                }
            }
            Command::Rebase { document, reply } => self.rebase(&document, reply).await,
            Command::Reopen { document } => self.join(&document).await,
            Command::Device { change, done } => {
                self.change(change).await;
                // The caller may have been cancelled.
                done.send(()).ok();
            }
            Command::Close { .. } => {}
        }
    }

    async fn change(&mut self, change: Change) {
        match change {
            Change::GoOffline => {
                self.online = false;
                self.disconnected().await;
                self.net.leave().await;
                self.show(Connection::Offline);
            }
            Change::GoOnline => {
                self.online = true;
                if !matches!(self.net, Net::Up(_) | Net::GivenUp(_)) {
                    self.connect();
                }
            }
            Change::SetToken(token) => {
                self.config.token = token;
                self.retry_refused().await;
                if matches!(self.net, Net::Stopped) && self.online {
                    self.connect();
                }
            }
        }
    }

    async fn open_document(&mut self, name: DocumentName) -> Result<Document, DeviceError> {
        if !self.documents.contains_key(&name) {
            let mut open = self.read_document(&name).await?;
            open.journal = self.watch(&name, &open.log);
            self.last_id = self.last_id.max(open.core.newest_id());
            open.core.set_clock(self.identity.clock_offset_ms);
            self.documents.insert(name.clone(), open);
            self.flush(&name).await;
            self.join(&name).await;
        }
        let Some(open) = self.documents.get_mut(&name) else { return Err(DeviceError::Closed) };
        let problems = open.take_problems();
        if !problems.is_empty() {
            warn!(document = %name, ?problems, "the document's journal is damaged; recovered the readable parts");
        }
        let document = Document {
            name: name.clone(),
            // Replaced by the handle's own sender in `Device::document`: the task must not keep itself alive.
            commands: Commands(self.commands.upgrade().ok_or(DeviceError::Closed)?),
            status: open.status.subscribe(),
            events: open.events.clone(),
            report: Arc::clone(&open.report),
            problems,
        };
        Ok(document)
    }

    /// Loads a document from its journal; recovers the readable parts of a damaged journal.
    async fn read_document(&mut self, name: &DocumentName) -> Result<Open, DeviceError> {
        let stored = match self.log.load(name).await {
            Err(StoreError::Damaged { .. }) => return self.salvage(name).await,
            loaded => loaded?,
        };
        let (core, problems) = read(stored.as_ref());
        let log = self.log.document(name.clone(), journal_epoch(stored.as_ref()), core.written());
        Ok(Open::new(core, self.id, log, problems))
    }

    async fn salvage(&mut self, name: &DocumentName) -> Result<Open, DeviceError> {
        let salvaged = self.log.salvage(name).await?;
        let (mut core, more) = read(salvaged.stored.as_ref());
        // Remote changes may be missing. A sync by state vector restores them.
        core.forget_cursor();
        self.log.delete(name).await?;
        let log = self.log.document(name.clone(), journal_epoch(None), Seq::ZERO);
        let problems = salvaged.lost.into_iter().chain(more).collect();
        let mut open = Open::new(core, self.id, log, problems);
        open.rewrite(Seq::ZERO);
        Ok(open)
    }

    /// Forwards the journal's progress to the task. Returns the journal's number.
    pub(super) fn watch(&mut self, name: &DocumentName, log: &syncline_log::DocumentLog) -> u64 {
        self.journals += 1;
        let journal = self.journals;
        let (mut watch, name, report) = (log.watch(), name.clone(), self.report_progress.clone());
        // The store may have failed already, which the watcher does not report as a change.
        let initial = log.durable();
        tokio::spawn(async move {
            if initial.failed && report.send((name.clone(), journal, initial)).await.is_err() {
                return;
            }
            while let Some(durable) = watch.changed().await {
                if report.send((name.clone(), journal, durable)).await.is_err() {
                    return;
                }
            }
        });
        journal
    }

    async fn close_document(&mut self, name: &DocumentName) {
        let now_ms = self.now_ms();
        let Some(mut open) = self.documents.remove(name) else { return };
        open.core.disconnected(now_ms, &mut open.out);
        open.write(now_ms).await;
        open.publish();
        if let Some(channel) = open.channel {
            self.channels.remove(&channel);
            self.send([ToServer::Leave { channel }.encode().into()]);
        }
    }

    async fn progressed(&mut self, name: &DocumentName, journal: u64, durable: Durable) {
        let failure = self.log.failed().map(|error| error.to_string());
        let Some(open) = self.documents.get_mut(name).filter(|open| open.journal == journal) else { return };
        open.stored(durable.upto);
        if durable.failed {
            open.storage_failed(&failure.unwrap_or_else(|| "the device's store was closed".into()));
            self.reopen_store_later();
        } else {
            self.store_backoff.succeeded();
        }
        self.flush(name).await;
    }

    /// Carries out the outputs of a document's core: journal first, then socket, then subscribers.
    pub(super) async fn flush(&mut self, name: &DocumentName) {
        let now_ms = self.now_ms();
        let Some(open) = self.documents.get_mut(name) else { return };
        if open.failed {
            // Kept in memory, and written when the store works again.
            open.out.writes.clear();
        } else {
            open.write(now_ms).await;
        }
        let frames = std::mem::take(&mut open.out.frames);
        open.publish();
        self.send(frames);
    }

    pub(super) fn send(&mut self, frames: impl IntoIterator<Item = Bytes>) {
        let Net::Up(up) = &mut self.net else { return };
        let counted = frames.into_iter().inspect(|frame| {
            self.traffic.sent_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
            self.traffic.sent_messages.fetch_add(1, Ordering::Relaxed);
        });
        if up.socket.queue(counted).is_err() {
            // The socket's queue is full: drop the connection; the next one sends from the journal's state.
            self.net = Net::GivenUp("the server does not read; too many bytes are queued".into());
        }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_by(self.identity.clock_offset_ms)
    }

    fn now_by(&self, offset_ms: i64) -> u64 {
        // The journal encodes numbers up to this. Clocks and servers may report any time.
        self.config.clock.now_ms().saturating_add_signed(offset_ms).min(MAX_SAFE_INTEGER)
    }

    pub(super) fn stamp(&mut self) -> EditStamp {
        self.stamp_at(self.now_ms())
    }

    /// Returns the stamp for an entry of this document's queue.
    fn stamp_for(&mut self, name: &DocumentName) -> EditStamp {
        let offset_ms = self.documents.get(name).map(|open| open.core.stamping_offset_ms());
        self.stamp_at(self.now_by(offset_ms.unwrap_or(self.identity.clock_offset_ms)))
    }

    fn stamp_at(&mut self, at_ms: u64) -> EditStamp {
        // Ids of one device are increasing, even if its clock is set back.
        let drawn = Ulid::from_parts(at_ms, rand::random()).0;
        self.last_id = drawn.max(self.last_id + 1);
        EditStamp { id: Ulid(self.last_id), at_ms, device: self.id, author: self.config.author.clone() }
    }

    pub(super) fn show(&self, connection: Connection) {
        self.connection.send_replace(connection);
    }

    async fn close(&mut self) {
        self.disconnected().await;
        self.net.leave().await;
        self.log.close().await;
        // The journal's last reports.
        while let Ok((name, journal, durable)) = self.progress.try_recv() {
            self.progressed(&name, journal, durable).await;
        }
        self.show(Connection::Closed);
    }
}
