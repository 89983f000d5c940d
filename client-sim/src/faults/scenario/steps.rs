//! Executes the steps of a scenario.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::format::{Count, DeviceSelector, Step};
use super::world::World;
use crate::faults::device_process;
use crate::faults::oracle::{Edit, EditKind, Outcome};

/// Longest wait for traffic before the server is killed; there may be no traffic.
const TRAFFIC_LIMIT: Duration = Duration::from_secs(2);

/// An attempted edit: device, document, the edit, its outcome, the error text.
type Made = (u32, String, Edit, Option<Outcome>, Option<String>);

impl World {
    /// Executes one step.
    pub(super) async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Edit { who, times, kinds, every_ms, must_fail } => {
                self.edit(who, *times, kinds, *every_ms, *must_fail).await?;
            }
            Step::Offline { who } => {
                for device in self.draw(who) {
                    self.set_offline(device, true).await?;
                }
            }
            Step::Online { who } => {
                for device in self.draw(who) {
                    self.set_offline(device, false).await?;
                }
            }
            Step::Pass { time } => {
                self.time.pass(time.ms);
                self.timeline.add("", &format!("{} pass", String::from(*time)));
            }
            Step::Kill { who } => {
                for device in self.draw(who) {
                    self.kill(device);
                }
            }
            Step::KillProcess { who, after } => {
                for device in self.draw(who) {
                    let after = after.draw(&mut self.rng);
                    self.kill_process(device, after).await?;
                }
            }
            Step::Open { who } => {
                for device in self.draw(who) {
                    self.open(device).await?;
                }
            }
            Step::KillServer { after_bytes } => self.kill_server(*after_bytes).await?,
            Step::StartServer => self.start_server().await?,
            Step::Full { who } => {
                for device in self.draw(who) {
                    self.set_full(device, true);
                }
            }
            Step::Freed { who } => {
                for device in self.draw(who) {
                    self.set_full(device, false);
                }
            }
            Step::Network(network) => {
                let faults = network.faults();
                for device in self.draw(&network.who) {
                    self.log(device, &format!("network: {}", describe(&faults)));
                    self.links[device as usize].set(faults.clone());
                }
            }
            Step::Partition { who } => {
                for device in self.draw(who) {
                    self.log(device, "is partitioned from the server; connections stay open");
                    self.links[device as usize].partition(true);
                }
            }
            Step::Heal { who } => {
                for device in self.draw(who) {
                    self.log(device, "is no longer partitioned");
                    self.links[device as usize].partition(false);
                }
            }
            Step::Cut { who } => {
                for device in self.draw(who) {
                    self.log(device, "loses its connections");
                    self.links[device as usize].cut();
                }
            }
            Step::Synced => self.settle().await?,
        }
        Ok(())
    }

    fn draw(&mut self, who: &DeviceSelector) -> Vec<u32> {
        who.draw(self.numbers.len() as u32, &mut self.rng)
    }

    async fn edit(
        &mut self,
        who: &DeviceSelector,
        times: Count,
        kinds: &[EditKind],
        every_ms: Option<Count>,
        must_fail: bool,
    ) -> Result<()> {
        let mut tasks = JoinSet::new();
        let mut made = Vec::new();
        for device in self.draw(who) {
            let times = times.draw(&mut self.rng);
            let forget = self.setup.forget;
            let mut plan = Vec::new();
            for _ in 0..times {
                let pause = every_ms.map(|every| Duration::from_millis(every.draw(&mut self.rng)));
                plan.push((self.draw_edit(device, kinds), pause));
            }
            match self.actors.get(device as usize) {
                Some(actor) if actor.is_running() => {
                    let replicas: Result<Vec<_>> =
                        plan.iter().map(|((document, _), _)| actor.replica(document)).collect();
                    let work: Vec<_> = plan.into_iter().zip(replicas?).collect();
                    tasks.spawn(async move {
                        let mut made: Vec<Made> = Vec::new();
                        for (((document, edit), pause), replica) in work {
                            let forgotten = forget == Some(u64::from(edit.id.number));
                            let (outcome, why) = match forgotten {
                                true => (Some(Outcome::Accepted(Vec::new())), None),
                                false => replica.edit(edit).await,
                            };
                            made.push((device, document, edit, outcome, why));
                            if let Some(pause) = pause {
                                sleep(pause).await;
                            }
                        }
                        made
                    });
                }
                Some(_) => self.log(device, "is not running and makes no edits"),
                None => {
                    let at = device as usize - self.actors.len();
                    for ((document, edit), _) in plan {
                        let (outcome, why) = self.nodes[at].edit(edit, &document).await?;
                        made.push((device, document, edit, outcome, why));
                    }
                }
            }
        }
        while let Some(ended) = tasks.join_next().await {
            made.extend(ended?);
        }
        // Sorted by device, so that one seed gives one timeline whichever device was faster.
        made.sort_by_key(|(device, _, edit, _, _)| (*device, edit.id));
        for of_one in made.chunk_by(|one, other| one.0 == other.0) {
            self.log(of_one[0].0, &summary(of_one));
        }
        for (device, document, edit, outcome, why) in made {
            let failed = outcome == Some(Outcome::Failed);
            if failed && !self.full.contains(&device) {
                let why = why.unwrap_or_default();
                self.complaints.push(format!("device {device}: {} {} failed: {why}", edit.kind, edit.id));
            }
            if must_fail && matches!(outcome, Some(Outcome::Accepted(_))) {
                let what = format!("{} {} was accepted although the step must fail", edit.kind, edit.id);
                self.complaints.push(format!("device {device}: {what}"));
            }
            self.record(&document, edit, outcome);
        }
        Ok(())
    }

    /// Takes a device offline deliberately, or online again.
    pub(super) async fn set_offline(&mut self, device: u32, offline: bool) -> Result<()> {
        self.log(device, if offline { "goes offline" } else { "goes online" });
        if offline {
            self.offline.insert(device)
        } else {
            self.offline.remove(&device)
        };
        let devices = self.actors.len();
        match self.actors.get(device as usize) {
            Some(actor) if offline => actor.go_offline().await,
            Some(actor) => actor.go_online().await,
            None if offline => self.nodes[device as usize - devices].go_offline().await?,
            None => self.nodes[device as usize - devices].go_online().await?,
        }
        Ok(())
    }

    fn kill(&mut self, device: u32) {
        if let Some(actor) = self.actors.get_mut(device as usize).filter(|actor| actor.is_running()) {
            actor.kill();
            self.figures.kills += 1;
            self.log(device, "is killed");
        }
    }

    /// Starts the app of a device, unless it is running.
    pub(super) async fn open(&mut self, device: u32) -> Result<()> {
        let offline = self.offline.contains(&device);
        if let Some(actor) = self.actors.get_mut(device as usize).filter(|actor| !actor.is_running()) {
            actor.open(offline).await?;
            self.log(device, if offline { "is opened, offline" } else { "is opened" });
        }
        Ok(())
    }

    async fn kill_process(&mut self, device: u32, after: u64) -> Result<()> {
        let Some(actor) = self.actors.get_mut(device as usize) else { return Ok(()) };
        // A store can be open in one process only.
        actor.close().await;
        let document = self.documents[0].clone();
        let first = self.numbers[device as usize] + 1;
        let job = device_process::Job {
            directory: actor.directory().clone(),
            url: self.links[device as usize].url(),
            document: document.clone(),
            device,
            first,
            seed: crate::faults::network::faults::mix(self.setup.seed, u64::from(device) << 32 | u64::from(first)),
        };
        let edits = device_process::kill_after(&job, device_process::Moment::Accepted(after)).await?;
        self.figures.kills += 1;
        let accepted = edits.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Accepted(_))).count();
        self.log(device, &format!("made {accepted} edits offline in another process, which was killed with signal 9"));
        self.numbers[device as usize] += edits.len() as u32;
        for (edit, outcome) in edits {
            self.record(&document, edit, Some(outcome));
        }
        Ok(())
    }

    async fn kill_server(&mut self, after_bytes: Option<Count>) -> Result<()> {
        if let Some(after) = after_bytes {
            let bytes = after.draw(&mut self.rng);
            // The server is killed even when there is no traffic.
            drop(timeout(TRAFFIC_LIMIT, self.network.wait_for_bytes(bytes)).await);
        }
        let server = self.server.as_mut().context("a shared server cannot be killed")?;
        server.kill().await?;
        self.network.set_server(None);
        self.timeline.add("server", "is killed with signal 9");
        Ok(())
    }

    /// Starts the server, unless it is running or shared.
    pub(super) async fn start_server(&mut self) -> Result<()> {
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        if !server.is_running() {
            let address = server.start().await?;
            self.network.set_server(Some(address));
            self.figures.restarts += 1;
            self.timeline.add("server", "is started again on another port");
        }
        Ok(())
    }

    /// Makes a device's disk full, or frees it.
    pub(super) fn set_full(&mut self, device: u32, full: bool) {
        if let Some(space) = self.spaces.get(device as usize) {
            space.set_full(full);
            let changed = if full { self.full.insert(device) } else { self.full.remove(&device) };
            if changed {
                self.log(device, if full { "has no space left" } else { "has space again" });
            }
        }
    }

    /// Kills the server and starts it again.
    pub(super) async fn restart_server(&mut self) -> Result<()> {
        ensure!(self.server.is_some(), "a shared server cannot be killed");
        self.kill_server(None).await?;
        self.start_server().await
    }
}

