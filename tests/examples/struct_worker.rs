//! Runs a [`StructStore`] for `tests/node/structs-fuzz.mjs`: commands on stdin, answers on stdout.
//!
//! Each command and each answer is a little-endian `u32` length and that many bytes. The first byte of a command is
//! its number, the first byte of an answer is 0 (done) or 1 (failed; a message follows).
//!
//! ```text
//! 0 reset            -> nothing
//! 1 add (update)     -> u32 per update added by this command: their numbers, counted from 0 since the reset
//! 2 encode           -> update
//! 3 compact          -> update
//! 4 diff (vector)    -> update
//! 5 state vector     -> vector
//! 6 pending          -> u32: updates that wait for others
//! 7 reload           -> nothing; the store is built again from its compaction
//! ```

use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail, ensure};
use syncline_protocol::update::{EMPTY_UPDATE, ScanLimits, Structs, delete_set, scan_update, verdict};
use syncline_replica::StructStore;

#[derive(Default)]
struct Worker {
    store: StructStore,
    pending: Vec<(u32, Vec<u8>)>,
    added: u32,
}

fn main() -> Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut worker = Worker::default();
    let mut len = [0; 4];
    while input.read_exact(&mut len).is_ok() {
        let mut command = vec![0; u32::from_le_bytes(len) as usize];
        input.read_exact(&mut command)?;
        let (status, answer) = match worker.run(&command) {
            Ok(answer) => (0, answer),
            Err(error) => (1, format!("{error:#}").into_bytes()),
        };
        output.write_all(&(answer.len() as u32 + 1).to_le_bytes())?;
        output.write_all(&[status])?;
        output.write_all(&answer)?;
        output.flush()?;
    }
    Ok(())
}

impl Worker {
    fn run(&mut self, command: &[u8]) -> Result<Vec<u8>> {
        let (&number, rest) = command.split_first().context("an empty command")?;
        Ok(match number {
            0 => {
                *self = Self::default();
                Vec::new()
            }
            1 => self.add(rest)?,
            2 => self.encode()?,
            3 => self.compact()?,
            4 => {
                let diff = self.store.diff_for(rest).to_bytes().to_vec();
                scan_update(&diff, &ScanLimits::STORED).context("of a diff")?;
                diff
            }
            5 => self.store.state_vector().into(),
            6 => (self.pending.len() as u32).to_le_bytes().into(),
            7 => {
                let state = self.compact()?;
                self.store = StructStore::default();
                self.store.add(&state);
                Vec::new()
            }
            other => bail!("unknown command {other}"),
        })
    }

    /// Adds an update, and then what waited for it.
    fn add(&mut self, update: &[u8]) -> Result<Vec<u8>> {
        scan_update(update, &ScanLimits::STORED)?;
        self.pending.push((self.added, update.into()));
        self.added += 1;
        let mut answer = Vec::new();
        loop {
            let mut ready = None;
            for (at, (_, update)) in self.pending.iter().enumerate() {
                if !waits(update, &self.store)? {
                    ready = Some(at);
                    break;
                }
            }
            let Some(at) = ready else { return Ok(answer) };
            let (number, update) = self.pending.remove(at);
            self.store.add(&update);
            ensure!(!self.store.add(&update), "update {number} is new twice");
            ensure!(self.store.knows_deletions_of(delete_set(&update)), "deletions of update {number} are unknown");
            answer.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn encode(&self) -> Result<Vec<u8>> {
        let state = self.store.encode();
        ensure!(state.len() <= self.store.bytes() + 30 + 15 * self.store.clocks().count(), "larger than `bytes`");
        check_state(&state).context("of the encoded state")?;
        Ok(state.into())
    }

    fn compact(&mut self) -> Result<Vec<u8>> {
        let clocks: Vec<_> = self.store.clocks().collect();
        let state = self.store.compact();
        check_state(&state).context("of the compacted state")?;
        ensure!(self.store.is_compact() && self.store.compact() == state, "compacted twice it differs");
        ensure!(self.store.encode() == state, "its encoding differs from its compaction");
        ensure!(clocks.iter().copied().eq(self.store.clocks()), "compaction changes the state vector");
        let mut other = StructStore::default();
        other.add(&state);
        ensure!(other.compact() == state, "a store of its own compaction compacts otherwise");
        ensure!(!self.store.add(&state), "its own state is new to it");
        Ok(state.into())
    }
}

/// True for what needs something that the store lacks.
fn waits(update: &[u8], store: &StructStore) -> Result<bool> {
    let verdict = verdict(update, store, &ScanLimits::STORED)?;
    Ok(matches!(verdict.structs, Structs::Gap | Structs::MissingDependency) || verdict.deletes_ahead)
}

/// A whole state must not wait for anything.
fn check_state(state: &[u8]) -> Result<()> {
    if state == EMPTY_UPDATE {
        return Ok(());
    }
    let verdict = verdict(state, &|_| 0, &ScanLimits::STORED)?;
    ensure!(verdict.structs == Structs::Fresh && !verdict.deletes_ahead, "the whole state waits: {verdict:?}");
    Ok(())
}
