//! One profile on two devices of one user: the newest write of each field wins, whichever device syncs last.
//!
//! With a server running: `cargo run -p syncline-client --example profile_bio -- [ws://127.0.0.1:1234]`
#![allow(clippy::print_stdout, reason = "prints what it does")]

mod common;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use syncline_client::{Device, DeviceConfig};

/// Runs the example against the server at `url`.
pub async fn run(url: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let home = tempfile::tempdir()?;
    let phone = Device::open(DeviceConfig::new(home.path().join("phone"), url)).await?;
    common::hint_if_unreachable(&phone, url);
    let laptop = Device::open(DeviceConfig::new(home.path().join("laptop"), url)).await?;
    let name = format!("profile-{}", phone.id());
    let (on_phone, on_laptop) = (phone.document(&name).await?, laptop.document(&name).await?);
    on_phone.wait_until_synced().await?;

    phone.go_offline().await;
    on_phone.lww_map("profile").set("bio", "Climbs mountains".into()).await?;
    on_phone.lww_map("profile").set("city", "Graz".into()).await?;
    println!("On the phone, without network: bio \"Climbs mountains\", city \"Graz\".");

    tokio::time::sleep(Duration::from_millis(20)).await;
    on_laptop.lww_map("profile").set("bio", "Climbs mountains, slowly".into()).await?;
    on_laptop.wait_until_saved().await?;
    println!("A moment later on the laptop, online: bio \"Climbs mountains, slowly\".");

    let newest =
        BTreeMap::from([("bio".to_owned(), "Climbs mountains, slowly".into()), ("city".to_owned(), "Graz".into())]);
    phone.go_online().await;
    on_phone.wait_until_saved().await?;
    for document in [&on_phone, &on_laptop] {
        let (profile, mut changes) = (document.lww_map("profile"), document.watch());
        while profile.entries().await? != newest {
            changes.changed().await?;
        }
    }
    println!("The phone syncs last, but the newest writes win: {newest:?}");

    phone.close().await;
    laptop.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let url = common::url();
    common::finish(&url, run(&url)).await
}
