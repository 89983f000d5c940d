//! Many authors at once, readers that come and go, and the judgement on what a server holds afterwards.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{StreamExt, stream};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use yrs::updates::decoder::Decode;
use yrs::{Any, Array, Doc, Out, ReadTxn, Transact, Update};

use super::ledger::{Findings, Page, judge};
use super::link::{Link, Tongue};
use super::writer::{Author, Habits, ROOT};

/// Documents read at once.
const READERS: usize = 8;

/// What a fleet's authors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// Keystrokes; some authors come and go.
    Small,
    /// As many keystrokes as go.
    Fast,
    /// Edits of 300 KB.
    Large,
    /// Edits of 8 to 60 KB that replace each other, so that documents are compacted again and again.
    Churn,
    /// A part of the authors do each.
    Mixed,
}

/// Authors at work.
pub struct Fleet {
    tasks: JoinSet<Author>,
    stop: watch::Sender<bool>,
}

impl Fleet {
    /// Sends authors to the server.
    pub fn start(url: &str, authors: Vec<Author>) -> Self {
        let mut fleet = Self { tasks: JoinSet::new(), stop: watch::Sender::new(false) };
        for mut author in authors {
            let (url, stop) = (url.to_owned(), fleet.stop.subscribe());
            fleet.tasks.spawn(async move {
                author.write(&url, stop).await;
                author
            });
        }
        fleet
    }

    /// Sends somebody who opens one of `documents` after the other and looks at it, until the server is gone.
    pub fn send_visitor(&mut self, url: &str, documents: Vec<String>, mut rng: StdRng) {
        let (url, mut stop) = (url.to_owned(), self.stop.subscribe());
        let habits = Habits { pause_ms: 1..2, bytes: 0..1, in_flight: 0, keeps: 0, visit: None };
        let nobody = Author::new("visitor".into(), Tongue::YWebsocket, String::new(), habits, 0);
        self.tasks.spawn(async move {
            while !documents.is_empty() && !*stop.borrow() {
                let document = &documents[rng.random_range(0..documents.len())];
                let tongue = Tongue::ALL[rng.random_range(0..Tongue::ALL.len())];
                let looked = tokio::select! {
                    looked = Link::join(tongue, &url, document) => looked,
                    _ = stop.wait_for(|stop| *stop) => break,
                };
                if looked.is_err() {
                    break;
                }
            }
            nobody
        });
    }

    /// Waits until every author has seen the server's end, and gives the authors.
    pub async fn come_home(mut self) -> Result<Vec<Author>> {
        let mut authors = Vec::new();
        while let Some(author) = self.tasks.join_next().await {
            let author = author?;
            if !author.page.document.is_empty() {
                authors.push(author);
            }
        }
        Ok(authors)
    }

    /// Ends the work.
    pub async fn stop(self) -> Result<Vec<Author>> {
        self.stop.send_replace(true);
        self.come_home().await
    }
}

/// Authors of every dialect, `each` of each, spread over `documents` documents.
pub fn authors(prefix: &str, each: usize, documents: usize, load: Load, rng: &mut StdRng) -> Vec<Author> {
    let mut authors = Vec::new();
    for number in 0..each {
        for (at, tongue) in Tongue::ALL.into_iter().enumerate() {
            let document = (number + at) % documents;
            let load = match load {
                // The first document is churned, the second gets large edits, the others keystrokes.
                Load::Mixed if document == 0 => Load::Churn,
                Load::Mixed if document == 1 && number % 4 == 1 => Load::Large,
                Load::Mixed => Load::Small,
                other => other,
            };
            let habits = habits(load, number);
            let name = format!("{prefix}.{}{number}", &tongue.name()[..1]);
            authors.push(Author::new(name, tongue, format!("{prefix}-{document}"), habits, rng.random()));
        }
    }
    authors
}

