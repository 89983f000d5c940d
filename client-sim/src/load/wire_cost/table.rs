//! The measurements, as Markdown and as JSON.

use std::fmt;
use std::io::Write;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::load::report::grouped;

/// Payload bytes of one sync, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SyncBytes {
    /// To the server.
    pub sent: u64,
    /// From the server.
    pub received: u64,
}

/// The measurements of one client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClientCost {
    /// Name of the client.
    pub client: String,
    /// First sync with an empty copy.
    pub first: SyncBytes,
    /// Reconnect with a complete copy.
    pub nothing_missed: SyncBytes,
    /// Reconnect with one keystroke made offline.
    pub keystroke_made: SyncBytes,
    /// Reconnect after another client has typed one keystroke.
    pub keystroke_missed: SyncBytes,
}

/// The measurements of all clients on one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Measured {
    /// Number of trace transactions in the document.
    pub edits: usize,
    /// Length of the text in UTF-16 units.
    pub characters: usize,
    /// Size of the document encoded as one update.
    pub state_bytes: usize,
    /// One row per client.
    pub rows: Vec<ClientCost>,
}

impl Measured {
    /// Prints the measurements to standard output.
    pub(super) fn print(&self, as_json: bool) -> Result<()> {
        let mut stdout = std::io::stdout();
        match as_json {
            true => writeln!(stdout, "{}", serde_json::to_string(self)?)?,
            false => write!(stdout, "{self}")?,
        }
        Ok(())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { edits, characters, state_bytes, .. } = self;
        let (edits, characters, state) =
            (grouped(*edits as u64), grouped(*characters as u64), grouped(*state_bytes as u64));
        writeln!(f, "{characters} characters after {edits} edits; {state} bytes as one update.\n")?;
        writeln!(
            f,
            "| bytes: sum (sent + received) | nothing missed | one keystroke made | one keystroke missed | first download |"
        )?;
        writeln!(f, "|---|---:|---:|---:|---:|")?;
        for row in &self.rows {
            let ClientCost { client, first, nothing_missed, keystroke_made, keystroke_missed } = row;
            writeln!(f, "| {client} | {nothing_missed} | {keystroke_made} | {keystroke_missed} | {first} |")?;
        }
        Ok(())
    }
}

impl fmt::Display for SyncBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sent, received } = *self;
        write!(f, "{} ({} + {})", grouped(sent + received), grouped(sent), grouped(received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_sums_and_both_directions() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let bytes = |sent, received| SyncBytes { sent, received };
        let row = ClientCost {
            client: "c".into(),
            first: bytes(1, 2_000),
            nothing_missed: bytes(50, 60),
            keystroke_made: bytes(70, 80),
            keystroke_missed: bytes(90, 9),
        };
        let table = Measured { edits: 3, characters: 2, state_bytes: 1, rows: vec![row] }.to_string();
        assert!(
            table.ends_with("| c | 110 (50 + 60) | 150 (70 + 80) | 99 (90 + 9) | 2,001 (1 + 2,000) |\n"),
            "{table}"
        );
    }
}
