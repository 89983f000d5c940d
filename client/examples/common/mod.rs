//! Shared by the examples: the server's address, the error of a failed example, and a hint for a person who runs one without a
//! server.

#![allow(clippy::print_stderr, reason = "reports why an example failed")]

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use syncline_client::{Connection, Device};

/// Time after which an example without an answer from the server fails.
const LIMIT: Duration = Duration::from_secs(30);

/// The server's address: the first argument, else SYNCLINE_URL, else the server's default.
pub(crate) fn url() -> String {
    let url = std::env::args().nth(1).or_else(|| std::env::var("SYNCLINE_URL").ok());
    url.unwrap_or_else(|| "ws://127.0.0.1:1234".to_owned())
}

/// Awaits an example, and prints why it failed.
pub(crate) async fn finish(
    url: &str,
    story: impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>>,
) -> ExitCode {
    match tokio::time::timeout(LIMIT, story).await {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => eprintln!("error: {error}"),
        Err(_) => eprintln!("error: no answer from {url}; is the server running?"),
    }
    ExitCode::FAILURE
}

/// Prints a hint if the device's first attempt to connect fails. Edits do not depend on the connection, so an example
/// would otherwise wait for the server without a word.
pub(crate) fn hint_if_unreachable(device: &Device, url: &str) {
    let (mut connection, url) = (device.watch_connection(), url.to_owned());
    tokio::spawn(async move {
        let outcome = connection.wait_for(|state| !matches!(state, Connection::Connecting | Connection::Offline)).await;
        if let Ok(state) = outcome
            && let Connection::Waiting(reason) = &*state
        {
            println!("no server at {url} ({reason}); edits are stored on this device and sent when it returns");
        }
    });
}
