//! Many authors in parallel, visitors that open documents, and the check of the server's documents afterwards.

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

use super::author::{Author, AuthorConfig, ROOT};
use super::ledger::{AuthorRecord, Findings, compare};
use super::link::Link;
use crate::peer::Dialect;
use crate::server::ServerBinary;

/// Number of documents read in parallel.
const READERS: usize = 8;

/// Arguments of the commands that run a fleet.
#[derive(Debug, clap::Args)]
pub(super) struct FleetArgs {
    /// Seed of every random choice.
    #[arg(long, env = "SYNCLINE_SEED", default_value_t = 1)]
    pub(super) seed: u64,
    /// Number of authors of each dialect.
    #[arg(long, default_value_t = 20)]
    pub(super) writers: usize,
    #[command(flatten)]
    pub(super) server: ServerBinary,
}

/// Kind of edits that the authors make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Keystrokes; some authors disconnect and reconnect.
    Small,
    /// Keystrokes, as fast as possible.
    Fast,
    /// Edits of 300 KB.
    Large,
    /// Edits of 8 to 60 KB that replace each other, so that documents are compacted again and again.
    Churn,
    /// A mix of churn, large and small edits.
    Mixed,
}

/// Running authors and visitors.
pub(super) struct Fleet {
    tasks: JoinSet<Author>,
    stop: watch::Sender<bool>,
}

