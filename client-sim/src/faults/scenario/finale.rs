//! The end of a scenario: all replicas sync, and are compared with each other and with the ledger.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use futures_util::future::select_all;
use syncline_client::{Client, ClientConfig, Dialect};
use tokio::time::{Instant, sleep, timeout};

use super::actor::{Actor, Replica};
use super::world::World;
use crate::faults::network::faults::Faults;
use crate::faults::oracle::{View, chain, check, differences};

/// Longest wait until all replicas are saved and equal.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
/// Poll interval when the scenario has npm clients, which do not report changes.
const NODE_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Poll interval when all clients report changes; limits the delay of a change that was not reported.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait until all replicas are saved and equal.
pub(crate) fn settle_limit() -> Duration {
    SETTLE_LIMIT
}

impl World {
    /// Waits until all online replicas are saved and equal.
    pub(super) async fn settle(&mut self) -> Result<()> {
        let begin = Instant::now();
        for document in &self.documents.clone() {
            let replicas = self.online_replicas(document)?;
            let saved = replicas.iter().map(|(device, replica)| async move {
                let saved = timeout(SETTLE_LIMIT, replica.saved()).await;
                let saved =
                    saved.with_context(|| format!("edits were not saved in time: {}", replica.status())).flatten();
                saved.with_context(|| format!("device {device}, {document}"))
            });
            futures_util::future::try_join_all(saved).await?;
            self.wait_until_equal(document, &replicas).await?;
        }
        self.timeline.add("", &format!("all are in sync after {} real ms", begin.elapsed().as_millis()));
        Ok(())
    }

    /// The replicas of devices that are running and not deliberately offline.
    fn online_replicas(&self, document: &str) -> Result<Vec<(u32, Replica)>> {
        let online = self.actors.iter().filter(|actor| actor.is_running() && !self.offline.contains(&actor.number));
        online.map(|actor| Ok((actor.number, actor.replica(document)?))).collect()
    }

    /// Waits until the replicas and the online npm clients hold the same content.
    async fn wait_until_equal(&mut self, document: &str, replicas: &[(u32, Replica)]) -> Result<()> {
        let begin = Instant::now();
        let nodes: Vec<usize> =
            (0..self.nodes.len()).filter(|at| !self.offline.contains(&self.nodes[*at].number)).collect();
        loop {
            // Subscribed before the views are read, so that a later change ends the wait.
            let mut changes: Vec<_> = replicas.iter().map(|(_, replica)| replica.changes()).collect();
            let mut views = Vec::new();
            for (device, replica) in replicas {
                views.push((*device, replica.view().await?));
            }
            for at in &nodes {
                let view = self.nodes[*at].view(document).await?;
                views.push((self.nodes[*at].number, view));
            }
            let other = views.iter().skip(1).find(|(_, view)| *view != views[0].1);
            let Some((device, view)) = other else { return Ok(()) };
            if begin.elapsed() > SETTLE_LIMIT {
                let differ = differences(&views[0].1, view).join("; ");
                bail!("DIVERGED: device {} and device {device} differ in {document}: {differ}", views[0].0);
            }
            let tick = if nodes.is_empty() { POLL_INTERVAL } else { NODE_POLL_INTERVAL };
            let any = select_all(changes.iter_mut().map(|changes| changes.next().boxed()));
            tokio::select! {
                _ = any => {}
                () = sleep(tick) => {}
            }
        }
    }

    /// Removes all faults, starts all devices, syncs them, and checks every replica against the ledger.
    pub(super) async fn finale(&mut self) -> Result<()> {
        self.timeline.add("", "-- all devices sync without faults");
        for device in 0..self.numbers.len() as u32 {
            self.links[device as usize].set(Faults::default());
            self.set_full(device, false);
        }
        self.start_server().await?;
        for device in 0..self.numbers.len() as u32 {
            self.open(device).await?;
            if self.offline.contains(&device) {
                self.set_offline(device, false).await?;
            }
        }
        self.settle().await?;
        for document in self.documents.clone() {
            self.judge(&document).await?;
        }
        if self.server.is_some() {
            self.restart_server().await?;
            for (document, end) in self.ends.clone() {
                self.compare_fresh_client(&document, &end, "a new client after the server's restart").await?;
            }
        }
        let edits: usize = self.ledgers.values().map(crate::faults::oracle::Ledger::accepted).sum();
        if self.complaints.is_empty() {
            self.timeline.add("", &format!("all replicas hold all {edits} edits, once each"));
        }
        Ok(())
    }