fn summary(made: &[Made]) -> String {
    let count = |wanted: fn(&Option<Outcome>) -> bool| made.iter().filter(|(_, _, _, found, _)| wanted(found)).count();
    let accepted = count(|outcome| matches!(outcome, Some(Outcome::Accepted(_))));
    let failed = count(|outcome| *outcome == Some(Outcome::Failed));
    let ids = match (made.first(), made.last()) {
        (Some(first), Some(last)) => format!("{} to {}", first.2.id, last.2.id),
        _ => String::new(),
    };
    let why = made.iter().find_map(|(_, _, _, _, why)| why.as_deref());
    match (failed, why) {
        (0, _) => format!("edits {accepted} times, {ids}"),
        (_, Some(why)) => format!("edits {accepted} times, {ids}, and {failed} edits failed: {why}"),
        _ => format!("edits {accepted} times, {ids}, and {failed} edits failed"),
    }
}

/// The faults that differ from a good network, as text.
fn describe(faults: &crate::faults::network::faults::Faults) -> String {
    if *faults == crate::faults::network::faults::Faults::default() {
        return "good".into();
    }
    let all = format!("{faults:?}");
    let fields = all.trim_start_matches("Faults { ").trim_end_matches(" }").split(", ");
    let active =
        fields.filter(|part| !part.ends_with(": false") && !part.ends_with(": None") && !part.ends_with(": 0"));
    active.collect::<Vec<_>>().join(", ").replace("Some(", "").replace(')', "")
}
