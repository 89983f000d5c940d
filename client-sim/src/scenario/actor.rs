//! A device of a scenario. Everything that the client's device API is asked for is asked here.

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
use crate::oracle::chain::{Decision, Register};
use crate::oracle::{Edit, Id, Kind, Outcome, Pen, View};

/// Waits of a device, short: in a scenario everything is near.
const BACKOFF: BackoffConfig = BackoffConfig { first: Duration::from_millis(5), max: Duration::from_millis(60) };
/// A connection that is not made by then is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// A server that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_millis(400);
/// A killed app's store is free after at most this time.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(2);
/// The one register of a document.
const REGISTER: &str = "register";

/// What stays of a device when its app is not running.
pub struct Actor {
    /// Its number.
    pub number: u32,
    directory: PathBuf,
    url: String,
    clock: VirtualClock,
    /// Its disk, if that can become full.
    space: Option<Space>,
    documents: Vec<String>,
    notes: Arc<Mutex<Notes>>,
    running: Option<Running>,
}

/// The app.
struct Running {
    device: Device,
    documents: BTreeMap<String, Document>,
    clock: Arc<Mutex<Hlc>>,
}

/// What a device heard, over all its lives.
#[derive(Debug, Default)]
pub struct Notes {
    /// By document: the proposals decided.
    pub decisions: BTreeMap<String, Vec<Decision>>,
    /// Things that must not happen.
    pub alarms: Vec<String>,
    /// Entries that syncs sent, those counted again that were sent again.
    pub sent_entries: u64,
}

impl WallClock for VirtualClock {
    fn now_ms(&self) -> u64 {
        self.look()
    }
}

impl Actor {
    /// A device whose app has never run.
    pub fn new(
        number: u32,
        directory: PathBuf,
        url: String,
        clock: VirtualClock,
        space: Option<Space>,
        documents: Vec<String>,
    ) -> Self {
        Self { number, directory, url, clock, space, documents, notes: Arc::default(), running: None }
    }

