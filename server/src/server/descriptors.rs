//! Reserves file descriptors, so that the store, backups and operators always get some however many clients connect.
//!
//! The system assigns the lowest free number. So the number of a new socket shows how many descriptors are in
//! use, and no counter is needed. When few are left, the oldest socket without a first message is cut; if there
//! is none, or almost no descriptor is left, the new socket is answered 503 and closed.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use rustix::net::Shutdown;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;
use tracing::warn;

use crate::http::handshake::MAX_HEAD_BYTES;
use crate::limits::Gate;

/// Descriptors that connections must leave free: the store and backups need a few. Half of them are for sockets
/// accepted while older ones are being cut. At most a quarter of the process's limit is reserved.
const RESERVED: u64 = 64;

const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 60\r\nConnection: close\r\n\r\nthis server cannot accept more connections; try again later\n";

/// Thresholds from this process's limit on descriptors, and whether it is nearly reached.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// From this number on, a new socket is admitted only after another one was cut.
    soft_limit: u64,
    /// From this number on, new sockets are rejected.
    hard_limit: u64,
    /// The soft limit is reached, and a warning was logged.
    is_short: bool,
}

impl Descriptors {
    pub(super) fn of_this_process() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of(limit: u64) -> Self {
        let reserved = RESERVED.min(limit / 4);
        Self { soft_limit: limit - reserved, hard_limit: limit - reserved / 2, is_short: false }
    }

    /// Whether a new socket, of any kind, may be served; if not, the caller rejects it.
    pub(super) fn admit(&mut self, socket: &impl AsRawFd, gate: &Gate) -> bool {
        let number = u64::try_from(socket.as_raw_fd()).unwrap_or(u64::MAX);
        if number < self.soft_limit {
            self.is_short = false;
            return true;
        }
        if !self.is_short {
            self.is_short = true;
            warn!(
                taken = number,
                "few file descriptors are left: raise the limit (ulimit -n), or lower --max-connections"
            );
        }
        let is_admitted = gate.cut_oldest() && number < self.hard_limit;
        if !is_admitted {
            gate.metrics().connections_refused.inc();
        }
        is_admitted
    }
}

/// Answers 503 on a socket that was not admitted, and closes it.
pub(super) fn reject(socket: TcpStream) {
    // The standard library's socket is non-blocking here: an answer that cannot be sent immediately is not sent.
    let Ok(mut socket) = socket.into_std() else { return };
    // A request that has arrived is read first: closing a socket with unread bytes would discard the answer.
    io::copy(&mut (&socket).take(MAX_HEAD_BYTES as u64), &mut io::sink()).ok();
    socket.write_all(BUSY).ok();
    rustix::net::shutdown(&socket, Shutdown::Write).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_a_quarter_is_reserved_and_busy_answer_has_its_length() {
        let thresholds = |limit| (Descriptors::of(limit).soft_limit, Descriptors::of(limit).hard_limit);
        assert_eq!([80, 1024, u64::MAX].map(thresholds), [(60, 70), (960, 992), (u64::MAX - 64, u64::MAX - 32)]);
        let (_, body) = std::str::from_utf8(BUSY).unwrap().split_once("\r\n\r\n").unwrap();
        assert!(std::str::from_utf8(BUSY).unwrap().contains(&format!("Content-Length: {}\r\n", body.len())));
    }
}
