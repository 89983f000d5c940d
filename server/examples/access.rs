//! A server with its own access control: a token opens every document, and what it allows can be changed while people edit.
//!
//! ```sh
//! cargo run --example access -- ada=write ben=read
//! ```
//!
//! Each argument is a token and its grant. y-websocket clients send theirs in the URL (`params: { token: 'ada' }`), Hocuspocus
//! and native clients in a message. Then type commands: `read ada`, `write ben`, `revoke ada`, or the end of the input to stop.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail};
use syncline_log::memory::MemoryStore;
use syncline_server::auth::{Access, AccessRequest, Admission, Authorize, Grant, GrantControl};
use syncline_server::config::RawConfig;
use syncline_server::{Listener, Server};

/// The known tokens.
#[derive(Default)]
struct Tokens(Mutex<HashMap<String, GrantControl>>);

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, GrantControl>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what a token allows, also in open sessions.
    fn set(&self, token: &str, grant: Grant) {
        self.lock().entry(token.to_owned()).or_insert_with(|| GrantControl::new(grant)).set(grant);
    }

    /// Closes the documents that sessions have opened with this token, and opens no more.
    fn revoke(&self, token: &str) -> bool {
        let control = self.lock().remove(token);
        control.map(|control| control.revoke("your access was withdrawn")).is_some()
    }
}

impl Authorize for Tokens {
    fn authorize(&self, request: AccessRequest) -> Access {
        // Providers that cannot set a token for each document may send one in the URL of their connection.
        let from_url = || request.handshake.parameter("token").map(|token| token.into_owned());
        let token = request.token.clone().filter(|token| !token.is_empty()).or_else(from_url).unwrap_or_default();
        let decision = match self.lock().get(&token) {
            Some(control) => Ok(Admission::from(control)),
            None => Err("this token is not known".to_owned()),
        };
        Box::pin(std::future::ready(decision))
    }
}

fn grant(name: &str) -> anyhow::Result<Grant> {
    match name {
        "read" => Ok(Grant::Read),
        "write" => Ok(Grant::ReadWrite),
        other => bail!("a grant is `read` or `write`, not `{other}`"),
    }
}

fn run(command: &str, tokens: &Tokens) -> anyhow::Result<()> {
    let (verb, token) = command.trim().split_once(' ').context("type `read`, `write` or `revoke`, and a token")?;
    if verb != "revoke" {
        tokens.set(token, grant(verb)?);
    } else if !tokens.revoke(token) {
        bail!("`{token}` is not known");
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let tokens = Arc::new(Tokens::default());
    for argument in std::env::args().skip(1) {
        let (token, name) = argument.split_once('=').context("an argument is a token, `=`, and `read` or `write`")?;
        tokens.set(token, grant(name)?);
    }
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let config = RawConfig::default().check()?;
    let server =
        Server::start(listener, &config, Arc::new(MemoryStore::new()), Arc::clone(&tokens) as Arc<dyn Authorize>);
    writeln!(io::stdout(), "ws://{}", server.address())?;
    tokio::task::spawn_blocking(move || {
        for command in io::stdin().lock().lines() {
            if let Err(error) = run(&command?, &tokens) {
                writeln!(io::stderr(), "{error}")?;
            }
        }
        anyhow::Ok(())
    })
    .await??;
    server.stop().await?;
    Ok(())
}
