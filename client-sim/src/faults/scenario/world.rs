//! The state of a running scenario: devices, npm clients, network, server and ledgers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::actor::Actor;
use super::clock::VirtualTime;
use super::format::{Scenario, Step};
use super::node::NodeActor;
use super::store::Space;
use super::timeline::Timeline;
use super::{FreshClient, ScenarioCounts, Setup, Verdict};
use crate::faults::network::{DeviceLink, Network};
use crate::faults::oracle::{Edit, EditKind, Id, Ledger, Outcome, View, check, differences};
use crate::server::ServerProcess;

/// A running scenario.
pub(super) struct World {
    pub setup: Setup,
    pub rng: StdRng,
    pub time: VirtualTime,
    pub timeline: Timeline,
    pub network: Network,
    pub links: Vec<DeviceLink>,
    pub actors: Vec<Actor>,
    pub nodes: Vec<NodeActor>,
    /// Each device's disk.
    pub spaces: Vec<Space>,
    /// Devices whose disk is full.
    pub full: BTreeSet<u32>,
    /// Devices that are deliberately offline.
    pub offline: BTreeSet<u32>,
    /// The server of this run; `None` when the server is shared with other runs.
    pub server: Option<ServerProcess>,
    pub documents: Vec<String>,
    pub ledgers: BTreeMap<String, Ledger>,
    /// Number of the last edit of each device.
    pub numbers: Vec<u32>,
    pub figures: ScenarioCounts,
    pub complaints: Vec<String>,
    pub ends: Vec<(String, View)>,
    /// Stores of devices and of the server. Removed last.
    pub dir: TempDir,
}

impl World {
    /// Starts the server, the network, the devices and the npm clients.
    pub(super) async fn new(scenario: &Scenario, setup: &Setup) -> Result<Self> {
        let steps = || scenario.phase.iter().flat_map(|phase| &phase.step);
        let touches_server = |step: &Step| matches!(step, Step::KillServer { .. } | Step::StartServer);
        ensure!(setup.shared.is_none() || !steps().any(touches_server), "a shared server cannot be killed");
        let dir = tempfile::Builder::new().prefix("syncline-sim-").tempdir()?;
        let time = VirtualTime::default();
        let network = Network::new(setup.seed);
        let mut server = None;
        match setup.shared {
            Some(address) => network.set_server(Some(address)),
            None => {
                let mut own = ServerProcess::new(setup.program.clone(), dir.path().join("server"));
                network.set_server(Some(own.start().await?));
                server = Some(own);
            }
        }
        let documents: Vec<String> =
            (0..scenario.documents).map(|number| format!("{}document-{number}", setup.prefix)).collect();
        let mut world = Self {
            rng: StdRng::seed_from_u64(setup.seed),
            timeline: Timeline::new(time.clone(), setup.verbose),
            links: Vec::new(),
            actors: Vec::new(),
            nodes: Vec::new(),
            spaces: Vec::new(),
            full: BTreeSet::new(),
            offline: BTreeSet::new(),
            ledgers: documents.iter().map(|name| (name.clone(), Ledger::default())).collect(),
            numbers: vec![0; scenario.replica_count() as usize],
            figures: ScenarioCounts::default(),
            complaints: Vec::new(),
            ends: Vec::new(),
            setup: setup.clone(),
            time,
            network,
            server,
            documents,
            dir,
        };
        let can_fill = steps().any(|step| matches!(step, Step::Full { .. }));
        for number in 0..scenario.replica_count() {
            let link = world.network.link(u64::from(number)).await?;
            let url = link.url();
            world.links.push(link);
            if number >= scenario.devices {
                let script = &world.setup.node_script;
                world.nodes.push(NodeActor::start(number, script, &url, &world.documents)?);
                continue;
            }
            let skew = scenario.clock.iter().find(|clock| clock.device == number).map_or(0, |clock| clock.skew.ms);
            let space = Space::default();
            world.spaces.push(space.clone());
            let mut actor = Actor::new(
                number,
                world.directory(number),
                url,
                world.time.clock(skew),
                can_fill.then_some(space),
                world.documents.clone(),
            );
            actor.open(false).await?;
            world.actors.push(actor);
        }
        Ok(world)
    }

