//! The signals that stop the server: the first one drains it, a second SIGTERM or SIGINT ends the process immediately.
//!
//! The second one is acted on in the signal handler itself: a runtime whose threads are all at work could not.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals, caught from [`StopSignals::register`] on.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// `None`: the process was started to outlive its terminal (nohup).
    hang_up: Option<Signal>,
}

impl StopSignals {
    /// Catches the signals. Call it in a runtime.
    pub fn register() -> io::Result<Self> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        for number in [SIGTERM, SIGINT] {
            // In this order: the first signal sets the flag, the next one finds it.
            flag::register_conditional_default(number, Arc::clone(&is_stopping))?;
            flag::register(number, Arc::clone(&is_stopping))?;
        }
        // A SIGHUP sets no flag: service managers send it together with the SIGTERM.
        let hang_up = if ignores(SIGHUP) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())?, hang_up })
    }

    /// Waits for a signal and returns its name.
    pub async fn first(&mut self) -> &'static str {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => _ = signal.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = hang_up => "SIGHUP",
        }
    }
}

/// Whether the process was started with this signal ignored. Where the system does not tell it was not.
fn ignores(number: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (number - 1) & 1 == 1)
}
