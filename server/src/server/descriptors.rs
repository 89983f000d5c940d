//! File descriptors kept back: however many connections come, the store, backups and operators find some.
//!
//! The system gives the lowest number that is free. So the number of a new socket says how many are taken, and nothing is
//! counted. When few are left, the socket that has waited longest to say what it wants makes room; when there is none, or
//! hardly any descriptor is left, the new one is answered 503 and closed.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;

use rustix::net::Shutdown;
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpStream;
use tracing::warn;

use crate::http::handshake::MAX_HEAD_BYTES;
use crate::limits::Gate;

/// Descriptors that connections leave to others: the store and backups need a handful. Half of them are for sockets that
/// come while silent ones are cut. Of a process that may have few, a quarter.
const RESERVED: u64 = 64;

const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 64\r\nConnection: close\r\n\r\nthis server has no room for more connections; please come later\n";

/// How many descriptors this process may have, and whether that is enough.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// From this number on room must be made.
    few: u64,
    /// From this number on nobody is let in.
    hardly_any: u64,
    /// There were too few, and the operator was told.
    is_short: bool,
}

impl Descriptors {
    pub(super) fn of_this_process() -> Self {
        Self::of(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of(limit: u64) -> Self {
        let reserved = RESERVED.min(limit / 4);
        Self { few: limit - reserved, hardly_any: limit - reserved / 2, is_short: false }
    }

    /// Whether a new socket may stay.
    pub(super) fn admit(&mut self, socket: TcpStream, gate: &Gate) -> Option<TcpStream> {
        let number = u64::try_from(socket.as_raw_fd()).unwrap_or(u64::MAX);
        if number < self.few {
            self.is_short = false;
            return Some(socket);
        }
        if !self.is_short {
            self.is_short = true;
            warn!(
                taken = number,
                "few file descriptors are left: raise the limit (ulimit -n), or allow fewer connections"
            );
        }
        let has_made_room = gate.cut_oldest();
        if has_made_room && number < self.hardly_any {
            return Some(socket);
        }
        gate.metrics().connections_refused.inc();
        turn_away(socket);
        None
    }
}

fn turn_away(socket: TcpStream) {
    // It does not wait. Whoever cannot be told now is not told.
    let Ok(mut socket) = socket.into_std() else { return };
    // Its request is read if it is there: closing over unread bytes would take the answer back.
    io::copy(&mut (&socket).take(MAX_HEAD_BYTES as u64), &mut io::sink()).ok();
    socket.write_all(BUSY).ok();
    rustix::net::shutdown(&socket, Shutdown::Write).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_kept_at_most_and_the_answer_is_as_long_as_it_says() {
        let thresholds = |limit| (Descriptors::of(limit).few, Descriptors::of(limit).hardly_any);
        assert_eq!([80, 1024, u64::MAX].map(thresholds), [(60, 70), (960, 992), (u64::MAX - 64, u64::MAX - 32)]);
        let (_, body) = std::str::from_utf8(BUSY).unwrap().split_once("\r\n\r\n").unwrap();
        assert!(std::str::from_utf8(BUSY).unwrap().contains(&format!("Content-Length: {}\r\n", body.len())));
    }
}
