//! A store that a command works on: through the server that has it open, or by opening it.

use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use syncline_log::store::Write as Step;
use syncline_log::{Record, SledStore, Store, StoreError};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

use super::explain;
use super::store_args::announce;
use crate::admin::client::Running;
use crate::admin::message::{Answer, Request};
use crate::import_export::{self, Change, Exported, Format};

/// Where documents come from and go to.
pub(super) enum Target {
    /// A server has the store open and does what it is asked.
    Running(Running),
    /// Nobody has it open: this process does.
    Stopped(Box<SledStore>),
}

/// What a command does about a data directory that holds no store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// It fails.
    Refuse,
    /// It fails, and names the option that makes a store.
    SuggestCreate,
    /// It makes a store.
    Create,
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
    /// The existing store in `data`, running or not. Prints which it is.
    pub(super) fn existing(data: &Path, out: &mut impl Write) -> anyhow::Result<Self> {
        Self::open(data, IfMissing::Refuse, out)
    }

    /// The store in `data`, running or not. Prints which it is.
    pub(super) fn open(data: &Path, if_missing: IfMissing, out: &mut impl Write) -> anyhow::Result<Self> {
        let running = Running::find(data).with_context(|| {
            format!(
                "cannot speak to the server that has {} open; this command must run as the server's user",
                data.display()
            )
        })?;
        if let Some(running) = running {
            announce(data, ", open in a running server, which does the work", out)?;
            return Ok(Self::Running(running));
        }
        let open = if if_missing == IfMissing::Create { SledStore::open_whole } else { SledStore::open_existing };
        let store = open(data).map_err(|error| match error {
            StoreError::InUse { .. } => anyhow!(
                "{error}, and no server answers at {}: wait for that process, or stop it",
                data.join(crate::admin::SOCKET_FILE).display()
            ),
            StoreError::NoStore { .. } if if_missing == IfMissing::SuggestCreate => {
                explain(error).context("nothing was imported (--create makes a new store)")
            }
            other => explain(other),
        })?;
        announce(data, "", out)?;
        Ok(Self::Stopped(Box::new(store)))
    }

    pub(super) fn export(&self, document: &DocumentName, format: Format) -> anyhow::Result<Exported> {
        let exported = match self {
            Self::Running(server) => {
                let request = Request::Export { document: document.to_string() };
                match server.ask(&request, &[], |_| ())? {
                    (Answer::Exported { waiting, .. }, bytes) => Ok(Exported { bytes, waiting }),
                    (other, _) => bail!("the server answered {other:?}"),
                }
            }
            Self::Stopped(store) => {
                let stored =
                    store.load(document)?.ok_or_else(|| anyhow!("there is no document {document:?} in this store"))?;
                import_export::export(stored)
            }
        };
        // JSON is built here, never in the server's process.
        exported.and_then(|exported| exported.into_format(format)).with_context(|| format!("document {document:?}"))
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
    let update = import_export::read(file, format)?;
    if import_export::try_on(stored, &update)? == Change::Nothing {
        return Ok(Imported::Known);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = Record { seq: last.next(), time_ms: now.as_millis() as u64, update };
    let append = Step::Append { document: document.clone(), epoch, records: vec![record] };
    store.commit(&[append]).context("it is not certain what was done; `syncline inspect` tells")?;
    Ok(Imported::Changed)
}