    /// Checks one document: one replica against the ledger, and every other replica against that one.
    async fn judge(&mut self, document: &str) -> Result<()> {
        let replicas = self.online_replicas(document)?;
        let mut end: Option<View> = None;
        for (device, replica) in &replicas {
            let view = replica.view().await?;
            match &end {
                None => {
                    let found = check(&self.ledgers[document], &view);
                    self.complaints
                        .extend(found.into_iter().map(|what| format!("device {device}, {document}: {what}")));
                    end = Some(view);
                }
                Some(end) => self.complaints.extend(
                    differences(end, &view).into_iter().map(|what| format!("device {device}, {document}: {what}")),
                ),
            }
        }
        let Some(end) = end else { return Ok(()) };
        self.compare_fresh_client(document, &end, "a new client").await?;
        self.compare_fresh_device(document, &end).await?;
        self.judge_registers(document, &replicas).await?;
        self.ends.push((document.to_owned(), end));
        Ok(())
    }

    async fn judge_registers(&mut self, document: &str, replicas: &[(u32, Replica)]) -> Result<()> {
        let mut decisions = Vec::new();
        for actor in &self.actors {
            decisions.extend(actor.notes(|notes| notes.decisions.get(document).cloned().unwrap_or_default()));
        }
        for (device, replica) in replicas {
            let register = replica.register().await?;
            let found = chain::check(&self.ledgers[document], &decisions, &register);
            if !found.is_empty() {
                self.timeline.add("", &format!("device {device} has {register:?}; decisions: {decisions:?}"));
            }
            self.complaints.extend(found.into_iter().map(|what| format!("device {device}, {document}: {what}")));
        }
        Ok(())
    }

    /// Compares what a new client receives from the server with `end`; `client` names it in complaints.
    async fn compare_fresh_client(&mut self, document: &str, end: &View, client: &str) -> Result<()> {
        let view = FreshClient::view(&self.network_address()?, document).await.with_context(|| client.to_owned())?;
        let found = differences(end, &view);
        self.complaints.extend(found.into_iter().map(|what| format!("{client}, {document}: {what}")));
        Ok(())
    }

    /// Compares what a device with an empty store receives from the server with `end`.
    async fn compare_fresh_device(&mut self, document: &str, end: &View) -> Result<()> {
        let number = self.numbers.len() as u32;
        let directory = self.dir.path().join(format!("fresh-{document}"));
        let (url, clock) = (self.network_address()?, self.time.clock(0));
        let mut fresh = Actor::new(number, directory, url, clock, None, vec![document.to_owned()]);
        fresh.open(false).await?;
        let replica = fresh.replica(document)?;
        let begin = Instant::now();
        loop {
            let mut changes = replica.changes();
            let found = differences(end, &replica.view().await?);
            if found.is_empty() {
                break;
            }
            if begin.elapsed() > SETTLE_LIMIT {
                self.complaints.extend(found.into_iter().map(|what| format!("a new device, {document}: {what}")));
                break;
            }
            // One comparison too many does no harm, so a timeout is as good as a change.
            drop(timeout(POLL_INTERVAL, changes.next()).await);
        }
        fresh.close().await;
        Ok(())
    }

    fn network_address(&self) -> Result<String> {
        let address = self.network.server().context("the server is not running")?;
        Ok(format!("ws://{address}"))
    }
}

/// A y-websocket client that starts with an empty document.
pub(crate) struct FreshClient;

impl FreshClient {
    /// Connects, syncs and returns the content that the server sent.
    pub(crate) async fn view(url: &str, document: &str) -> Result<View> {
        let client = Client::connect(ClientConfig::new(url, document, Dialect::YWebsocket))?;
        timeout(SETTLE_LIMIT, client.wait_until_synced()).await.context("the client was not in sync in time")??;
        let view = client.read(|txn| View::of(txn)).await?;
        client.close().await;
        Ok(view)
    }
}
