//! The state of one plan, and one thing that happens in it.

mod history;
mod others;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use syncline_client::{Dialect, Ulid};
use syncline_log::Stored;
use syncline_protocol::ids::DocumentName;
use syncline_protocol::varint::MAX_SAFE_INTEGER;
use syncline_replica::Replica;
use syncline_server::document::Compaction;
use syncline_server::ids::Draw;

use crate::client::{Client, ClientEvent, Sort};
use crate::device::Device;
use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::pipe::Pipe;
use crate::plan::{Story, Weights};
use crate::server::{Server, Settings};
use crate::stock::Stock;
use crate::text;

/// The plan's virtual time begins here.
const START_MS: u64 = 1_700_000_000_000;
/// The registers that devices write.
pub(crate) const REGISTERS: [&str; 2] = ["status", "owner"];
/// A dear check is made once in so many steps.
const DEAR_CHECK: u32 = 12;

/// What a plan reached: a set of plans that never reaches a fault tests nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    pub(crate) fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }

    /// Adds another plan's.
    pub fn merge(&mut self, other: &Counts) {
        other.0.iter().for_each(|(what, count)| self.add(what, *count));
    }
}

/// One plan.
pub struct World {
    pub(crate) dice: fastrand::Rng,
    pub(crate) now_ms: u64,
    pub(crate) names: Vec<DocumentName>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) settings: Settings,
    draw: Draw,
    /// Always there, but for a moment while it is started again.
    pub(crate) server: Option<Server>,
    pub(crate) clients: Vec<Client>,
    /// Where in them those begin that have seen nothing of what was.
    pub(crate) newcomers_from: usize,
    /// Connections that their clients have left: what was sent may still arrive.
    pub(crate) left_behind: Vec<Pipe>,
    /// Sessions that take their time.
    leases: Vec<others::Slow>,
    /// For each document.
    pub(crate) ledgers: Vec<Ledger>,
    /// Which documents are deleted.
    pub(crate) deleted: Vec<bool>,
    /// Devices that have a position in a document's replaced history, and do not know yet that it was replaced.
    to_be_told: BTreeSet<(usize, usize)>,
    /// The newest backup.
    backups: Vec<Option<Stored>>,
    story: Story,
    weights: Weights,
    pub(crate) shape: text::Shape,
    steps: usize,
    next_mark: u32,
    next_id: u128,
    pub(crate) counts: Counts,
    tell: Option<Tell>,
    step: usize,
}

/// Is told what happens, a line each.
pub type Tell = Box<dyn FnMut(String)>;

impl World {
    /// The plan of a seed, before its first step.
    pub fn new(seed: u64, tell: Option<Tell>) -> Self {
        // What yrs draws its ids with.
        fastrand::seed(seed);
        let mut dice = fastrand::Rng::with_seed(seed);
        let names: Vec<_> =
            ["doc", "other"].iter().take(dice.usize(1..=2)).filter_map(|name| DocumentName::parse(name).ok()).collect();
        let settings = Settings {
            idle: Duration::from_millis(dice.u64(5..60)),
            quiet: Duration::from_millis(dice.u64(2..80)),
            compaction: Compaction {
                records: dice.u64(2..25),
                bytes: dice.usize(100..4_000),
                idle_records: dice.u64(1..8),
            },
            outbox_bytes: [60, 200, 1_000, 1 << 20][dice.usize(..4)],
            network_bytes: [40, 300, 4_000, 1 << 20][dice.usize(..4)],
        };
        let disk = Arc::new(Disk::new(dice.fork()));
        let identities = Mutex::new(dice.fork());
        let draw = Draw::by(move || identities.lock().unwrap_or_else(PoisonError::into_inner).u128(..));
        let server = Some(Server::start(Arc::clone(&disk), settings, draw.clone()));
        // A stock client that has an old history brings it back: only devices can tell.
        let story = Story::draw(&mut dice);
        let other_history = story == Story::OtherHistories;
        let weights = Weights::draw(&mut dice, story);
        let mut world = Self {
            now_ms: START_MS,
            disk,
            settings,
            draw,
            server,
            clients: Vec::new(),
            newcomers_from: usize::MAX,
            left_behind: Vec::new(),
            leases: Vec::new(),
            ledgers: names.iter().map(|_| Ledger::default()).collect(),
            deleted: names.iter().map(|_| false).collect(),
            to_be_told: BTreeSet::new(),
            backups: names.iter().map(|_| None).collect(),
            names,
            story,
            weights,
            shape: if other_history { text::Shape::Map } else { text::Shape::Text },
            steps: dice.usize(30..180),
            next_mark: 1,
            next_id: 1,
            counts: Counts::default(),
            tell,
            step: 0,
            dice,
        };
        for _ in 0..world.dice.usize(2..=4) {
            let client = world.new_client(story);
            world.clients.push(client);
        }
        world
    }

