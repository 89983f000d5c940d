//! `syncline serve`: settings, store, server, and the wait for a signal.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::{ServeArgs, allocator};
use crate::admin::AdminSocket;
use crate::auth::OpenToAll;
use crate::config::{Config, LogFormat};
use crate::server::{Listener, Server, stop_signal};
use syncline_log::sled::SledStore;

/// A deep document must not overflow the stack of the thread that walks it: yrs deletes nested types recursively.
/// Only touched pages cost memory.
const THREAD_STACK_BYTES: usize = 64 * 1024 * 1024;

/// Runs the server until a signal ends it. Returns after everything is on disk.
pub fn serve(args: ServeArgs) -> anyhow::Result<()> {
    allocator::settle();
    let config = args.settings.with_file(args.config.as_deref())?.check()?;
    start_logging(config.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("syncline")
        .thread_stack_size(THREAD_STACK_BYTES)
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(run(&config));
    // Everything is on disk. What still reads or computes is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn run(config: &Config) -> anyhow::Result<()> {
    let listener = Listener::bind(config.listen).await?;
    let metrics = match config.metrics {
        Some(address) => Some(Listener::bind(address).await?),
        None => None,
    };
    let store = SledStore::open_whole(&config.data)?;
    let server = Server::start(listener, config, Arc::new(store), Arc::new(OpenToAll));
    if let Some(listener) = metrics {
        server.serve_metrics(listener);
    }
    match AdminSocket::bind(&config.data) {
        Ok(socket) => server.serve_admin(socket),
        Err(error) => {
            let data = config.data.display();
            tracing::warn!(%error, %data, "no admin socket: backup, export and import work with the server stopped only");
        }
    }
    greet(&server, config)?;
    stop_signal().await.context("cannot listen for signals")?;
    server.stop().await.context("not everything could be put on disk")?;
    tracing::info!("stopped; everything is on disk");
    Ok(())
}

/// On standard output, once, where a person or a script looks for it. Logs go to standard error.
fn greet(server: &Server, config: &Config) -> std::io::Result<()> {
    let address = server.address();
    let (version, data) = (env!("CARGO_PKG_VERSION"), config.data.display());
    let prefix = &config.path_prefix;
    let words = format!(
        "Syncline {version} is ready.\n  editors connect to  ws://{address}{prefix}\n  \
         see it work at      http://{address}{prefix}/\n  \
         documents lie in    {data}\n"
    );
    // At once: whoever waits for the first line finds the others.
    let mut out = std::io::stdout().lock();
    out.write_all(words.as_bytes())?;
    out.flush()
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}
