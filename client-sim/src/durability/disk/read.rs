//! `syncline-sim disk-fault --fault read`: every read of the store's files fails for a while. Whoever asks for a document that
//! is in no memory is told so; who has one goes on; afterwards all of it is there.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

use super::{AFTER, DOCUMENTS, EACH, LIMIT, Trial, WELL, http};
use crate::durability::fleet::{Fleet, Load, authors, verdict};
use crate::durability::ledger::Page;
use crate::durability::link::{Link, Tongue};

impl Trial {
    pub(super) async fn unreadable(&mut self) -> Result<()> {
        let url = self.start().await?;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let quiet = authors("quiet", EACH, DOCUMENTS, Load::Churn, &mut rng);
        let quiet = self.for_a_while(&url, quiet).await?;
        let url = self.start_afresh().await?;
        let fleet = Fleet::start(&url, authors("fault", EACH, DOCUMENTS, Load::Small, &mut rng));
        sleep(WELL).await;
        let fault = self.break_it().await?;
        let known = Instant::now();
        let mut told = BTreeSet::new();
        for document in 0..DOCUMENTS {
            for tongue in Tongue::ALL {
                match timeout(LIMIT, Link::join(tongue, &url, &format!("quiet-{document}"))).await {
                    Ok(Ok(_)) => bail!("{} opened a document that cannot be read", tongue.name()),
                    Ok(Err(error)) => _ = told.insert(format!("{}: {error:#}", tongue.name())),
                    Err(_) => bail!("{} is told nothing about a document that cannot be read", tongue.name()),
                }
            }
        }
        for told in &told {
            ensure!(told.contains("4503") || told.contains("could not be loaded"), "{told}");
        }
        sleep(AFTER).await;
        let (status, body) = http(&self.address, "/readyz").await?;
        ensure!(status == 200, "/readyz says {status} for documents that cannot be read: {body}");
        fault.end(true).await?;
        let mended = Instant::now();
        let authors = fleet.stop().await?;
        let acked = authors.iter().flat_map(|author| &author.page.edits).filter_map(|edit| edit.acked);
        let went_on = acked.filter(|acked| *acked > known && *acked < mended).count();
        ensure!(went_on > 0, "who had a document was not served");
        for author in &authors {
            ensure!(author.told.is_empty(), "{} was told {:?}", author.page.document, author.told);
        }
        let told: Vec<_> = told.into_iter().collect();
        write!(self.story, "{}; {went_on} edits of others acknowledged meanwhile; ", told.join(" / "))?;
        let pages: Vec<&Page> = authors.iter().chain(&quiet).map(|author| &author.page).collect();
        let after = verdict(&url, &pages, None).await;
        ensure!(after.complaints.is_empty(), "after it, without a restart: {:?}", after.complaints);
        write!(self.story, "after it, without a restart: {after}; ")?;
        self.log_names_them()?;
        self.stop_well().await?;
        write!(self.story, "exit code 0")?;
        Ok(())
    }

    fn log_names_them(&mut self) -> Result<()> {
        let log = self.server.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("could not be loaded; its sessions")).collect();
        for document in 0..DOCUMENTS {
            let name = format!("document=\"quiet-{document}\" ");
            let named = lines.iter().any(|line| line.contains(&name) && line.contains("Input/output error"));
            ensure!(named, "the log does not say why {name} is not served: {log}");
        }
        let line = lines.first().and_then(|line| line.split_once("ERROR ")).map_or("", |(_, line)| line);
        write!(self.story, "log: {line}; ")?;
        Ok(())
    }
}
