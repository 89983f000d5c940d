//! A bad network between devices and a server: a TCP proxy with one loopback port per device, all forwarding to one server,
//! which may move to another port without the devices noticing.
//!
//! ```text
//! faults  the faults of a network, and those drawn for one connection
//! pipe    forwards one connection and applies its faults
//! ```
//!
//! The faults of a connection are drawn when it is accepted, from the seed, the device and the connection's number. Calls to
//! a [`DeviceLink`] (a cut, a partition, other faults) take effect immediately. Time is Tokio's.

pub(super) mod faults;
mod pipe;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use faults::{DrawnFaults, Faults};
use pipe::Pipe;

/// Counters of the network's traffic and faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct NetworkCounts {
    /// Connections that devices opened.
    pub connections: u64,
    /// Connections that the network ended.
    pub cuts: u64,
    /// Connections cut after the server received a request and before its answer was forwarded.
    pub lost_answers: u64,
    /// Bytes to the server.
    pub bytes_up: u64,
    /// Bytes to devices.
    pub bytes_down: u64,
}

/// Atomic counters behind [`NetworkCounts`]; written by every pipe.
#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    cuts: AtomicU64,
    lost_answers: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    /// Bytes in both directions; a watch, so that a caller can wait for it.
    total_bytes: watch::Sender<u64>,
}

/// The network between all devices and the server.
pub(super) struct Network {
    seed: u64,
    server: watch::Sender<Option<SocketAddr>>,
    counters: Arc<Counters>,
}

impl Network {
    /// Creates a network without a server.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, server: watch::Sender::new(None), counters: Arc::default() }
    }

    /// Sets the server's address; `None` makes the network refuse connections. Open connections stay until the server closes
    /// them, as it does when its process dies.
    pub(super) fn set_server(&self, address: Option<SocketAddr>) {
        self.server.send_replace(address);
    }

    /// Address of the server.
    pub(super) fn server(&self) -> Option<SocketAddr> {
        *self.server.borrow()
    }

    /// Opens a port for one device.
    pub(super) async fn link(&self, device: u64) -> Result<DeviceLink> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot open a port for a device")?;
        let address = listener.local_addr()?;
        let (faults, cuts) = (watch::Sender::new(Faults::default()), watch::Sender::new(0));
        let acceptor = Acceptor {
            seed: self.seed,
            device,
            server: self.server.subscribe(),
            faults: faults.subscribe(),
            cuts: cuts.subscribe(),
            counters: Arc::clone(&self.counters),
        };
        let accepting = tokio::spawn(acceptor.accept(listener)).abort_handle();
        Ok(DeviceLink { address, faults, cuts, accepting })
    }

    /// Waits until the network has forwarded this many more bytes.
    pub(super) async fn wait_for_bytes(&self, bytes: u64) {
        let mut total = self.counters.total_bytes.subscribe();
        let until = *total.borrow() + bytes;
        // The sender lives as long as `self`.
        drop(total.wait_for(|total| *total >= until).await);
    }

    /// The counters so far.
    pub(super) fn traffic(&self) -> NetworkCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        NetworkCounts {
            connections: load(&self.counters.connections),
            cuts: load(&self.counters.cuts),
            lost_answers: load(&self.counters.lost_answers),
            bytes_up: load(&self.counters.bytes_up),
            bytes_down: load(&self.counters.bytes_down),
        }
    }
}

/// One device's connection to the network, and the handle for its faults. Dropping it cuts the device off for good.
pub(super) struct DeviceLink {
    address: SocketAddr,
    faults: watch::Sender<Faults>,
    /// Counts cuts; every pipe of the link ends when it rises.
    cuts: watch::Sender<u64>,
    accepting: AbortHandle,
}

impl DeviceLink {
    /// URL at which the device reaches the server.
    pub(super) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Resets every connection now.
    pub(super) fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Starts or ends a partition: nothing is forwarded, and connections stay open. Data held back is forwarded after the
    /// partition. Other faults stay as they are.
    pub(super) fn partition(&self, partitioned: bool) {
        self.faults.send_modify(|faults| (faults.stall_up, faults.stall_down) = (partitioned, partitioned));
    }

    /// Replaces the faults. Faults that were drawn for an open connection stay.
    pub(super) fn set(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }
}

impl Drop for DeviceLink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts a device's connections.
struct Acceptor {
    seed: u64,
    device: u64,
    server: watch::Receiver<Option<SocketAddr>>,
    faults: watch::Receiver<Faults>,
    cuts: watch::Receiver<u64>,
    counters: Arc<Counters>,
}

impl Acceptor {
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
            let drawn = DrawnFaults::draw(&faults, self.seed, self.device, number);
            if faults.refuse {
                self.counters.cuts.fetch_add(1, Ordering::Relaxed);
                pipe::reset(device);
                continue;
            }
            let mut pipe = Pipe::new(drawn, self.faults.clone(), self.cuts.clone(), Arc::clone(&self.counters));
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
