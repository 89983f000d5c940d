//! A device of a scenario. Every call to the client's device API is in this file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use syncline_client::backoff::BackoffConfig;
use syncline_client::types::clock::Hlc;
use syncline_client::types::value::Value;
use syncline_client::yrs::TransactionMut;
use syncline_client::{Device, DeviceConfig, Document, DocumentStatus, Event, Events, Ulid, WallClock};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::clock::VirtualClock;
use super::store::{LimitedStore, Space};
use crate::faults::oracle::chain::{Decision, Register};
use crate::faults::oracle::{Edit, EditContext, EditKind, Id, Outcome, View};

/// Reconnect delays of a device; short, because everything runs on one machine.
const BACKOFF: BackoffConfig = BackoffConfig { first: Duration::from_millis(5), max: Duration::from_millis(60) };
/// A connection attempt fails after this time.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// A connection is considered dead when the server sends nothing for this long.
const SILENCE: Duration = Duration::from_millis(400);
/// Longest wait for the store lock of a killed app.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(2);
/// Name of the register that every document has.
const REGISTER: &str = "register";

/// A device. Everything but `running` survives when its app is killed.
pub(crate) struct Actor {
    /// Number of the device in the scenario.
    pub number: u32,
    directory: PathBuf,
    url: String,
    clock: VirtualClock,
    /// The device's disk, when it can become full.
    space: Option<Space>,
    documents: Vec<String>,
    notes: Arc<Mutex<DeviceNotes>>,
    running: Option<RunningApp>,
}

/// The state of a running app.
struct RunningApp {
    device: Device,
    documents: BTreeMap<String, Document>,
    clock: Arc<Mutex<Hlc>>,
}

/// What a device's document events reported, over all runs of its app.
#[derive(Debug, Default)]
pub(crate) struct DeviceNotes {
    /// Decisions about the device's own proposals, by document.
    pub decisions: BTreeMap<String, Vec<Decision>>,
    /// Events that must not occur in a scenario.
    pub alarms: Vec<String>,
    /// Entries sent by syncs; an entry that was sent twice counts twice.
    pub sent_entries: u64,
}

impl WallClock for VirtualClock {
    fn now_ms(&self) -> u64 {
        self.tick_ms()
    }
}

impl Actor {
    /// Creates a device whose app has never run.
    pub(crate) fn new(
        number: u32,
        directory: PathBuf,
        url: String,
        clock: VirtualClock,
        space: Option<Space>,
        documents: Vec<String>,
    ) -> Self {
        Self { number, directory, url, clock, space, documents, notes: Arc::default(), running: None }
    }

    /// Whether the app is running.
    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Directory of the device's store.
    pub(crate) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// Starts the app.
    pub(crate) async fn open(&mut self, offline: bool) -> Result<()> {
        let begin = Instant::now();
        let device = loop {
            match self.open_once(offline).await {
                Ok(device) => break device,
                // The threads of the killed app still hold the lock.
                Err(error) if begin.elapsed() < LOCK_LIMIT && in_use(&error) => sleep(LOCK_RETRY).await,
                Err(error) => return Err(error).with_context(|| format!("device {} cannot be opened", self.number)),
            }
        };
        let mut documents = BTreeMap::new();
        for name in &self.documents {
            let document = device.document(name).await;
            let mut document = document.with_context(|| format!("document {name} cannot be opened"))?;
            let problems =
                document.take_problems().into_iter().map(|what| format!("the store of {name} is damaged: {what}"));
            self.notes.lock().unwrap_or_else(PoisonError::into_inner).alarms.extend(problems);
            tokio::spawn(record_events(name.clone(), document.events(), Arc::clone(&self.notes)));
            documents.insert(name.clone(), document);
        }
        let clock = Arc::new(Mutex::new(Hlc::new(device.id().to_string())));
        self.running = Some(RunningApp { device, documents, clock });
        Ok(())
    }

    async fn open_once(&self, offline: bool) -> Result<Device> {
        let mut config = DeviceConfig::new(self.directory.clone(), self.url.clone());
        config.author = format!("device {}", self.number);
        config.backoff = BACKOFF;
        config.connect_timeout = CONNECT_TIMEOUT;
        config.silence = SILENCE;
        config.offline = offline;
        config.clock = Arc::new(self.clock.clone());
        if let Some(space) = self.space.clone() {
            let directory = self.directory.join("store");
            config.open_store = Some(Arc::new(move || {
                let store = LimitedStore::open(&directory, space.clone())?;
                Ok(Arc::new(store))
            }));
        }
        Ok(Device::open(config).await?)
    }

