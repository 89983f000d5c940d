//! Forwards one connection through the bad network.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Counters;
use super::faults::{DrawnFaults, Faults};

/// Largest number of bytes read and forwarded in one step.
const CHUNK_BYTES: usize = 16 * 1024;

/// After the chunk whose answer is to be lost: cut after this time even when no answer arrived.
const LOST_ANSWER_WAIT: Duration = Duration::from_millis(100);

/// Why a pipe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The device or the server closed it.
    Closed,
    /// The network cut it.
    Cut,
    /// The network cut it and dropped the server's answer.
    LostAnswer,
}

/// Direction of the forwarded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// What the two directions of a connection share.
#[derive(Default)]
struct Progress {
    /// Bytes forwarded in both directions.
    bytes: AtomicU64,
    /// Chunks forwarded to the server.
    chunks_up: AtomicU64,
}

/// One connection through the network.
pub(super) struct Pipe {
    drawn: DrawnFaults,
    faults: watch::Receiver<Faults>,
    cuts: watch::Receiver<u64>,
    counters: Arc<Counters>,
    progress: Progress,
}

impl Pipe {
    pub(super) fn new(
        drawn: DrawnFaults,
        faults: watch::Receiver<Faults>,
        mut cuts: watch::Receiver<u64>,
        counters: Arc<Counters>,
    ) -> Self {
        cuts.mark_unchanged();
        Self { drawn, faults, cuts, counters, progress: Progress::default() }
    }

    /// Reads and never answers, until the device closes, the link is cut, or the captive portal is switched off.
    pub(super) async fn capture(&mut self, mut device: TcpStream) {
        let mut discarded = vec![0; CHUNK_BYTES];
        let mut faults = self.faults.clone();
        let released = async {
            drop(faults.wait_for(|faults| !faults.captive).await);
        };
        tokio::pin!(released);
        loop {
            tokio::select! {
                _ = self.cuts.changed() => break,
                () = &mut released => break,
                read = device.read(&mut discarded) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                },
            }
        }
        self.counters.cuts.fetch_add(1, Ordering::Relaxed);
        reset(device);
    }

    /// Forwards bytes until one side closes the connection or a fault ends it.
    pub(super) async fn run(&mut self, device: TcpStream, server: TcpStream) {
        // Without Nagle's algorithm: only the drawn delay counts.
        drop((device.set_nodelay(true), server.set_nodelay(true)));
        let mut cuts = self.cuts.clone();
        let ((mut from_device, mut to_device), (mut from_server, mut to_server)) =
            (device.into_split(), server.into_split());
        let end = {
            let this = &*self;
            let expires = this.drawn.cut_after.map(|after| Instant::now() + after);
            tokio::select! {
                _ = cuts.changed() => End::Cut,
                () = sleep_until_or_pend(expires) => End::Cut,
                end = this.forward(Direction::Up, &mut from_device, &mut to_server) => end,
                end = this.forward(Direction::Down, &mut from_server, &mut to_device) => end,
            }
        };
        match end {
            End::Closed => {}
            End::Cut => drop(self.counters.cuts.fetch_add(1, Ordering::Relaxed)),
            End::LostAnswer => {
                self.counters.cuts.fetch_add(1, Ordering::Relaxed);
                self.counters.lost_answers.fetch_add(1, Ordering::Relaxed);
            }
        }
        for (read, write) in [(from_device, to_device), (from_server, to_server)] {
            if let Ok(socket) = read.reunite(write) {
                match end {
                    // A regular close, so that the last bytes of the side that closed still arrive.
                    End::Closed => drop(socket),
                    End::Cut | End::LostAnswer => reset(socket),
                }
            }
        }
    }

    async fn forward(&self, direction: Direction, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> End {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let read = from.read(&mut chunk).await;
            // A partition hides the end of a connection as it hides everything else.
            self.wait_while_stalled(direction).await;
            let Ok(mut len @ 1..) = read else { return End::Closed };
            self.delay(len).await;
            self.wait_while_stalled(direction).await;
            if direction == Direction::Down && self.answer_is_lost() {
                return End::LostAnswer;
            }
            // Cut after exactly this many bytes, possibly in the middle of a frame.
            let before = self.progress.bytes.fetch_add(len as u64, Ordering::Relaxed);
            let cut = self.drawn.cut_after_bytes.filter(|cut| before + len as u64 >= *cut);
            if let Some(cut) = cut {
                len = cut.saturating_sub(before) as usize;
            }
            if to.write_all(&chunk[..len]).await.is_err() {
                return End::Closed;
            }
            self.count(direction, len);
            if cut.is_some() {
                return End::Cut;
            }
            if direction == Direction::Up && self.loses_answer_to_this_chunk() {
                // The wait is bounded: the server may not answer this chunk.
                sleep(LOST_ANSWER_WAIT).await;
                return End::LostAnswer;
            }
        }
    }

    /// Waits while nothing is forwarded in this direction.
    async fn wait_while_stalled(&self, direction: Direction) {
        let silent = self.drawn.silent.is_some_and(|(from_byte, up, down)| {
            let is_silenced = if direction == Direction::Up { up } else { down };
            is_silenced && self.progress.bytes.load(Ordering::Relaxed) >= from_byte
        });
        if silent {
            return pending().await;
        }
        let mut faults = self.faults.clone();
        let stalled = |faults: &Faults| if direction == Direction::Up { faults.stall_up } else { faults.stall_down };
        // An error means that the link was dropped, and this task is about to be aborted.
        if faults.wait_for(|faults| !stalled(faults)).await.is_err() {
            pending().await
        }
    }

    async fn delay(&self, len: usize) {
        let bytes_per_s = self.faults.borrow().bytes_per_s;
        let at_this_rate = bytes_per_s.map_or(0.0, |rate| len as f64 / rate.max(1) as f64);
        let wait = self.drawn.delay + Duration::from_secs_f64(at_this_rate);
        if !wait.is_zero() {
            // Ends early when delay and bandwidth limit are removed.
            let mut faults = self.faults.clone();
            let good = faults.wait_for(|faults| faults.delay_ms.is_none() && faults.bytes_per_s.is_none());
            drop(timeout(wait, good).await);
        }
    }

    fn loses_answer_to_this_chunk(&self) -> bool {
        let sent = self.progress.chunks_up.load(Ordering::Relaxed);
        self.drawn.lost_answer_after == Some(sent)
    }

    fn answer_is_lost(&self) -> bool {
        let sent = self.progress.chunks_up.load(Ordering::Relaxed);
        self.drawn.lost_answer_after.is_some_and(|after| sent >= after)
    }

    fn count(&self, direction: Direction, len: usize) {
        let counter = match direction {
            Direction::Up => {
                self.progress.chunks_up.fetch_add(1, Ordering::Relaxed);
                &self.counters.bytes_up
            }
            Direction::Down => &self.counters.bytes_down,
        };
        counter.fetch_add(len as u64, Ordering::Relaxed);
        self.counters.total_bytes.send_modify(|total| *total += len as u64);
    }
}

async fn sleep_until_or_pend(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Resets a connection: the other end gets an error, and unread data is lost.
pub(super) fn reset(socket: TcpStream) {
    // If the option cannot be set, the connection is closed regularly.
    drop(socket.set_zero_linger());
}
