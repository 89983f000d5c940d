//! `syncline-sim disk-fault --fault slow`: a sync takes a second. Readers do not wait for it, authors do.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{LIMIT, Trial, http};
use crate::durability::fleet::{Load, authors};
use crate::durability::link::{Link, News, Tongue};
use crate::durability::writer::Author;

/// Syncs that the disk is watched for, in each dialect.
const EDITS: usize = 3;
/// What somebody else does between the delivery of an edit and the word that it is saved: so many requests, one after the
/// other, take milliseconds. An edit that waited for the disk comes together with that word.
const REQUESTS: usize = 5;

/// How long one edit took.
struct Took {
    delivered: Duration,
    acked: Duration,
    /// The requests were answered before it was acknowledged.
    requests_first: bool,
}

impl Trial {
    pub(super) async fn slow(&mut self) -> Result<()> {
        let url = self.start().await?;
        let broken = self.break_it().await?;
        for tongue in Tongue::ALL {
            let document = format!("slow-{}", tongue.name());
            let (mut reader, _) = Link::join(Tongue::YWebsocket, &url, &document).await?;
            let mut rng = StdRng::seed_from_u64(self.seed);
            let mut author = authors(&document, 1, 1, Load::Small, &mut rng).swap_remove(0);
            let (mut link, _) = Link::join(tongue, &url, &document).await?;
            let mut took = Vec::new();
            for _ in 0..EDITS {
                took.push(self.edit(&mut author, &mut link, &mut reader).await?);
            }
            ensure!(
                took.iter().any(|took| took.requests_first),
                "{}: no edit reached its reader before the disk had it",
                tongue.name()
            );
            let slowest = took.iter().map(|took| took.delivered).max();
            let fastest = took.iter().map(|took| took.acked).min();
            write!(
                self.story,
                "{}: delivered within {slowest:.1?}, acknowledged after {fastest:.1?} at the earliest; ",
                tongue.name()
            )?;
        }
        broken.end(true).await?;
        self.stop_well().await
    }

    /// One edit, until it is acknowledged.
    async fn edit(&self, author: &mut Author, link: &mut Link, reader: &mut Link) -> Result<Took> {
        let (number, update) = author.make_edit();
        let begin = Instant::now();
        link.send(number, &update).await?;
        let mut delivered = None;
        let mut requests_first = false;
        loop {
            tokio::select! {
                biased;
                heard = link.hear() => match heard? {
                    News::Saved(_) => break,
                    News::Closed(code, why) => bail!("closed {code}: {why}"),
                    News::Refused(_, why) => bail!("refused: {why}"),
                    News::Theirs | News::Nothing => {}
                },
                done = self.requests(), if delivered.is_some() && !requests_first => {
                    done?;
                    requests_first = true;
                }
                heard = reader.hear(), if delivered.is_none() => {
                    if heard? == News::Theirs {
                        delivered = Some(begin.elapsed());
                    }
                }
                () = sleep(LIMIT) => bail!("no acknowledgement"),
            }
        }
        let Some(delivered) = delivered else { bail!("acknowledged before it was delivered") };
        Ok(Took { delivered, acked: begin.elapsed(), requests_first })
    }

    async fn requests(&self) -> Result<()> {
        for _ in 0..REQUESTS {
            ensure!(http(&self.address, "/readyz").await?.0 == 200, "a slow disk is no failed disk");
        }
        Ok(())
    }
}
