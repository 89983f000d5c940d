//! Three people like a post, one of them without a network: three likes, none lost and none counted twice.
//!
//! With a server running: `cargo run -p syncline-client --example like_counter -- [ws://127.0.0.1:1234]`
#![allow(clippy::print_stdout, reason = "prints what it does")]

mod common;

use std::error::Error;
use std::process::ExitCode;

use syncline_client::{Device, DeviceConfig};

/// Runs the example against the server at `url`.
pub async fn run(url: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let home = tempfile::tempdir()?;
    let open = |name_of_user: &str| Device::open(DeviceConfig::new(home.path().join(name_of_user), url));
    let devices = [open("ana").await?, open("ben").await?, open("eve").await?];
    common::hint_if_unreachable(&devices[0], url);
    let name = format!("post-{}", devices[0].id());
    let mut posts = Vec::new();
    for device in &devices {
        posts.push(device.document(&name).await?);
    }

    devices[2].go_offline().await;
    for post in &posts {
        post.counter("likes").add(1).await?;
    }
    println!("All three like the post. Eve has no network and sees {} like.", posts[2].counter("likes").value().await?);
    assert_eq!(posts[2].counter("likes").value().await?, 1);
    for post in &posts[..2] {
        let mut changes = post.watch();
        while post.counter("likes").value().await? < 2 {
            changes.changed().await?;
        }
    }
    println!("Ana and Ben see 2.");

    devices[2].go_online().await;
    for post in &posts {
        let mut changes = post.watch();
        while post.counter("likes").value().await? < 3 {
            changes.changed().await?;
        }
        post.wait_until_saved().await?;
        assert_eq!(post.counter("likes").value().await?, 3);
    }
    println!("Eve is online again: everyone sees 3.");

    for device in devices {
        device.close().await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let url = common::url();
    common::finish(&url, run(&url)).await
}
