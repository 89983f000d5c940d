//! Handles to the types in a document, with a real server: two devices at the same time, wrong clocks, a connection cut before
//! the acknowledgement, and the blocking API without a runtime.

use std::sync::Arc;
use std::time::Duration;

use syncline_client::device::{SystemClock, WallClock};
use syncline_client::types::clock::stamp_of;
use syncline_client::types::{LwwMapRoot, Value};
use syncline_client::{Connection, Device, DeviceConfig, Document, EditError, Event, SyncState, blocking};
use syncline_log::memory::MemoryStore;
use syncline_server::Server;
use syncline_tests::devices::{in_time, open};
use syncline_tests::live;
use syncline_tests::proxy::Proxy;

const YEAR_MS: i64 = 365 * 24 * 60 * 60 * 1_000;

async fn serve() -> (Server, String) {
    let server = live::start(Arc::new(MemoryStore::default())).await;
    let url = format!("ws://{}", server.address());
    (server, url)
}

/// Waits until the condition holds for the document.
async fn until(what: &str, document: &Document, holds: impl AsyncFn() -> bool) {
    let mut changes = document.watch();
    let wait = async {
        while !holds().await {
            changes.changed().await.unwrap();
        }
    };
    in_time(what, wait).await;
}

/// A clock that is off by the given number of milliseconds.
struct OffsetClock(i64);

impl WallClock for OffsetClock {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms().saturating_add_signed(self.0)
    }
}

async fn offline(dir: &std::path::Path, url: &str, clock_off_ms: i64) -> Device {
    open(dir, url, |config| {
        config.offline = true;
        config.clock = Arc::new(OffsetClock(clock_off_ms));
    })
    .await
}

#[tokio::test]
async fn edits_of_two_devices_through_handles_converge() {
    let dir = tempfile::tempdir().unwrap();
    let (server, url) = serve().await;
    let one = open(&dir.path().join("one"), &url, |_| ()).await;
    let two = open(&dir.path().join("two"), &url, |_| ()).await;
    let (a, b) = (one.document("d").await.unwrap(), two.document("d").await.unwrap());
    a.text_at("text").append("The quick fox. It runs.").await.unwrap();
    a.xml("page").insert_element(&[0], "p").await.unwrap();
    a.xml("page").insert_text(&[0, 0], "hello").await.unwrap();
    until("the page", &b, async || b.xml("page").to_string().await.unwrap() == "<p>hello</p>").await;
    one.go_offline().await;
    two.go_offline().await;

    // One device edits the text, the other merges in a file that was edited elsewhere.
    a.text_at("text").insert(4, "very ").await.unwrap();
    let merged = b.text_at("text").merge_in("The quick fox. It runs.", "The quick fox. It sleeps.").await.unwrap();
    assert!(merged.conflicts.is_empty());
    a.map("map").set("a", 1.into()).await.unwrap();
    b.map("map").set("b", Value::List(vec![true.into()])).await.unwrap();
    a.list("list").push("one".into()).await.unwrap();
    b.list("list").insert(0, "two".into()).await.unwrap();
    a.xml("page").set_attribute(&[0], "class", "wide").await.unwrap();
    b.xml("page").insert_element(&[1], "hr").await.unwrap();
    one.go_online().await;
    two.go_online().await;
    for document in [&a, &b] {
        in_time("saved", document.wait_until_saved()).await.unwrap();
        until("both lists", document, async || document.list("list").items().await.unwrap().len() == 2).await;
        until("both maps", document, async || document.map("map").entries().await.unwrap().len() == 2).await;
        let text = async || document.text_at("text").to_string().await.unwrap();
        until("both texts", document, async || text().await == "The very quick fox. It sleeps.").await;
        let page = async || document.xml("page").to_string().await.unwrap();
        until("both pages", document, async || page().await == r#"<p class="wide">hello</p><hr></hr>"#).await;
    }
    assert_eq!(a.list("list").items().await.unwrap(), b.list("list").items().await.unwrap());
    assert_eq!(b.xml("page").attributes(&[0]).await.unwrap()["class"], "wide".into());
    assert!(b.map("map").remove("a").await.unwrap() && !b.map("map").remove("a").await.unwrap());
    one.close().await;
    two.close().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn device_that_went_offline_never_reports_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (server, url) = serve().await;
    let device = open(dir.path(), &url, |_| ()).await;
    let document = device.document("d").await.unwrap();
    for _ in 0..20 {
        in_time("synced", document.wait_until_synced()).await.unwrap();
        device.go_offline().await;
        assert_eq!(document.status().sync, SyncState::Offline);
        assert_eq!(device.connection(), Connection::Offline);
        device.go_online().await;
    }
    device.close().await;
    go_offline_returns_on_a_closed_device(dir.path(), &url).await;
    server.stop().await.unwrap();
}

/// `go_offline` returns although the task that would handle it has ended.
async fn go_offline_returns_on_a_closed_device(dir: &std::path::Path, url: &str) {
    let device = open(dir, url, |_| ()).await;
    device.clone().close().await;
    in_time("an answer", device.go_offline()).await;
}

#[tokio::test]
async fn invalid_edits_are_rejected_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let device = offline(dir.path(), "ws://127.0.0.1:1", 0).await;
    let document = device.document("d").await.unwrap();
    document.text_at("text").append("four").await.unwrap();
    document.text_at("emoji").append("a\u{1f600}b").await.unwrap();
    document.text_at("emoji").insert(1, "-").await.unwrap();
    document.text_at("emoji").delete(1, 1).await.unwrap();
    document.xml("page").insert_text(&[0], "no element").await.unwrap();
    let before = document.state().await.unwrap();
    let too_large = Value::Integer(i64::MAX);
    let refused = [
        document.text_at("text").insert(5, "x").await,
        document.text_at("text").delete(3, 2).await,
        document.text_at("text").delete(2, u32::MAX).await,
        document.text_at("emoji").insert(2, "x").await,
        document.text_at("emoji").delete(1, 1).await,
        document.list("list").remove(0).await,
        document.list("list").insert(1, 1.into()).await,
        document.list("list").push(too_large.clone()).await,
        document.map("map").set("key", too_large.clone()).await,
        document.lww_map("lww").set("key", too_large.clone()).await,
        document.choice("choice").write(too_large.clone()).await,
        document.choice("choice").choose("nobody").await,
        document.register_at("register").propose(too_large).await.map(drop),
        document.counter("counter").add(i64::MAX).await.map(drop),
        document.xml("page").remove(&[]).await,
        document.xml("page").remove(&[1]).await,
        document.xml("page").insert_element(&[0, 0], "p").await,
        document.xml("page").set_attribute(&[0], "class", "wide").await,
        document.xml("page").attributes(&[7]).await.map(drop),
    ];
    for (number, result) in refused.into_iter().enumerate() {
        assert!(matches!(result, Err(EditError::Rejected(_))), "{number}: {result:?}");
    }
    assert_eq!(document.state().await.unwrap(), before);
    device.close().await;
    assert_eq!(document.text_at("text").append("x").await, Err(EditError::Closed));
    assert_eq!(document.text_at("text").to_string().await, Err(EditError::Closed));
}

