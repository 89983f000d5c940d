//! Data that a device keeps after a fault: a full disk, a damaged journal, another history at the server, a deleted document,
//! an insufficient token.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use syncline_client::types::Value;
use syncline_client::{Device, DeviceError, EditError, EntryState, Event, SyncState};
use syncline_log::memory::MemoryStore;
use syncline_log::{Log, SledStore, Store, StoreError};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::OpenToAll;
use syncline_server::{Config, Server};
use syncline_tests::devices::{self, FullDisk, append, in_time, open, try_append, until_event, until_text};
use syncline_tests::live::{GrantByToken, Socket, settings, start_with, typed};

async fn serve(config: &Config, dir: &Path) -> Server {
    start_with(config, Arc::new(SledStore::open(dir).unwrap()), Arc::new(OpenToAll)).await
}

#[tokio::test]
async fn edit_on_a_full_disk_fails_and_leaves_the_document_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&settings(), &dir.path().join("server")).await;
    let url = format!("ws://{}", server.address());
    let full = Arc::new(AtomicBool::new(false));
    let (directory, is_full) = (dir.path().join("disk"), Arc::clone(&full));
    let phone = open(&dir.path().join("phone"), &url, move |config| {
        config.open_store = Some(Arc::new(move || {
            // Like sled on a full disk: it cannot even be opened.
            if is_full.load(Ordering::Relaxed) {
                return Err(StoreError::Io("no space left on device".into()));
            }
            Ok(Arc::new(FullDisk { store: SledStore::open(&directory)?, full: Arc::clone(&is_full) }))
        }));
    })
    .await;
    let other = open(&dir.path().join("other"), &url, |_| ()).await;
    let (notes, theirs) = (phone.document("notes").await.unwrap(), other.document("notes").await.unwrap());
    append(&notes, "before ").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    until_text(&theirs, |text| text == "before ").await;

    let mut events = notes.events();
    full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let error = try_append(&notes, "lost ").await.unwrap_err();
        assert!(matches!(&error, EditError::Storage(why) if why.contains("no space")), "{error}");
        assert_eq!(notes.text("text").await.unwrap(), "before ");
    }
    assert!(matches!(events.next().await, Some(Event::StorageFailed(_))));
    // Changes of others are still shown.
    append(&theirs, "theirs ").await;
    until_text(&notes, |text| text == "before theirs ").await;

    full.store(false, Ordering::Relaxed);
    append(&notes, "after").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    until_text(&theirs, |text| text == "before theirs after").await;
    // The store has the document again.
    phone.close().await;
    let stored = SledStore::open(&dir.path().join("disk")).unwrap();
    assert!(stored.load(&DocumentName::parse("notes").unwrap()).unwrap().is_some());
    stored.close().unwrap();
    other.close().await;
    server.stop().await.unwrap();
}

/// An offline device whose store fails every write while `full` is set.
async fn device_with_disk(dir: &Path, url: &str, full: &Arc<AtomicBool>) -> Device {
    let (directory, is_full) = (dir.join("disk"), Arc::clone(full));
    open(&dir.join("phone"), url, move |config| {
        config.offline = true;
        config.open_store = Some(Arc::new(move || {
            Ok(Arc::new(FullDisk { store: SledStore::open(&directory)?, full: Arc::clone(&is_full) }))
        }));
    })
    .await
}

#[tokio::test]
async fn edit_accepted_before_the_disk_is_full_is_sent_while_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&settings(), &dir.path().join("server")).await;
    let full = Arc::new(AtomicBool::new(false));
    let phone = device_with_disk(dir.path(), &format!("ws://{}", server.address()), &full).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "accepted").await;
    full.store(true, Ordering::Relaxed);
    // The second edit reopens the store, which fails again while everything is written into it.
    for _ in 0..2 {
        try_append(&notes, " lost").await.unwrap_err();
    }
    phone.go_online().await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    phone.close().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn everything_is_stored_when_the_disk_has_space_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&settings(), &dir.path().join("server")).await;
    let url = format!("ws://{}", server.address());
    let full = Arc::new(AtomicBool::new(false));
    let phone = device_with_disk(dir.path(), &url, &full).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "mine ").await;
    let mut events = notes.events();
    full.store(true, Ordering::Relaxed);
    try_append(&notes, "lost ").await.unwrap_err();
    until_event(&mut events, |event| matches!(event, Event::StorageFailed(_))).await;
    // While the disk is full, changes of others are in memory only.
    phone.go_online().await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    let other = open(&dir.path().join("other"), &url, |_| ()).await;
    let theirs = other.document("notes").await.unwrap();
    until_text(&theirs, |text| text == "mine ").await;
    append(&theirs, "theirs").await;
    until_text(&notes, |text| text == "mine theirs").await;

    full.store(false, Ordering::Relaxed);
    until_event(&mut events, |event| *event == Event::StorageBack).await;
    phone.close().await;
    let phone = device_with_disk(dir.path(), &url, &full).await;
    let notes = phone.document("notes").await.unwrap();
    assert_eq!(notes.text("text").await.unwrap(), "mine theirs");
    phone.close().await;
    other.close().await;
    server.stop().await.unwrap();
}

