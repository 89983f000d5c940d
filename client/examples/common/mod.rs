//! Shared by the examples: a hint for a person who runs one without a server.

use syncline_client::{Connection, Device};

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
