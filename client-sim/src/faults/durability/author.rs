//! One author: edits a document with its own CRDT replica, records the server's answers, and may disconnect and reconnect.

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

use super::ledger::{AuthorEdit, AuthorEditKind, AuthorRecord, element};
use super::link::{Link, LinkEvent};
use crate::peer::Dialect;

/// Name of the root array that holds the elements.
pub(super) const ROOT: &str = "edits";

/// Behaviour of an author.
#[derive(Debug, Clone)]
pub(super) struct AuthorConfig {
    /// Pause between two edits, in milliseconds.
    pub pause_ms: Range<u64>,
    /// Size of an element's filling, in bytes.
    pub bytes: Range<usize>,
    /// Maximum number of edits in flight.
    pub in_flight: usize,
    /// Maximum number of its own elements in the document: at this number it deletes the oldest before it pushes another.
    pub max_elements: usize,
    /// Disconnects after this many edits and reconnects immediately; `None`: stays connected.
    pub edits_per_visit: Option<usize>,
}

/// One author of one document.
pub(super) struct Author {
    /// The edits that it made.
    pub record: AuthorRecord,
    /// Refusals and closes that it received, in order.
    pub rejections: Vec<String>,
    dialect: Dialect,
    config: AuthorConfig,
    name: String,
    rng: StdRng,
    doc: Doc,
    list: ArrayRef,
    /// Markers of its own elements, oldest first.
    own: VecDeque<String>,
}

impl Author {
    /// Creates an author that has made no edit. `name` must be unique in the run.
    pub(super) fn new(name: String, dialect: Dialect, document: String, config: AuthorConfig, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let doc = Doc::with_client_id(rng.random_range(1..1_u64 << 53));
        let list = doc.get_or_insert_array(ROOT);
        let record = AuthorRecord { document, dialect: dialect.name(), edits: Vec::new() };
        Self { record, rejections: Vec::new(), dialect, config, name, rng, doc, list, own: VecDeque::new() }
    }

    /// Edits until `stop` is set, the connection is lost or the server closes it.
    pub(super) async fn write(&mut self, url: &str, mut stop: watch::Receiver<bool>) {
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

    /// Sends unacknowledged edits again and waits until all are acknowledged.
    pub(super) async fn resend_unacknowledged(&mut self, url: &str) -> Result<()> {
        let mut link = self.reconnect(url).await?;
        while self.record.edits.iter().any(|edit| edit.acked.is_none()) {
            let event = link.next_event().await?;
            self.handle(event)?;
        }
        Ok(())
    }

    /// Makes an edit that the caller sends; returns its number and its update.
    pub(super) fn make_edit(&mut self) -> (usize, Bytes) {
        let number = self.edit();
        (number, self.record.edits[number].update.clone())
    }

    async fn reconnect(&self, url: &str) -> Result<Link> {
        let (mut link, _) = Link::join(self.dialect, url, &self.record.document).await?;
        // Later edits depend on these.
        for (number, edit) in self.record.edits.iter().enumerate().filter(|(_, edit)| edit.acked.is_none()) {
            link.resend(number, &edit.update).await?;
        }
        link.finish_resend().await?;
        Ok(link)
    }

    async fn visit(&mut self, url: &str) -> Result<()> {
        let mut link = self.reconnect(url).await?;
        let mut left = self.config.edits_per_visit.unwrap_or(usize::MAX);
        // Half of the disconnects do not wait for outstanding answers.
        let waits_for_answers = self.rng.random_bool(0.5);
        let mut next = tokio::time::Instant::now() + self.pause();
        while left > 0 || (waits_for_answers && link.unanswered_count() > 0) {
            tokio::select! {
                event = link.next_event() => self.handle(event?)?,
                () = sleep_until(next), if left > 0 && link.unanswered_count() < self.config.in_flight => {
                    let number = self.edit();
                    link.send(number, &self.record.edits[number].update).await?;
                    left -= 1;
                    next = tokio::time::Instant::now() + self.pause();
                }
            }
        }
        Ok(())
    }

    fn pause(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(self.config.pause_ms.clone()))
    }

    fn edit(&mut self) -> usize {
        let number = self.record.edits.len();
        let marker = format!("{}.{number}", self.name);
        let mut txn = self.doc.transact_mut();
        let kind = if self.own.len() >= self.config.max_elements {
            self.list.remove(&mut txn, 0);
            AuthorEditKind::Delete(self.own.pop_front().unwrap_or_default())
        } else {
            let bytes = self.rng.random_range(self.config.bytes.clone());
            self.list.push_back(&mut txn, element(&marker, bytes));
            self.own.push_back(marker.clone());
            AuthorEditKind::Push
        };
        let update = txn.encode_update_v1().into();
        drop(txn);
        self.record.edits.push(AuthorEdit { marker, kind, update, made: Instant::now(), acked: None, refused: false });
        number
    }

    fn handle(&mut self, event: LinkEvent) -> Result<()> {
        match event {
            LinkEvent::Saved(numbers) => {
                let now = Instant::now();
                for number in numbers {
                    self.record.edits[number].acked.get_or_insert(now);
                }
                Ok(())
            }
            LinkEvent::Refused(number, why) => {
                self.record.edits[number].refused = true;
                self.rejections.push(format!("refused: {why}"));
                Ok(())
            }
            LinkEvent::Closed(code, reason) => {
                self.rejections.push(format!("closed {code}: {reason}"));
                anyhow::bail!("closed {code}: {reason}")
            }
            LinkEvent::RemoteUpdate | LinkEvent::Other => Ok(()),
        }
    }
}
