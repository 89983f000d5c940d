//! Recorded editing sessions in the format of the `editing-traces` collection (github.com/josephg/editing-traces).
//!
//! Positions in a trace count Unicode code points; edits here count UTF-16 units, as Yjs does. The two agree as long as no
//! character is outside the basic plane, so a trace with such a character is rejected.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

/// Position, number of characters deleted there, text inserted there.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Patch(pub u32, pub u32, pub String);

/// The patches that the author makes in one step.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Transaction {
    /// The patches, each applied to the result of the previous one.
    pub patches: Vec<Patch>,
}

/// A recorded editing session.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    /// The transactions, each built on the previous one.
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
    txns: Vec<Transaction>,
}

/// Reads a trace file, plain or gzip.
pub(crate) fn load(path: &Path) -> Result<Trace> {
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
    if let Some(kind) = raw.kind.filter(|kind| kind != "sequential") {
        bail!("traces of kind \"{kind}\" are not supported; use a sequential one");
    }
    let mut transactions = raw.txns;
    let outside = |text: &str| text.chars().any(|character| character.len_utf16() > 1);
    let patches = transactions.iter().flat_map(|transaction| &transaction.patches);
    ensure!(
        !outside(&raw.start_content) && !patches.into_iter().any(|patch| outside(&patch.2)),
        "the trace holds characters outside the basic plane; their positions are not supported"
    );
    if !raw.start_content.is_empty() {
        transactions.insert(0, Transaction { patches: vec![Patch(0, 0, raw.start_content)] });
    }
    Ok(Trace { transactions, end: raw.end_content })
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
        for kind in ["concurrent", "other"] {
            assert!(parse(&format!(r#"{{"kind":"{kind}","endContent":"","txns":[]}}"#)).is_err());
        }
        assert!(parse(r#"{"endContent":"é","txns":[{"patches":[[0,0,"é"]]}]}"#).is_ok());
    }
}
