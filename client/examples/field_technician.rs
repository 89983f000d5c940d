//! A technician offline and the office online edit one job: the server decides on its status, its notes are merged.
//!
//! With a server running: `cargo run -p syncline-client --example field_technician -- [ws://127.0.0.1:1234]`
#![allow(clippy::print_stdout, reason = "prints what it does")]

mod common;

use std::error::Error;
use std::process::ExitCode;

use syncline_client::handles::RegisterVersion;
use syncline_client::{Device, DeviceConfig, Event, Events};

/// Runs the example against the server at `url`.
pub async fn run(url: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let home = tempfile::tempdir()?;
    let open = |author: &str| {
        let directory = home.path().join(author);
        Device::open(DeviceConfig { author: author.to_owned(), ..DeviceConfig::new(directory, url) })
    };
    let (desk, van) = (open("office").await?, open("Tom").await?);
    common::hint_if_unreachable(&desk, url);
    let name = format!("job-{}", desk.id());
    let (office, tom) = (desk.document(&name).await?, van.document(&name).await?);
    let (mut at_office, mut at_tom) = (office.events(), tom.events());

    office.register_at("status").propose("assigned".into()).await?;
    assert!(decision(&mut at_office).await?.0);
    let mut changes = tom.watch();
    while tom.register_at("status").current().await?.is_none() {
        changes.changed().await?;
    }
    println!("The job is assigned to Tom, who drives out of reach of any network.");

    van.go_offline().await;
    tom.text_at("notes").append("Replaced the valve. ").await?;
    tom.register_at("status").propose("done".into()).await?;
    println!("Tom writes a note and \"done\". The status stays pending on his device until the server decides on it.");
    assert_eq!(tom.register_at("status").pending().await?.len(), 1);
    assert_eq!(status(tom.register_at("status").current().await?), "assigned, version 1, by office");

    office.text_at("notes").append("The customer called. ").await?;
    office.register_at("status").propose("cancelled".into()).await?;
    assert!(decision(&mut at_office).await?.0);
    println!("Meanwhile the office cancels.");

    van.go_online().await;
    let (accepted, current) = decision(&mut at_tom).await?;
    println!("Tom is online again, and his \"done\" was not accepted: {current}.");
    assert!(!accepted);
    assert_eq!(current, "cancelled, version 2, by office");

    tom.register_at("status").propose("done".into()).await?;
    let (accepted, current) = decision(&mut at_tom).await?;
    println!("He has seen that, and writes \"done\" again: {current}.");
    assert!(accepted);
    assert_eq!(current, "done, version 3, by Tom");

    let mut changes = office.watch();
    while office.text_at("notes").len().await? < 41 {
        changes.changed().await?;
    }
    let notes = office.text_at("notes").to_string().await?;
    println!("The notes of both: {notes}");
    assert!(notes.contains("Replaced the valve. ") && notes.contains("The customer called. "));

    van.close().await;
    desk.close().await;
    Ok(())
}

/// Waits for the server's decision on the next proposal: whether it was accepted, and the register's state.
async fn decision(events: &mut Events) -> Result<(bool, String), &'static str> {
    loop {
        if let Event::Decided { accepted, current, .. } = events.next().await.ok_or("the device was closed")? {
            return Ok((accepted, status(current.map(RegisterVersion::from))));
        }
    }
}

fn status(version: Option<RegisterVersion>) -> String {
    let Some(RegisterVersion { value, version, author, .. }) = version else { return "nothing".to_owned() };
    format!("{}, version {version}, by {author}", value.as_text().unwrap_or("?"))
}

#[tokio::main]
async fn main() -> ExitCode {
    let url = common::url();
    common::finish(&url, run(&url)).await
}
