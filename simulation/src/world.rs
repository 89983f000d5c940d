//! The state of one plan, its steps, and the checks after each step.

mod history;
mod others;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use syncline_client::{Dialect, Ulid};
use syncline_log::Stored;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::varint::MAX_SAFE_INTEGER;
use syncline_replica::Replica;
use syncline_server::internals::{Compaction, Draw};

use crate::client::{Client, ClientEvent, ClientKind};
use crate::device::Device;
use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::pipe::Pipe;
use crate::plan::{Scenario, Weights};
use crate::server::{Server, Settings};
use crate::stock::Stock;
use crate::text;

/// The virtual time at which a plan starts.
const START_MS: u64 = 1_700_000_000_000;
/// The registers that devices write to.
pub(crate) const REGISTERS: [&str; 2] = ["status", "owner"];
/// Expensive checks run on average once in this many steps.
const EXPENSIVE_CHECK_EVERY: u32 = 12;

/// How often each event occurred. A fault that never occurs in any plan is not tested.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }

    /// Adds the counts of another plan.
    pub fn merge(&mut self, other: &Counts) {
        other.0.iter().for_each(|(what, count)| self.add(what, *count));
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, count)| writeln!(f, "{count:>12} {what}"))
    }
}

/// One plan.
pub struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) now_ms: u64,
    pub(crate) names: Vec<DocumentName>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) settings: Settings,
    draw: Draw,
    /// `None` only during a restart.
    pub(crate) server: Option<Server>,
    pub(crate) clients: Vec<Client>,
    /// The index of the first client that joined at the end of the plan.
    pub(crate) newcomers_from: usize,
    /// Connections that only their clients have closed: what was sent may still arrive.
    pub(crate) half_open: Vec<Pipe>,
    /// Sessions that are between two of their steps.
    slow_sessions: Vec<others::SlowSession>,
    /// For each document.
    pub(crate) ledgers: Vec<Ledger>,
    /// For each document: whether it is deleted.
    pub(crate) deleted: Vec<bool>,
    /// (client, document) of devices that have a cursor in a replaced history and are not yet notified.
    unnotified: BTreeSet<(usize, usize)>,
    /// The newest backup of each document.
    backups: Vec<Option<Stored>>,
    scenario: Scenario,
    weights: Weights,
    pub(crate) shape: text::Shape,
    steps: usize,
    next_mark: u32,
    next_id: u128,
    pub(crate) counts: Counts,
    trace: Option<Trace>,
    step: usize,
}

/// Receives a line for each event of a plan.
pub type Trace = Box<dyn FnMut(String)>;

impl World {
    /// The plan of a seed, before its first step.
    pub fn new(seed: u64, trace: Option<Trace>) -> Self {
        // yrs draws its client ids from this generator.
        fastrand::seed(seed);
        let mut rng = fastrand::Rng::with_seed(seed);
        let names: Vec<_> =
            ["doc", "other"].iter().take(rng.usize(1..=2)).filter_map(|name| DocumentName::parse(name).ok()).collect();
        let settings = Settings {
            idle: Duration::from_millis(rng.u64(5..60)),
            quiet: Duration::from_millis(rng.u64(2..80)),
            compaction: Compaction {
                records: rng.u64(2..25),
                bytes: rng.usize(100..4_000),
                idle_records: rng.u64(1..8),
            },
            outbox_bytes: [60, 200, 1_000, 1 << 20][rng.usize(..4)],
            network_bytes: [40, 300, 4_000, 1 << 20][rng.usize(..4)],
        };
        let disk = Arc::new(Disk::new(rng.fork()));
        let identities = Mutex::new(rng.fork());
        let draw = Draw::by(move || identities.lock().unwrap_or_else(PoisonError::into_inner).u128(..));
        let server = Some(Server::start(Arc::clone(&disk), settings, draw.clone()));
        // Only devices detect a replaced history. A stock client with the old history would restore it.
        let scenario = Scenario::draw(&mut rng);
        let replace_history = scenario == Scenario::ReplacedHistories;
        let weights = Weights::draw(&mut rng, scenario);
        let mut world = Self {
            now_ms: START_MS,
            disk,
            settings,
            draw,
            server,
            clients: Vec::new(),
            newcomers_from: usize::MAX,
            half_open: Vec::new(),
            slow_sessions: Vec::new(),
            ledgers: names.iter().map(|_| Ledger::default()).collect(),
            deleted: names.iter().map(|_| false).collect(),
            unnotified: BTreeSet::new(),
            backups: names.iter().map(|_| None).collect(),
            names,
            scenario,
            weights,
            shape: if replace_history { text::Shape::Map } else { text::Shape::Text },
            steps: rng.usize(30..180),
            next_mark: 1,
            next_id: 1,
            counts: Counts::default(),
            trace,
            step: 0,
            rng,
        };
        for _ in 0..world.rng.usize(2..=4) {
            let client = world.new_client(scenario);
            world.clients.push(client);
        }
        world
    }

