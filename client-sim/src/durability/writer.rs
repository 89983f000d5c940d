//! One author: edits a document with its own CRDT replica, notes what it is told, leaves and comes back if that is its way.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tokio::time::sleep_until;
use yrs::{Array, ArrayRef, Doc, Transact};

use super::ledger::{Edit, Kind, Page, element};
use super::link::{Link, News, Tongue};

/// The root that holds the elements.
pub const ROOT: &str = "edits";

/// How an author works.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Between two edits, in milliseconds.
    pub pause_ms: Range<u64>,
    /// The filling of an element, in bytes.
    pub bytes: Range<usize>,
    /// Most edits on their way.
    pub in_flight: usize,
    /// Most of its own elements that it leaves in the document: the oldest goes for each new one.
    pub keeps: usize,
    /// Leaves after so many edits, and comes back at once.
    pub visit: Option<usize>,
}

/// One author of one document.
pub struct Author {
    /// What it did.
    pub page: Page,
    /// What it was told when it was turned away, in order.
    pub told: Vec<String>,
    tongue: Tongue,
    habits: Habits,
    name: String,
    rng: StdRng,
    doc: Doc,
    list: ArrayRef,
    /// Markers of its own elements, oldest first.
    own: VecDeque<String>,
}

impl Author {
    /// Has not begun. `name` is unique in the run.
    pub fn new(name: String, tongue: Tongue, document: String, habits: Habits, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let doc = Doc::with_client_id(rng.random_range(1..1_u64 << 53));
        let list = doc.get_or_insert_array(ROOT);
        let page = Page { document, dialect: tongue.name(), edits: Vec::new() };
        Self { page, told: Vec::new(), tongue, habits, name, rng, doc, list, own: VecDeque::new() }
    }

    /// Edits until `stop`, or until the server is gone or turns it away.
    pub async fn write(&mut self, url: &str, mut stop: watch::Receiver<bool>) {
        loop {
            let stopped = tokio::select! {
                ended = self.visit(url) => ended.is_err(),
                _ = stop.wait_for(|stop| *stop) => true,
            };
            if stopped {
                return;
            }
        }
    }

    /// Sends again what was not acknowledged, and waits until all of it is.
    pub async fn settle(&mut self, url: &str) -> Result<()> {
        let mut link = self.come_back(url).await?;
        while self.page.edits.iter().any(|edit| edit.acked.is_none()) {
            let news = link.hear().await?;
            self.note(news)?;
        }
        Ok(())
    }

    /// Makes an edit that somebody else sends: its number and its update.
    pub fn make_edit(&mut self) -> (usize, Bytes) {
        let number = self.edit();
        (number, self.page.edits[number].update.clone())
    }

    async fn come_back(&self, url: &str) -> Result<Link> {
        let (mut link, _) = Link::join(self.tongue, url, &self.page.document).await?;
        // Later edits build on these.
        for (number, edit) in self.page.edits.iter().enumerate().filter(|(_, edit)| edit.acked.is_none()) {
            link.send_again(number, &edit.update).await?;
        }
        link.sent_again().await?;
        Ok(link)
    }

    async fn visit(&mut self, url: &str) -> Result<()> {
        let mut link = self.come_back(url).await?;
        let mut left = self.habits.visit.unwrap_or(usize::MAX);
        // Half of those who leave do so without waiting for their answers.
        let patient = self.rng.random_bool(0.5);
        let mut next = tokio::time::Instant::now() + self.pause();
        while left > 0 || (patient && link.unanswered() > 0) {
            tokio::select! {
                news = link.hear() => self.note(news?)?,
                () = sleep_until(next), if left > 0 && link.unanswered() < self.habits.in_flight => {
                    let number = self.edit();
                    link.send(number, &self.page.edits[number].update).await?;
                    left -= 1;
                    next = tokio::time::Instant::now() + self.pause();
                }
            }
        }
        Ok(())
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(self.habits.pause_ms.clone()))
    }

    fn edit(&mut self) -> usize {
        let number = self.page.edits.len();
        let marker = format!("{}.{number}", self.name);
        let mut txn = self.doc.transact_mut();
        let kind = if self.own.len() >= self.habits.keeps {
            self.list.remove(&mut txn, 0);
            Kind::Delete(self.own.pop_front().unwrap_or_default())
        } else {
            let bytes = self.rng.random_range(self.habits.bytes.clone());
            self.list.push_back(&mut txn, element(&marker, bytes));
            self.own.push_back(marker.clone());
            Kind::Push
        };
        let update = txn.encode_update_v1().into();
        drop(txn);
        self.page.edits.push(Edit { marker, kind, update, made: Instant::now(), acked: None, refused: false });
        number
    }

    fn note(&mut self, news: News) -> Result<()> {
        match news {
            News::Saved(numbers) => {
                let now = Instant::now();
                for number in numbers {
                    self.page.edits[number].acked.get_or_insert(now);
                }
                Ok(())
            }
            News::Refused(number, why) => {
                self.page.edits[number].refused = true;
                self.told.push(format!("refused: {why}"));
                Ok(())
            }
            News::Closed(code, reason) => {
                self.told.push(format!("closed {code}: {reason}"));
                anyhow::bail!("closed {code}: {reason}")
            }
            News::Theirs | News::Nothing => Ok(()),
        }
    }
}