    fn new_client(&mut self, story: Story) -> Client {
        let is_device = match story {
            Story::OtherHistories => true,
            Story::Tabs => false,
            Story::Any => self.dice.bool(),
        };
        if is_device {
            let disk = Arc::new(Disk::new(self.dice.fork()));
            #[expect(clippy::expect_used, reason = "an empty journal can be read")]
            return Client::device(Device::start(disk, &self.names).expect("an empty journal"));
        }
        let document = if story == Story::Tabs { 0 } else { self.dice.usize(..self.names.len()) };
        let dialect = if self.dice.bool() { Dialect::YWebsocket } else { Dialect::Hocuspocus };
        Client::stock(self.new_page(document, dialect))
    }

    pub(crate) fn new_page(&mut self, document: usize, dialect: Dialect) -> Stock {
        let page = Stock::start(&self.names[document], document, dialect, self.dice.u64(1..MAX_SAFE_INTEGER));
        if self.story == Story::Tabs { page.is_tab() } else { page }
    }

    /// Runs the plan to its end.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn run(&mut self) -> Result<(), String> {
        self.note(|world| {
            let kinds: Vec<_> = world.clients.iter().map(Client::kind).collect();
            format!("{} documents; clients: {}; {:?}", world.names.len(), kinds.join(", "), world.settings)
        });
        for step in 1..=self.steps {
            self.step = step;
            let kind = self.weights.next(&mut self.dice);
            self.happen(kind)?;
            self.after_step()?;
        }
        self.finale()
    }

    /// Lets the server do something about it, and looks whether all is well.
    fn after_step(&mut self) -> Result<(), String> {
        if self.dice.u32(..3) == 0 {
            let turns = self.dice.usize(..6);
            self.server().turn(turns);
        } else {
            self.pass(1);
            self.nothing_is_loaded_twice()?;
        }
        self.disk.violation().map_or(Ok(()), Err)?;
        self.deleted_stays_deleted()?;
        if self.dice.u32(..DEAR_CHECK) == 0 {
            self.crashed_now_all_is_kept()?;
        }
        self.what_left_memory_is_on_disk()
    }

    pub(crate) fn nothing_is_loaded_twice(&mut self) -> Result<(), String> {
        let (documents, tasks) = self.server().documents_and_tasks();
        if documents == tasks {
            return Ok(());
        }
        Err(format!("NO DOUBLE LOAD: {documents} documents are in memory, and {tasks} tasks run"))
    }

    /// When no document is in memory and the disk was well, everything that was ever relayed is on it.
    pub(crate) fn what_left_memory_is_on_disk(&mut self) -> Result<(), String> {
        let server = self.server();
        if server.log_has_failed() || server.documents_and_tasks() != (0, 0) {
            return Ok(());
        }
        self.counts.add("all documents out of memory", 1);
        (0..self.names.len()).try_for_each(|document| self.ledgers[document].retired(&self.on_disk(document)))
    }

    /// The marks of a document that a crash would leave.
    pub(crate) fn on_disk(&self, document: usize) -> BTreeSet<u32> {
        self.disk.marks(&self.names[document])
    }

    /// A crash at this moment would leave every promise kept: builds each document from the disk, as a start would.
    pub(crate) fn crashed_now_all_is_kept(&mut self) -> Result<(), String> {
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
                let Sort::Device(device) = &client.sort else { continue };
                let Some(cursor) = device.machine(document).status().cursor else { continue };
                let Some(stored) = stored.as_ref().filter(|stored| stored.epoch == cursor.epoch) else { continue };
                let before = stored.snapshot.as_ref().map_or(0, |snapshot| snapshot.upto.0);
                if cursor.seq > stored.last() {
                    return Err(format!(
                        "A POSITION IS DURABLE: a device was told {}, a crash would leave {}",
                        cursor.seq,
                        stored.last()
                    ));
                }
                if cursor.seq.0 < before {
                    continue;
                }
                let there = build(Some(stored), cursor.seq.0)?.read(text::read);
                let here = client.text(document);
                let here: Vec<u32> = text::marks(&here).collect();
                let lacks = text::marks(&there).find(|mark| !here.contains(mark) && !ledger.deleted.contains(mark));
                if let Some(mark) = lacks {
                    return Err(format!("A CURSOR SKIPS NOTHING: a device is at {} and lacks <{mark}>", cursor.seq));
                }
            }
            self.counts.add("documents with updates that wait", u64::from(replica.held().len() > 0));
        }
        Ok(())
    }

    /// Takes what a client has told to the ledger.
    pub(crate) fn hear(&mut self, client: usize) -> Result<(), String> {
        for (document, news) in self.clients[client].news() {
            self.note(|world| {
                format!("    client {client} ({}): {}: {news:?}", world.clients[client].kind(), world.names[document])
            });
            let on_disk = if let ClientEvent::Saved(_) = news { self.on_disk(document) } else { BTreeSet::new() };
            if self.deleted[document]
                && matches!(news, ClientEvent::Saved(_) | ClientEvent::Synced | ClientEvent::HistoryChanged)
            {
                return Err(format!("DELETED STAYS DELETED: client {client} was told {news:?}"));
            }
            let ledger = &mut self.ledgers[document];
            match news {
                ClientEvent::Accepted(action) => ledger.accepted(client, action),
                ClientEvent::Saved(action) => {
                    self.counts.add("edits acknowledged", 1);
                    ledger.acked(action, &on_disk)?;
                }
                ClientEvent::Proposed(id, register, based_on) => ledger.proposed(id, &register, based_on),
                ClientEvent::Decided(id, accepted) => {
                    self.counts.add(if accepted { "register writes taken" } else { "register writes refused" }, 1);
                    ledger.decided(id, accepted)?;
                }
                ClientEvent::HistoryChanged if self.shape == text::Shape::Text => {
                    return Err("A HISTORY STAYS: a device was told of another one, and nobody replaced it".into());
                }
                ClientEvent::HistoryChanged => {
                    self.to_be_told.remove(&(client, document));
                    self.counts.add("histories seen to have changed", 1);
                }
                ClientEvent::Deleted if !self.deleted[document] => {
                    return Err(format!("A HISTORY STAYS: client {client} was told of a deletion that never was"));
                }
                ClientEvent::Deleted => {
                    self.to_be_told.remove(&(client, document));
                    self.counts.add("told of a deletion", 1);
                }
                ClientEvent::Synced if self.to_be_told.contains(&(client, document)) => {
                    let name = &self.names[document];
                    return Err(format!("NO SILENT MERGE: client {client} goes on with another history of {name}"));
                }
                ClientEvent::Synced => self.counts.add("syncs", 1),
                ClientEvent::Other(_) => {}
            }
        }
        Ok(())
    }

    #[expect(clippy::expect_used, reason = "it is put back at once when it is taken")]
    pub(crate) fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a server")
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.server().pass(ms);
    }

    pub(crate) fn next_mark(&mut self) -> u32 {
        self.next_mark += 1;
        self.next_mark - 1
    }

    pub(crate) fn next_id(&mut self) -> Ulid {
        self.next_id += 1;
        Ulid(self.next_id)
    }

    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.tell.is_some() {
            let line = format!("{:>4} {:>7} ms  {}", self.step, self.now_ms - START_MS, line(self));
            self.tell.iter_mut().for_each(|tell| tell(line.clone()));
        }
    }
}

/// Builds a document from what a crash would leave, up to a record.
pub(crate) fn build(stored: Option<&Stored>, upto: u64) -> Result<Replica, String> {
    let updates = stored.iter().flat_map(|stored| {
        let records = stored.records.iter().filter(|record| record.seq.0 <= upto);
        stored.snapshot.iter().map(|snapshot| &snapshot.update).chain(records.map(|record| &record.update))
    });
    Replica::load(updates.cloned()).map_err(|error| format!("WHAT WAS ACCEPTED CAN BE LOADED: {error}"))
}
