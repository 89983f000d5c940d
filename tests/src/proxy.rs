//! A TCP proxy that a test can make lose the server's answers, stand still, and cut.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// The proxy; dropping it leaves its connections as they are.
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    swallow: AtomicBool,
    frozen: watch::Sender<bool>,
    cut: Notify,
}

impl Proxy {
    /// Listens on any free port and carries connections to `server`.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, faults) = (listener.local_addr().unwrap(), Arc::new(Faults::default()));
        let shared = Arc::clone(&faults);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, faults }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the server says from now on never arrives, until the connection is cut.
    pub fn swallow_answers(&self) {
        self.faults.swallow.store(true, Ordering::SeqCst);
    }

    /// Half-open: from now on nothing is read from either end, and neither is told; or it all goes on.
    pub fn freeze(&self, frozen: bool) {
        self.faults.frozen.send_replace(frozen);
    }

    /// Cuts the connection; the next one carries everything.
    pub fn cut(&self) {
        self.faults.swallow.store(false, Ordering::SeqCst);
        self.faults.cut.notify_waiters();
    }
}

async fn carry(client: TcpStream, server: SocketAddr, faults: Arc<Faults>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server).await.ok();
        to_server.shutdown().await.ok();
    };
    let down = async {
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if !faults.swallow.load(Ordering::SeqCst) && to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        to_client.shutdown().await.ok();
    };
    let mut carrying = pin!(async { tokio::join!(up, down) });
    let mut frozen = faults.frozen.subscribe();
    let mut cut = pin!(faults.cut.notified());
    loop {
        tokio::select! {
            biased;
            () = &mut cut => return,
            // The sender lives in `faults`.
            Ok(_) = async { frozen.wait_for(|frozen| *frozen).await.map(drop) } => {
                tokio::select! {
                    () = &mut cut => return,
                    _ = async { frozen.wait_for(|frozen| !*frozen).await.map(drop) } => {}
                }
            }
            _ = &mut carrying => return,
        }
    }
}