    /// Closes the app cleanly.
    pub(crate) async fn close(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running.documents);
            running.device.close().await;
        }
    }

    /// Drops the app without closing it, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Disconnects from the server and stays offline.
    pub(crate) async fn go_offline(&self) {
        if let Some(running) = &self.running {
            running.device.go_offline().await;
        }
    }

    /// Connects to the server again.
    pub(crate) async fn go_online(&self) {
        if let Some(running) = &self.running {
            running.device.go_online().await;
        }
    }

    /// A handle to one document that does not borrow the actor.
    pub(crate) fn replica(&self, document: &str) -> Result<Replica> {
        let Some(running) = &self.running else { bail!("the app of device {} is not running", self.number) };
        let handle = running.documents.get(document).with_context(|| format!("{document} is not open"))?.clone();
        Ok(Replica { handle, hlc: Arc::clone(&running.clock), clock: self.clock.clone() })
    }

    /// Reads the notes under their lock.
    pub(crate) fn notes<R>(&self, read: impl FnOnce(&DeviceNotes) -> R) -> R {
        read(&self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn in_use(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("in use")
}

/// Records a document's events in `notes` until the app ends.
async fn record_events(document: String, mut events: Events, notes: Arc<Mutex<DeviceNotes>>) {
    while let Some(event) = events.next().await {
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Synced(report) => notes.sent_entries += report.sent_entries,
            Event::Decided { accepted, register, current, mine, .. } if register == REGISTER => {
                let Some(proposal) = id_of(&mine) else {
                    notes.alarms.push(format!("a decision about {mine:?}, which this device did not propose"));
                    continue;
                };
                let version = current.as_ref().map_or(0, |state| state.version);
                let value = current.and_then(|state| id_of(&Value::from_any(&state.value)));
                let decision = Decision { proposal, accepted, version, value };
                notes.decisions.entry(document.clone()).or_default().push(decision);
            }
            Event::Refused { code, reason, .. } => notes.alarms.push(format!("an entry was refused: {code} {reason}")),
            Event::Rebased(report) => {
                notes.alarms.push(format!("the document was rebased onto another history: {report:?}"))
            }
            Event::HistoryChanged { was, now } => {
                notes.alarms.push(format!("the server's history changed from {was:?} to {now:?}"))
            }
            Event::Deleted => notes.alarms.push("the document was deleted".into()),
            Event::Lagged(count) => notes.alarms.push(format!("{count} events were missed")),
            Event::Changed
            | Event::Saved { .. }
            | Event::Decided { .. }
            | Event::StorageFailed(_)
            | Event::StorageBack
            | Event::ClockCorrected { .. } => {}
        }
    }
}

fn id_of(value: &Value) -> Option<Id> {
    match value {
        Value::Text(text) => text.parse().ok(),
        _ => None,
    }
}

/// A handle to one document on one device.
#[derive(Clone)]
pub(crate) struct Replica {
    handle: Document,
    hlc: Arc<Mutex<Hlc>>,
    clock: VirtualClock,
}

impl Replica {
    /// Makes an edit. Returns its outcome (`None` when there was nothing to do) and the error text when it failed.
    pub(crate) async fn edit(&self, edit: Edit) -> (Option<Outcome>, Option<String>) {
        let done = if edit.kind == EditKind::Proposal {
            self.handle.propose(REGISTER, Value::Text(edit.id.to_string())).await.map(|_: Ulid| Some(Vec::new()))
        } else {
            let (hlc, now_ms) = (Arc::clone(&self.hlc), self.clock.tick_ms());
            let change = move |txn: &mut TransactionMut<'_>| {
                let mut hlc = hlc.lock().unwrap_or_else(PoisonError::into_inner);
                let mut context = EditContext { clock: hlc.clone(), now_ms };
                let replaced = edit.apply(txn, &mut context);
                *hlc = context.clock;
                replaced
            };
            self.handle.edit(change).await
        };
        match done {
            Ok(replaced) => (replaced.map(Outcome::Accepted), None),
            Err(error) => (Some(Outcome::Failed), Some(error.to_string())),
        }
    }

    /// The content of the document.
    pub(crate) async fn view(&self) -> Result<View> {
        Ok(self.handle.read(|txn| View::of(txn)).await?)
    }

    /// The state of the document's register.
    pub(crate) async fn register(&self) -> Result<Register> {
        let state = self.handle.register(REGISTER).await?;
        let value = state.as_ref().and_then(|state| id_of(&Value::from_any(&state.value)));
        Ok(Register { version: state.map_or(0, |state| state.version), value })
    }

    /// Waits until the document is in sync and the server has saved every edit.
    pub(crate) async fn saved(&self) -> Result<()> {
        self.handle.wait_until_synced().await?;
        Ok(self.handle.wait_until_saved().await?)
    }

    /// Returns a watch for the next change of the document's status.
    pub(crate) fn changes(&self) -> Changes {
        let mut watch = self.handle.watch();
        watch.mark_unchanged();
        Changes(watch)
    }

    /// The document's status as text, for timeout messages.
    pub(crate) fn status(&self) -> String {
        format!("{:?}", self.handle.status())
    }
}

/// See [`Replica::changes`].
pub(crate) struct Changes(watch::Receiver<DocumentStatus>);

impl Changes {
    /// Waits for the next change; never returns once the app has ended.
    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
