//! Writers: each sends its own edits on its own socket, in order.
//!
//! With one writer only the window of edits in flight holds it back. With more, an edit waits until the first reader
//! has everything by others that it builds on: a server then never sees an update before its dependencies, and the
//! run is as sequential as the trace (`--turn` makes the turns longer than one edit).

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

use super::link::{Heard, Socket, next_frame, pong};
use super::run::Run;
use crate::report::{new_histogram, record};

// Frames gathered before they are written although more could follow at once.
const FRAMES_PER_FLUSH: usize = 32;

// Some servers re-encode some updates; one that never comes back as it was must not hide the ones after it.
/// Most sent updates that an echo is compared with.
const ECHO_CANDIDATES: usize = 256;

/// How often an idle writer looks whether the server wants a pong.
const PONG_CHECK: Duration = Duration::from_secs(1);

/// How long acknowledgements that are still to come may take in the end.
const ACK_GRACE: Duration = Duration::from_secs(5);

/// What a writer did and heard.
pub struct Written {
    /// Frames sent.
    pub frames: u64,
    /// Bytes of them, without WebSocket headers.
    pub bytes: u64,
    /// From sending to the server's ack (Hocuspocus), or to the echo (y-websocket).
    pub ack_us: Histogram<u64>,
}

/// Sends all edits of writer `number`, then waits for the run to stop.
pub async fn write(run: Arc<Run>, number: usize, socket: Socket, join_acks: usize) -> Result<Written> {
    let mine: Vec<u32> = (0..run.plan.edits.len())
        .filter(|&index| run.plan.edits[index].writer == number && run.leave_out != Some(index))
        .map(|index| index as u32)
        .collect();
    let (sink, stream) = socket.split();
    let pong_wanted = AtomicBool::new(false);
    let heard_all = Notify::new();
    let listening = async {
        let heard = listen(&run, stream, &mine, join_acks, &pong_wanted).await;
        heard_all.notify_one();
        heard
    };
    let sending = send(&run, sink, &mine, &pong_wanted, &heard_all);
    // Together in one task: an error of either ends the writer.
    let (ack_us, (frames, bytes)) =
        futures_util::future::try_join(listening, sending).await.with_context(|| format!("writer {number}"))?;
    Ok(Written { frames, bytes, ack_us })
}

type Sink = SplitSink<Socket, Message>;

async fn send(
    run: &Run,
    mut sink: Sink,
    mine: &[u32],
    pong_wanted: &AtomicBool,
    heard_all: &Notify,
) -> Result<(u64, u64)> {
    let mut first_reader = run.first_reader.subscribe();
    let mut stopped = std::pin::pin!(run.stopped());
    let (mut frames, mut bytes) = (0, 0);
    for &index in mine {
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
        run.sends(index);
        sink.feed(message).await?;
        if frames % FRAMES_PER_FLUSH as u64 == 0 {
            sink.flush().await?;
        }
    }
    sink.flush().await?;
    loop {
        tokio::select! {
            () = heard_all.notified() => break,
            () = tokio::time::sleep(PONG_CHECK) => {
                if pong_wanted.swap(false, Ordering::Relaxed) {
                    sink.send(pong()).await?;
                }
            }
        }
    }
    // How the goodbye goes does not matter.
    drop(sink.close().await);
    Ok((frames, bytes))
}

/// Takes a place in the window if nothing has to be waited for.
fn may_send(run: &Run, index: u32) -> bool {
    let edit = &run.plan.edits[index as usize];
    let due = run.due(index as usize).is_none_or(|due| due <= std::time::Instant::now());
    let causal = edit.needs.is_none_or(|needed| *run.first_reader.borrow() > needed);
    due && causal
        && run.window.as_ref().is_none_or(|window| match window.try_acquire() {
            Ok(place) => {
                place.forget();
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

async fn listen(
    run: &Run,
    mut stream: SplitStream<Socket>,
    mine: &[u32],
    mut join_acks: usize,
    pong_wanted: &AtomicBool,
) -> Result<Histogram<u64>> {
    let mut ack_us = new_histogram();
    let mut unacked = mine;
    // Of a server that acknowledges, the last ones are waited for, too.
    let is_owed = |unacked: &[u32]| unacked.first().is_some_and(|&index| run.age(index).is_some());
    let mut stopped = std::pin::pin!(run.stopped());
    let mut grace = std::pin::pin!(None);
    loop {
        if grace.is_some() && (ack_us.is_empty() || !is_owed(unacked)) {
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
        match run.target.hear(&frame)? {
            Heard::Status { saved: true } if join_acks > 0 => join_acks -= 1,
            Heard::Status { saved: true } => {
                if let Some(age) = unacked.split_off_first().and_then(|&index| run.age(index)) {
                    record(&mut ack_us, age);
                }
            }
            Heard::Status { saved: false } => bail!("the server refused an update"),
            Heard::Update { update, .. } if run.target.dialect == Dialect::YWebsocket => {
                if let Some(at) = echoed(run, unacked, update) {
                    if let Some(age) = run.age(unacked[at]) {
                        record(&mut ack_us, age);
                    }
                    unacked = &unacked[at + 1..];
                }
            }
            Heard::Denied(reason) => bail!("the server refused: {reason}"),
            Heard::Ping => pong_wanted.store(true, Ordering::Relaxed),
            Heard::Update { .. } | Heard::Question | Heard::Other => {}
        }
    }
}

/// Which of the edits sent and not yet acknowledged this is, if any.
fn echoed(run: &Run, unacked: &[u32], update: &[u8]) -> Option<usize> {
    let sent = unacked.iter().take(ECHO_CANDIDATES).take_while(|&&index| run.age(index).is_some());
    sent.into_iter().position(|&index| run.plan.edits[index as usize].update == update)
}
