//! The client's examples against a real server: each tells its story and asserts what it claims. They are what newcomers
//! copy, so they must keep working as they stand.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![allow(dead_code, reason = "the examples' `main`")]

#[path = "../../client/examples/field_technician.rs"]
mod field_technician;
#[path = "../../client/examples/like_counter.rs"]
mod like_counter;
#[path = "support/live.rs"]
mod live;
#[path = "../../client/examples/profile_bio.rs"]
mod profile_bio;
#[path = "../../client/examples/shopping_list.rs"]
mod shopping_list;
#[path = "../../client/examples/wiki_page.rs"]
mod wiki_page;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use syncline_log::memory::MemoryStore;

async fn holds(story: impl AsyncFnOnce(String) -> Result<(), Box<dyn Error + Send + Sync>>) {
    let server = live::start(Arc::new(MemoryStore::default())).await;
    let url = format!("ws://{}", server.address());
    tokio::time::timeout(Duration::from_secs(20), story(url)).await.expect("the story ends").unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_shopping_list_has_what_both_wrote() {
    holds(async |url| shopping_list::run(&url).await).await;
}

#[tokio::test]
async fn the_server_decides_a_jobs_status_and_its_notes_come_together() {
    holds(async |url| field_technician::run(&url).await).await;
}

#[tokio::test]
async fn the_newest_bio_wins_whoever_syncs_last() {
    holds(async |url| profile_bio::run(&url).await).await;
}

#[tokio::test]
async fn three_likes_are_three() {
    holds(async |url| like_counter::run(&url).await).await;
}

#[tokio::test]
async fn of_two_titles_someone_chooses() {
    holds(async |url| wiki_page::run(&url).await).await;
}