/// A phone with a wrong clock writes while offline and is restarted; a laptop with a right clock writes before or after that;
/// then the phone receives the server's time. The later write wins on both, and the phone never sends a wrong stamp.
async fn the_later_write_wins_with_a_clock_off_by(clock_off_ms: i64, phone_is_later: bool) {
    let dir = tempfile::tempdir().unwrap();
    let (server, url) = serve().await;
    let laptop = open(&dir.path().join("laptop"), &url, |_| ()).await;
    let seen = laptop.document("profile").await.unwrap();
    let write_on_laptop = async || {
        seen.lww_map("profile").set("bio", "laptop".into()).await.unwrap();
        in_time("saved", seen.wait_until_saved()).await.unwrap();
    };
    let phone_dir = dir.path().join("phone");
    if phone_is_later {
        write_on_laptop().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let phone = offline(&phone_dir, &url, clock_off_ms).await;
    let id = phone.id().to_string();
    let document = phone.document("profile").await.unwrap();
    document.lww_map("profile").set("bio", "phone".into()).await.unwrap();
    document.lww_map("profile").set("city", "Graz".into()).await.unwrap();
    phone.close().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    if !phone_is_later {
        write_on_laptop().await;
    }

    let phone = offline(&phone_dir, &url, clock_off_ms).await;
    let document = phone.document("profile").await.unwrap();
    let mut events = document.events();
    phone.go_online().await;
    in_time("saved", document.wait_until_saved()).await.unwrap();
    let offset_ms = in_time("the correction", async {
        loop {
            if let Event::ClockCorrected { offset_ms } = events.next().await.unwrap() {
                return offset_ms;
            }
        }
    })
    .await;
    assert!(offset_ms.abs_diff(-clock_off_ms) < 10_000, "{offset_ms}");
    let right = stamp_of(SystemClock.now_ms() - 60_000)..stamp_of(SystemClock.now_ms() + 60_000);
    let wanted = if phone_is_later { "phone" } else { "laptop" };
    for replica in [&document, &seen] {
        until("the phone's city", replica, async || {
            let id = id.clone();
            let of_phone = replica.read(move |txn| LwwMapRoot::new("profile").writes_of(txn, &id)).await.unwrap();
            assert!(of_phone.iter().all(|(_, stamp)| right.contains(stamp)), "{of_phone:?}");
            let entries = replica.lww_map("profile").entries().await.unwrap();
            entries.len() == 2 && entries["bio"] == wanted.into()
        })
        .await;
    }
    phone.close().await;
    laptop.close().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn write_with_a_clock_a_year_ahead_loses_to_a_later_write() {
    the_later_write_wins_with_a_clock_off_by(YEAR_MS, false).await;
}

#[tokio::test]
async fn write_with_a_clock_a_year_behind_wins_over_an_earlier_write() {
    the_later_write_wins_with_a_clock_off_by(-YEAR_MS, true).await;
}

#[tokio::test]
async fn document_opened_after_a_clock_correction_is_corrected() {
    let dir = tempfile::tempdir().unwrap();
    let (server, url) = serve().await;
    let phone = offline(&dir.path().join("phone"), &url, YEAR_MS).await;
    let profile = phone.document("profile").await.unwrap();
    profile.lww_map("profile").set("bio", "early".into()).await.unwrap();
    phone.close().await;
    let phone = offline(&dir.path().join("phone"), &url, YEAR_MS).await;
    let other = phone.document("other").await.unwrap();
    phone.go_online().await;
    in_time("synced", other.wait_until_synced()).await.unwrap();
    // The correction is applied once, not at each opening.
    for _ in 0..2 {
        let profile = phone.document("profile").await.unwrap();
        in_time("saved", profile.wait_until_saved()).await.unwrap();
        let id = phone.id().to_string();
        let stamps = profile.read(move |txn| LwwMapRoot::new("profile").writes_of(txn, &id)).await.unwrap();
        let now = SystemClock.now_ms();
        assert!((stamp_of(now - 60_000)..stamp_of(now + 60_000)).contains(&stamps[0].1), "{stamps:?}");
        profile.close().await;
    }
    phone.close().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn increment_with_a_lost_acknowledgement_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let (server, url) = serve().await;
    let proxy = Proxy::start(server.address()).await;
    let one = open(&dir.path().join("one"), &format!("ws://{}", proxy.address()), |_| ()).await;
    let two = open(&dir.path().join("two"), &url, |_| ()).await;
    let (a, b) = (one.document("d").await.unwrap(), two.document("d").await.unwrap());
    a.counter("likes").add(1).await.unwrap();
    in_time("saved", a.wait_until_saved()).await.unwrap();
    proxy.drop_answers();
    a.counter("likes").add(1).await.unwrap();
    until("both", &b, async || b.counter("likes").value().await.unwrap() == 2).await;
    assert_eq!(a.queue().await.unwrap().len(), 1, "without an acknowledgement the edit is not saved");
    proxy.cut();
    in_time("saved", a.wait_until_saved()).await.unwrap();
    b.counter("likes").add(1).await.unwrap();
    for document in [&a, &b] {
        until("three", document, async || document.counter("likes").value().await.unwrap() >= 3).await;
        assert_eq!(document.counter("likes").value().await.unwrap(), 3);
    }
    one.close().await;
    two.close().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn blocking_api_works_without_a_runtime() {
    let (server, url) = serve().await;
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().to_owned();
    tokio::task::spawn_blocking(move || program_without_a_runtime(&directory, &url)).await.unwrap();
    server.stop().await.unwrap();
}

fn program_without_a_runtime(directory: &std::path::Path, url: &str) {
    let longest = Duration::from_secs(20);
    let device = blocking::Device::open(DeviceConfig::new(directory.join("one"), url)).unwrap();
    let document = device.document("d").unwrap();
    assert!(document.wait_until_synced(longest).unwrap());
    let mut events = document.events();
    // The event for the sync may arrive a moment after the wait.
    while let Some(event) = events.next(Duration::from_millis(10)).unwrap() {
        assert!(matches!(event, Event::Synced(_)), "unexpected event: {event:?}");
    }
    document.text_at("text").append("hello").unwrap();
    document.counter("likes").add(2).unwrap();
    document.choice("title").write("Title".into()).unwrap();
    assert!(document.wait_until_saved(longest).unwrap());
    assert!(matches!(events.next(longest), Ok(Some(Event::Saved { .. }))));
    document.register_at("status").propose("open".into()).unwrap();
    while !matches!(events.next(longest).unwrap(), Some(Event::Decided { accepted: true, .. })) {}

    let other = blocking::Device::open(DeviceConfig::new(directory.join("two"), url)).unwrap();
    let seen = other.document("d").unwrap();
    assert!(seen.wait_until_synced(longest).unwrap());
    assert_eq!(seen.text_at("text").to_string().unwrap(), "hello");
    assert_eq!(seen.counter("likes").value().unwrap(), 2);
    assert_eq!(seen.choice("title").current().unwrap().unwrap().value, "Title".into());
    device.go_offline();
    document.lww_map("map").set("key", 1.into()).unwrap();
    assert!(!document.wait_until_saved(Duration::from_millis(10)).unwrap(), "the device is offline");
    device.close();
    assert!(document.text_at("text").append("x").is_err());
    // Not closed: dropping the last handle ends the device.
    drop((other, seen));
}
