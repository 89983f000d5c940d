//! A bad network between devices and a server: one loopback port for each device, and behind all of them one server
//! that may move to another port unseen.
//!
//! ```text
//! faults  what can be wrong, and what of it one connection gets
//! pipe    one connection: pieces go through, late, cut or not at all
//! ```
//!
//! What happens to a connection is drawn when it is made, from the seed, the device and the connection's number; what a
//! [`Link`] is told (a cut, a partition, other faults) happens at once. Time is Tokio's.

pub mod faults;
mod pipe;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use faults::{Fate, Faults};
use pipe::Pipe;

/// What went through, and what did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Connections that a device made.
    pub connections: u64,
    /// Connections that the network ended.
    pub cuts: u64,
    /// Answers that were lost after the server had the question.
    pub lost_answers: u64,
    /// Bytes to the server.
    pub bytes_up: u64,
    /// Bytes to devices.
    pub bytes_down: u64,
}

/// Counts for [`Traffic`]; written by every pipe.
#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    cuts: AtomicU64,
    lost_answers: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    /// Bytes in both directions, to be waited for.
    carried: watch::Sender<u64>,
}

/// The network. Dropping it cuts everything.
pub struct Network {
    seed: u64,
    server: watch::Sender<Option<SocketAddr>>,
    counters: Arc<Counters>,
}

impl Network {
    /// A network with a server nowhere yet.
    pub fn new(seed: u64) -> Self {
        Self { seed, server: watch::Sender::new(None), counters: Arc::default() }
    }

    /// The server is here now; `None`: it is gone, and connections are refused. Open connections are left to end by
    /// themselves, as they do when a process dies.
    pub fn set_server(&self, address: Option<SocketAddr>) {
        self.server.send_replace(address);
    }

    /// Where the server is.
    pub fn server(&self) -> Option<SocketAddr> {
        *self.server.borrow()
    }

    /// A port of its own for one device.
    pub async fn link(&self, device: u64) -> Result<Link> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port for a device")?;
        let address = listener.local_addr()?;
        let (faults, cuts) = (watch::Sender::new(Faults::default()), watch::Sender::new(0));
        let gate = Gate {
            seed: self.seed,
            device,
            server: self.server.subscribe(),
            faults: faults.subscribe(),
            cuts: cuts.subscribe(),
            counters: Arc::clone(&self.counters),
        };
        let accepting = tokio::spawn(gate.accept(listener)).abort_handle();
        Ok(Link { address, faults, cuts, accepting })
    }

    /// Waits until this many more bytes went through.
    pub async fn carry(&self, bytes: u64) {
        let mut carried = self.counters.carried.subscribe();
        let until = *carried.borrow() + bytes;
        // The sender lives as long as we do.
        drop(carried.wait_for(|carried| *carried >= until).await);
    }

    /// What went through so far.
    pub fn traffic(&self) -> Traffic {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            connections: of(&self.counters.connections),
            cuts: of(&self.counters.cuts),
            lost_answers: of(&self.counters.lost_answers),
            bytes_up: of(&self.counters.bytes_up),
            bytes_down: of(&self.counters.bytes_down),
        }
    }
}

/// One device's way to the server, and the handle that spoils it. Dropping it cuts the device off for good.
pub struct Link {
    address: SocketAddr,
    faults: watch::Sender<Faults>,
    /// Counts cuts; every pipe of the link ends when it rises.
    cuts: watch::Sender<u64>,
    accepting: AbortHandle,
}

impl Link {
    /// Where the device finds the server.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Resets every connection now.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Nothing passes any more and nobody is told; afterwards what waited goes on. Other faults stay.
    pub fn partition(&self, partitioned: bool) {
        self.faults.send_modify(|faults| (faults.stall_up, faults.stall_down) = (partitioned, partitioned));
    }

    /// Other faults from now on. What is drawn for a connection was drawn when it was made.
    pub fn set(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// What accepts a device's connections.
struct Gate {
    seed: u64,
    device: u64,
    server: watch::Receiver<Option<SocketAddr>>,
    faults: watch::Receiver<Faults>,
    cuts: watch::Receiver<u64>,
    counters: Arc<Counters>,
}

impl Gate {
    async fn accept(self, listener: TcpListener) {
        // Aborting this task drops the set, and with it every pipe.
        let mut pipes = JoinSet::new();
        for number in 0.. {
            let device = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((device, _)) => device,
                    Err(_) => return,
                },
                Some(_) = pipes.join_next() => continue,
            };
            self.counters.connections.fetch_add(1, Ordering::Relaxed);
            let faults = self.faults.borrow().clone();
            let fate = Fate::draw(&faults, self.seed, self.device, number);
            if faults.refuse {
                self.counters.cuts.fetch_add(1, Ordering::Relaxed);
                pipe::reset(device);
                continue;
            }
            let mut pipe = Pipe::new(fate, self.faults.clone(), self.cuts.clone(), Arc::clone(&self.counters));
            let server = *self.server.borrow();
            pipes.spawn(async move {
                if faults.captive {
                    return pipe.capture(device).await;
                }
                let Some(server) = server else { return pipe::reset(device) };
                match TcpStream::connect(server).await {
                    Ok(server) => pipe.run(device, server).await,
                    Err(_) => pipe::reset(device),
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
