//! Outbox -> socket. All that is queued goes out as one write; nothing here ever waits for a document.

use std::pin::pin;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt};
use syncline_protocol::close::Close;
use tokio::time::{Instant, interval_at, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::SessionLimits;
use super::pace::Pace;
use super::stream::Progress;
use crate::outbox::{Outbox, Taken};

/// How long the close frame itself may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Ticks without a message to the client before it is given a harmless one. With the default tick of 7 s a silent
/// session has one after 14 to 21 s; stock clients hang up after 30 s.
const QUIET_TICKS: u32 = 2;
/// Ticks from one ping to the next. Pings go out under traffic too: a client that only reads says nothing else.
const PING_TICKS: u32 = 3;

/// The connection broke or stalled: there is nobody to talk to any more.
#[derive(Debug)]
pub(super) struct Broken;

/// Writes until the outbox says close, and says it. `heartbeat` is set once the dialect is known.
pub(super) async fn run(
    sink: &mut (impl Sink<Message> + Unpin),
    outbox: &Outbox,
    heartbeat: &OnceLock<Bytes>,
    progress: &Progress,
    pace: &Pace,
    limits: &SessionLimits,
) -> Result<Close, Broken> {
    let mut ticks = interval_at(Instant::now() + limits.tick, limits.tick);
    let (mut quiet_ticks, mut ticks_since_ping) = (0, 0);
    loop {
        let frames = tokio::select! {
            biased;
            taken = outbox.take() => match taken {
                Taken::Frames(frames) => frames,
                Taken::Close(close) => {
                    send_close(sink, &close).await?;
                    return Ok(close);
                }
            },
            _ = ticks.tick() => {
                pace.tick();
                (quiet_ticks, ticks_since_ping) = (quiet_ticks + 1, ticks_since_ping + 1);
                if ticks_since_ping >= PING_TICKS {
                    ticks_since_ping = 0;
                    with_progress(sink.feed(Message::Ping(Bytes::new())), progress, limits).await?;
                }
                // Stock clients do not see pings: give them a message when they got none.
                heartbeat.get().filter(|_| quiet_ticks >= QUIET_TICKS).cloned().into_iter().collect()
            }
        };
        if !frames.is_empty() {
            quiet_ticks = 0;
        }
        let write = async {
            for frame in frames {
                sink.feed(Message::Binary(frame)).await?;
            }
            sink.flush().await
        };
        with_progress(write, progress, limits).await?;
        outbox.written();
    }
}

/// Waits for `write` as long as the socket takes at least a byte now and then.
async fn with_progress<E>(
    write: impl Future<Output = Result<(), E>>,
    progress: &Progress,
    limits: &SessionLimits,
) -> Result<(), Broken> {
    let mut write = pin!(write);
    loop {
        let before = progress.get();
        match timeout(limits.write_stall, &mut write).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => return Err(Broken),
            Err(_) if progress.get() == before => return Err(Broken),
            Err(_) => {}
        }
    }
}

async fn send_close(sink: &mut (impl Sink<Message> + Unpin), close: &Close) -> Result<(), Broken> {
    let frame = CloseFrame { code: CloseCode::from(close.code()), reason: close.reason().as_ref().into() };
    match timeout(CLOSE_TIMEOUT, sink.send(Message::Close(Some(frame)))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Broken),
    }
}
