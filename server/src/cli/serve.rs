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
    let metrics = metrics.map(|listener| server.serve_metrics(listener));
    warn_if_public(server.address());
    match AdminSocket::bind(&config.data) {
        Ok(socket) => server.serve_admin(socket),
        Err(error) => {
            let data = config.data.display();
            tracing::warn!(%error, %data, "no admin socket: backup, export and import work only while the server is stopped");
        }
    }
    let mut signals = StopSignals::register().context("cannot install signal handlers")?;
    announce_ready(server.address(), metrics, config)?;
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

/// Warns that an address that other machines may reach has no access control.
fn warn_if_public(address: SocketAddr) {
    if !address.ip().to_canonical().is_loopback() {
        tracing::warn!(
            %address,
            "no access control: anyone who can reach this address can read and write all documents; \
             listen on 127.0.0.1 behind a proxy that decides who may connect (docs/operating.md, \"Proxy and TLS\")"
        );
    }
}

/// Announces that the server is ready, to a person or a script that waits for it. `metrics`: the bound address of
/// `/metrics`.
fn announce_ready(address: SocketAddr, metrics: Option<SocketAddr>, config: &Config) -> std::io::Result<()> {
    let data = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    let message = format!("Syncline {} is ready", env!("CARGO_PKG_VERSION"));
    let (text, fields) = ready(address, metrics, &config.path_prefix.to_string(), &data.display().to_string());
    logging::announce(config.log_format, &message, &text, &fields)
}

/// Where everything is: as text for people, and as fields for programs, which get the addresses as they are bound.
fn ready(address: SocketAddr, metrics: Option<SocketAddr>, prefix: &str, data: &str) -> (String, serde_json::Value) {
    let shown = reachable(address);
    let mut text = format!(
        "  editors connect to  ws://{shown}{prefix}\n  try it out at       http://{shown}{prefix}/\n  \
         documents are in    {data}\n"
    );
    let mut fields = serde_json::json!({
        "editors": format!("ws://{address}{prefix}"),
        "page": format!("http://{address}{prefix}/"),
        "data": data,
    });
    if let Some(metrics) = metrics {
        text += &format!("  metrics are at      http://{}/metrics\n", reachable(metrics));
        fields["metrics"] = format!("http://{metrics}/metrics").into();
    }
    (text, fields)
}

/// Host and port for a URL: `0.0.0.0` and `[::]` mean every address of this machine, which only a person can name.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() { format!("<this machine>:{}", address.port()) } else { address.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_text_has_usable_addresses_and_the_port_of_metrics() {
        let metrics = Some("127.0.0.1:9464".parse().unwrap());
        let (text, fields) = ready("0.0.0.0:1234".parse().unwrap(), metrics, "/collab", "/srv/data");
        assert!(text.contains("  editors connect to  ws://<this machine>:1234/collab\n"), "{text}");
        assert!(text.contains("  metrics are at      http://127.0.0.1:9464/metrics\n"), "{text}");
        assert_eq!(fields["editors"], "ws://0.0.0.0:1234/collab");
        assert_eq!(fields["metrics"], "http://127.0.0.1:9464/metrics");
        let (text, fields) = ready("[::1]:1234".parse().unwrap(), None, "", "/srv/data");
        assert!(text.contains("ws://[::1]:1234\n") && !text.contains("metrics"), "{text}");
        assert!(fields.get("metrics").is_none());
    }
}