/// Flips a bit of the stored value that contains `needle`.
fn damage(store: &Path, needle: &[u8]) {
    // The same options as in the log.
    let db = sled::Config::new().path(store.join("sled")).segment_size(4 << 20).open().unwrap();
    let (key, mut value) = db
        .iter()
        .map(|item| item.unwrap())
        .map(|(key, value)| (key, value.to_vec()))
        .find(|(_, value)| value.windows(needle.len()).any(|window| window == needle))
        .expect("a value contains the needle");
    let at = value.windows(needle.len()).position(|window| window == needle).unwrap();
    value[at] ^= 1;
    db.insert(key, value).unwrap();
    db.flush().unwrap();
}

#[tokio::test]
async fn damaged_journal_keeps_readable_edits_and_reports_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings();
    let server = serve(&config, &dir.path().join("server")).await;
    config.listen = server.address();
    let url = format!("ws://{}", server.address());
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "shared ").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    in_time("synced", notes.wait_until_synced()).await.unwrap();
    phone.go_offline().await;
    append(&notes, "first ").await;
    notes.propose("status", Value::Text("unreadable".into())).await.unwrap();
    append(&notes, "second").await;
    phone.close().await;

    damage(&dir.path().join("phone/store"), b"unreadable");
    let phone = open(&dir.path().join("phone"), &url, |config| config.offline = true).await;
    let mut notes = phone.document("notes").await.unwrap();
    assert_eq!(notes.text("text").await.unwrap(), "shared first second");
    let problems = notes.take_problems();
    assert!(!problems.is_empty(), "the damaged edit is reported");
    assert_eq!(notes.queue().await.unwrap().len(), 2);
    phone.go_online().await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    phone.close().await;

    // The journal has been repaired, so no problem is reported.
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let mut notes = phone.document("notes").await.unwrap();
    assert_eq!(notes.take_problems(), Vec::<String>::new());
    assert_eq!(notes.text("text").await.unwrap(), "shared first second");
    phone.close().await;
    server.stop().await.unwrap();
}

/// While the server is stopped: deletes the document with a tombstone, or purges it without.
async fn remove(dir: &Path, name: &str, leave_tombstone: bool) {
    let name = DocumentName::parse(name).unwrap();
    if leave_tombstone {
        syncline_server::cli::delete::delete(dir, &name, &mut Vec::new()).unwrap();
    } else {
        let log = Log::start(Arc::new(SledStore::open(dir).unwrap()));
        log.delete(&name).await.unwrap();
        log.close().await;
    }
}

