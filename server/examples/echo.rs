//! A server that echoes every WebSocket message, including text, with the same code that serves documents: the
//! peer of Autobahn's test suite (`tests/autobahn`). Prints its address; stops when its standard input is
//! closed.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use syncline_log::memory::MemoryStore;
use syncline_server::auth::OpenToAll;
use syncline_server::config::RawConfig;
use syncline_server::{Listener, Server};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut config = RawConfig::default().check()?;
    config.session.echoes = true;
    // Autobahn sends messages of up to 16 MiB, and slightly more than one of them may be queued.
    config.session.outbox_bytes = 64 << 20;
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let server = Server::start(listener, &config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll));
    let mut out = std::io::stdout();
    writeln!(out, "{}", server.address())?;
    out.flush()?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    server.stop().await?;
    Ok(())
}