fn habits(load: Load, number: usize) -> Habits {
    let visit = (number % 4 == 3).then_some(10 + number);
    match load {
        Load::Small | Load::Mixed => Habits { pause_ms: 2..25, bytes: 0..300, in_flight: 16, keeps: 100, visit },
        Load::Fast => Habits { pause_ms: 0..3, bytes: 0..300, in_flight: 64, keeps: 50, visit: None },
        Load::Large => Habits { pause_ms: 50..1500, bytes: 300_000..300_001, in_flight: 1, keeps: 2, visit: None },
        Load::Churn => Habits { pause_ms: 2..30, bytes: 8_000..60_000, in_flight: 4, keeps: 1, visit: None },
    }
}

/// What a server holds, held against what authors were told.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Edits that count as acknowledged.
    pub acked: BTreeMap<&'static str, usize>,
    /// Edits without an acknowledgement that counts.
    pub unknown: usize,
    /// Of the unknown pushes, how many are there.
    pub unknown_there: usize,
    /// Documents read.
    pub documents: usize,
    /// What is wrong.
    pub complaints: Vec<String>,
}

impl Judgement {
    /// Adds another.
    pub fn add(&mut self, other: Judgement) {
        for (dialect, count) in other.acked {
            *self.acked.entry(dialect).or_default() += count;
        }
        self.unknown += other.unknown;
        self.unknown_there += other.unknown_there;
        self.documents += other.documents;
        self.complaints.extend(other.complaints);
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: usize = self.acked.values().sum();
        let each: Vec<_> = self.acked.iter().map(|(dialect, count)| format!("{dialect} {count}")).collect();
        write!(
            f,
            "{all} acknowledged ({}), {} without an answer ({} of them there), {} documents read, {} complaints",
            each.join(", "),
            self.unknown,
            self.unknown_there,
            self.documents,
            self.complaints.len()
        )
    }
}

/// Reads every document of `pages` from the server and judges it. `cut`: see [`judge`].
pub async fn verdict(url: &str, pages: &[&Page], cut: Option<Instant>) -> Judgement {
    let mut by_document: BTreeMap<&str, Vec<&Page>> = BTreeMap::new();
    for page in pages {
        by_document.entry(&page.document).or_default().push(page);
    }
    let mut judgement = Judgement::default();
    let read =
        stream::iter(by_document).map(|(document, pages)| async move { (document, pages, read(url, document).await) });
    let mut read = std::pin::pin!(read.buffer_unordered(READERS));
    while let Some((document, pages, elements)) = read.next().await {
        judgement.documents += 1;
        let elements = match elements {
            Ok(elements) => elements,
            Err(error) => {
                judgement.complaints.push(format!("{document} does not load: {error:#}"));
                continue;
            }
        };
        let found: Findings = judge(&pages, &elements, cut);
        if !found.is_empty() {
            judgement.complaints.push(format!("{document}: {found}"));
        }
        count(&mut judgement, &pages, &elements, cut);
    }
    judgement
}

fn count(judgement: &mut Judgement, pages: &[&Page], elements: &[String], cut: Option<Instant>) {
    let there: std::collections::HashSet<&str> =
        elements.iter().filter_map(|element| element.split_once('|').map(|(marker, _)| marker)).collect();
    for page in pages {
        for edit in &page.edits {
            if edit.acked.is_some_and(|acked| cut.is_none_or(|cut| acked < cut)) {
                *judgement.acked.entry(page.dialect).or_default() += 1;
            } else {
                judgement.unknown += 1;
                judgement.unknown_there += usize::from(there.contains(edit.marker.as_str()));
            }
        }
    }
}

/// The elements of a document as the server tells them to somebody new.
pub async fn read(url: &str, document: &str) -> Result<Vec<String>> {
    let (_, state) = Link::join(Tongue::YWebsocket, url, document).await?;
    let doc = Doc::new();
    let update = Update::decode_v1(&state).context("the server's answer is no update")?;
    doc.transact_mut().apply_update(update).context("the server's answer cannot be applied")?;
    let txn = doc.transact();
    if txn.has_missing_updates() {
        anyhow::bail!("the server's answer has holes");
    }
    let Some(list) = txn.get_array(ROOT) else { return Ok(Vec::new()) };
    let text = |element| match element {
        Out::Any(Any::String(text)) => text.to_string(),
        other => format!("{other:?}"),
    };
    Ok(list.iter(&txn).map(text).collect())
}
