//! The one task that owns a device's documents, its store and its socket.
//!
//! What comes in: commands of handles, the journal's progress, messages of the server. Nothing here waits for the
//! network but the socket's own turn, so editing goes on whatever it does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use syncline_log::{Durable, Log, SledStore, Store, StoreError};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::native::{self, Channel, ToClient, ToServer};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};
use ulid::Ulid;

use super::identity::Identity;
use super::net::{Net, NetEvent};
use super::open::{Open, journal_epoch, read};
use super::{Command, Commands, Counters, DeviceConfig, DeviceError};
use crate::backoff::{Advice, Backoff};
use crate::document::{Document, Event, Stamp};
use crate::socket::Endpoint;
use crate::stock::driver::Connection;

/// Reports of the journal that may wait for the task.
const PROGRESS_QUEUE: usize = 1024;
/// After which a document that the server closed is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

type Progress = (DocumentName, Durable);

pub(super) struct Task {
    pub(super) config: DeviceConfig,
    endpoint: Endpoint,
    id: Ulid,
    pub(super) identity: Identity,
    last_id: u128,
    log: Log,
    inbox: mpsc::Receiver<Command>,
    /// For documents' timers; does not keep the task alive.
    commands: mpsc::WeakSender<Command>,
    progress: mpsc::Receiver<Progress>,
    report_progress: mpsc::Sender<Progress>,
    connection: watch::Sender<Connection>,
    traffic: Arc<Counters>,
    pub(super) documents: HashMap<DocumentName, Open>,
    net: Net,
    online: bool,
    backoff: Backoff,
    next_channel: Channel,
    channels: HashMap<Channel, DocumentName>,
}

