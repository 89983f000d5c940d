//! Opens the device's store, and reopens it after a failure. Part of [`Task`].

use std::sync::Arc;
use std::time::Duration;

use syncline_log::{Log, SledStore, Store, StoreError};
use syncline_protocol::ids::{DocumentName, Seq};
use tracing::debug;

use super::open::{Open, journal_epoch};
use super::task::Task;
use super::{Command, DeviceConfig, DeviceError};
use crate::backoff::{Advice, BackoffConfig};

/// Delays before the store is opened again after a failure.
pub(super) const REOPEN_STORE: BackoffConfig =
    BackoffConfig { first: Duration::from_millis(500), max: Duration::from_secs(30) };

pub(super) async fn open_store(config: &DeviceConfig) -> Result<Arc<dyn Store>, DeviceError> {
    let (opener, directory) = (config.open_store.clone(), config.directory.join("store"));
    let opened = tokio::task::spawn_blocking(move || match opener {
        Some(open) => open(),
        None => Ok(Arc::new(SledStore::open(&directory)?) as Arc<dyn Store>),
    });
    Ok(opened.await.map_err(|error| StoreError::Io(error.to_string()))??)
}

impl Task {
    /// After a storage error: schedules a retry, in case there is no edit; an edit retries immediately.
    pub(super) fn reopen_store_later(&mut self) {
        if std::mem::replace(&mut self.store_retry, true) {
            return;
        }
        let Advice::RetryAfter(wait) = self.store_backoff.ended(None, rand::random()) else { return };
        let commands = self.commands.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(commands) = commands.upgrade() {
                // Fails if the device was closed; then no store is needed.
                commands.send(Command::ReopenStore).await.ok();
            }
        });
    }

    /// After a storage error: opens the store again, and writes all documents in memory to it.
    pub(super) async fn reopen_store(&mut self) -> Result<(), DeviceError> {
        if let Some(error) = self.log.failed() {
            debug!(%error, "the device's store failed; opening it again");
            for open in self.documents.values_mut() {
                open.storage_failed(&error.to_string());
            }
            self.log.close().await;
            self.log = Log::start(open_store(&self.config).await?);
        }
        let failed = |(name, open): (&DocumentName, &Open)| open.failed.then(|| name.clone());
        for name in self.documents.iter().filter_map(failed).collect::<Vec<_>>() {
            let stored = match self.log.load(&name).await {
                // The document is complete in memory.
                Err(StoreError::Damaged { .. }) => {
                    self.log.delete(&name).await?;
                    None
                }
                loaded => loaded?,
            };
            let last = stored.as_ref().map_or(Seq::ZERO, |stored| stored.last());
            let log = self.log.document(name.clone(), journal_epoch(stored.as_ref()), last);
            let journal = self.watch(&name, &log);
            if let Some(open) = self.documents.get_mut(&name) {
                open.storage_is_back(log, last);
                open.journal = journal;
            }
            self.correct_stamps(&name).await;
            self.flush(&name).await;
        }
        Ok(())
    }
}
