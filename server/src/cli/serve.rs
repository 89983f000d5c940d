//! `syncline serve`: reads the settings, opens the store, runs the server and waits for a signal.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;

use super::signals::StopSignals;
use super::{ServeArgs, arguments, logging};
use crate::admin::AdminSocket;
use crate::auth::OpenToAll;
use crate::config::{Config, LogFormat, RawConfig};
use crate::server::{Listener, Server};
use syncline_log::sled::SledStore;

/// Runs the server until a signal stops it. Returns when everything is on disk.
pub fn serve(args: ServeArgs) -> anyhow::Result<()> {
    syncline_heap::limit_heaps();
    let config =
        args.settings.with_file(args.config.as_deref()).and_then(RawConfig::check).map_err(arguments::explain)?;
    logging::start(config.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("syncline")
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(run(&config));
    // Everything is on disk. Reads and computations that still run are abandoned.
    runtime.shutdown_background();
    outcome
}

/// The log format of these settings, even if other settings are invalid.
pub fn log_format(args: &ServeArgs) -> LogFormat {
    args.settings.log_format.or_else(|| RawConfig::log_format_in(args.config.as_deref())).unwrap_or_default()
}

async fn run(config: &Config) -> anyhow::Result<()> {
    let listener = listen(config.listen, "--listen").await?;
    let metrics = match config.metrics {
        Some(address) => Some(listen(address, "--metrics").await?),
        None => None,
    };
    let store = SledStore::open_checked(&config.data)?;
    let server = Server::start(listener, config, Arc::new(store), Arc::new(OpenToAll));
    if let Some(listener) = metrics {
        server.serve_metrics(listener);
    }
    match AdminSocket::bind(&config.data) {
        Ok(socket) => server.serve_admin(socket),
        Err(error) => {
            let data = config.data.display();
            tracing::warn!(%error, %data, "no admin socket: backup, export and import work only while the server is stopped");
        }
    }
    let mut signals = StopSignals::register().context("cannot install signal handlers")?;
    announce_ready(&server, config)?;
    let signal = signals.first().await;
    tracing::info!(
        signal,
        "stopping: closing connections and writing everything to disk; a second SIGTERM or SIGINT ends the process immediately"
    );
    server.stop().await.context("not everything could be written to disk")?;
    tracing::info!("stopped; everything is on disk");
    Ok(())
}

/// Listens on the address of a setting.
async fn listen(address: SocketAddr, setting: &str) -> anyhow::Result<Listener> {
    Listener::bind(address).await.map_err(|error| match error.is_in_use() {
        true => anyhow::anyhow!("{error}; stop that process, or choose another address with {setting}"),
        false => error.into(),
    })
}

/// Announces that the server is ready, to a person or a script that waits for it.
fn announce_ready(server: &Server, config: &Config) -> std::io::Result<()> {
    let address = server.address();
    let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    let data = data.display();
    let prefix = &config.path_prefix;
    let message = format!("Syncline {} is ready", env!("CARGO_PKG_VERSION"));
    let text = format!(
        "  editors connect to  ws://{address}{prefix}\n  try it out at       http://{address}{prefix}/\n  \
         documents are in    {data}\n"
    );
    let fields = serde_json::json!({
        "editors": format!("ws://{address}{prefix}"),
        "page": format!("http://{address}{prefix}/"),
        "data": data.to_string(),
    });
    logging::announce(config.log_format, &message, &text, &fields)
}
