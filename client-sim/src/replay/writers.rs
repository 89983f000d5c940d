//! Writers: each sends its own edits on its own socket, in order.
//!
//! A single writer is limited only by the window of edits in flight. With several writers, an edit waits until the first
//! reader has received every edit by another writer that it builds on. A server then never receives an update before its
//! dependencies, and the run is as sequential as the trace (`--turn` makes turns longer than one edit).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hdrhistogram::Histogram;
use syncline_protocol::detect::Dialect;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

use super::link::{Received, Socket, next_frame, pong};
use super::run::Run;
use crate::report::{new_histogram, record};

// Number of frames buffered before they are flushed, even when more can be sent.
const FRAMES_PER_FLUSH: usize = 32;

// Some servers re-encode some updates; one that is never echoed unchanged must not hide the echoes after it.
/// Largest number of sent updates that an echo is compared with.
const ECHO_CANDIDATES: usize = 256;

/// How often a writer that has sent everything checks whether a ping must be answered.
const PONG_CHECK: Duration = Duration::from_secs(1);

/// How long a writer waits for outstanding acknowledgements after the run is stopped.
const ACK_GRACE: Duration = Duration::from_secs(5);

/// Result of a writer.
pub struct WriterResult {
    /// Number of frames sent.
    pub frames: u64,
    /// Bytes of these frames, without WebSocket headers.
    pub bytes: u64,
    /// Latency from sending to the server's SyncStatus (Hocuspocus) or echo (y-websocket).
    pub ack_us: Histogram<u64>,
}

/// Sends all edits of writer `number`, then waits for the run to stop.
pub async fn write(run: Arc<Run>, number: usize, socket: Socket, join_acks: usize) -> Result<WriterResult> {
    let own: Vec<u32> = (0..run.plan.edits.len())
        .filter(|&index| run.plan.edits[index].writer == number && run.leave_out != Some(index))
        .map(|index| index as u32)
        .collect();
    let (sink, stream) = socket.split();
    let pong_wanted = AtomicBool::new(false);
    let received_all = Notify::new();
    let receiving = async {
        let received = receive(&run, stream, &own, join_acks, &pong_wanted).await;
        received_all.notify_one();
        received
    };
    let sending = send(&run, sink, &own, &pong_wanted, &received_all);
    // In one task, so that an error of either ends the writer.
    let (ack_us, (frames, bytes)) =
        futures_util::future::try_join(receiving, sending).await.with_context(|| format!("writer {number}"))?;
    Ok(WriterResult { frames, bytes, ack_us })
}

type Sink = SplitSink<Socket, Message>;

async fn send(
    run: &Run,
    mut sink: Sink,
    own: &[u32],
    pong_wanted: &AtomicBool,
    received_all: &Notify,
) -> Result<(u64, u64)> {
    let mut first_reader = run.first_reader.subscribe();
    let mut stopped = std::pin::pin!(run.stopped());
    let (mut frames, mut bytes) = (0, 0);
    for &index in own {
        if !may_send(run, index) {
            sink.flush().await?;
            tokio::select! {
                biased;
                () = &mut stopped => return Ok((frames, bytes)),
                waited = wait_until_may_send(run, index, &mut first_reader) => waited?,
            }
        }
        if pong_wanted.swap(false, Ordering::Relaxed) {
            sink.feed(pong()).await?;
        }
        let message = run.target.update(&run.plan.edits[index as usize].update);
        bytes += message.len() as u64;
        frames += 1;
        run.record_send(index);
        sink.feed(message).await?;
        if frames % FRAMES_PER_FLUSH as u64 == 0 {
            sink.flush().await?;
        }
    }
    sink.flush().await?;
    loop {
        tokio::select! {
            () = received_all.notified() => break,
            () = tokio::time::sleep(PONG_CHECK) => {
                if pong_wanted.swap(false, Ordering::Relaxed) {
                    sink.send(pong()).await?;
                }
            }
        }
    }
    // An error while closing does not matter.
    drop(sink.close().await);
    Ok((frames, bytes))
}

/// Whether edit `index` may be sent now; takes a permit of the window if so.
fn may_send(run: &Run, index: u32) -> bool {
    let edit = &run.plan.edits[index as usize];
    let due = run.due(index as usize).is_none_or(|due| due <= std::time::Instant::now());
    let causal = edit.needs.is_none_or(|needed| *run.first_reader.borrow() > needed);
    due && causal
        && run.window.as_ref().is_none_or(|window| match window.try_acquire() {
            Ok(permit) => {
                permit.forget();
                true
            }
            Err(_) => false,
        })
}

async fn wait_until_may_send(
    run: &Run,
    index: u32,
    first_reader: &mut tokio::sync::watch::Receiver<u32>,
) -> Result<()> {
    if let Some(due) = run.due(index as usize) {
        tokio::time::sleep_until(due.into()).await;
    }
    if let Some(needed) = run.plan.edits[index as usize].needs {
        first_reader.wait_for(|&prefix| prefix > needed).await?;
    }
    if let Some(window) = &run.window {
        window.acquire().await?.forget();
    }
    Ok(())
}

async fn receive(
    run: &Run,
    mut stream: SplitStream<Socket>,
    own: &[u32],
    mut join_acks: usize,
    pong_wanted: &AtomicBool,
) -> Result<Histogram<u64>> {
    let mut ack_us = new_histogram();
    let mut unacked = own;
    // If the server acknowledges at all, the last acknowledgements are awaited, too.
    let is_outstanding = |unacked: &[u32]| unacked.first().is_some_and(|&index| run.age(index).is_some());
    let mut stopped = std::pin::pin!(run.stopped());
    let mut grace = std::pin::pin!(None);
    loop {
        if grace.is_some() && (ack_us.is_empty() || !is_outstanding(unacked)) {
            return Ok(ack_us);
        }
        let frame = tokio::select! {
            biased;
            () = &mut stopped, if grace.is_none() => {
                grace.set(Some(tokio::time::sleep(ACK_GRACE)));
                continue;
            }
            Some(()) = async { grace.as_mut().as_pin_mut()?.await; Some(()) } => return Ok(ack_us),
            frame = next_frame(&mut stream) => frame?,
        };
        match run.target.decode(&frame)? {
            Received::Status { saved: true } if join_acks > 0 => join_acks -= 1,
            Received::Status { saved: true } => {
                if let Some(age) = unacked.split_off_first().and_then(|&index| run.age(index)) {
                    record(&mut ack_us, age);
                }
            }
            Received::Status { saved: false } => bail!("the server refused an update"),
            Received::Update { update, .. } if run.target.dialect == Dialect::YWebsocket => {
                if let Some(at) = find_echo(run, unacked, update) {
                    if let Some(age) = run.age(unacked[at]) {
                        record(&mut ack_us, age);
                    }
                    unacked = &unacked[at + 1..];
                }
            }
            Received::Denied(reason) => bail!("the server denied access: {reason}"),
            Received::Ping => pong_wanted.store(true, Ordering::Relaxed),
            Received::Update { .. } | Received::SyncStep1 | Received::Other => {}
        }
    }
}

/// Position in `unacked` of the sent edit with this update.
fn find_echo(run: &Run, unacked: &[u32], update: &[u8]) -> Option<usize> {
    let sent = unacked.iter().take(ECHO_CANDIDATES).take_while(|&&index| run.age(index).is_some());
    sent.into_iter().position(|&index| run.plan.edits[index as usize].update == update)
}