    fn directory(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("device-{number}"))
    }

    /// Draws a device's next edit and the document that it edits.
    pub(super) fn draw_edit(&mut self, device: u32, kinds: &[EditKind]) -> (String, Edit) {
        let document = self.documents[self.rng.random_range(0..self.documents.len())].clone();
        let kind = kinds[self.rng.random_range(0..kinds.len())];
        let number = &mut self.numbers[device as usize];
        *number += 1;
        let edit = Edit { id: Id { device, number: *number }, kind, dice: self.rng.random() };
        (document, edit)
    }

    /// Writes an edit into the ledger. Ignores an edit that had nothing to do (`None`).
    pub(super) fn record(&mut self, document: &str, edit: Edit, outcome: Option<Outcome>) {
        let Some(outcome) = outcome else { return };
        match outcome {
            Outcome::Accepted(_) => self.figures.edits += 1,
            Outcome::Failed => self.figures.failed += 1,
            Outcome::Unknown => {}
        }
        self.ledgers.entry(document.to_owned()).or_default().add(edit, outcome);
    }

    /// Adds the state of the server and of every device to the timeline, to help find a fault.
    pub(super) async fn log_states(&self) {
        for document in &self.documents {
            let server = self.network.server();
            let on_server = match server {
                Some(address) => FreshClient::view(&format!("ws://{address}"), document).await.ok(),
                None => None,
            };
            if let Some(view) = &on_server {
                let found = check(&self.ledgers[document], view);
                self.timeline.add("server", &format!("checked against the ledger: {}", found.join("; ")));
                self.timeline.add("server", &format!("has {:?}", view.state_vector));
            }
            for actor in &self.actors {
                let Ok(replica) = actor.replica(document) else { continue };
                self.log(actor.number, &replica.status());
                let Ok(view) = replica.view().await else { continue };
                self.log(actor.number, &format!("has {:?}", view.state_vector));
                let equal = on_server.as_ref().is_none_or(|server| differences(server, &view).is_empty());
                self.log(actor.number, if equal { "equals the server" } else { "differs from the server" });
            }
        }
    }

    /// Adds a line about a device to the timeline.
    pub(super) fn log(&self, device: u32, what: &str) {
        self.timeline.add(&format!("device {device}"), what);
    }

    /// Closes all devices and the server and returns the result of the run.
    pub(super) async fn verdict(mut self) -> Verdict {
        let alarms = self.actors.iter().flat_map(|actor| {
            let number = actor.number;
            actor.notes(|notes| notes.alarms.clone()).into_iter().map(move |alarm| format!("device {number}: {alarm}"))
        });
        self.complaints.extend(alarms.collect::<Vec<_>>());
        let traffic = self.network.traffic();
        self.figures.connections = traffic.connections;
        self.figures.cuts = traffic.cuts;
        self.figures.lost_answers = traffic.lost_answers;
        self.figures.bytes = traffic.bytes_up + traffic.bytes_down;
        let sent: u64 = self.actors.iter().map(|actor| actor.notes(|notes| notes.sent_entries)).sum();
        self.figures.resends = sent.saturating_sub(self.figures.edits);
        for actor in &mut self.actors {
            actor.close().await;
        }
        if let Some(server) = &mut self.server {
            if !self.complaints.is_empty() {
                let log = server.log();
                let unusual = log.lines().filter(|line| !line.contains(" INFO ")).collect::<Vec<_>>().join("\n");
                self.timeline.add("server", &format!("its log without INFO lines:\n{unusual}"));
            }
            // The directory is removed in any case; an error here does not change the verdict.
            drop(server.kill().await);
        }
        Verdict {
            complaints: self.complaints,
            figures: self.figures,
            timeline: self.timeline.collected(),
            ends: self.ends,
        }
    }
}
