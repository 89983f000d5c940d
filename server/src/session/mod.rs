//! One WebSocket connection: a reader and a writer in one task, tied together at their ends.
//!
//! ```text
//! reader.rs      frames in: which dialect, then its handler; resyncs; time limits
//! ywebsocket.rs  handler of the y-websocket dialect: one document
//! hocuspocus.rs  handler of the Hocuspocus dialect: many documents, authorised one by one
//! native.rs      handler of the native dialect: many documents, by number
//! channel.rs     one document of a session: scan, then send to the document
//! writer.rs      outbox -> socket, everything queued in one write; pings
//! pace.rs        how much a connection sends; messages that do not end
//! stream.rs      the socket, counting the bytes it takes
//! ```

mod channel;
mod hocuspocus;
mod native;
mod pace;
mod reader;
mod stream;
mod writer;
mod ywebsocket;

use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use syncline_protocol::close::Close;
use syncline_protocol::limits::DEFAULT_MAX_MESSAGE_BYTES;
use syncline_protocol::update::ScanLimits;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::pace::{Pace, Paced};
use self::reader::Reader;
use self::stream::Counting;
use crate::auth::Authorize;
use crate::ids::SessionId;
use crate::limits::{Gate, Unfinished};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::registry::Registry;

/// Buffer that a connection reads into. Larger frames grow it for their own length only.
const READ_BUFFER_BYTES: usize = 4 * 1024;
/// Bytes collected before they are written even though more is queued.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;
/// After a close frame was sent, how long the peer's remaining bytes are read and dropped: closing a socket with
/// unread bytes resets it, and the peer would never see the close code.
const LINGER: Duration = Duration::from_secs(2);

/// Limits of one session.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Largest message, in bytes.
    pub message_bytes: usize,
    /// Bytes that wait for a socket before its reader falls behind.
    pub outbox_bytes: usize,
    /// Documents in one Hocuspocus or native session.
    pub documents: usize,
    /// How long a new connection may stay silent.
    pub first_frame: Duration,
    /// A session that sends nothing for this long, not even a pong, is gone.
    pub silence: Duration,
    /// How long a message may take from its first byte to its last, if it comes as slowly as is allowed (`pace.rs`).
    pub message_time: Duration,
    /// The writer's tick, from which pings and harmless messages to silent sessions follow (`writer.rs`).
    pub tick: Duration,
    /// A socket that takes no byte for this long is closed.
    pub write_stall: Duration,
    /// What an update may hold.
    pub scan: ScanLimits,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            outbox_bytes: 1024 * 1024,
            documents: 100,
            first_frame: Duration::from_secs(30),
            silence: Duration::from_secs(60),
            message_time: Duration::from_secs(30),
            tick: Duration::from_secs(7),
            write_stall: Duration::from_secs(30),
            scan: ScanLimits::default(),
        }
    }
}

/// What every session shares.
pub struct Context {
    /// The open documents.
    pub registry: Arc<Registry>,
    /// Who may do what.
    pub auth: Arc<dyn Authorize>,
    /// Who is connected.
    pub gate: Arc<Gate>,
    /// Limits of each session.
    pub limits: SessionLimits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the server stops.
    pub stop: CancellationToken,
}

/// Where a session comes from.
pub struct Peer {
    /// Its number.
    pub id: SessionId,
    /// The raw request path without its leading slash.
    pub path: String,
    /// The peer's address.
    pub address: IpAddr,
    /// Its place among those who have said nothing yet.
    pub unfinished: Option<Unfinished>,
}

/// Runs an upgraded connection to its end.
pub async fn run<S>(socket: S, read_already: Bytes, peer: Peer, context: Arc<Context>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let limits = context.limits;
    let Peer { id, path, address, unfinished } = peer;
    let outbox = Arc::new(Outbox::new(limits.outbox_bytes));
    let seat = context.gate.enter(address);
    if let Err(close) = &seat {
        outbox.close(close.clone());
    }
    let pace = Arc::new(Pace::new(&context.gate, seat.as_ref().ok(), &outbox, &limits));
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        // The outbox bounds what is queued; here only one batch of it waits, and one message of any size must pass.
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(limits.message_bytes))
        .max_frame_size(Some(limits.message_bytes));
    let (socket, progress) = Counting::new(Paced::new(socket, Arc::clone(&pace)));
    let socket = WebSocketStream::from_partially_read(socket, read_already.to_vec(), Role::Server, Some(config)).await;
    let (mut sink, mut frames) = socket.split();

    let heartbeat = OnceLock::new();
    let reader = Reader::new(Arc::clone(&context), Arc::clone(&outbox), path, &heartbeat, &pace, unfinished);
    let write = writer::run(&mut sink, &outbox, &heartbeat, &progress, &pace, &limits);
    match drive(reader, &mut frames, write, &outbox).await {
        Ended::ByClient => {
            debug!(session = %id, "the client left");
            // Answers its close frame; a client that is gone already does not wait for it.
            tokio::time::timeout(LINGER, sink.close()).await.ok();
        }
        Ended::Broken => debug!(session = %id, "the connection broke"),
        Ended::Closed(close) => {
            if !close.may_reconnect() {
                context.metrics.refused.inc();
            }
            info!(session = %id, code = close.code(), reason = %close.reason(), "session closed by the server");
            if let Ok(socket) = frames.reunite(sink) {
                linger(socket.into_inner()).await;
            }
        }
    }
}

/// How a session ended.
enum Ended {
    ByClient,
    Broken,
    /// The client was told why.
    Closed(Close),
}

/// Reads and writes side by side until one of them ends, then ends the other.
async fn drive(
    mut reader: Reader<'_>,
    frames: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    write: impl Future<Output = Result<Close, writer::Broken>>,
    outbox: &Outbox,
) -> Ended {
    let mut write = pin!(write);
    let ended = tokio::select! {
        biased;
        ended = reader.run(frames) => ended,
        written = &mut write => return written.into(),
    };
    // The leases end here: what this session still had in flight is already with its documents.
    drop(reader);
    match ended {
        Ok(()) => Ended::ByClient,
        Err(close) => {
            outbox.close(close);
            write.await.into()
        }
    }
}

impl From<Result<Close, writer::Broken>> for Ended {
    fn from(written: Result<Close, writer::Broken>) -> Self {
        written.map_or(Ended::Broken, Ended::Closed)
    }
}

async fn linger(mut socket: impl AsyncRead + Unpin) {
    let mut dropped = [0; READ_BUFFER_BYTES];
    let drain = async { while socket.read(&mut dropped).await.is_ok_and(|read| read > 0) {} };
    // Both outcomes are fine: the peer hung up, or it had its time.
    tokio::time::timeout(LINGER, drain).await.ok();
}

/// The close for bytes that are no message.
fn bad_message(error: impl std::fmt::Display) -> Close {
    Close::BadMessage(error.to_string().into())
}