    fn new_client(&mut self, scenario: Scenario) -> Client {
        let is_device = match scenario {
            Scenario::ReplacedHistories => true,
            Scenario::Tabs => false,
            Scenario::Any => self.rng.bool(),
        };
        if is_device {
            let disk = Arc::new(Disk::new(self.rng.fork()));
            #[expect(clippy::expect_used, reason = "an empty journal can be read")]
            return Client::device(Device::start(disk, &self.names).expect("an empty journal"));
        }
        let document = if scenario == Scenario::Tabs { 0 } else { self.rng.usize(..self.names.len()) };
        let dialect = if self.rng.bool() { Dialect::YWebsocket } else { Dialect::Hocuspocus };
        Client::stock(self.new_page(document, dialect))
    }

    pub(crate) fn new_page(&mut self, document: usize, dialect: Dialect) -> Stock {
        let page = Stock::start(&self.names[document], document, dialect, self.rng.u64(1..MAX_SAFE_INTEGER));
        if self.scenario == Scenario::Tabs { page.sharing_edits() } else { page }
    }

    /// Runs the plan to its end.
    ///
    /// # Errors
    /// The violated invariant.
    pub fn run(&mut self) -> Result<(), String> {
        self.trace_line(|world| {
            let kinds: Vec<_> = world.clients.iter().map(Client::label).collect();
            format!("{} documents; clients: {}; {:?}", world.names.len(), kinds.join(", "), world.settings)
        });
        for step in 1..=self.steps {
            self.step = step;
            let kind = self.weights.next(&mut self.rng);
            self.perform(kind)?;
            self.after_step()?;
        }
        self.finish()
    }

    /// Lets the server's tasks run, and checks the invariants.
    fn after_step(&mut self) -> Result<(), String> {
        if self.rng.u32(..3) == 0 {
            let turns = self.rng.usize(..6);
            self.server().run_tasks(turns);
        } else {
            self.advance(1);
            self.check_no_double_load()?;
        }
        self.disk.violation().map_or(Ok(()), Err)?;
        self.check_deleted_stays_deleted()?;
        if self.rng.u32(..EXPENSIVE_CHECK_EVERY) == 0 {
            self.check_state_after_crash()?;
        }
        self.check_unloaded_is_on_disk()
    }

    pub(crate) fn check_no_double_load(&mut self) -> Result<(), String> {
        let (documents, tasks) = self.server().documents_and_tasks();
        if documents == tasks {
            return Ok(());
        }
        Err(format!("NO DOUBLE LOAD: {documents} documents are in memory, but {tasks} tasks run"))
    }

    /// If no document is in memory and the disk has not failed, checks that everything relayed is on it.
    pub(crate) fn check_unloaded_is_on_disk(&mut self) -> Result<(), String> {
        let server = self.server();
        if server.log_has_failed() || server.documents_and_tasks() != (0, 0) {
            return Ok(());
        }
        self.counts.add("all documents out of memory", 1);
        (0..self.names.len()).try_for_each(|document| self.ledgers[document].retired(&self.on_disk(document)))
    }

    /// The marks of a document that a crash now would leave.
    pub(crate) fn on_disk(&self, document: usize) -> BTreeSet<u32> {
        self.disk.marks(&self.names[document])
    }

