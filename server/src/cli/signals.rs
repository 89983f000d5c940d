//! The signals that stop the server: the first one drains it, a second SIGTERM or SIGINT ends the process
//! immediately.
//!
//! The second one is handled in the signal handler itself: the runtime's threads may all be busy.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signal handlers, installed by [`StopSignals::register`].
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// `None`: the process was started with SIGHUP ignored, to outlive its terminal (nohup).
    hang_up: Option<Signal>,
}

impl StopSignals {
    /// Installs the handlers. Must be called in a Tokio runtime.
    pub(super) fn register() -> io::Result<Self> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        for number in [SIGTERM, SIGINT] {
            // In this order: the first signal only sets the flag, the second one finds it set and ends the process.
            flag::register_conditional_default(number, Arc::clone(&is_stopping))?;
            flag::register(number, Arc::clone(&is_stopping))?;
        }
        // SIGHUP does not set the flag: service managers send it together with SIGTERM.
        let hang_up = if ignores(SIGHUP) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())?, hang_up })
    }

    /// Waits for a signal and returns its name.
    pub(super) async fn first(&mut self) -> &'static str {
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

/// Whether the process was started with this signal ignored. False if the system does not report it.
fn ignores(number: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (number - 1) & 1 == 1)
}