#[tokio::test]
async fn purged_document_is_not_merged_until_rebased_or_discarded() {
    let dir = tempfile::tempdir().unwrap();
    let (server_dir, mut config) = (dir.path().join("server"), settings());
    let server = serve(&config, &server_dir).await;
    config.listen = server.address();
    let url = format!("ws://{}", server.address());
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let laptop = open(&dir.path().join("laptop"), &url, |_| ()).await;
    let (notes, theirs) = (phone.document("notes").await.unwrap(), laptop.document("notes").await.unwrap());
    append(&notes, "the old text").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    until_text(&theirs, |text| text == "the old text").await;
    in_time("synced", theirs.wait_until_synced()).await.unwrap();
    in_time("synced", notes.wait_until_synced()).await.unwrap();
    phone.go_offline().await;
    laptop.go_offline().await;
    append(&notes, ", and mine").await;
    append(&theirs, ", and theirs").await;
    server.stop().await.unwrap();
    remove(&server_dir, "notes", false).await;
    let server = serve(&config, &server_dir).await;
    // The document is created again with the same text: a merge would duplicate it.
    let third = open(&dir.path().join("third"), &url, |_| ()).await;
    let recreated = third.document("notes").await.unwrap();
    append(&recreated, "the old text").await;
    in_time("saved", recreated.wait_until_saved()).await.unwrap();

    for (device, document) in [(&phone, &notes), (&laptop, &theirs)] {
        let mut events = document.events();
        device.go_online().await;
        until_event(&mut events, |event| matches!(event, Event::HistoryChanged { .. })).await;
        assert_eq!(document.status().sync, SyncState::HistoryChanged);
        assert!(matches!(document.wait_until_saved().await, Err(DeviceError::HistoryChanged)));
        assert_eq!(document.queue().await.unwrap().len(), 1, "the queue is kept");
    }
    assert_eq!(recreated.text("text").await.unwrap(), "the old text");

    in_time("rebase", notes.rebase()).await.unwrap();
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    theirs.discard().await.unwrap();
    in_time("synced", theirs.wait_until_synced()).await.unwrap();
    for document in [&notes, &theirs, &recreated] {
        until_text(document, |text| text == "the old text, and mine").await;
    }
    for device in [phone, laptop, third] {
        device.close().await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn deleted_document_keeps_its_local_edits_and_can_be_exported() {
    let dir = tempfile::tempdir().unwrap();
    let (server_dir, mut config) = (dir.path().join("server"), settings());
    let server = serve(&config, &server_dir).await;
    config.listen = server.address();
    let url = format!("ws://{}", server.address());
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "saved").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    in_time("synced", notes.wait_until_synced()).await.unwrap();
    server.stop().await.unwrap();
    remove(&server_dir, "notes", true).await;
    append(&notes, ", not saved").await;
    let mut events = notes.events();
    let server = serve(&config, &server_dir).await;
    until_event(&mut events, |event| *event == Event::Deleted).await;
    assert_eq!(notes.status().sync, SyncState::Deleted);
    assert_eq!(notes.queue().await.unwrap().len(), 1);
    let export = notes.export().await.unwrap();
    assert_eq!(devices::text_of(&export.update), "saved, not saved");
    assert!(!export.unsaved.is_empty());
    // Other documents of the device are not affected.
    let other = phone.document("other").await.unwrap();
    append(&other, "fine").await;
    in_time("saved", other.wait_until_saved()).await.unwrap();
    phone.close().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn change_lost_by_a_crashed_server_is_restored_by_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut config) = (Arc::new(MemoryStore::new()), settings());
    let server = start_with(&config, store.clone(), Arc::new(OpenToAll)).await;
    config.listen = server.address();
    let url = format!("ws://{}", server.address());
    let reader = open(&dir.path().join("reader"), &url, |_| ()).await;
    let notes = reader.document("notes").await.unwrap();
    append(&notes, "saved ").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    in_time("synced", notes.wait_until_synced()).await.unwrap();

    // A change reaches the reader but not the disk; its author does not return.
    store.hold();
    let mut author = Socket::open(&server, "/notes").await;
    author.join().await;
    author.sync(SyncMessage::Update(&typed(7, "and relayed"))).await;
    until_text(&notes, |text| text.contains("and relayed")).await;
    drop(author);
    tokio::task::spawn_blocking({
        let store = store.clone();
        move || store.wait_until_held()
    })
    .await
    .unwrap();
    store.crash();
    server.stop().await.ok();
    // The reader's app is restarted too.
    reader.close().await;
    store.release();
    let server = start_with(&config, store, Arc::new(OpenToAll)).await;
    let fresh = open(&dir.path().join("fresh"), &url, |_| ()).await;
    let seen = fresh.document("notes").await.unwrap();
    in_time("synced", seen.wait_until_synced()).await.unwrap();
    assert_eq!(seen.text("text").await.unwrap(), "saved ", "the server has lost the change");

    let reader = open(&dir.path().join("reader"), &url, |_| ()).await;
    let notes = reader.document("notes").await.unwrap();
    until_text(&seen, |text| text.contains("saved ") && text.contains("and relayed")).await;
    assert_eq!(notes.text("text").await.unwrap(), seen.text("text").await.unwrap());
    for device in [reader, fresh] {
        device.close().await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn edit_refused_for_its_token_stays_queued_until_the_token_allows_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SledStore::open(&dir.path().join("server")).unwrap());
    let server = start_with(&settings(), store, Arc::new(GrantByToken)).await;
    let url = format!("ws://{}", server.address());
    let phone = open(&dir.path().join("phone"), &url, |config| config.token = Some("nonsense".into())).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "kept").await;
    assert!(matches!(
        in_time("refusal", notes.wait_until_saved()).await,
        Err(DeviceError::Refused(why)) if why.contains("opens nothing")
    ));

    let mut events = notes.events();
    phone.set_token(Some("read".into())).await;
    until_event(&mut events, |event| matches!(event, Event::Refused { code: 4403, .. })).await;
    assert!(matches!(notes.queue().await.unwrap()[0].state, EntryState::Refused { code: 4403, .. }));
    assert!(notes.status().read_only);
    // The refusal is stored: it is there after a restart of the app.
    phone.close().await;
    let phone = open(&dir.path().join("phone"), &url, |config| config.offline = true).await;
    let notes = phone.document("notes").await.unwrap();
    assert_eq!(notes.status().refused, 1);
    phone.set_token(Some("write".into())).await;
    phone.go_online().await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    assert_eq!(notes.status().refused, 0);
    phone.close().await;
    server.stop().await.unwrap();
}
