//! Two people edit a page while offline: its text is merged, and of its two titles one user chooses.
//!
//! With a server running: `cargo run -p syncline-client --example wiki_page -- [ws://127.0.0.1:1234]`
#![allow(clippy::print_stdout, reason = "prints what it does")]

mod common;

use std::error::Error;
use std::process::ExitCode;

use syncline_client::types::predictor::Predictor;
use syncline_client::{Device, DeviceConfig};

/// Runs the example against the server at `url`.
pub async fn run(url: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let home = tempfile::tempdir()?;
    let open = |author: &str| {
        let directory = home.path().join(author);
        Device::open(DeviceConfig { author: author.to_owned(), ..DeviceConfig::new(directory, url) })
    };
    let (laptop, phone) = (open("Ana").await?, open("Ben").await?);
    common::hint_if_unreachable(&laptop, url);
    let name = format!("page-{}", laptop.id());
    let (ana, ben) = (laptop.document(&name).await?, phone.document(&name).await?);

    ana.text_at("body").append("Sourdough needs time.").await?;
    ana.choice("title").write("Bread".into()).await?;
    let mut changes = ben.watch();
    while ben.choice("title").current().await?.is_none() {
        changes.changed().await?;
    }
    println!("Ana and Ben have the same page: \"Bread\". Both go offline.");

    laptop.go_offline().await;
    phone.go_offline().await;
    ana.text_at("body").insert(0, "Flour, water, salt. ").await?;
    ana.choice("title").write("Sourdough bread".into()).await?;
    ben.text_at("body").append(" A day at least.").await?;
    ben.choice("title").write("Slow bread".into()).await?;

    laptop.go_online().await;
    phone.go_online().await;
    for page in [&ana, &ben] {
        let mut changes = page.watch();
        while page.choice("title").conflicts().await?.len() < 2 || page.text_at("body").len().await? < 57 {
            changes.changed().await?;
        }
    }
    let body = ana.text_at("body").to_string().await?;
    println!("Online again, the text is merged: {body}");
    assert_eq!(body, "Flour, water, salt. Sourdough needs time. A day at least.");

    println!("Both titles are kept, side by side:");
    let titles = ben.choice("title").conflicts().await?;
    for title in &titles {
        println!("  {}: {}", title.signature.author, title.value.as_text().unwrap_or("?"));
    }
    let anas = titles.iter().find(|title| title.signature.author == "Ana").ok_or("expected Ana's title")?;

    // Simulates that Ben chose Ana's titles before. An app would store `habits.to_bytes()`.
    let candidates = ben.choice("title").candidates("Ben").await?;
    let mut habits = Predictor::new();
    assert_eq!(habits.suggest("title", &candidates), None);
    for _ in 0..5 {
        habits.learn("title", &candidates, &anas.signature.id);
    }
    let suggestion = habits.suggest("title", &candidates).ok_or("expected a suggestion")?;
    let (percent, reason) = (suggestion.probability * 100.0, &suggestion.reasons[0].text);
    println!("Ana's title is suggested to Ben ({percent:.0} %: {reason}), and he chooses it for both.");
    assert_eq!(suggestion.id, anas.signature.id);
    ben.choice("title").choose(&suggestion.id).await?;
    for page in [&ana, &ben] {
        let mut changes = page.watch();
        while !page.choice("title").conflicts().await?.is_empty() {
            changes.changed().await?;
        }
        let title = page.choice("title").current().await?.ok_or("expected a title")?;
        assert_eq!(title.value, "Sourdough bread".into());
    }

    phone.close().await;
    laptop.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let url = common::url();
    common::finish(&url, run(&url)).await
}
