//! Backup, restore, export and import in the test's process: the commands run over the admin socket of a server
//! with a sled store, while devices edit.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use syncline_client::{DeviceError, Event, SyncState};
use syncline_log::backup::Backup;
use syncline_log::{SledStore, Store, Stored};
use syncline_protocol::ids::DocumentName;
use syncline_protocol::sync::SyncMessage;
use syncline_replica::Replica;
use syncline_server::auth::OpenToAll;
use syncline_server::cli::backup::BackupArgs;
use syncline_server::cli::export::ExportArgs;
use syncline_server::cli::import::ImportArgs;
use syncline_server::cli::restore::RestoreArgs;
use syncline_server::cli::{StoreArgs, backup, export, import, restore};
use syncline_server::internals::Format;
use syncline_server::{AdminSocket, Config, Server};
use syncline_tests::devices::{append, in_time, open, text_of, until_event, until_text};
use syncline_tests::live::{Socket, settings, start_with, typed};

/// More edits than a device makes in the test.
const EDITS_AFTER_RESTORE: u64 = 20;

/// An update of `client` to another root text.
fn edit_of_another_text(client: u64) -> Vec<u8> {
    let doc = yrs::Doc::with_client_id(client);
    let text = doc.get_or_insert_text("another");
    let mut txn = yrs::Transact::transact_mut(&doc);
    yrs::Text::push(&text, &mut txn, "x");
    txn.encode_update_v1()
}

async fn serve(config: &Config, data: &Path) -> Server {
    let server = start_with(config, Arc::new(SledStore::open(data).unwrap()), Arc::new(OpenToAll)).await;
    server.serve_admin(AdminSocket::bind(data).unwrap());
    server
}

/// Runs a command and returns its output, or its output and error if it fails.
async fn command(run: impl FnOnce(&mut Vec<u8>) -> anyhow::Result<()> + Send + 'static) -> Result<String, String> {
    let run = move || {
        let mut out = Vec::new();
        let done = run(&mut out).map_err(|error| format!("{error:#}"));
        let out = String::from_utf8(out).unwrap();
        done.map(|()| out.clone()).map_err(|error| out + &error)
    };
    in_time("a command", tokio::task::spawn_blocking(run)).await.unwrap()
}

async fn back_up(data: &Path, dir: &Path) -> Result<String, String> {
    let args = BackupArgs { dir: dir.to_owned(), store: StoreArgs::at(data), verify: false };
    command(move |out| backup::backup(&args, out)).await
}

async fn restore_into(dir: &Path, data: &Path) -> Result<String, String> {
    let (dir, store) = (dir.to_owned(), StoreArgs::at(data));
    let args = RestoreArgs { dir, store, document: None, target: None, replace: false };
    command(move |out| restore::restore(&args, out)).await
}

async fn import_file(data: &Path, document: &str, path: &Path, bytes: &[u8]) -> Result<String, String> {
    std::fs::write(path, bytes).unwrap();
    let what = vec![PathBuf::from(document), path.to_owned()];
    let args = ImportArgs { what, format: None, from: None, merge: false, create: true, store: StoreArgs::at(data) };
    command(move |out| import::import(&args, out)).await
}

async fn export_to(data: &Path, document: &str, path: &Path, format: Format) -> Result<Vec<u8>, String> {
    let (document, output) = (document.to_owned(), Some(path.to_owned()));
    let args = ExportArgs { document, exact_name: false, format, output, store: StoreArgs::at(data) };
    command(move |out| export::export(&args, out)).await?;
    Ok(std::fs::read(path).unwrap())
}

fn state_of(stored: Stored) -> Bytes {
    let updates = stored.snapshot.into_iter().map(|snapshot| snapshot.update);
    let updates = updates.chain(stored.records.into_iter().map(|record| record.update));
    Replica::load(updates).unwrap().encode().unwrap()
}

