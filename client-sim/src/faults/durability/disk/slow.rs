//! `syncline-sim disk-fault --fault slow`: a sync takes a second. Readers do not wait for it; acknowledgements do.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::sleep;

use super::{LIMIT, Trial, http};
use crate::faults::durability::author::Author;
use crate::faults::durability::fleet::{Load, authors};
use crate::faults::durability::link::{Link, LinkEvent};
use crate::peer::Dialect;

/// Number of edits in each dialect; each waits for one slow sync.
const EDITS: usize = 3;
/// Number of consecutive HTTP requests between the delivery of an edit and its acknowledgement. They take milliseconds; an
/// edit whose delivery waited for the disk would be delivered and acknowledged at the same time, before they are answered.
const REQUESTS: usize = 5;

/// Timing of one edit.
struct Timing {
    /// Time until the reader received it.
    delivered: Duration,
    /// Time until it was acknowledged.
    acked: Duration,
    /// Whether the requests were answered before it was acknowledged.
    requests_first: bool,
}

impl Trial {
    pub(super) async fn slow_sync(&mut self) -> Result<()> {
        let url = self.start().await?;
        let fault = self.inject_fault().await?;
        for dialect in Dialect::ALL {
            let document = format!("slow-{}", dialect.name());
            let (mut reader, _) = Link::join(Dialect::YWebsocket, &url, &document).await?;
            let mut rng = StdRng::seed_from_u64(self.seed);
            let mut author = authors(&document, 1, 1, Load::Small, &mut rng).swap_remove(0);
            let (mut link, _) = Link::join(dialect, &url, &document).await?;
            let mut timings = Vec::new();
            for _ in 0..EDITS {
                timings.push(self.edit(&mut author, &mut link, &mut reader).await?);
            }
            ensure!(
                timings.iter().any(|timing| timing.requests_first),
                "{}: no edit reached its reader before the disk had it",
                dialect.name()
            );
            let slowest = timings.iter().map(|timing| timing.delivered).max().unwrap_or_default();
            let fastest = timings.iter().map(|timing| timing.acked).min().unwrap_or_default();
            write!(
                self.summary,
                "{}: delivered within {:.1} ms, acknowledged after at least {:.1} ms; ",
                dialect.name(),
                slowest.as_secs_f64() * 1000.0,
                fastest.as_secs_f64() * 1000.0
            )?;
        }
        fault.remove(true).await?;
        self.stop_cleanly().await
    }

    /// Makes one edit and waits for its acknowledgement.
    async fn edit(&self, author: &mut Author, link: &mut Link, reader: &mut Link) -> Result<Timing> {
        let (number, update) = author.make_edit();
        let begin = Instant::now();
        link.send(number, &update).await?;
        let mut delivered = None;
        let mut requests_first = false;
        loop {
            tokio::select! {
                biased;
                event = link.next_event() => match event? {
                    LinkEvent::Saved(_) => break,
                    LinkEvent::Closed(code, why) => bail!("closed {code}: {why}"),
                    LinkEvent::Refused(_, why) => bail!("refused: {why}"),
                    LinkEvent::RemoteUpdate | LinkEvent::Other => {}
                },
                done = self.requests(), if delivered.is_some() && !requests_first => {
                    done?;
                    requests_first = true;
                }
                event = reader.next_event(), if delivered.is_none() => {
                    if event? == LinkEvent::RemoteUpdate {
                        delivered = Some(begin.elapsed());
                    }
                }
                () = sleep(LIMIT) => bail!("the edit was not acknowledged in time"),
            }
        }
        let Some(delivered) = delivered else { bail!("the edit was acknowledged before it was delivered") };
        Ok(Timing { delivered, acked: begin.elapsed(), requests_first })
    }

    async fn requests(&self) -> Result<()> {
        for _ in 0..REQUESTS {
            ensure!(
                http(&self.address, "/readyz").await?.0 == 200,
                "/readyz is not 200 although the disk is only slow"
            );
        }
        Ok(())
    }
}
