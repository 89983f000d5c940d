//! A TCP proxy with faults: it can drop the server's answers, freeze, and cut its connections.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// A running proxy. Dropping the handle stops neither the proxy nor its connections.
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    drop_answers: AtomicBool,
    frozen: watch::Sender<bool>,
    cut: Notify,
}

impl Proxy {
    /// Listens on a free port and forwards connections to `server`.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, faults) = (listener.local_addr().unwrap(), Arc::new(Faults::default()));
        let shared = Arc::clone(&faults);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, Arc::clone(&shared)));
            }
        });
        Self { address, faults }
    }

    /// The address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops everything the server sends from now on, until the connection is cut.
    pub fn drop_answers(&self) {
        self.faults.drop_answers.store(true, Ordering::SeqCst);
    }

    /// Makes the connections half-open: `true` stops reading from both ends without closing either, `false` resumes.
    pub fn freeze(&self, frozen: bool) {
        self.faults.frozen.send_replace(frozen);
    }

    /// Cuts all connections, and stops dropping answers.
    pub fn cut(&self) {
        self.faults.drop_answers.store(false, Ordering::SeqCst);
        self.faults.cut.notify_waiters();
    }
}

async fn forward(client: TcpStream, server: SocketAddr, faults: Arc<Faults>) {
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
            if !faults.drop_answers.load(Ordering::SeqCst) && to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        to_client.shutdown().await.ok();
    };
    let mut forwarding = pin!(async { tokio::join!(up, down) });
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
            _ = &mut forwarding => return,
        }
    }
}
