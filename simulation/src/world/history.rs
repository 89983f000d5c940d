//! Operator commands on the documents of a stopped server (delete, purge, restore), and the invariants after them.

use std::collections::BTreeSet;

use syncline_client::SyncState;
use syncline_log::Stored;
use syncline_log::backup::new_history;
use syncline_log::store::{Store, Write};
use syncline_protocol::ids::{Epoch, Seq};

use super::World;
use crate::client::ClientKind;
use crate::text::Shape;

impl World {
    /// Takes a backup: a copy of every document as it would be after a crash now.
    pub(super) fn back_up(&mut self) {
        self.backups = self.names.iter().map(|name| self.disk.stored(name)).collect();
        self.counts.add("backups", 1);
    }

    /// `syncline delete`. In plans that replace histories, a crash may interrupt it.
    pub(super) fn delete_document(&mut self) -> Result<(), String> {
        let document = self.rng.usize(..self.names.len());
        if self.deleted[document] || self.disk.stored(&self.names[document]).is_none() {
            return Ok(());
        }
        self.stop()?;
        let (before, marks) = (self.disk.last(&self.names[document]), self.on_disk(document));
        let (name, epoch) = (self.names[document].clone(), Epoch(self.rng.u128(..)));
        let steps = [Write::Bury { document: name, epoch, time_ms: 0 }];
        if self.shape == Shape::Map && self.rng.u32(..4) == 0 {
            self.disk.crash_during(&steps);
        } else {
            self.commit(&steps)?;
        }
        self.trace_line(|world| format!("the server stops, {} is deleted", world.names[document]));
        // The crash may have been before the step.
        if self.disk.last(&self.names[document]) != before {
            self.history_changed(document, &marks);
        }
        self.start()
    }

    /// `syncline purge`, `syncline restore` of one document, or of all of them.
    pub(super) fn replace_history(&mut self) -> Result<(), String> {
        self.stop()?;
        let document = self.rng.usize(..self.names.len());
        match self.rng.u32(..3) {
            0 => self.replace_document(document, None, "purged")?,
            1 => self.replace_document(document, self.backups[document].clone(), "replaced by its backup")?,
            _ => {
                for document in 0..self.names.len() {
                    self.replace_document(
                        document,
                        self.backups[document].clone(),
                        "replaced with the rest of the store",
                    )?;
                }
            }
        }
        self.start()
    }

    fn replace_document(&mut self, document: usize, copy: Option<Stored>, what: &str) -> Result<(), String> {
        let name = self.names[document].clone();
        self.trace_line(|_| {
            format!("the server stops, {name} is {what}{}", if copy.is_none() { " and does not exist" } else { "" })
        });
        self.counts.add(if copy.is_some() { "documents restored" } else { "documents purged" }, 1);
        let before = self.on_disk(document);
        let mut steps = vec![Write::Delete { document: name.clone() }];
        steps.extend(copy.map(|copy| new_history(&name, copy, 0, Epoch(self.rng.u128(..)))));
        self.commit(&steps)?;
        self.history_changed(document, &before);
        Ok(())
    }

    fn commit(&self, steps: &[Write]) -> Result<(), String> {
        self.disk.recover();
        self.disk.commit(steps).map_err(|error| format!("STORED DOCUMENTS CAN BE REPLACED: {error}"))
    }

    /// Records that the document on the disk was replaced. `before`: the marks of the previous history.
    fn history_changed(&mut self, document: usize, before: &BTreeSet<u32>) {
        let stored = self.disk.stored(&self.names[document]);
        self.deleted[document] = stored.as_ref().is_some_and(Stored::is_tombstone);
        self.counts.add("documents deleted", u64::from(self.deleted[document]));
        self.counts.add("histories replaced", 1);
        if self.shape == Shape::Map {
            let restored = self.disk.marks(&self.names[document]);
            self.ledgers[document].history_changed(&restored, before);
        } else {
            self.ledgers[document].deleted();
        }
        for client in 0..self.clients.len() {
            if self.has_outdated_history(client, document) {
                self.unnotified.insert((client, document));
            }
        }
    }

    /// Whether a device has a cursor in a replaced history and is not yet notified.
    fn has_outdated_history(&self, client: usize, document: usize) -> bool {
        let ClientKind::Device(device) = &self.clients[client].kind else { return false };
        let status = device.machine(document).status();
        let knows = matches!(status.sync, SyncState::HistoryChanged | SyncState::Deleted);
        let now = self.disk.last(&self.names[document]).map(|(epoch, _)| epoch);
        !knows && status.cursor.is_some_and(|cursor| cursor.seq > Seq::ZERO && Some(cursor.epoch) != now)
    }

    /// Updates `unnotified` after a device restarted from its disk, which may lack its cursor or the notification.
    pub(super) fn device_restarted(&mut self, client: usize) {
        self.unnotified.retain(|&(of, _)| of != client);
        let outdated = (0..self.names.len()).filter(|&document| self.has_outdated_history(client, document));
        let outdated: Vec<_> = outdated.map(|document| (client, document)).collect();
        self.unnotified.extend(outdated);
    }

    /// Checks that a deleted document stays a tombstone, whatever clients send.
    pub(crate) fn check_deleted_stays_deleted(&self) -> Result<(), String> {
        let mut deleted = self.names.iter().zip(&self.deleted).filter(|(_, is_deleted)| **is_deleted);
        match deleted.find(|(name, _)| !self.disk.stored(name).is_some_and(|stored| stored.is_tombstone())) {
            Some((name, _)) => Err(format!("DELETED STAYS DELETED: {name} exists again")),
            None => Ok(()),
        }
    }

    /// Restarts devices that consider a document deleted although it exists again. After the restart they open it again.
    pub(crate) fn restart_outdated_devices(&mut self) -> Result<(), String> {
        for client in 0..self.clients.len() {
            let ClientKind::Device(device) = &self.clients[client].kind else { continue };
            let is_outdated = |&document: &usize| {
                !self.deleted[document] && device.machine(document).status().sync == SyncState::Deleted
            };
            if (0..self.names.len()).any(|document| is_outdated(&document)) {
                self.crash_client(client)?;
            }
        }
        Ok(())
    }

    /// Checks a client's copy of a deleted document: it still has all accepted edits, and a newcomer has nothing.
    pub(crate) fn check_copy_of_deleted(&self, client: usize, document: usize, is_new: bool) -> Result<(), String> {
        let text = self.clients[client].text(document);
        if is_new && !text.is_empty() {
            return Err(format!("DELETED STAYS DELETED: a newcomer received {text}"));
        }
        let marks: BTreeSet<u32> = crate::text::marks(&text).collect();
        match self.ledgers[document].lost_by(client, &marks) {
            Some(mark) => Err(format!("CLIENTS KEEP DELETED DOCUMENTS: client {client} lost <{mark}>: {text}")),
            None => Ok(()),
        }
    }
}
