//! Readers: determine which edits each received update holds, and keep the updates for the check at the end.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures_util::SinkExt;
use hdrhistogram::Histogram;

use super::link::{Received, Socket, next_frame, pong};
use super::run::Run;
use super::tracker::{Log, Tracker};
use crate::report::{new_histogram, record};

/// Result of a reader.
pub struct ReaderResult {
    /// Number of the reader.
    pub number: usize,
    /// Every update that it received.
    pub log: Log,
    /// Number of edits that arrived.
    pub arrived: usize,
    /// The first edit that did not arrive; the number of edits if all arrived.
    pub prefix: u32,
    /// Number of frames with document data.
    pub frames: u64,
    /// Bytes of all frames, without WebSocket headers.
    pub bytes: u64,
    /// Latency from sending to arrival.
    pub latency_us: Histogram<u64>,
}

/// Reads until the run stops. The first reader (number 0) publishes its progress for the writers.
pub async fn read(run: Arc<Run>, number: usize, mut socket: Socket) -> Result<ReaderResult> {
    let mut tracker = Tracker::new(Arc::clone(&run.plan));
    let mut result = ReaderResult {
        number,
        log: Log::default(),
        arrived: 0,
        prefix: 0,
        frames: 0,
        bytes: 0,
        latency_us: new_histogram(),
    };
    let mut new_edits = Vec::new();
    let mut stopped = std::pin::pin!(run.stopped());
    loop {
        let frame = tokio::select! {
            biased;
            () = &mut stopped => break,
            frame = next_frame(&mut socket) => frame.with_context(|| format!("reader {number}"))?,
        };
        result.bytes += frame.len() as u64;
        match run.target.decode(&frame)? {
            Received::Update { update, .. } => {
                result.frames += 1;
                tracker.apply(update, &mut new_edits).with_context(|| format!("reader {number}"))?;
                for index in new_edits.drain(..) {
                    if let Some(latency) = run.record_arrival(index) {
                        record(&mut result.latency_us, latency);
                    }
                }
                if number == 0 && run.plan.writers > 1 {
                    run.first_reader.send_replace(tracker.prefix());
                }
            }
            Received::Ping => socket.send(pong()).await?,
            Received::Denied(reason) => bail!("reader {number}: the server denied access: {reason}"),
            Received::SyncStep1 | Received::Status { .. } | Received::Other => {}
        }
    }
    // The text is rebuilt from the log, so an error while closing does not matter.
    drop(socket.close(None).await);
    result.arrived = tracker.arrived_count;
    result.prefix = tracker.prefix();
    result.log = tracker.log;
    Ok(result)
}