    /// Whether the app runs.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Where its store lies.
    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// Starts the app.
    pub async fn open(&mut self, offline: bool) -> Result<()> {
        let begin = Instant::now();
        let device = loop {
            match self.open_once(offline).await {
                Ok(device) => break device,
                // The killed one's threads are on their way out.
                Err(error) if begin.elapsed() < LOCK_LIMIT && in_use(&error) => sleep(LOCK_RETRY).await,
                Err(error) => return Err(error).with_context(|| format!("device {} does not open", self.number)),
            }
        };
        let mut documents = BTreeMap::new();
        for name in &self.documents {
            let document = device.document(name).await;
            let mut document = document.with_context(|| format!("document {name} does not open"))?;
            let problems = document.take_problems().into_iter().map(|what| format!("its store is damaged: {what}"));
            self.notes.lock().unwrap_or_else(PoisonError::into_inner).alarms.extend(problems);
            tokio::spawn(listen(name.clone(), document.events(), Arc::clone(&self.notes)));
            documents.insert(name.clone(), document);
        }
        let clock = Arc::new(Mutex::new(Hlc::new(device.id().to_string())));
        self.running = Some(Running { device, documents, clock });
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

    /// Ends the app in good order.
    pub async fn close(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running.documents);
            running.device.close().await;
        }
    }

    /// Ends the app without a word.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Leaves the server.
    pub async fn go_offline(&self) {
        if let Some(running) = &self.running {
            running.device.go_offline().await;
        }
    }

    /// Comes back.
    pub async fn go_online(&self) {
        if let Some(running) = &self.running {
            running.device.go_online().await;
        }
    }

    /// A handle for edits and looks, apart from the actor.
    pub fn hand(&self, document: &str) -> Result<Hand> {
        let Some(running) = &self.running else { bail!("the app of device {} does not run", self.number) };
        let handle = running.documents.get(document).with_context(|| format!("{document} is not open"))?.clone();
        Ok(Hand { handle, stamps: Arc::clone(&running.clock), clock: self.clock.clone() })
    }

    /// A look at what it heard.
    pub fn notes<R>(&self, look: impl FnOnce(&Notes) -> R) -> R {
        look(&self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn in_use(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("in use")
}

/// Writes down what a document tells, until the app ends.
async fn listen(document: String, mut events: Events, notes: Arc<Mutex<Notes>>) {
    while let Some(event) = events.next().await {
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Synced(report) => notes.sent_entries += report.sent_entries,
            Event::Decided { accepted, register, current, mine, .. } if register == REGISTER => {
                let Some(proposal) = id_of(&mine) else {
                    notes.alarms.push(format!("a decision about {mine:?}, which is no proposal of ours"));
                    continue;
                };
                let version = current.as_ref().map_or(0, |state| state.version);
                let value = current.and_then(|state| id_of(&Value::from_any(&state.value)));
                let decision = Decision { proposal, accepted, version, value };
                notes.decisions.entry(document.clone()).or_default().push(decision);
            }
            Event::Refused { code, reason, .. } => notes.alarms.push(format!("an entry was refused: {code} {reason}")),
            Event::Rebased(report) => notes.alarms.push(format!("the history was changed: {report:?}")),
            Event::HistoryChanged { was, now } => notes.alarms.push(format!("the history changed: {was:?}, {now:?}")),
            Event::Deleted => notes.alarms.push("the document was deleted".into()),
            Event::Lagged(count) => notes.alarms.push(format!("{count} events were missed here")),
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

/// A hold of one document on one device.
#[derive(Clone)]
pub struct Hand {
    handle: Document,
    stamps: Arc<Mutex<Hlc>>,
    clock: VirtualClock,
}

impl Hand {
    /// Edits. No outcome: there was nothing to do. With it, why it failed.
    pub async fn edit(&self, edit: Edit) -> (Option<Outcome>, Option<String>) {
        let done = if edit.kind == Kind::Proposal {
            self.handle.propose(REGISTER, Value::Text(edit.id.to_string())).await.map(|_: Ulid| Some(Vec::new()))
        } else {
            let (stamps, now_ms) = (Arc::clone(&self.stamps), self.clock.look());
            let change = move |txn: &mut TransactionMut<'_>| {
                let mut stamps = stamps.lock().unwrap_or_else(PoisonError::into_inner);
                let mut pen = Pen { clock: stamps.clone(), now_ms };
                let replaced = edit.apply(txn, &mut pen);
                *stamps = pen.clock;
                replaced
            };
            self.handle.edit(change).await
        };
        match done {
            Ok(replaced) => (replaced.map(Outcome::Accepted), None),
            Err(error) => (Some(Outcome::Failed), Some(error.to_string())),
        }
    }

    /// What it holds.
    pub async fn view(&self) -> Result<View> {
        Ok(self.handle.read(|txn| View::of(txn)).await?)
    }

    /// The register.
    pub async fn register(&self) -> Result<Register> {
        let state = self.handle.register(REGISTER).await?;
        let value = state.as_ref().and_then(|state| id_of(&Value::from_any(&state.value)));
        Ok(Register { version: state.map_or(0, |state| state.version), value })
    }

    /// Waits until everything is saved.
    pub async fn saved(&self) -> Result<()> {
        self.handle.wait_until_synced().await?;
        Ok(self.handle.wait_until_saved().await?)
    }

    /// Something that can be waited for: the next change of anything that can be seen.
    pub fn changes(&self) -> Changes {
        let mut watch = self.handle.watch();
        watch.mark_unchanged();
        Changes(watch)
    }

    /// For a message about a wait that was too long.
    pub fn status(&self) -> String {
        format!("{:?}", self.handle.status())
    }
}

/// See [`Hand::changes`].
pub struct Changes(watch::Receiver<DocumentStatus>);

impl Changes {
    /// The next one; never returns when the app is gone.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
