//! A device of a scenario. Everything that the client's device API is asked for is asked here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use syncline_client::backoff::BackoffConfig;
use tokio::time::{Instant, sleep};

use super::clock::VirtualClock;
use super::store::{LimitedStore, Space};
use crate::oracle::chain::{Decision, Register};
use crate::oracle::{Edit, Id, Kind, Outcome, View};
use crate::standin as api;

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
    device: api::Device,
    documents: BTreeMap<String, api::Document>,
}

/// What a device heard, over all its lives.
#[derive(Debug, Default)]
pub struct Notes {
    /// By document: the proposals decided.
    pub decisions: BTreeMap<String, Vec<Decision>>,
    /// Things that must not happen.
    pub alarms: Vec<String>,
    /// Entries sent, those counted again that were sent again.
    pub sent_entries: u64,
    /// Proposals by the entry that carries them.
    proposals: BTreeMap<u128, Id>,
}

impl api::WallClock for VirtualClock {
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
            let document = device.document(name).await.with_context(|| format!("document {name} does not open"))?;
            documents.insert(name.clone(), document);
        }
        self.running = Some(Running { device, documents });
        Ok(())
    }

    async fn open_once(&self, offline: bool) -> Result<api::Device> {
        let mut config = api::DeviceConfig::new(self.directory.clone(), self.url.clone());
        config.author = format!("device {}", self.number);
        config.backoff = BACKOFF;
        config.connect_timeout = CONNECT_TIMEOUT;
        config.silence = SILENCE;
        config.offline = offline;
        config.clock = Some(Arc::new(self.clock.clone()));
        if let Some(space) = self.space.clone() {
            let directory = self.directory.clone();
            let store = tokio::task::spawn_blocking(move || LimitedStore::open(&directory, space)).await??;
            config.store = Some(Arc::new(store));
        }
        Ok(api::Device::open(config).await?)
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
        Ok(Hand { name: document.to_owned(), handle, notes: Arc::clone(&self.notes) })
    }

    /// A look at what it heard.
    pub fn notes<R>(&self, look: impl FnOnce(&Notes) -> R) -> R {
        look(&self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn in_use(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("in use")
}

/// A hold of one document on one device.
#[derive(Clone)]
pub struct Hand {
    name: String,
    handle: api::Document,
    notes: Arc<Mutex<Notes>>,
}

impl Hand {
    /// Edits. `Ok(None)`: there was nothing to do. An outcome with a reason when it failed.
    pub async fn edit(&self, edit: Edit) -> (Option<Outcome>, Option<String>) {
        if edit.kind == Kind::Proposal {
            return (Some(Outcome::Failed), Some("no registers here".into()));
        }
        match self.handle.edit(move |txn| edit.apply(txn)).await {
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
        Ok(Register { version: 0, value: None })
    }

    /// Waits until everything is saved.
    pub async fn saved(&self) -> Result<()> {
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
        format!("{:?}", *self.handle.watch().borrow())
    }
}

/// See [`Hand::changes`].
pub struct Changes(tokio::sync::watch::Receiver<syncline_client::Status>);

impl Changes {
    /// The next one; never returns when the app is gone.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}
