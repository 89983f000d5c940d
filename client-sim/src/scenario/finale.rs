//! Everybody meets, and is compared with everybody and with the ledger.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::FutureExt;
use futures_util::future::select_all;
use syncline_client::{Client, ClientConfig, Dialect};
use tokio::time::{Instant, sleep, timeout};

use super::actor::{Actor, Hand};
use super::world::World;
use crate::network::faults::Faults;
use crate::oracle::{View, chain, check, differences};

/// Longest wait for everybody to have everything.
const SETTLE_LIMIT: Duration = Duration::from_secs(15);
/// An npm client does not say when something changes: it is asked so often.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// A change that was seen by nobody costs at most this.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Longest wait for everybody to have everything.
pub fn settle_limit() -> Duration {
    SETTLE_LIMIT
}

impl World {
    /// Waits until all who can have everything, and all is saved.
    pub async fn settle(&mut self) -> Result<()> {
        let begin = Instant::now();
        for document in &self.documents.clone() {
            let hands = self.hands(document)?;
            let saved = hands.iter().map(|(device, hand)| async move {
                let saved = timeout(SETTLE_LIMIT, hand.saved()).await;
                let saved = saved.with_context(|| format!("nothing was saved in time: {}", hand.status())).flatten();
                saved.with_context(|| format!("device {device}, {document}"))
            });
            futures_util::future::try_join_all(saved).await?;
            self.agree(document, &hands).await?;
        }
        self.timeline.tell("", &format!("all are in sync, after {} real ms", begin.elapsed().as_millis()));
        Ok(())
    }

    /// Who runs and is not away on purpose.
    fn hands(&self, document: &str) -> Result<Vec<(u32, Hand)>> {
        let here = self.actors.iter().filter(|actor| actor.is_running() && !self.offline.contains(&actor.number));
        here.map(|actor| Ok((actor.number, actor.hand(document)?))).collect()
    }

    /// Waits until they hold the same.
    async fn agree(&mut self, document: &str, hands: &[(u32, Hand)]) -> Result<()> {
        let begin = Instant::now();
        let nodes: Vec<usize> =
            (0..self.nodes.len()).filter(|at| !self.offline.contains(&self.nodes[*at].number)).collect();
        loop {
            // Before the look: what changes after it wakes us.
            let mut changes: Vec<_> = hands.iter().map(|(_, hand)| hand.changes()).collect();
            let mut views = Vec::new();
            for (device, hand) in hands {
                views.push((*device, hand.view().await?));
            }
            for at in &nodes {
                let view = self.nodes[*at].view(document).await?;
                views.push((self.nodes[*at].number, view));
            }
            let other = views.iter().skip(1).find(|(_, view)| *view != views[0].1);
            let Some((device, view)) = other else { return Ok(()) };
            if begin.elapsed() > SETTLE_LIMIT {
                let differ = differences(&views[0].1, view).join("; ");
                bail!("DIVERGED: device {} and device {device} do not agree on {document}: {differ}", views[0].0);
            }
            let tick = if nodes.is_empty() { LOOK_EVERY } else { ASK_EVERY };
            let any = select_all(changes.iter_mut().map(|changes| changes.next().boxed()));
            tokio::select! {
                _ = any => {}
                () = sleep(tick) => {}
            }
        }
    }

    /// Everything is well again, everybody is there; then the ledger is held against all of them.
    pub async fn finale(&mut self) -> Result<()> {
        self.timeline.tell("", "-- everybody meets");
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
                self.meet_fresh(&document, &end, "a fresh client after the server's restart").await?;
            }
        }
        let edits: usize = self.ledgers.values().map(crate::oracle::Ledger::accepted).sum();
        if self.complaints.is_empty() {
            self.timeline.tell("", &format!("all replicas hold all {edits} edits, once each"));
        }
        Ok(())
    }

    /// One document: the ledger against one replica, and every other replica against that one.
    async fn judge(&mut self, document: &str) -> Result<()> {
        let hands = self.hands(document)?;
        let mut end: Option<View> = None;
        for (device, hand) in &hands {
            let view = hand.view().await?;
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
        self.meet_fresh(document, &end, "a fresh client").await?;
        self.meet_fresh_device(document, &end).await?;
        self.judge_registers(document, &hands).await?;
        self.ends.push((document.to_owned(), end));
        Ok(())
    }

    async fn judge_registers(&mut self, document: &str, hands: &[(u32, Hand)]) -> Result<()> {
        let mut decisions = Vec::new();
        for actor in &self.actors {
            decisions.extend(actor.notes(|notes| notes.decisions.get(document).cloned().unwrap_or_default()));
        }
        for (device, hand) in hands {
            let register = hand.register().await?;
            let found = chain::check(&self.ledgers[document], &decisions, &register);
            if !found.is_empty() {
                self.timeline.tell("", &format!("device {device} has {register:?}; decisions: {decisions:?}"));
            }
            self.complaints.extend(found.into_iter().map(|what| format!("device {device}, {document}: {what}")));
        }
        Ok(())
    }

    async fn meet_fresh(&mut self, document: &str, end: &View, who: &str) -> Result<()> {
        let view = Fresh::look(&self.network_address()?, document).await.with_context(|| who.to_owned())?;
        let found = differences(end, &view);
        self.complaints.extend(found.into_iter().map(|what| format!("{who}, {document}: {what}")));
        Ok(())
    }

    /// A device that has nothing yet.
    async fn meet_fresh_device(&mut self, document: &str, end: &View) -> Result<()> {
        let number = self.numbers.len() as u32;
        let directory = self.dir.path().join(format!("fresh-{document}"));
        let (url, clock) = (self.network_address()?, self.time.clock(0));
        let mut fresh = Actor::new(number, directory, url, clock, None, vec![document.to_owned()]);
        fresh.open(false).await?;
        let hand = fresh.hand(document)?;
        let begin = Instant::now();
        loop {
            let mut changes = hand.changes();
            let found = differences(end, &hand.view().await?);
            if found.is_empty() {
                break;
            }
            if begin.elapsed() > SETTLE_LIMIT {
                self.complaints.extend(found.into_iter().map(|what| format!("a fresh device, {document}: {what}")));
                break;
            }
            // A look too many does no harm, a wait too long does.
            drop(timeout(LOOK_EVERY, changes.next()).await);
        }
        fresh.close().await;
        Ok(())
    }

    fn network_address(&self) -> Result<String> {
        let address = self.network.server().context("the server is not running")?;
        Ok(format!("ws://{address}"))
    }
}

/// A client of a stock dialect, without a past.
pub struct Fresh;

impl Fresh {
    /// What the server gives to somebody who has nothing.
    pub async fn look(url: &str, document: &str) -> Result<View> {
        let client = Client::connect(ClientConfig::new(url, document, Dialect::YWebsocket))?;
        timeout(SETTLE_LIMIT, client.wait_until_synced()).await.context("it was not in sync in time")??;
        let view = client.read(|txn| View::of(txn)).await?;
        client.close().await;
        Ok(view)
    }
}
