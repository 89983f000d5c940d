//! The client's examples against a real server: each runs its scenario and asserts what it claims. They are what newcomers
//! copy, so they run as they stand: as programs, with the server's address as the argument.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::env::consts::EXE_SUFFIX;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::MemoryStore;
use syncline_tests::live;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// An example, which cargo builds with the tests of this crate, unless it is asked for this test alone.
fn program(example: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().with_file_name("examples").join(format!("{example}{EXE_SUFFIX}"));
    assert!(program.exists(), "{} is not built: run `cargo build -p syncline-client --examples`", program.display());
    program
}

/// Runs an example against a server.
async fn holds(example: &str) {
    let server = live::start(Arc::new(MemoryStore::default())).await;
    let mut story = Command::new(program(example));
    story.arg(format!("ws://{}", server.address())).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(20), story.output()).await.expect("the story ends").unwrap();
    assert!(output.status.success(), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn example_without_server_prints_a_hint() {
    // A port that was just free.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut story = Command::new(program("shopping_list"));
    story.arg(format!("ws://127.0.0.1:{port}")).stdout(Stdio::piped()).kill_on_drop(true);
    let mut story = story.spawn().unwrap();
    let mut lines = BufReader::new(story.stdout.take().unwrap()).lines();
    let hint = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.starts_with(&format!("no server at ws://127.0.0.1:{port} (")) {
                return line;
            }
        }
        panic!("the example ends without a hint");
    };
    let hint = tokio::time::timeout(Duration::from_secs(20), hint).await.expect("the hint comes before the timeout");
    assert!(hint.ends_with("; edits are stored on this device and sent when it returns"), "{hint}");
}

#[tokio::test]
async fn example_with_invalid_address_prints_the_reason() {
    let output = Command::new(program("shopping_list")).arg("http://127.0.0.1:1").output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.starts_with("error: invalid server address http://127.0.0.1:1: "),
        "{text}"
    );
}

#[tokio::test]
async fn a_shopping_list_has_what_both_wrote() {
    holds("shopping_list").await;
}

#[tokio::test]
async fn the_server_decides_a_jobs_status_and_its_notes_come_together() {
    holds("field_technician").await;
}

#[tokio::test]
async fn newest_bio_wins_whichever_device_syncs_last() {
    holds("profile_bio").await;
}

#[tokio::test]
async fn three_likes_are_three() {
    holds("like_counter").await;
}

#[tokio::test]
async fn of_two_titles_someone_chooses() {
    holds("wiki_page").await;
}
