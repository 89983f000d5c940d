//! What a device keeps when things go wrong: a full disk, a damaged journal, another history at the server, a deleted
//! document, a token that does not do.

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
async fn on_a_full_disk_an_edit_is_an_error_and_the_document_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&settings(), &dir.path().join("server")).await;
    let url = format!("ws://{}", server.address());
    let full = Arc::new(AtomicBool::new(false));
    let (directory, is_full) = (dir.path().join("disk"), Arc::clone(&full));
    let phone = open(&dir.path().join("phone"), &url, move |config| {
        config.open_store = Some(Arc::new(move || {
            // As sled on a full disk: it cannot even be opened.
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
    // What others do is still shown.
    append(&theirs, "theirs ").await;
    until_text(&notes, |text| text == "before theirs ").await;

    full.store(false, Ordering::Relaxed);
    append(&notes, "after").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    until_text(&theirs, |text| text == "before theirs after").await;
    // All of it is in the store again, too.
    phone.close().await;
    let stored = SledStore::open(&dir.path().join("disk")).unwrap();
    assert!(stored.load(&DocumentName::parse("notes").unwrap()).unwrap().is_some());
    stored.close().unwrap();
    other.close().await;
    server.stop().await.unwrap();
}

/// A device on a disk that can be filled: it opens, but takes nothing more.
async fn on_a_disk(dir: &Path, url: &str, full: &Arc<AtomicBool>) -> Device {
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
async fn what_was_accepted_before_the_disk_was_full_is_saved_while_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&settings(), &dir.path().join("server")).await;
    let full = Arc::new(AtomicBool::new(false));
    let phone = on_a_disk(dir.path(), &format!("ws://{}", server.address()), &full).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "accepted").await;
    full.store(true, Ordering::Relaxed);
    // The second time the store is opened again, and fails while everything is written into it.
    for _ in 0..2 {
        try_append(&notes, " lost").await.unwrap_err();
    }
    phone.go_online().await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    phone.close().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn when_there_is_space_again_everything_is_written_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(&settings(), &dir.path().join("server")).await;
    let url = format!("ws://{}", server.address());
    let full = Arc::new(AtomicBool::new(false));
    let phone = on_a_disk(dir.path(), &url, &full).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "mine ").await;
    let mut events = notes.events();
    full.store(true, Ordering::Relaxed);
    try_append(&notes, "lost ").await.unwrap_err();
    until_event(&mut events, |event| matches!(event, Event::StorageFailed(_))).await;
    // While it is full others' changes are in memory only.
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
    let phone = on_a_disk(dir.path(), &url, &full).await;
    let notes = phone.document("notes").await.unwrap();
    assert_eq!(notes.text("text").await.unwrap(), "mine theirs");
    phone.close().await;
    other.close().await;
    server.stop().await.unwrap();
}

/// Damages what the device stored of `document`, first to last: the value that holds `needle`.
fn damage(store: &Path, needle: &[u8]) {
    // As the log opens it.
    let db = sled::Config::new().path(store.join("sled")).segment_size(4 << 20).open().unwrap();
    let (key, mut value) = db
        .iter()
        .map(|item| item.unwrap())
        .map(|(key, value)| (key, value.to_vec()))
        .find(|(_, value)| value.windows(needle.len()).any(|window| window == needle))
        .expect("something holds it");
    let at = value.windows(needle.len()).position(|window| window == needle).unwrap();
    value[at] ^= 1;
    db.insert(key, value).unwrap();
    db.flush().unwrap();
}

#[tokio::test]
async fn of_a_damaged_journal_what_can_be_read_is_kept_and_the_rest_is_told() {
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
    let told = notes.take_problems();
    assert!(!told.is_empty(), "the rest is told");
    assert_eq!(notes.queue().await.unwrap().len(), 2);
    phone.go_online().await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    phone.close().await;

    // It is whole again, and says so no more.
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let mut notes = phone.document("notes").await.unwrap();
    assert_eq!(notes.take_problems(), Vec::<String>::new());
    assert_eq!(notes.text("text").await.unwrap(), "shared first second");
    phone.close().await;
    server.stop().await.unwrap();
}

/// With the server stopped: forgets the document, or leaves a tombstone.
async fn remove(dir: &Path, name: &str, leave_a_tombstone: bool) {
    let name = DocumentName::parse(name).unwrap();
    if leave_a_tombstone {
        syncline_server::cli::delete::delete(dir, &name, &mut Vec::new()).unwrap();
    } else {
        let log = Log::start(Arc::new(SledStore::open(dir).unwrap()));
        log.delete(&name).await.unwrap();
        log.close().await;
    }
}

#[tokio::test]
async fn after_a_purge_nothing_is_merged_until_it_is_rebased_or_discarded() {
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
    // The document begins anew, with the same words: a merge would double them.
    let third = open(&dir.path().join("third"), &url, |_| ()).await;
    let anew = third.document("notes").await.unwrap();
    append(&anew, "the old text").await;
    in_time("saved", anew.wait_until_saved()).await.unwrap();

    for (device, document) in [(&phone, &notes), (&laptop, &theirs)] {
        let mut events = document.events();
        device.go_online().await;
        until_event(&mut events, |event| matches!(event, Event::HistoryChanged { .. })).await;
        assert_eq!(document.status().sync, SyncState::HistoryChanged);
        assert!(matches!(document.wait_until_saved().await, Err(DeviceError::HistoryChanged)));
        assert_eq!(document.queue().await.unwrap().len(), 1, "the queue is kept");
    }
    assert_eq!(anew.text("text").await.unwrap(), "the old text");

    in_time("rebase", notes.rebase()).await.unwrap();
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    theirs.discard().await.unwrap();
    in_time("synced", theirs.wait_until_synced()).await.unwrap();
    for document in [&notes, &theirs, &anew] {
        until_text(document, |text| text == "the old text, and mine").await;
    }
    for device in [phone, laptop, third] {
        device.close().await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_deleted_document_keeps_its_edits_here_and_can_be_exported() {
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
    // Its other documents are not touched by that.
    let other = phone.document("other").await.unwrap();
    append(&other, "fine").await;
    in_time("saved", other.wait_until_saved()).await.unwrap();
    phone.close().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_only_a_reader_still_has_comes_back_to_a_server_that_crashed() {
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

    // Somebody's change reaches the reader, and neither the disk nor ever again its author.
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
    // The app was killed meanwhile, too.
    reader.close().await;
    store.release();
    let server = start_with(&config, store, Arc::new(OpenToAll)).await;
    let fresh = open(&dir.path().join("fresh"), &url, |_| ()).await;
    let seen = fresh.document("notes").await.unwrap();
    in_time("synced", seen.wait_until_synced()).await.unwrap();
    assert_eq!(seen.text("text").await.unwrap(), "saved ", "the server has lost it");

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
async fn what_a_token_does_not_allow_stays_queued_and_goes_with_a_better_one() {
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
    // The refusal outlives the app.
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
