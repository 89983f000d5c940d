//! The check at the end: every reader's text equals the end text of the trace.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use syncline_client::yrs::ReadTxn;
use syncline_client::{Client, ClientConfig};

use super::link::Target;
use super::plan::Plan;
use super::readers::ReaderResult;

/// Longest wait for a new client to be in sync.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// Number of readers whose failures are shown individually.
const MAX_SHOWN: usize = 5;

/// Number of characters shown from a difference on.
const SHOWN: usize = 20;

/// Rebuilds every reader's document from the updates that it received; returns what is wrong.
pub fn check_readers(plan: &Plan, readers: &[ReaderResult]) -> Vec<String> {
    let mut failures = Vec::new();
    // Readers that received the same updates in the same order have the same text: rebuild it once.
    let mut rebuilt: Vec<(&ReaderResult, String)> = Vec::new();
    for reader in readers {
        let number = reader.number;
        let lacking = plan.edits.len() - reader.arrived;
        if lacking > 0 {
            failures.push(format!(
                "reader {number} lacks {lacking} of {} updates, the first of them number {}",
                plan.edits.len(),
                reader.prefix
            ));
            continue;
        }
        let known = rebuilt.iter().position(|(other, _)| other.log == reader.log);
        let at = match known {
            Some(at) => at,
            None => match plan.text_of(reader.log.updates(plan)) {
                Ok(text) => {
                    rebuilt.push((reader, text));
                    rebuilt.len() - 1
                }
                Err(error) => {
                    failures.push(format!("reader {number}: {error:#}"));
                    continue;
                }
            },
        };
        if rebuilt[at].1 != plan.end {
            failures.push(format!("reader {number} has the wrong text: {}", difference(&rebuilt[at].1, &plan.end)));
        }
    }
    if failures.len() > MAX_SHOWN {
        let more = failures.len() - MAX_SHOWN;
        failures.truncate(MAX_SHOWN);
        failures.push(format!("and {more} more readers"));
    }
    failures
}

/// Joins with a new client, syncs, and checks that it has the expected text.
pub async fn check_fresh_client(target: &Target, root: &str, end: &str) -> Result<()> {
    let mut config = ClientConfig::new(&target.url, &target.document, target.dialect);
    config.token = target.token.clone();
    let client = Client::connect(config)?;
    let synced = tokio::time::timeout(SYNC_TIMEOUT, client.wait_until_synced()).await;
    let status = client.status().borrow().clone();
    synced.with_context(|| format!("not in sync after {} s: {:?}", SYNC_TIMEOUT.as_secs(), status.connection))??;
    let text = client.text(root).await?;
    let complete = client.read(|txn| !txn.has_missing_updates()).await?;
    client.close().await;
    ensure!(complete, "the server's document has pending updates with missing dependencies");
    ensure!(text == end, "wrong text: {}", difference(&text, end));
    Ok(())
}

/// Describes where two texts start to differ.
pub fn difference(have: &str, want: &str) -> String {
    let at = have.chars().zip(want.chars()).take_while(|(have, want)| have == want).count();
    let part = |text: &str| text.chars().skip(at).take(SHOWN).collect::<String>();
    format!(
        "{} characters instead of {}, differing from character {at} on: {:?} instead of {:?}",
        have.chars().count(),
        want.chars().count(),
        part(have),
        part(want)
    )
}

/// Checks a document of an earlier run (`--verify-only`).
pub async fn verify_only(target: &Target, root: &str, end: &str) -> Result<()> {
    match check_fresh_client(target, root, end).await {
        Ok(()) => Ok(()),
        Err(error) => bail!("the document \"{}\" failed the check: {error:#}", target.document),
    }
}
