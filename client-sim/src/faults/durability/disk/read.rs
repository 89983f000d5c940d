//! `syncline-sim disk-fault --fault read`: every read of the store's files fails for a while. Clients that open a document that
//! is not in memory get an error; clients of loaded documents continue; afterwards every edit is present.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

use super::{AFTER_FAULT, BEFORE_FAULT, DOCUMENTS, EACH, LIMIT, Trial, http};
use crate::faults::durability::fleet::{Fleet, Load, authors, check_documents};
use crate::faults::durability::ledger::AuthorRecord;
use crate::faults::durability::link::Link;
use crate::peer::Dialect;

impl Trial {
    pub(super) async fn failing_read(&mut self) -> Result<()> {
        let url = self.start().await?;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let quiet = authors("quiet", EACH, DOCUMENTS, Load::Churn, &mut rng);
        let quiet = self.edit_for_a_while(&url, quiet).await?;
        let url = self.restart().await?;
        let fleet = Fleet::start(&url, authors("fault", EACH, DOCUMENTS, Load::Small, &mut rng));
        sleep(BEFORE_FAULT).await;
        let fault = self.inject_fault().await?;
        let injected = Instant::now();
        let mut errors = BTreeSet::new();
        for document in 0..DOCUMENTS {
            for dialect in Dialect::ALL {
                match timeout(LIMIT, Link::join(dialect, &url, &format!("quiet-{document}"))).await {
                    Ok(Ok(_)) => bail!("{} opened a document that cannot be read", dialect.name()),
                    Ok(Err(error)) => _ = errors.insert(format!("{}: {error:#}", dialect.name())),
                    Err(_) => bail!("{} got no answer for a document that cannot be read", dialect.name()),
                }
            }
        }
        for error in &errors {
            ensure!(error.contains("4503") || error.contains("could not be loaded"), "{error}");
        }
        sleep(AFTER_FAULT).await;
        let (status, body) = http(&self.address, "/readyz").await?;
        ensure!(status == 200, "/readyz is {status} although only reads fail: {body}");
        fault.remove(true).await?;
        let removed = Instant::now();
        let authors = fleet.stop().await?;
        let acked = authors.iter().flat_map(|author| &author.record.edits).filter_map(|edit| edit.acked);
        let during_fault = acked.filter(|acked| *acked > injected && *acked < removed).count();
        ensure!(during_fault > 0, "no edit of a loaded document was acknowledged during the fault");
        for author in &authors {
            let (document, rejections) = (&author.record.document, &author.rejections);
            ensure!(rejections.is_empty(), "an author of {document} received {rejections:?}");
        }
        let errors: Vec<_> = errors.into_iter().collect();
        let errors = errors.join(" / ");
        write!(self.summary, "{errors}; {during_fault} edits of loaded documents acknowledged meanwhile; ")?;
        let records: Vec<&AuthorRecord> = authors.iter().chain(&quiet).map(|author| &author.record).collect();
        let after = check_documents(&url, &records, None).await;
        ensure!(after.complaints.is_empty(), "after the fault, without a restart: {:?}", after.complaints);
        write!(self.summary, "after the fault, without a restart: {after}; ")?;
        self.check_log_names_documents()?;
        self.stop_cleanly().await?;
        write!(self.summary, "exit code 0")?;
        Ok(())
    }

    fn check_log_names_documents(&mut self) -> Result<()> {
        let log = self.server.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("could not be loaded; its sessions")).collect();
        for document in 0..DOCUMENTS {
            let name = format!("document=\"quiet-{document}\" ");
            let named = lines.iter().any(|line| line.contains(&name) && line.contains("Input/output error"));
            ensure!(named, "the log does not name the error for {name}: {log}");
        }
        let line = lines.first().and_then(|line| line.split_once("ERROR ")).map_or("", |(_, line)| line);
        write!(self.summary, "log: {line}; ")?;
        Ok(())
    }
}