async fn open_store(config: &DeviceConfig) -> Result<Arc<dyn Store>, DeviceError> {
    if let Some(store) = &config.store {
        return Ok(Arc::clone(store));
    }
    let directory = config.directory.join("store");
    let opened = tokio::task::spawn_blocking(move || SledStore::open(&directory)).await;
    let store = opened.map_err(|error| StoreError::Io(error.to_string()))??;
    Ok(Arc::new(store))
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
        let (id, identity) = Identity::read_or_make(&config.directory, fresh).map_err(|error| {
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
            connection,
            traffic,
            documents: HashMap::new(),
            net: Net::Off,
            online: !config.offline,
            backoff: Backoff::new(config.backoff),
            next_channel: 0,
            channels: HashMap::new(),
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
                        // Whoever asked may have gone.
                        reply.send(()).ok();
                        return;
                    }
                    None => return self.close().await,
                    Some(command) => self.obey(command).await,
                },
                Some((document, durable)) = self.progress.recv() => self.progressed(&document, durable).await,
                event = self.net.next() => self.net_event(event).await,
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::OpenDocument { document, reply } => drop(reply.send(self.open_document(document).await)),
            Command::CloseDocument { document } => self.close_document(&document).await,
            Command::Documents { reply } => {
                let names = self.log.list().await.map_err(DeviceError::from);
                drop(reply.send(names.map(|names| names.iter().map(|name| name.as_str().to_owned()).collect())));
            }
            Command::Work { document, writes, work, refused } => {
                if writes && let Err(error) = self.store_again().await {
                    drop(refused.send(error));
                    return;
                }
                let (stamp, device) = (self.stamp(), self.id);
                match self.documents.get_mut(&document) {
                    None => drop(refused.send(DeviceError::Closed)),
                    Some(open) => {
                        drop(refused);
                        open.work(work, stamp, device);
                        self.flush(&document).await;
                    }
                }
            }
            Command::Rebase { document } => {
                let channel = self.take_channel(&document);
                let token = self.config.token.clone().unwrap_or_default();
                if let Some(open) = self.documents.get_mut(&document).filter(|_| matches!(self.net, Net::Up(_))) {
                    open.channel = Some(channel);
                    open.core.begin_rebase(channel, document.as_str(), &token, &mut open.out);
                }
                self.flush(&document).await;
            }
            Command::Reopen { document } => self.join(&document).await,
            Command::GoOffline => {
                self.online = false;
                self.disconnected().await;
                self.net.leave().await;
                self.show(Connection::Offline);
            }
            Command::GoOnline => {
                self.online = true;
                if !matches!(self.net, Net::Up(_)) {
                    self.connect();
                }
            }
            Command::SetToken(token) => {
                self.config.token = token;
                self.retry_refused().await;
                if matches!(self.net, Net::Stopped) && self.online {
                    self.connect();
                }
            }
            Command::Close { .. } => {}
        }
    }

    async fn open_document(&mut self, name: DocumentName) -> Result<Document, DeviceError> {
        if !self.documents.contains_key(&name) {
            let stored = self.log.load(&name).await?;
            let (core, problems) = read(stored.as_ref());
            let log = self.log.document(name.clone(), journal_epoch(stored.as_ref()), core.written());
            self.watch(&name, &log);
            self.documents.insert(name.clone(), Open::new(core, self.id, log, problems));
            self.correct_stamps(&name);
            self.join(&name).await;
        }
        let Some(open) = self.documents.get_mut(&name) else { return Err(DeviceError::Closed) };
        let problems = open.take_problems();
        let document = Document {
            name: name.clone(),
            // The handle's own, put in by `Device::document`: the task must not keep itself alive.
            commands: Commands(self.commands.upgrade().ok_or(DeviceError::Closed)?),
            status: open.status.subscribe(),
            events: open.events.clone(),
            report: Arc::clone(&open.report),
        };
        if !problems.is_empty() {
            warn!(document = %name, ?problems, "parts of what this device had stored cannot be read; the rest is here");
            open.out.events.push(Event::Damaged(problems));
        }
        Ok(document)
    }

    /// Lets the journal's progress come in beside commands and messages.
    fn watch(&self, name: &DocumentName, log: &syncline_log::DocumentLog) {
        let (mut watch, name, report) = (log.watch(), name.clone(), self.report_progress.clone());
        tokio::spawn(async move {
            while let Some(durable) = watch.changed().await {
                if report.send((name.clone(), durable)).await.is_err() {
                    return;
                }
            }
        });
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

    async fn progressed(&mut self, name: &DocumentName, durable: Durable) {
        let why = self.log.failed().map(|error| error.to_string());
        let Some(open) = self.documents.get_mut(name) else { return };
        open.stored(durable.upto);
        if durable.failed {
            open.storage_failed(&why.unwrap_or_else(|| "the device's store was closed".into()));
        }
        self.flush(name).await;
    }

    /// After a storage error: opens the store again, and writes everything that is in memory into it.
    async fn store_again(&mut self) -> Result<(), DeviceError> {
        let Some(error) = self.log.failed() else { return Ok(()) };
        debug!(%error, "the device's store failed; opening it again");
        for open in self.documents.values_mut() {
            open.storage_failed(&error.to_string());
        }
        self.log.close().await;
        self.log = Log::start(open_store(&self.config).await?);
        let names: Vec<DocumentName> = self.documents.keys().cloned().collect();
        for name in names {
            let stored = self.log.load(&name).await?;
            let last = stored.as_ref().map_or(syncline_protocol::ids::Seq::ZERO, |stored| stored.last());
            let log = self.log.document(name.clone(), journal_epoch(stored.as_ref()), last);
            self.watch(&name, &log);
            if let Some(open) = self.documents.get_mut(&name) {
                open.storage_is_back(log, last);
            }
            self.correct_stamps(&name);
            self.flush(&name).await;
        }
        Ok(())
    }

    fn connect(&mut self) {
        self.show(Connection::Connecting);
        self.net = Net::connect(&self.endpoint);
    }

    async fn net_event(&mut self, event: NetEvent) {
        match event {
            NetEvent::Connected(Ok(socket)) => {
                self.net = Net::up(socket, self.config.silence);
                self.next_channel = 0;
                self.channels.clear();
                let hello = ToServer::Hello { version: native::VERSION, device: self.id.0 };
                self.send([hello.encode().into()]);
                let names: Vec<DocumentName> = self.documents.keys().cloned().collect();
                for name in names {
                    self.join(&name).await;
                }
                self.show(Connection::Connected);
            }
            NetEvent::Connected(Err(error)) => {
                let denied = matches!(&error, tokio_tungstenite::tungstenite::Error::Http(response)
                    if matches!(response.status().as_u16(), 401 | 403));
                self.lost(&error.to_string(), None, denied).await;
            }
            NetEvent::Ended(reason, code) => self.lost(&reason, code, false).await,
            NetEvent::TryAgain => self.connect(),
            NetEvent::Quiet => {
                self.send([ToServer::Ping.encode().into()]);
                if let Net::Up(up) = &mut self.net {
                    up.socket.queue_ping();
                }
            }
            NetEvent::Message(frame) => {
                self.traffic.received_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
                self.traffic.received_messages.fetch_add(1, Ordering::Relaxed);
                if let Err(reason) = self.message(&frame).await {
                    self.lost(&reason, None, false).await;
                }
            }
        }
    }

    async fn message(&mut self, frame: &Bytes) -> Result<(), String> {
        let message = match ToClient::decode(frame) {
            Ok(message) => message,
            // From a newer server.
            Err(native::MessageError::UnknownType(_)) => return Ok(()),
            Err(error) => return Err(format!("the server sent bytes that are no message: {error}")),
        };
        if let ToClient::Welcome { version, time_ms, max_message_bytes } = message {
            if version != native::VERSION {
                return Err(format!(
                    "the server speaks version {version} of the protocol, this client {}",
                    native::VERSION
                ));
            }
            self.backoff.succeeded();
            self.set_clock(time_ms).await;
            let limit = usize::try_from(max_message_bytes).unwrap_or(usize::MAX);
            for open in self.documents.values_mut() {
                open.core.set_limit(limit);
            }
            return Ok(());
        }
        let Some(channel) = message.channel() else { return Ok(()) };
        let Some(name) = self.channels.get(&channel).cloned() else { return Ok(()) };
        let now_ms = self.now_ms();
        let Some(open) = self.documents.get_mut(&name) else { return Ok(()) };
        let heard = open.core.received(&message, frame.len(), now_ms, &mut open.out);
        let reopen = open.core.wants_reopening();
        if matches!(message, ToClient::Closed { .. }) || reopen {
            open.channel = None;
            self.channels.remove(&channel);
        }
        if reopen {
            self.reopen_later(&name);
        }
        self.flush(&name).await;
        heard.map_err(|error| format!("document {name}: {error}"))
    }

    fn reopen_later(&self, name: &DocumentName) {
        let (commands, document) = (self.commands.clone(), name.clone());
        tokio::spawn(async move {
            tokio::time::sleep(REOPEN_AFTER.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            if let Some(commands) = commands.upgrade() {
                // The device may have been closed meanwhile.
                drop(commands.send(Command::Reopen { document }).await);
            }
        });
    }

    /// Opens the document at the server, if there is a connection and it is not open there.
    async fn join(&mut self, name: &DocumentName) {
        if !matches!(self.net, Net::Up(_)) {
            return self.flush(name).await;
        }
        let (token, now_ms) = (self.config.token.clone().unwrap_or_default(), self.now_ms());
        let channel = self.take_channel(name);
        if let Some(open) = self.documents.get_mut(name)
            && open.core.connected(channel, name.as_str(), &token, now_ms, &mut open.out)
        {
            open.channel = Some(channel);
        } else {
            self.channels.remove(&channel);
        }
        self.flush(name).await;
    }

    fn take_channel(&mut self, name: &DocumentName) -> Channel {
        let channel = self.next_channel;
        self.next_channel += 1;
        self.channels.insert(channel, name.clone());
        channel
    }

    async fn retry_refused(&mut self) {
        let names: Vec<DocumentName> = self.documents.keys().cloned().collect();
        for name in names {
            if let Some(open) = self.documents.get_mut(&name) {
                open.core.retry_refused(&mut open.out);
            }
            self.join(&name).await;
        }
    }

    async fn lost(&mut self, reason: &str, code: Option<u16>, denied: bool) {
        debug!(reason, ?code, "connection lost");
        self.disconnected().await;
        let advice = if denied { Advice::Stop } else { self.backoff.ended(code, rand::random()) };
        match advice {
            Advice::Stop => {
                warn!(reason, "the server will not let this device in");
                self.net = Net::Stopped;
                self.show(Connection::Denied(reason.to_owned()));
            }
            Advice::RetryAfter(wait) => {
                self.net = Net::wait(wait);
                self.show(Connection::Waiting(reason.to_owned()));
            }
        }
    }

    async fn disconnected(&mut self) {
        let now_ms = self.now_ms();
        self.channels.clear();
        let names: Vec<DocumentName> = self.documents.keys().cloned().collect();
        for name in names {
            if let Some(open) = self.documents.get_mut(&name) {
                open.channel = None;
                open.core.disconnected(now_ms, &mut open.out);
                open.out.frames.clear();
            }
            self.flush(&name).await;
        }
    }

    /// Carries out what a document's core wants: journal first, then the socket, then those who watch.
    pub(super) async fn flush(&mut self, name: &DocumentName) {
        let now_ms = self.now_ms();
        let Some(open) = self.documents.get_mut(name) else { return };
        if open.failed {
            // Kept in memory; written when the store is back.
            open.out.writes.clear();
        } else {
            open.write(now_ms).await;
        }
        let frames = std::mem::take(&mut open.out.frames);
        open.publish();
        self.send(frames);
    }

    fn send(&mut self, frames: impl IntoIterator<Item = Bytes>) {
        let Net::Up(up) = &mut self.net else { return };
        let counted = frames.into_iter().inspect(|frame| {
            self.traffic.sent_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
            self.traffic.sent_messages.fetch_add(1, Ordering::Relaxed);
        });
        if up.socket.queue(counted).is_err() {
            // It takes nothing: a new connection starts from what is stored.
            self.net = Net::wait(Duration::ZERO);
        }
    }

    fn now_ms(&self) -> u64 {
        self.config.clock.now_ms().saturating_add_signed(self.identity.clock_offset_ms)
    }

    pub(super) fn stamp(&mut self) -> Stamp {
        let at_ms = self.now_ms();
        // Ids of one device rise, whatever its clock does.
        let drawn = Ulid::from_parts(at_ms, rand::random()).0;
        self.last_id = drawn.max(self.last_id + 1);
        Stamp { id: Ulid(self.last_id), at_ms, device: self.id, author: self.config.author.clone() }
    }

    fn show(&self, connection: Connection) {
        self.connection.send_replace(connection);
    }

    async fn close(&mut self) {
        self.disconnected().await;
        self.net.leave().await;
        self.log.close().await;
        // What the journal said last.
        while let Ok((name, durable)) = self.progress.try_recv() {
            self.progressed(&name, durable).await;
        }
        self.show(Connection::Closed);
    }
}
