//! Two people edit one shopping list, one of them without a network: afterwards both devices have what both wrote.
//!
//! With a server running: `cargo run -p syncline-client --example shopping_list -- [ws://127.0.0.1:1234]`
#![allow(clippy::print_stdout, reason = "prints what it does")]

mod common;

use std::error::Error;
use std::process::ExitCode;

use syncline_client::{Device, DeviceConfig, Document, EditError};

/// Runs the example against the server at `url`.
pub async fn run(url: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let home = tempfile::tempdir()?;
    let phone = Device::open(DeviceConfig::new(home.path().join("phone"), url)).await?;
    common::hint_if_unreachable(&phone, url);
    let tablet = Device::open(DeviceConfig::new(home.path().join("tablet"), url)).await?;
    let name = format!("shopping-{}", phone.id());
    let (ana, ben) = (phone.document(&name).await?, tablet.document(&name).await?);

    println!("Ana writes: milk, bread.");
    ana.list("items").push("milk".into()).await?;
    ana.list("items").push("bread".into()).await?;
    ana.map("amounts").set("milk", 1.into()).await?;

    let mut changes = ben.watch();
    while ben.map("amounts").get("milk").await?.is_none() {
        changes.changed().await?;
    }
    println!("Ben sees the list and goes into the cellar, where there is no network.");
    tablet.go_offline().await;
    ben.list("items").push("potatoes".into()).await?;
    ben.map("amounts").set("milk", 3.into()).await?;
    println!("He adds potatoes and sets milk to 3. {} edits are pending on his device.", ben.status().pending);
    assert_eq!(ben.status().pending, 2);

    println!("Meanwhile Ana removes the bread and adds cheese.");
    ana.list("items").remove(1).await?;
    ana.list("items").push("cheese".into()).await?;
    ana.wait_until_saved().await?;

    println!("Ben is online again.");
    tablet.go_online().await;
    for document in [&ana, &ben] {
        let mut changes = document.watch();
        while !has_what_both_wrote(document).await? {
            changes.changed().await?;
        }
    }
    let items = ana.list("items").items().await?;
    println!("Both have {items:?} and {:?}", ana.map("amounts").entries().await?);
    assert_eq!(items, ben.list("items").items().await?);
    assert!(items.len() == 3 && !items.contains(&"bread".into()));

    tablet.close().await;
    phone.close().await;
    Ok(())
}

async fn has_what_both_wrote(list: &Document) -> Result<bool, EditError> {
    let items = list.list("items").items().await?;
    let milk = list.map("amounts").get("milk").await?;
    Ok(items.contains(&"potatoes".into()) && items.contains(&"cheese".into()) && milk == Some(3.into()))
}

#[tokio::main]
async fn main() -> ExitCode {
    let url = common::url();
    common::finish(&url, run(&url)).await
}
