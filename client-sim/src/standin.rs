//! Stand-in for the device API until it lands.
#![allow(dead_code, missing_docs, unused)]
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use syncline_client::backoff::BackoffConfig;
use syncline_client::session::Echo;
use syncline_client::yrs::updates::decoder::Decode;
use syncline_client::yrs::{ReadTxn, StateVector, Transaction, TransactionMut, Update};
use syncline_client::{Client, ClientConfig, Dialect};
use tokio::sync::watch;

type Disk = Mutex<HashMap<(PathBuf, String), Vec<u8>>>;
static DISK: std::sync::LazyLock<Disk> = std::sync::LazyLock::new(Default::default);

pub trait WallClock: Send + Sync { fn now_ms(&self) -> u64; }
#[derive(Debug, thiserror::Error)]
pub enum EditError { #[error("storage: {0}")] Storage(String), #[error("closed")] Closed }
#[derive(Debug, thiserror::Error)]
pub enum DeviceError { #[error("{0}")] Other(String) }
pub struct DeviceConfig {
    pub directory: PathBuf, pub url: String, pub author: String, pub backoff: BackoffConfig,
    pub clock: Option<Arc<dyn WallClock>>, pub store: Option<Arc<dyn syncline_log::Store>>, pub offline: bool,
    pub connect_timeout: Duration, pub silence: Duration,
}
impl DeviceConfig { pub fn new(directory: PathBuf, url: String) -> Self { Self { directory, url, author: String::new(), backoff: BackoffConfig::default(), clock: None, store: None, offline: false, connect_timeout: Duration::from_secs(5), silence: Duration::from_secs(30) } } }
#[derive(Clone)] pub struct Device { config: Arc<DeviceConfig>, docs: Arc<Mutex<HashMap<String, Document>>>, offline: Arc<Mutex<bool>> }
#[derive(Clone)] pub struct Document { client: Client, key: (PathBuf, String), store: Option<Arc<dyn syncline_log::Store>> }
impl Device {
    pub async fn open(config: DeviceConfig) -> Result<Device, DeviceError> { let offline = config.offline; Ok(Device { config: Arc::new(config), docs: Arc::default(), offline: Arc::new(Mutex::new(offline)) }) }
    pub async fn document(&self, name: &str) -> Result<Document, DeviceError> {
        let mut c = ClientConfig::new(&self.config.url, name, Dialect::YWebsocket);
        c.backoff = self.config.backoff; c.echo = Echo::Saved; c.connect_timeout = self.config.connect_timeout;
        let client = Client::connect(c).unwrap();
        if *self.offline.lock().unwrap() { client.go_offline().await.unwrap(); }
        let key = (self.config.directory.clone(), name.to_owned());
        let state = DISK.lock().unwrap().get(&key).cloned();
        if let Some(state) = state { client.edit(move |t| t.apply_update(Update::decode_v1(&state).unwrap()).unwrap()).await.unwrap(); }
        let d = Document { client, key, store: self.config.store.clone() };
        self.docs.lock().unwrap().insert(name.into(), d.clone());
        Ok(d)
    }
    pub async fn go_offline(&self) { *self.offline.lock().unwrap() = true; let docs: Vec<_> = self.docs.lock().unwrap().values().cloned().collect(); for d in docs { d.client.go_offline().await.unwrap() } }
    pub async fn go_online(&self) { *self.offline.lock().unwrap() = false; let docs: Vec<_> = self.docs.lock().unwrap().values().cloned().collect(); for d in docs { d.client.go_online().await.unwrap() } }
    pub async fn close(self) { let docs: Vec<_> = self.docs.lock().unwrap().values().cloned().collect(); for d in docs { d.client.close().await } }
}
impl Document {
    pub async fn edit<R: Send + 'static>(&self, change: impl FnOnce(&mut TransactionMut<'_>) -> R + Send + 'static) -> Result<R, EditError> {
        if let Some(store) = &self.store { store.commit(&[]).map_err(|e| EditError::Storage(e.to_string()))?; }
        let r = self.client.edit(change).await.map_err(|_| EditError::Closed)?;
        let state = self.state().await.map_err(|_| EditError::Closed)?;
        DISK.lock().unwrap().insert(self.key.clone(), state);
        Ok(r)
    }
    pub async fn read<R: Send + 'static>(&self, look: impl FnOnce(&Transaction<'_>) -> R + Send + 'static) -> Result<R, DeviceError> { self.client.read(look).await.map_err(|e| DeviceError::Other(e.to_string())) }
    pub async fn state(&self) -> Result<Vec<u8>, DeviceError> { self.read(|t| t.encode_state_as_update_v1(&StateVector::default())).await }
    pub fn watch(&self) -> watch::Receiver<syncline_client::Status> { self.client.status() }
    pub async fn wait_until_saved(&self) -> Result<(), DeviceError> { self.client.wait_until_synced().await.map_err(|e| DeviceError::Other(e.to_string()))?; self.client.wait_until_saved().await.map_err(|e| DeviceError::Other(e.to_string())) }
}
