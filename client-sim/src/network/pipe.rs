//! One connection through the bad network.

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
use super::faults::{Fate, Faults};

/// Most bytes read at once.
const PIECE_BYTES: usize = 16 * 1024;

/// After the bytes whose answer is to be lost: wait this long for an answer, then cut all the same.
const LOST_ANSWER_WAIT: Duration = Duration::from_millis(100);

/// Why a pipe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// One of the two closed, or is gone.
    Theirs,
    /// The network cut it.
    Cut,
    /// The network cut it when the server had answered, and kept the answer.
    LostAnswer,
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// What the two directions of a connection share.
#[derive(Default)]
struct Progress {
    /// Bytes forwarded, both ways.
    bytes: AtomicU64,
    /// Pieces forwarded to the server.
    pieces_up: AtomicU64,
}

/// One connection through the network.
pub(super) struct Pipe {
    fate: Fate,
    faults: watch::Receiver<Faults>,
    cuts: watch::Receiver<u64>,
    counters: Arc<Counters>,
    progress: Progress,
}

impl Pipe {
    pub fn new(
        fate: Fate,
        faults: watch::Receiver<Faults>,
        mut cuts: watch::Receiver<u64>,
        counters: Arc<Counters>,
    ) -> Self {
        cuts.mark_unchanged();
        Self { fate, faults, cuts, counters, progress: Progress::default() }
    }

    /// Takes what comes and never answers, until the device gives up, the link is cut, or the page is passed.
    pub async fn capture(&mut self, mut device: TcpStream) {
        let mut swallowed = vec![0; PIECE_BYTES];
        let mut faults = self.faults.clone();
        let passed = async {
            drop(faults.wait_for(|faults| !faults.captive).await);
        };
        tokio::pin!(passed);
        loop {
            tokio::select! {
                _ = self.cuts.changed() => break,
                () = &mut passed => break,
                read = device.read(&mut swallowed) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {}
                },
            }
        }
        self.counters.cuts.fetch_add(1, Ordering::Relaxed);
        reset(device);
    }

    /// Carries bytes until somebody or something ends it.
    pub async fn run(&mut self, device: TcpStream, server: TcpStream) {
        // Small frames at once: the delay is ours to decide.
        drop((device.set_nodelay(true), server.set_nodelay(true)));
        let mut cuts = self.cuts.clone();
        let ((mut from_device, mut to_device), (mut from_server, mut to_server)) =
            (device.into_split(), server.into_split());
        let end = {
            let this = &*self;
            let expires = this.fate.cut_after.map(|after| Instant::now() + after);
            tokio::select! {
                _ = cuts.changed() => End::Cut,
                () = expired(expires) => End::Cut,
                end = this.carry(Way::Up, &mut from_device, &mut to_server) => end,
                end = this.carry(Way::Down, &mut from_server, &mut to_device) => end,
            }
        };
        match end {
            End::Theirs => {}
            End::Cut => drop(self.counters.cuts.fetch_add(1, Ordering::Relaxed)),
            End::LostAnswer => {
                self.counters.cuts.fetch_add(1, Ordering::Relaxed);
                self.counters.lost_answers.fetch_add(1, Ordering::Relaxed);
            }
        }
        for (read, write) in [(from_device, to_device), (from_server, to_server)] {
            if let Ok(socket) = read.reunite(write) {
                match end {
                    // Orderly, so that what a leaving device or server wrote last still arrives.
                    End::Theirs => drop(socket),
                    End::Cut | End::LostAnswer => reset(socket),
                }
            }
        }
    }

    async fn carry(&self, way: Way, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> End {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = from.read(&mut piece).await;
            // A partition hides the end of a connection as it hides everything else.
            self.pass(way).await;
            let Ok(mut len @ 1..) = read else { return End::Theirs };
            self.be_slow(len).await;
            self.pass(way).await;
            if way == Way::Down && self.answer_is_lost() {
                return End::LostAnswer;
            }
            // Exactly so many bytes, which may be the middle of a frame.
            let before = self.progress.bytes.fetch_add(len as u64, Ordering::Relaxed);
            let cut = self.fate.cut_after_bytes.filter(|cut| before + len as u64 >= *cut);
            if let Some(cut) = cut {
                len = cut.saturating_sub(before) as usize;
            }
            if to.write_all(&piece[..len]).await.is_err() {
                return End::Theirs;
            }
            self.count(way, len);
            if cut.is_some() {
                return End::Cut;
            }
            if way == Way::Up && self.loses_answer_to_this_piece() {
                // The answer is not awaited for ever: the piece may have been one without any.
                sleep(LOST_ANSWER_WAIT).await;
                return End::LostAnswer;
            }
        }
    }

    /// Waits while nothing may pass this way.
    async fn pass(&self, way: Way) {
        let silent = self.fate.silent.is_some_and(|(from_byte, up, down)| {
            let concerned = if way == Way::Up { up } else { down };
            concerned && self.progress.bytes.load(Ordering::Relaxed) >= from_byte
        });
        if silent {
            return pending().await;
        }
        let mut faults = self.faults.clone();
        let stalled = |faults: &Faults| if way == Way::Up { faults.stall_up } else { faults.stall_down };
        // The sender is gone: so is the link, and this task with it.
        if faults.wait_for(|faults| !stalled(faults)).await.is_err() {
            pending().await
        }
    }

    async fn be_slow(&self, len: usize) {
        let bytes_per_s = self.faults.borrow().bytes_per_s;
        let at_this_rate = bytes_per_s.map_or(0.0, |rate| len as f64 / rate.max(1) as f64);
        let wait = self.fate.delay + Duration::from_secs_f64(at_this_rate);
        if !wait.is_zero() {
            // Cut short when the network becomes a good one.
            let mut faults = self.faults.clone();
            let good = faults.wait_for(|faults| faults.delay_ms.is_none() && faults.bytes_per_s.is_none());
            drop(timeout(wait, good).await);
        }
    }

    fn loses_answer_to_this_piece(&self) -> bool {
        let sent = self.progress.pieces_up.load(Ordering::Relaxed);
        self.fate.lost_answer_after == Some(sent)
    }

    fn answer_is_lost(&self) -> bool {
        let sent = self.progress.pieces_up.load(Ordering::Relaxed);
        self.fate.lost_answer_after.is_some_and(|after| sent >= after)
    }

    fn count(&self, way: Way, len: usize) {
        let counter = match way {
            Way::Up => {
                self.progress.pieces_up.fetch_add(1, Ordering::Relaxed);
                &self.counters.bytes_up
            }
            Way::Down => &self.counters.bytes_down,
        };
        counter.fetch_add(len as u64, Ordering::Relaxed);
        self.counters.carried.send_modify(|carried| *carried += len as u64);
    }
}

async fn expired(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Ends a connection the hard way: the other end gets a reset, and what was not yet read is gone.
pub(super) fn reset(socket: TcpStream) {
    // If the option fails the connection is closed the ordinary way.
    drop(socket.set_zero_linger());
}
