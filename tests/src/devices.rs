//! Helpers for tests with devices: open a device, edit a document, wait for events and text.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use syncline_client::yrs::{GetString, Map, ReadTxn, Text, WriteTxn};
use syncline_client::{Device, DeviceConfig, Document, EditError, Event, Events};
use syncline_log::store::Write;
use syncline_log::{SledStore, Store, StoreError, Stored};
use syncline_protocol::ids::DocumentName;

use crate::PATIENCE;

/// A sled store on a simulated disk: while the disk is full, no write succeeds.
pub struct FullDisk {
    /// Receives the commits while the disk has room.
    pub store: SledStore,
    /// Set by the test. While true, every commit fails with "no space left on device".
    pub full: Arc<AtomicBool>,
}

impl Store for FullDisk {
    fn commit(&self, writes: &[Write]) -> Result<(), StoreError> {
        if self.full.load(Ordering::Relaxed) {
            return Err(StoreError::Io("no space left on device".into()));
        }
        self.store.commit(writes)
    }

    fn load(&self, document: &DocumentName) -> Result<Option<Stored>, StoreError> {
        self.store.load(document)
    }

    fn list(&self) -> Result<Vec<DocumentName>, StoreError> {
        self.store.list()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.store.close()
    }
}

/// Opens a device that reconnects within 5 to 50 ms; `change` adjusts its configuration.
pub async fn open(directory: &Path, url: &str, change: impl FnOnce(&mut DeviceConfig)) -> Device {
    let mut config = DeviceConfig::new(directory, url);
    config.backoff.first = Duration::from_millis(5);
    config.backoff.max = Duration::from_millis(50);
    change(&mut config);
    Device::open(config).await.unwrap()
}

/// Awaits `wait` for at most [`PATIENCE`]; `what` names it in the panic message.
pub async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}

/// Appends `typed` to the root text `text`.
pub async fn append(document: &Document, typed: &str) {
    try_append(document, typed).await.unwrap();
}

/// Like [`append`], but returns the error of a refused edit.
pub async fn try_append(document: &Document, typed: &str) -> Result<(), EditError> {
    let typed = typed.to_owned();
    let change = move |txn: &mut syncline_client::yrs::TransactionMut<'_>| {
        let text = txn.get_or_insert_text("text");
        let end = text.len(txn);
        text.insert(txn, end, &typed);
    };
    document.edit(change).await
}

/// Returns the next event for which `wanted` is true; skips the others.
pub async fn until_event(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    in_time("an event", async {
        loop {
            let event = events.next().await.expect("the device is open");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

/// Sets a key of the root map `map`.
pub async fn set(document: &Document, key: &'static str, value: &'static str) {
    document.edit(move |txn| _ = txn.get_or_insert_map("map").insert(txn, key, value)).await.unwrap();
}

/// Deletes `len` characters of the root text `text`, from `at`.
pub async fn delete(document: &Document, at: u32, len: u32) {
    document.edit(move |txn| txn.get_or_insert_text("text").remove_range(txn, at, len)).await.unwrap();
}

/// Waits until `wanted` is true for the root text `text`, and returns the text.
pub async fn until_text(document: &Document, wanted: impl Fn(&str) -> bool + Send) -> String {
    let mut status = document.watch();
    let wait = async {
        loop {
            status.mark_unchanged();
            let text = document.text("text").await.unwrap();
            if wanted(&text) {
                return text;
            }
            status.changed().await.unwrap();
        }
    };
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(text) => text,
        Err(_) => panic!("timed out waiting for the text; it is {:?}", document.text("text").await),
    }
}

/// The root text of an encoded state.
pub fn text_of(state: &[u8]) -> String {
    use syncline_client::yrs::updates::decoder::Decode;
    use syncline_client::yrs::{Doc, Transact, Update};
    let doc = Doc::new();
    doc.transact_mut().apply_update(Update::decode_v1(state).unwrap()).unwrap();
    let txn = doc.transact();
    txn.get_text("text").map_or(String::new(), |text| text.get_string(&txn))
}