    /// Checks that a crash now would break no promise: builds each document from the disk, like a start.
    pub(crate) fn check_state_after_crash(&mut self) -> Result<(), String> {
        self.counts.add("documents built from the disk", 1);
        for (document, name) in self.names.iter().enumerate() {
            if self.deleted[document] {
                continue;
            }
            let ledger = &self.ledgers[document];
            ledger.acked_is_durable(&self.on_disk(document))?;
            let stored = self.disk.stored(name);
            let replica = build(stored.as_ref(), u64::MAX)?;
            for client in &self.clients {
                let ClientKind::Device(device) = &client.kind else { continue };
                let Some(cursor) = device.machine(document).status().cursor else { continue };
                let Some(stored) = stored.as_ref().filter(|stored| stored.epoch == cursor.epoch) else { continue };
                let before = stored.snapshot.as_ref().map_or(0, |snapshot| snapshot.upto.0);
                if cursor.seq > stored.last() {
                    return Err(format!(
                        "A POSITION IS DURABLE: a device has cursor {}, but a crash would leave record {}",
                        cursor.seq,
                        stored.last()
                    ));
                }
                if cursor.seq.0 < before {
                    continue;
                }
                let on_server = build(Some(stored), cursor.seq.0)?.read(text::read);
                let on_device = client.text(document);
                let on_device: Vec<u32> = text::marks(&on_device).collect();
                let missing =
                    text::marks(&on_server).find(|mark| !on_device.contains(mark) && !ledger.deleted.contains(mark));
                if let Some(mark) = missing {
                    return Err(format!(
                        "A CURSOR SKIPS NOTHING: a device has cursor {} but lacks <{mark}>",
                        cursor.seq
                    ));
                }
            }
            self.counts.add("documents with pending updates", u64::from(replica.pending().len() > 0));
        }
        Ok(())
    }

    /// Records a client's events in the ledger, and checks them.
    pub(crate) fn process_events(&mut self, client: usize) -> Result<(), String> {
        for (document, event) in self.clients[client].take_events() {
            self.trace_line(|world| {
                format!("    client {client} ({}): {}: {event:?}", world.clients[client].label(), world.names[document])
            });
            let on_disk = if let ClientEvent::Saved(_) = event { self.on_disk(document) } else { BTreeSet::new() };
            if self.deleted[document]
                && matches!(event, ClientEvent::Saved(_) | ClientEvent::Synced | ClientEvent::HistoryChanged)
            {
                return Err(format!("DELETED STAYS DELETED: client {client} received {event:?}"));
            }
            let ledger = &mut self.ledgers[document];
            match event {
                ClientEvent::Accepted(action) => ledger.accepted(client, action),
                ClientEvent::Saved(action) => {
                    self.counts.add("edits acknowledged", 1);
                    ledger.acked(action, &on_disk)?;
                }
                ClientEvent::Proposed(id, register, based_on) => ledger.proposed(id, &register, based_on),
                ClientEvent::Decided(id, accepted) => {
                    self.counts.add(if accepted { "register writes accepted" } else { "register writes refused" }, 1);
                    ledger.decided(id, accepted)?;
                }
                ClientEvent::HistoryChanged if self.shape == text::Shape::Text => {
                    return Err("A HISTORY STAYS: a device was notified of a history change that did not happen".into());
                }
                ClientEvent::HistoryChanged => {
                    self.unnotified.remove(&(client, document));
                    self.counts.add("history changes reported", 1);
                }
                ClientEvent::Deleted if !self.deleted[document] => {
                    return Err(format!(
                        "A HISTORY STAYS: client {client} was notified of a deletion that did not happen"
                    ));
                }
                ClientEvent::Deleted => {
                    self.unnotified.remove(&(client, document));
                    self.counts.add("deletions reported", 1);
                }
                ClientEvent::Synced if self.unnotified.contains(&(client, document)) => {
                    let name = &self.names[document];
                    return Err(format!(
                        "NO SILENT MERGE: client {client} synced with the new history of {name} without being notified"
                    ));
                }
                ClientEvent::Synced => self.counts.add("syncs", 1),
                ClientEvent::Other(_) => {}
            }
        }
        Ok(())
    }

    #[expect(clippy::expect_used, reason = "it is absent only during a restart")]
    pub(crate) fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a server")
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        self.server().advance(ms);
    }

    pub(crate) fn next_mark(&mut self) -> u32 {
        self.next_mark += 1;
        self.next_mark - 1
    }

    pub(crate) fn next_id(&mut self) -> Ulid {
        self.next_id += 1;
        Ulid(self.next_id)
    }

    pub(crate) fn trace_line(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{:>4} {:>7} ms  {}", self.step, self.now_ms - START_MS, line(self));
            self.trace.iter_mut().for_each(|trace| trace(line.clone()));
        }
    }
}

/// Builds a document from its stored updates, up to the record `upto`.
pub(crate) fn build(stored: Option<&Stored>, upto: u64) -> Result<Replica, String> {
    let updates = stored.iter().flat_map(|stored| {
        let records = stored.records.iter().filter(|record| record.seq.0 <= upto);
        stored.snapshot.iter().map(|snapshot| &snapshot.update).chain(records.map(|record| &record.update))
    });
    Replica::load(updates.cloned()).map_err(|error| format!("STORED UPDATES CAN BE LOADED: {error}"))
}
