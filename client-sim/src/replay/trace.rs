//! Recorded editing sessions in the format of the `editing-traces` collection (github.com/josephg/editing-traces).
//!
//! Positions in a trace count Unicode code points; edits here count UTF-16 units, as Yjs does. The two agree as long as no
//! character is outside the basic plane, so a trace with such a character is rejected.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

/// Position, number of characters deleted there, text inserted there.
#[derive(Debug, Clone, Deserialize)]
pub struct Patch(pub u32, pub u32, pub String);

/// The patches that one agent makes in one step.
#[derive(Debug, Clone, Deserialize)]
pub struct Transaction {
    /// The transactions that it builds on (concurrent traces only).
    #[serde(default)]
    pub parents: Vec<usize>,
    /// Number of the agent that makes it (concurrent traces only).
    #[serde(default)]
    pub agent: usize,
    /// The patches, each applied to the result of the previous one.
    pub patches: Vec<Patch>,
}

/// How transactions follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Each builds on the previous one.
    Sequential,
    /// Each builds on its parents.
    Concurrent {
        /// Number of agents, which are numbered from 0.
        agents: usize,
    },
}

/// A recorded editing session.
#[derive(Debug, Clone)]
pub struct Trace {
    /// How its transactions follow each other.
    pub kind: Kind,
    /// The transactions, parents first.
    pub transactions: Vec<Transaction>,
    /// The text at the end.
    pub end: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    kind: Option<String>,
    #[serde(default)]
    start_content: String,
    end_content: String,
    #[serde(default)]
    num_agents: usize,
    txns: Vec<Transaction>,
}

/// Reads a trace file, plain or gzip.
pub fn load(path: &Path) -> Result<Trace> {
    let file = File::open(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
    let mut text = String::new();
    let read = if path.extension().is_some_and(|extension| extension == "gz") {
        MultiGzDecoder::new(BufReader::new(file)).read_to_string(&mut text)
    } else {
        BufReader::new(file).read_to_string(&mut text)
    };
    read.with_context(|| format!("cannot read the trace {}", path.display()))?;
    let raw: Raw = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a trace in the editing-traces format", path.display()))?;
    check(raw)
}

fn check(raw: Raw) -> Result<Trace> {
    let kind = match raw.kind.as_deref() {
        None | Some("sequential") => Kind::Sequential,
        Some("concurrent") => Kind::Concurrent { agents: raw.num_agents },
        Some(other) => bail!("traces of kind \"{other}\" are not supported; use a sequential or a concurrent one"),
    };
    let mut transactions = raw.txns;
    let outside = |text: &str| text.chars().any(|character| character.len_utf16() > 1);
    let patches = transactions.iter().flat_map(|transaction| &transaction.patches);
    ensure!(
        !outside(&raw.start_content) && !patches.into_iter().any(|patch| outside(&patch.2)),
        "the trace holds characters outside the basic plane; their positions are not supported"
    );
    if !raw.start_content.is_empty() {
        ensure!(kind == Kind::Sequential, "a concurrent trace with start content is not supported");
        let patches = vec![Patch(0, 0, raw.start_content)];
        transactions.insert(0, Transaction { parents: Vec::new(), agent: 0, patches });
    }
    if let Kind::Concurrent { agents } = kind {
        for (index, transaction) in transactions.iter().enumerate() {
            ensure!(transaction.agent < agents, "the agent of transaction {index} is out of range");
            ensure!(transaction.parents.iter().all(|&parent| parent < index), "transaction {index} precedes a parent");
        }
    }
    Ok(Trace { kind, transactions, end: raw.end_content })
}

/// The transactions that one agent has seen.
#[derive(Debug, Default)]
pub struct SeenTransactions(HashSet<usize>);

impl SeenTransactions {
    /// Returns the ancestors of `index` that were not seen, oldest first; marks them and `index` as seen.
    pub fn catch_up(&mut self, transactions: &[Transaction], index: usize) -> Vec<usize> {
        let mut stack = transactions[index].parents.clone();
        let mut missing = Vec::new();
        while let Some(ancestor) = stack.pop() {
            if self.0.insert(ancestor) {
                missing.push(ancestor);
                stack.extend(&transactions[ancestor].parents);
            }
        }
        missing.sort_unstable();
        self.0.insert(index);
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Trace> {
        check(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn start_content_becomes_the_first_edit() {
        let trace = parse(r#"{"startContent":"ab","endContent":"b","txns":[{"patches":[[0,1,""]]}]}"#).unwrap();
        assert_eq!(trace.transactions.len(), 2);
        assert_eq!(trace.transactions[0].patches[0].2, "ab");
    }

    #[test]
    fn unsupported_trace_is_rejected_with_a_reason() {
        let astral = parse(r#"{"endContent":"😀","txns":[{"patches":[[0,0,"😀"]]}]}"#).unwrap_err();
        assert!(astral.to_string().contains("basic plane"));
        assert!(parse(r#"{"kind":"other","endContent":"","txns":[]}"#).is_err());
        assert!(parse(r#"{"endContent":"é","txns":[{"patches":[[0,0,"é"]]}]}"#).is_ok());
    }

    #[test]
    fn catch_up_returns_each_ancestor_once() {
        let txn = |parents: &[usize]| Transaction { parents: parents.to_vec(), agent: 0, patches: Vec::new() };
        let transactions = [txn(&[]), txn(&[0]), txn(&[0]), txn(&[1, 2])];
        let mut seen = SeenTransactions::default();
        assert_eq!(seen.catch_up(&transactions, 1), [0]);
        assert_eq!(seen.catch_up(&transactions, 3), [2]);
    }
}
