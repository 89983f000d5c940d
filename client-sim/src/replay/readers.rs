//! Readers: they look at what arrives just enough to know which edits it holds, and keep it for the check at the end.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::SinkExt;
use hdrhistogram::Histogram;

use super::link::{Heard, Socket, next_frame, pong};
use super::run::Run;
use super::tracker::{Log, Tracker};
use crate::report::{new_histogram, record};

/// What a reader saw.
pub struct Seen {
    /// Which reader.
    pub number: usize,
    /// Everything it received.
    pub log: Log,
    /// How many edits arrived.
    pub arrived: usize,
    /// The first edit that did not; the number of edits if all did.
    pub prefix: u32,
    /// Frames with document data.
    pub frames: u64,
    /// Bytes of all frames, without WebSocket headers.
    pub bytes: u64,
    /// From sending to arrival.
    pub latency_us: Histogram<u64>,
}

/// Reads until the run stops. The first reader (number 0) tells writers how far it is.
pub async fn read(run: Arc<Run>, number: usize, mut socket: Socket) -> Result<Seen> {
    let mut tracker = Tracker::new(Arc::clone(&run.plan));
    let mut seen =
        Seen { number, log: Log::default(), arrived: 0, prefix: 0, frames: 0, bytes: 0, latency_us: new_histogram() };
    let mut news = Vec::new();
    let mut stopped = std::pin::pin!(run.stopped());
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut stopped => break,
            frame = next_frame(&mut socket) => frame.with_context(|| format!("reader {number}"))?,
        };
        seen.bytes += frame.len() as u64;
        match run.target.hear(&frame)? {
            Heard::Update { update, .. } => {
                seen.frames += 1;
                tracker.take(update, &mut news).with_context(|| format!("reader {number}"))?;
                for index in news.drain(..) {
                    if let Some(latency) = run.arrives(index) {
                        record(&mut seen.latency_us, latency);
                    }
                }
                if number == 0 && run.plan.writers > 1 {
                    run.first_reader.send_replace(tracker.prefix());
                }
            }
            Heard::Ping => socket.send(pong()).await?,
            Heard::Denied(reason) => bail!("reader {number}: the server refused: {reason}"),
            Heard::Question | Heard::Status { .. } | Heard::Other => {}
        }
    }
    // The document's end is checked from the log; how the goodbye goes does not matter.
    drop(socket.close(None).await);
    seen.arrived = tracker.arrived_count;
    seen.prefix = tracker.prefix();
    seen.log = tracker.log;
    Ok(seen)
}