fn name(name: &str) -> DocumentName {
    DocumentName::parse(name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_holds_acknowledged_edits_and_restoring_changes_the_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let (data, backups, restored) = (dir.path().join("data"), dir.path().join("backups"), dir.path().join("restored"));
    let mut config = settings();
    let server = serve(&config, &data).await;
    config.listen = server.address();
    let url = format!("ws://{}", server.address());
    let phone = open(&dir.path().join("phone"), &url, |_| ()).await;
    let notes = phone.document("notes").await.unwrap();
    append(&notes, "the beginning").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();

    // A device types during each backup; the backup holds at least what was saved when it began.
    let typist = open(&dir.path().join("typist"), &url, |_| ()).await;
    let page = typist.document("page").await.unwrap();
    for round in 1..=5 {
        append(&page, &format!("[{round}]")).await;
        in_time("saved", page.wait_until_saved()).await.unwrap();
        let saved = page.text("text").await.unwrap();
        let typing = tokio::spawn({
            let page = page.clone();
            async move {
                for _ in 0..50 {
                    append(&page, "x").await;
                }
            }
        });
        let output = back_up(&data, &backups).await.unwrap();
        assert!(output.contains("backed up 2 documents"), "{output}");
        typing.await.unwrap();
        let backup = Backup::open(&backups).unwrap();
        assert!(backup.verify().is_empty());
        let in_backup = text_of(&state_of(backup.read(&name("page")).unwrap().unwrap()));
        assert!(in_backup.starts_with(&saved), "saved: {saved:?}, in the backup: {in_backup:?}");
    }

    append(&notes, ", after the backup").await;
    in_time("saved", notes.wait_until_saved()).await.unwrap();
    phone.go_offline().await;
    append(&notes, ", offline").await;
    typist.close().await;
    server.stop().await.unwrap();
    let output = restore_into(&backups, &restored).await.unwrap();
    assert!(output.contains("restored 2 documents"), "{output}");
    let server = serve(&config, &restored).await;

    // Other clients edit the restored document past the phone's sequence number: only the epoch shows that the
    // history differs.
    let mut stock = Socket::open(&server, "/notes").await;
    assert_eq!(text_of(&stock.join().await), "the beginning");
    for number in 0..EDITS_AFTER_RESTORE {
        let update = edit_of_another_text(1_000 + number);
        stock.sync(SyncMessage::Update(&update)).await;
        while stock.receive_sync().await != (2, update.clone()) {}
    }
    let mut events = notes.events();
    phone.go_online().await;
    until_event(&mut events, |event| matches!(event, Event::HistoryChanged { .. })).await;
    assert_eq!(notes.status().sync, SyncState::HistoryChanged);
    assert!(matches!(notes.wait_until_saved().await, Err(DeviceError::HistoryChanged)));
    let mut stock = Socket::open(&server, "/notes").await;
    assert_eq!(text_of(&stock.join().await), "the beginning", "nothing was merged");
    notes.discard().await.unwrap();
    until_text(&notes, |text| text == "the beginning").await;
    phone.close().await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstone_survives_a_restore() {
    let dir = tempfile::tempdir().unwrap();
    let (data, backups, restored) = (dir.path().join("data"), dir.path().join("backups"), dir.path().join("restored"));
    import_file(&data, "gone", &dir.path().join("file"), &typed(1, "gone")).await.unwrap();
    let (at, gone) = (data.clone(), name("gone"));
    command(move |out| syncline_server::cli::delete::delete(&at, &gone, out)).await.unwrap();
    back_up(&data, &backups).await.unwrap();
    let output = restore_into(&backups, &restored).await.unwrap();
    assert!(output.contains("1 of them deleted"), "{output}");
    let server = serve(&settings(), &restored).await;
    let mut socket = Socket::open(&server, "/gone").await;
    socket.sync(SyncMessage::Step1(&[0])).await;
    assert_eq!(socket.receive_close().await.0, 4410);
    let output = import_file(&restored, "gone", &dir.path().join("file"), &typed(2, "again")).await.unwrap_err();
    assert!(output.contains("it was deleted"), "{output}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn import_reaches_readers_and_is_on_disk_when_the_command_returns() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("file"));
    let server = serve(&settings(), &data).await;
    let mut reader = Socket::open(&server, "/doc").await;
    reader.join().await;
    let update = typed(7, "imported");
    let output = import_file(&data, "doc", &file, &update).await.unwrap();
    assert!(output.contains("imported"), "{output}");
    let (kind, received) = reader.receive_sync().await;
    assert_eq!((kind, &received), (2, &update), "the reader receives the update exactly as in the file");
    let output = import_file(&data, "doc", &file, &update).await.unwrap();
    assert!(output.contains("already has everything in"), "{output}");

    // A reader's edit is in the next export, of the running server and of the stopped one.
    reader.sync(SyncMessage::Update(&typed(8, "typed "))).await;
    reader.receive_sync().await;
    let running = export_to(&data, "doc", &dir.path().join("running"), Format::Update).await.unwrap();
    let json = export_to(&data, "doc", &dir.path().join("running.json"), Format::Json).await.unwrap();
    server.stop().await.unwrap();
    let text = text_of(&running);
    assert!(text.contains("imported") && text.contains("typed "), "{text}");
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json, serde_json::json!({ "text": { "$text": text } }));
    let stopped = export_to(&data, "doc", &dir.path().join("stopped"), Format::Update).await.unwrap();
    assert_eq!(text_of(&stopped), text);
    let stored = SledStore::open(&data).unwrap().load(&name("doc")).unwrap().unwrap();
    assert_eq!(stored.last().0, 2, "the repeated import added no record");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_import_creates_a_document_and_never_changes_one() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("file.json"));
    let json = serde_json::json!({ "text": "hello", "list": [1, { "a": "b" }], "map": { "key": null } });
    let text = serde_json::to_vec(&json).unwrap();
    // Once without a running server, once with one.
    import_file(&data, "stopped", &file, &text).await.unwrap();
    let server = serve(&settings(), &data).await;
    import_file(&data, "running", &file, &text).await.unwrap();
    for document in ["stopped", "running"] {
        let output = import_file(&data, document, &file, &text).await.unwrap_err();
        assert!(output.contains("already exists, and JSON can only create a new one"), "{output}");
        let exported = export_to(&data, document, &dir.path().join("out.json"), Format::Json).await.unwrap();
        let mut expected = json.clone();
        expected["text"] = serde_json::json!({ "$text": "hello" });
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&exported).unwrap(), expected);
        let mut stock = Socket::open(&server, &format!("/{document}")).await;
        assert_eq!(text_of(&stock.join().await), "hello");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_import_file_is_refused_with_a_reason_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("file"));
    let doc = yrs::Doc::with_client_id(3);
    let text = yrs::WriteTxn::get_or_insert_text(&mut yrs::Transact::transact_mut(&doc), "text");
    let mut parts = Vec::new();
    for part in ["first ", "second "] {
        let mut txn = yrs::Transact::transact_mut(&doc);
        yrs::Text::push(&text, &mut txn, part);
        parts.push(txn.encode_update_v1());
    }
    let v2 = yrs::ReadTxn::encode_state_as_update_v2(&yrs::Transact::transact(&doc), &yrs::StateVector::default());
    let refused: [(&[u8], &str); 4] = [
        (&v2, "looks like a Yjs v2 update"),
        (&parts[1], "depends on edits that this document does not have"),
        (b"\x01hello", "not a valid Yjs v1 update"),
        (b"", "not a valid Yjs v1 update"),
    ];
    for is_running in [false, true] {
        let server = if is_running { Some(serve(&settings(), &data).await) } else { None };
        for (bytes, expected) in refused {
            let output = import_file(&data, "doc", &file, bytes).await.unwrap_err();
            assert!(output.contains(expected), "{output}");
        }
        let output = export_to(&data, "doc", &dir.path().join("out"), Format::Update).await.unwrap_err();
        assert!(output.contains("document \"doc\" does not exist"), "{output}");
        if let Some(server) = server {
            server.stop().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_stop_does_not_wait_for_a_running_backup() {
    let dir = tempfile::tempdir().unwrap();
    let (data, backups) = (dir.path().join("data"), dir.path().join("backups"));
    let server = serve(&settings(), &data).await;
    for number in 0..20 {
        let text = "some text ".repeat(20_000);
        let file = dir.path().join("file");
        import_file(&data, &format!("doc-{number}"), &file, &typed(number + 1, &text)).await.unwrap();
    }
    let backing_up = tokio::spawn({
        let (data, backups) = (data.clone(), backups.clone());
        async move { back_up(&data, &backups).await }
    });
    in_time("the first pack file", async {
        while !backups.join("r000001-000.pack.new").exists() && !backups.join("manifest.jsonl").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    in_time("the stop", server.stop()).await.unwrap();
    // The backup is either complete, or the command failed and left none.
    let output = backing_up.await.unwrap();
    match Backup::open(&backups) {
        Ok(backup) => assert!(backup.verify().is_empty()),
        Err(error) => assert!(output.is_err(), "{error}, but the command returned {output:?}"),
    }
    // The thread of the stopped backup may still lock the directory.
    in_time("a backup after the stop", async {
        while back_up(&data, &backups).await.is_err_and(|error| error.contains("takes or restores a backup")) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(Backup::open(&backups).unwrap().documents().len(), 20);
}
