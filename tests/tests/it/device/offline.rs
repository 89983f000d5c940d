//! The durable client with the real server, real stores and real sockets: offline edits and restarts of either side lose
//! nothing and duplicate nothing.

use std::sync::Arc;

use syncline_client::types::Value;
use syncline_client::{Event, SyncState};
use syncline_log::SledStore;
use syncline_server::auth::OpenToAll;
use syncline_server::{Config, Server};
use syncline_tests::devices::{self, append, in_time, open, until_text};
use syncline_tests::live::{settings, start_with};

async fn serve(config: &Config, dir: &std::path::Path) -> Server {
    start_with(config, Arc::new(SledStore::open(dir).unwrap()), Arc::new(OpenToAll)).await
}

#[tokio::test]
async fn offline_edits_survive_a_restart_and_reach_the_other_device() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings();
    let server = serve(&config, &dir.path().join("server")).await;
    config.listen = server.address();
    let url = format!("ws://{}", server.address());

    let phone = open(&dir.path().join("phone"), &url, |config| config.offline = true).await;
    let id = phone.id();
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "milk, ").await;
    append(&notes, "bread").await;
    assert_eq!(notes.status().pending, 2);
    assert_eq!(notes.status().sync, SyncState::Offline);
    phone.close().await;

    let phone = open(&dir.path().join("phone"), &url, |config| config.offline = true).await;
    assert_eq!(phone.id(), id, "the device id is stored");
    let notes = phone.document("notes").await.unwrap();
    assert_eq!(notes.text("text").await.unwrap(), "milk, bread");
    assert_eq!(notes.queue().await.unwrap().len(), 2);

    let laptop = open(&dir.path().join("laptop"), &url, |_| ()).await;
    let seen = laptop.document("notes").await.unwrap();
    in_time("the laptop", seen.wait_until_synced()).await.unwrap();
    let mut events = notes.events();
    phone.go_online().await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    assert!(notes.queue().await.unwrap().is_empty());
    until_text(&seen, |text| text == "milk, bread").await;
    let report = in_time("the report", async {
        loop {
            if let Event::Synced(report) = events.next().await.unwrap() {
                return report;
            }
        }
    })
    .await;
    assert_eq!(report.sent_entries, 2);

    // The server restarts: it has the saved edits, and receives the edit made meanwhile.
    server.stop().await.unwrap();
    append(&notes, ", eggs").await;
    let server = serve(&config, &dir.path().join("server")).await;
    until_text(&seen, |text| text == "milk, bread, eggs").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    for device in [phone, laptop] {
        device.close().await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_reconnect_with_nothing_missed_costs_under_two_hundred_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&settings(), &dir.path().join("server")).await;
    let url = format!("ws://{}", server.address());
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let notes = phone.document("notes").await.unwrap();
    for round in 0..200 {
        append(&notes, "0123456789").await;
        if round % 2 == 1 {
            devices::delete(&notes, round * 3, 2).await;
        }
    }
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    in_time("synced", notes.wait_until_synced()).await.unwrap();
    phone.close().await;

    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let notes = phone.document("notes").await.unwrap();
    in_time("synced", notes.wait_until_synced()).await.unwrap();
    let traffic = phone.traffic();
    assert!(traffic.sent_bytes + traffic.received_bytes < 200, "{traffic:?}");
    assert_eq!(notes.last_report().unwrap().sent_entries, 0);

    // One keystroke adds few bytes.
    append(&notes, "x").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    let after = phone.traffic();
    assert!(after.sent_bytes - traffic.sent_bytes < 60, "{traffic:?} then {after:?}");
    phone.close().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn sync_report_lists_what_both_sides_changed_offline() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&settings(), &dir.path().join("server")).await;
    let url = format!("ws://{}", server.address());
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let laptop = open(&dir.path().join("laptop"), &url, |_| ()).await;
    let (mine, theirs) = (phone.document("page").await.unwrap(), laptop.document("page").await.unwrap());
    append(&mine, "one two three").await;
    devices::set(&mine, "colour", "red").await;
    devices::set(&mine, "size", "small").await;
    in_time("saved", mine.wait_until_saved()).await.unwrap();
    until_text(&theirs, |text| text == "one two three").await;
    in_time("synced", theirs.wait_until_synced()).await.unwrap();
    phone.go_offline().await;
    // Both change `colour` and the end of the text; only one changes `size`, only the other the start of the text.
    devices::set(&mine, "colour", "blue").await;
    devices::set(&mine, "size", "large").await;
    append(&mine, " four").await;
    devices::set(&theirs, "colour", "green").await;
    devices::delete(&theirs, 0, 4).await;
    append(&theirs, " vier").await;
    in_time("saved", theirs.wait_until_saved()).await.unwrap();
    let mut events = mine.events();
    phone.go_online().await;
    let Event::Synced(report) = devices::until_event(&mut events, |event| matches!(event, Event::Synced(_))).await
    else {
        unreachable!()
    };
    let changed = format!("{:?}", report.both_changed);
    assert_eq!(report.both_changed.len(), 2, "{changed}");
    assert!(changed.contains("colour") && changed.contains("text") && !changed.contains("size"), "{changed}");
    assert_eq!(report.sent_entries, 3);
    for device in [phone, laptop] {
        device.close().await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn server_accepts_one_of_two_conflicting_register_writes() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&settings(), &dir.path().join("server")).await;
    let url = format!("ws://{}", server.address());
    let first = open(&dir.path().join("first"), &url, |config| config.author = "Ana".into()).await;
    let second = open(&dir.path().join("second"), &url, |config| config.author = "Ben".into()).await;
    let (a, b) = (first.document("job").await.unwrap(), second.document("job").await.unwrap());
    let mut decided = a.events();
    for version in 1..=10 {
        a.propose("status", Value::Integer(version)).await.unwrap();
    }
    for _ in 1..=10 {
        assert!(next_decision(&mut decided).await.0, "each write is based on the one before");
    }
    in_time("version 10", async {
        while b.register("status").await.unwrap().is_none_or(|state| state.version != 10) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    first.go_offline().await;
    second.go_offline().await;
    a.propose("status", Value::Text("done".into())).await.unwrap();
    b.propose("status", Value::Text("cancelled".into())).await.unwrap();
    let mut decided_b = b.events();
    first.go_online().await;
    assert!(next_decision(&mut decided).await.0);
    second.go_online().await;
    let (accepted, current) = next_decision(&mut decided_b).await;
    assert!(!accepted);
    let current = current.unwrap();
    assert_eq!((current.version, current.author.as_str()), (11, "Ana"));
    for document in [&a, &b] {
        in_time("both see version 11", async {
            while document.register("status").await.unwrap().unwrap().version != 11 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    for device in [first, second] {
        device.close().await;
    }
    server.stop().await.unwrap();
}

async fn next_decision(events: &mut syncline_client::Events) -> (bool, Option<syncline_client::types::RegisterState>) {
    in_time("a decision", async {
        loop {
            if let Event::Decided { accepted, current, .. } = events.next().await.unwrap() {
                return (accepted, current);
            }
        }
    })
    .await
}
