//! A server that says back every WebSocket message, text too, by the very code that serves documents: what Autobahn's test
//! suite talks to (`tests/autobahn`). Prints its address; ends when its standard input does.

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
    // Autobahn sends up to 16 MiB, and a little more than one message may wait.
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
