//! What an operator does with a stopped server's documents: deletes one, forgets one, puts a backup in its place. And what
//! has to hold from then on.

use std::collections::BTreeSet;

use syncline_client::SyncState;
use syncline_log::Stored;
use syncline_log::backup::new_history;
use syncline_log::store::{Store, Write};
use syncline_protocol::ids::{Epoch, Seq};

use super::World;
use crate::client::Sort;
use crate::text::Shape;

impl World {
    /// A copy of every document as a crash would leave it now, as a backup takes it.
    pub(super) fn back_up(&mut self) {
        self.backups = self.names.iter().map(|name| self.disk.stored(name)).collect();
        self.counts.add("backups", 1);
    }

    /// `syncline delete`, which a crash may meet where histories change anyway.
    pub(super) fn delete_document(&mut self) -> Result<(), String> {
        let document = self.dice.usize(..self.names.len());
        if self.deleted[document] || self.disk.stored(&self.names[document]).is_none() {
            return Ok(());
        }
        self.stop()?;
        let (before, marks) = (self.disk.last(&self.names[document]), self.on_disk(document));
        let steps = Write::bury(&self.names[document], Epoch(self.dice.u128(..)), 0);
        if self.shape == Shape::Map && self.dice.u32(..4) == 0 {
            self.disk.crash_during(&steps);
        } else {
            self.commit(&steps)?;
        }
        self.note(|world| format!("the server stops, {} is deleted", world.names[document]));
        // A crash may have come before the first step.
        if self.disk.last(&self.names[document]) != before {
            self.history_changed(document, &marks);
        }
        self.start()
    }

    /// `syncline purge`, `syncline restore` of one document, or of all of them.
    pub(super) fn other_history(&mut self) -> Result<(), String> {
        self.stop()?;
        let document = self.dice.usize(..self.names.len());
        match self.dice.u32(..3) {
            0 => self.put(document, None, "purged")?,
            1 => self.put(document, self.backups[document].clone(), "replaced by its backup")?,
            _ => {
                for document in 0..self.names.len() {
                    self.put(document, self.backups[document].clone(), "replaced with the whole store")?;
                }
            }
        }
        self.start()
    }

    fn put(&mut self, document: usize, copy: Option<Stored>, what: &str) -> Result<(), String> {
        let name = self.names[document].clone();
        self.note(|_| {
            format!("the server stops, {name} is {what}{}", if copy.is_none() { ": it is gone" } else { "" })
        });
        self.counts.add(if copy.is_some() { "documents restored" } else { "documents purged" }, 1);
        let before = self.on_disk(document);
        let mut steps = vec![Write::Delete { document: name.clone() }];
        steps.extend(copy.map(|copy| new_history(&name, copy, 0, Epoch(self.dice.u128(..)))));
        self.commit(&steps)?;
        self.history_changed(document, &before);
        Ok(())
    }

    fn commit(&self, steps: &[Write]) -> Result<(), String> {
        self.disk.recover();
        self.disk.commit(steps).map_err(|error| format!("WHAT WAS STORED CAN BE REPLACED: {error}"))
    }

    /// Takes to the accounts what lies on the disk now; before there were these marks.
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
            if self.is_behind_another_history(client, document) {
                self.to_be_told.insert((client, document));
            }
        }
    }

    /// True when a device has a position in a history that is not the document's, and nobody has told it.
    fn is_behind_another_history(&self, client: usize, document: usize) -> bool {
        let Sort::Device(device) = &self.clients[client].sort else { return false };
        let status = device.machine(document).status();
        let knows = matches!(status.sync, SyncState::HistoryChanged | SyncState::Deleted);
        let now = self.disk.last(&self.names[document]).map(|(epoch, _)| epoch);
        !knows && status.cursor.is_some_and(|cursor| cursor.seq > Seq::ZERO && Some(cursor.epoch) != now)
    }

    /// A device started again from its disk, which may not know of a position, or not of what it was told.
    pub(super) fn started_again(&mut self, client: usize) {
        self.to_be_told.retain(|&(of, _)| of != client);
        let behind = (0..self.names.len()).filter(|&document| self.is_behind_another_history(client, document));
        let behind: Vec<_> = behind.map(|document| (client, document)).collect();
        self.to_be_told.extend(behind);
    }

    /// A deleted document is a tombstone, whatever clients bring.
    pub(crate) fn deleted_stays_deleted(&self) -> Result<(), String> {
        let mut deleted = self.names.iter().zip(&self.deleted).filter(|(_, is_deleted)| **is_deleted);
        match deleted.find(|(name, _)| !self.disk.stored(name).is_some_and(|stored| stored.is_tombstone())) {
            Some((name, _)) => Err(format!("DELETED STAYS DELETED: {name} is there again")),
            None => Ok(()),
        }
    }

    /// The app starts again where a device holds a document for deleted that is there again: it asks anew.
    pub(crate) fn ask_anew(&mut self) -> Result<(), String> {
        for client in 0..self.clients.len() {
            let Sort::Device(device) = &self.clients[client].sort else { continue };
            let is_outdated = |&document: &usize| {
                !self.deleted[document] && device.machine(document).status().sync == SyncState::Deleted
            };
            if (0..self.names.len()).any(|document| is_outdated(&document)) {
                self.crash_client(client)?;
            }
        }
        Ok(())
    }

    /// What a client keeps of a deleted document: all that it was told is accepted, and of a newcomer nothing.
    pub(crate) fn keeps_what_it_has(&self, client: usize, document: usize, is_new: bool) -> Result<(), String> {
        let text = self.clients[client].text(document);
        if is_new && !text.is_empty() {
            return Err(format!("DELETED STAYS DELETED: a newcomer is sent {text}"));
        }
        let marks: BTreeSet<u32> = crate::text::marks(&text).collect();
        match self.ledgers[document].lost_by(client, &marks) {
            Some(mark) => {
                Err(format!("KEEPS WHAT IT HAS: client {client} lost <{mark}> of a deleted document: {text}"))
            }
            None => Ok(()),
        }
    }
}
