//! Access to a store for commands: through the running server that has it open, or by opening it in this process.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use syncline_log::store::Write as Step;
use syncline_log::{Record, SledStore, Store, StoreError};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};

use super::explain;
use super::store_args::{announce, check_owner};
use crate::admin::Running;
use crate::http::operator::documents::Imported;
use crate::import_export::{self, Exported, Format, ImportEffect};
use crate::unix_time::now_ms;

/// A store that a command reads from or writes to.
pub(super) enum Target {
    /// A running server has the store open and carries out requests.
    Running(Running),
    /// No server is running: this process has opened the store.
    Stopped(Box<SledStore>),
}

/// What a command does if the data directory holds no store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// Fails.
    Refuse,
    /// Fails and names the option that creates a store.
    SuggestCreate,
    /// Creates a store.
    Create,
}

impl Target {
    /// The existing store in `data`, of a running server or not. Prints which store it is.
    pub(super) fn existing(data: &Path, out: &mut impl Write) -> anyhow::Result<Self> {
        Self::open(data, IfMissing::Refuse, out)
    }

    /// The store in `data`, of a running server or not. Prints which store it is.
    pub(super) fn open(data: &Path, if_missing: IfMissing, out: &mut impl Write) -> anyhow::Result<Self> {
        let running = Running::find(data).map_err(|error| cannot_connect(data, error))?;
        if let Some(running) = running {
            announce(data, " (through the running server)", out)?;
            return Ok(Self::Running(running));
        }
        check_owner(data)?;
        let open = if if_missing == IfMissing::Create { SledStore::open_checked } else { SledStore::open_existing };
        let store = open(data).map_err(|error| match error {
            StoreError::InUse { .. } => anyhow!(
                "{error}, and no server answers at {}: wait until that process ends, or stop it",
                data.join(crate::admin::SOCKET_FILE).display()
            ),
            StoreError::NoStore { .. } if if_missing == IfMissing::SuggestCreate => {
                explain(error).context("nothing was imported; --create makes a new store")
            }
            other => explain(other),
        })?;
        announce(data, "", out)?;
        Ok(Self::Stopped(Box::new(store)))
    }

    pub(super) fn export(&self, document: &DocumentName, format: Format) -> anyhow::Result<Exported> {
        let exported = match self {
            Self::Running(server) => Ok(server.export(document)?),
            Self::Stopped(store) => {
                let stored = store.load(document)?.ok_or_else(|| anyhow!("document {document:?} does not exist"))?;
                import_export::export(stored)
            }
        };
        // JSON is built in this process, never in the server's.
        exported.and_then(|exported| exported.into_format(format)).with_context(|| format!("document {document:?}"))
    }

    /// Merges a file into a document. When this returns, the change is on disk.
    pub(super) fn import(
        &self,
        document: &DocumentName,
        file: Bytes,
        format: Format,
        only_new: bool,
    ) -> anyhow::Result<Imported> {
        match self {
            Self::Running(server) => server.import(document, file, format, only_new),
            Self::Stopped(store) => import_stopped(store, document, file, format, only_new)
                .with_context(|| format!("document {document:?}")),
        }
    }

    /// Closes the store.
    pub(super) fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Stopped(store) => store.close().context("the store did not close cleanly"),
        }
    }
}

/// Explains why it is not known whether a server has the store open.
fn cannot_connect(data: &Path, error: io::Error) -> anyhow::Error {
    let data = data.display();
    let what = match error.kind() {
        io::ErrorKind::PermissionDenied => format!(
            "no access to the store in {data}: its directory, or the socket of its server, belongs to another user; \
             run this command as that user"
        ),
        _ => format!("cannot connect to the server that has {data} open"),
    };
    anyhow::Error::new(error).context(what)
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
    let update = import_export::parse(file, format)?;
    if import_export::check(stored, &update)? == ImportEffect::Nothing {
        return Ok(Imported::Known);
    }
    let record = Record { seq: last.next(), time_ms: now_ms(), update };
    let append = Step::Append { document: document.clone(), epoch, records: vec![record] };
    store.commit(&[append]).context("the outcome is unknown; run `syncline inspect` to check")?;
    Ok(Imported::Changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text_of;

    #[test]
    fn denied_socket_is_explained_without_claiming_a_server() {
        let text = text_of(&cannot_connect(Path::new("/var/data"), io::ErrorKind::PermissionDenied.into()));
        assert!(text.starts_with("no access to the store in /var/data: ") && text.contains("another user"), "{text}");
        let text = text_of(&cannot_connect(Path::new("/var/data"), io::ErrorKind::TimedOut.into()));
        assert!(text.starts_with("cannot connect to the server that has /var/data open: "), "{text}");
    }
}