impl Fleet {
    /// Starts authors on the server at `url`.
    pub(super) fn start(url: &str, authors: Vec<Author>) -> Self {
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

    /// Starts a visitor that opens random documents of `documents`, one after the other, until the server is gone.
    pub(super) fn spawn_visitor(&mut self, url: &str, documents: Vec<String>, mut rng: StdRng) {
        let (url, mut stop) = (url.to_owned(), self.stop.subscribe());
        let config = AuthorConfig { pause_ms: 1..2, bytes: 0..1, in_flight: 0, max_elements: 0, edits_per_visit: None };
        // A placeholder for the task's result; its document name is empty.
        let no_author = Author::new("visitor".into(), Dialect::YWebsocket, String::new(), config, 0);
        self.tasks.spawn(async move {
            while !documents.is_empty() && !*stop.borrow() {
                let document = &documents[rng.random_range(0..documents.len())];
                let dialect = Dialect::ALL[rng.random_range(0..Dialect::ALL.len())];
                let joined = tokio::select! {
                    joined = Link::join(dialect, &url, document) => joined,
                    _ = stop.wait_for(|stop| *stop) => break,
                };
                if joined.is_err() {
                    break;
                }
            }
            no_author
        });
    }

    /// Waits until every author has ended, because its server is gone or it was stopped; returns the authors.
    pub(super) async fn join(mut self) -> Result<Vec<Author>> {
        let mut authors = Vec::new();
        while let Some(author) = self.tasks.join_next().await {
            let author = author?;
            if !author.record.document.is_empty() {
                authors.push(author);
            }
        }
        Ok(authors)
    }

    /// Stops all authors and visitors; returns the authors.
    pub(super) async fn stop(self) -> Result<Vec<Author>> {
        self.stop.send_replace(true);
        self.join().await
    }
}

/// Creates `each` authors of every dialect, distributed over `documents` documents.
pub(super) fn authors(prefix: &str, each: usize, documents: usize, load: Load, rng: &mut StdRng) -> Vec<Author> {
    let mut authors = Vec::new();
    for number in 0..each {
        for (at, dialect) in Dialect::ALL.into_iter().enumerate() {
            let document = (number + at) % documents;
            let load = match load {
                // Churn in the first document, some large edits in the second, keystrokes in the others.
                Load::Mixed if document == 0 => Load::Churn,
                Load::Mixed if document == 1 && number % 4 == 1 => Load::Large,
                Load::Mixed => Load::Small,
                other => other,
            };
            let config = config(load, number);
            let name = format!("{prefix}.{}{number}", &dialect.name()[..1]);
            authors.push(Author::new(name, dialect, format!("{prefix}-{document}"), config, rng.random()));
        }
    }
    authors
}

fn config(load: Load, number: usize) -> AuthorConfig {
    let edits_per_visit = (number % 4 == 3).then_some(10 + number);
    match load {
        Load::Small | Load::Mixed => {
            AuthorConfig { pause_ms: 2..25, bytes: 0..300, in_flight: 16, max_elements: 100, edits_per_visit }
        }
        Load::Fast => {
            AuthorConfig { pause_ms: 0..3, bytes: 0..300, in_flight: 64, max_elements: 50, edits_per_visit: None }
        }
        Load::Large => AuthorConfig {
            pause_ms: 50..1500,
            bytes: 300_000..300_001,
            in_flight: 1,
            max_elements: 2,
            edits_per_visit: None,
        },
        Load::Churn => {
            AuthorConfig { pause_ms: 2..30, bytes: 8_000..60_000, in_flight: 4, max_elements: 1, edits_per_visit: None }
        }
    }
}

/// Result of comparing a server's documents with the authors' records.
#[derive(Debug, Default)]
pub(super) struct CheckReport {
    /// Number of edits that count as acknowledged, by dialect.
    pub acked: BTreeMap<&'static str, usize>,
    /// Number of edits without an acknowledgement that counts.
    pub unknown: usize,
    /// Number of unknown pushes whose element is present.
    pub unknown_present: usize,
    /// Number of documents read.
    pub documents: usize,
    /// Failed checks.
    pub complaints: Vec<String>,
}

impl CheckReport {
    /// Adds the counts and complaints of another report.
    pub(super) fn add(&mut self, other: CheckReport) {
        for (dialect, count) in other.acked {
            *self.acked.entry(dialect).or_default() += count;
        }
        self.unknown += other.unknown;
        self.unknown_present += other.unknown_present;
        self.documents += other.documents;
        self.complaints.extend(other.complaints);
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: usize = self.acked.values().sum();
        let each: Vec<_> = self.acked.iter().map(|(dialect, count)| format!("{dialect} {count}")).collect();
        write!(
            f,
            "{all} acknowledged ({}), {} without an answer ({} of them present), {} documents read, {} complaints",
            each.join(", "),
            self.unknown,
            self.unknown_present,
            self.documents,
            self.complaints.len()
        )
    }
}

/// Reads every document of `records` from the server and compares it with them. `cut`: see [`compare`].
pub(super) async fn check_documents(url: &str, records: &[&AuthorRecord], cut: Option<Instant>) -> CheckReport {
    let mut by_document: BTreeMap<&str, Vec<&AuthorRecord>> = BTreeMap::new();
    for record in records {
        by_document.entry(&record.document).or_default().push(record);
    }
    let mut report = CheckReport::default();
    let read = stream::iter(by_document)
        .map(|(document, records)| async move { (document, records, read(url, document).await) });
    let mut read = std::pin::pin!(read.buffer_unordered(READERS));
    while let Some((document, records, elements)) = read.next().await {
        report.documents += 1;
        let elements = match elements {
            Ok(elements) => elements,
            Err(error) => {
                report.complaints.push(format!("cannot load {document}: {error:#}"));
                continue;
            }
        };
        let found: Findings = compare(&records, &elements, cut);
        if !found.is_empty() {
            report.complaints.push(format!("{document}: {found}"));
        }
        count(&mut report, &records, &elements, cut);
    }
    report
}

fn count(report: &mut CheckReport, records: &[&AuthorRecord], elements: &[String], cut: Option<Instant>) {
    let present: std::collections::HashSet<&str> =
        elements.iter().filter_map(|element| element.split_once('|').map(|(marker, _)| marker)).collect();
    for record in records {
        for edit in &record.edits {
            if edit.acked.is_some_and(|acked| cut.is_none_or(|cut| acked < cut)) {
                *report.acked.entry(record.dialect).or_default() += 1;
            } else {
                report.unknown += 1;
                report.unknown_present += usize::from(present.contains(edit.marker.as_str()));
            }
        }
    }
}

/// Returns the elements of a document as the server sends them to a new client.
pub(super) async fn read(url: &str, document: &str) -> Result<Vec<String>> {
    let (_, state) = Link::join(Dialect::YWebsocket, url, document).await?;
    let doc = Doc::new();
    let update = Update::decode_v1(&state).context("cannot decode the server's sync step 2")?;
    doc.transact_mut().apply_update(update).context("cannot apply the server's sync step 2")?;
    let txn = doc.transact();
    if txn.has_missing_updates() {
        anyhow::bail!("the server's sync step 2 has missing dependencies");
    }
    let Some(list) = txn.get_array(ROOT) else { return Ok(Vec::new()) };
    let text = |element| match element {
        Out::Any(Any::String(text)) => text.to_string(),
        other => format!("{other:?}"),
    };
    Ok(list.iter(&txn).map(text).collect())
}
