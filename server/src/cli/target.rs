//! A store that a command works on: through the server that has it open, or by opening it.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use syncline_log::store::Write as Step;
use syncline_log::{Record, SledStore, Store, StoreError};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

use crate::admin::client::Running;
use crate::admin::message::{Answer, Request};
use crate::portable::{self, Change, Exported, Format};

/// Where documents come from and go to.
pub(super) enum Target {
    /// A server has the store open and does what it is asked.
    Running(Running),
    /// Nobody has it open: this process does.
    Stopped(Box<SledStore>),
}

/// What became of an imported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Imported {
    /// The document has it, and it brought something.
    Changed,
    /// The document had all of it.
    Known,
    /// The document is there and was to be left alone.
    Exists,
}

impl Target {
    /// The store in `data`, running or not.
    pub(super) fn existing(data: &Path) -> anyhow::Result<Self> {
        Self::find(data, SledStore::open_existing)
    }

    /// The store in `data`; where there is none a new one is made.
    pub(super) fn or_new(data: &Path) -> anyhow::Result<Self> {
        Self::find(data, SledStore::open)
    }

    fn find(data: &Path, open: impl FnOnce(&Path) -> Result<SledStore, StoreError>) -> anyhow::Result<Self> {
        let running = Running::find(data).with_context(|| {
            format!(
                "cannot speak to the server that has {} open; this command must run as the server's user",
                data.display()
            )
        })?;
        if let Some(running) = running {
            return Ok(Self::Running(running));
        }
        open(data).map(|store| Self::Stopped(Box::new(store))).map_err(|error| match error {
            StoreError::InUse { .. } => anyhow!(
                "{error}, and no server answers at {}: wait for that process, or stop it",
                data.join(crate::admin::SOCKET_FILE).display()
            ),
            other => other.into(),
        })
    }

    pub(super) fn export(&self, document: &DocumentName, format: Format) -> anyhow::Result<Exported> {
        match self {
            Self::Running(server) => {
                let request = Request::Export { document: document.to_string(), format };
                match server.ask(&request, &[], |_| ())? {
                    (Answer::Exported { waiting, .. }, bytes) => Ok(Exported { bytes, waiting }),
                    (other, _) => bail!("the server answered {other:?}"),
                }
            }
            Self::Stopped(store) => {
                let stored = store.load(document)?.ok_or_else(|| anyhow!("there is no document {document:?}"))?;
                portable::export(stored, format).with_context(|| format!("document {document:?}"))
            }
        }
    }

    /// Merges a file into a document; when this returns it is on disk.
    pub(super) fn import(
        &self,
        document: &DocumentName,
        file: Bytes,
        format: Format,
        only_new: bool,
    ) -> anyhow::Result<Imported> {
        match self {
            Self::Running(server) => {
                let bytes = file.len() as u64;
                let request = Request::Import { document: document.to_string(), format, bytes, only_new };
                match server.ask(&request, &file, |_| ())? {
                    (Answer::Imported { changed: true }, _) => Ok(Imported::Changed),
                    (Answer::Imported { changed: false }, _) => Ok(Imported::Known),
                    (Answer::Exists, _) => Ok(Imported::Exists),
                    (other, _) => bail!("the server answered {other:?}"),
                }
            }
            Self::Stopped(store) => import_stopped(store, document, file, format, only_new)
                .with_context(|| format!("document {document:?}")),
        }
    }

    /// Lets go of the store.
    pub(super) fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Stopped(store) => store.close().context("the store did not close cleanly"),
        }
    }
}

fn import_stopped(
    store: &SledStore,
    document: &DocumentName,
    file: Bytes,
    format: Format,
    only_new: bool,
) -> anyhow::Result<Imported> {
    let stored = store.load(document)?;
    if stored.is_some() && only_new {
        return Ok(Imported::Exists);
    }
    let (epoch, last) = stored.as_ref().map_or((Epoch(rand::random()), Seq::ZERO), |it| (it.epoch, it.last()));
    let update = portable::read(file, format)?;
    if portable::try_on(stored, &update)? == Change::Nothing {
        return Ok(Imported::Known);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = Record { seq: last.next(), time_ms: now.as_millis() as u64, update };
    let append = Step::Append { document: document.clone(), epoch, records: vec![record] };
    store.commit(&[append]).context("it is not certain what was done; `syncline inspect` tells")?;
    Ok(Imported::Changed)
}
