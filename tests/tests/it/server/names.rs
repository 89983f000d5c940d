//! One document name is one document, percent-encoded or not: in the URL, in the Hocuspocus address and in the
//! native Open.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use syncline_log::memory::MemoryStore;
use syncline_log::store::{Record, Store, Write};
use syncline_log::{SledStore, backup};
use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_protocol::native::ToServer;
use syncline_protocol::sync::SyncMessage;
use syncline_server::Server;
use syncline_server::auth::OpenToAll;
use syncline_server::config::RawConfig;
use syncline_tests::live::{Socket, settings, start, start_with, typed};
use syncline_tests::native_client::{Native, ServerMessage};

/// The document state that a y-websocket client receives at this path.
async fn at_path(server: &Server, path: &str) -> Vec<u8> {
    Socket::open(server, &format!("/{path}")).await.join().await
}

/// The document state that a Hocuspocus client receives for this name.
async fn at_address(server: &Server, name: &str) -> Vec<u8> {
    let mut socket = Socket::open(server, "/").await;
    socket.send_to(name, HocuspocusMessage::Token { token: "", version: None }).await;
    socket.send_to(name, HocuspocusMessage::Sync(SyncMessage::Step1(&[0]))).await;
    let mut diff = None;
    socket
        .receive_until(|address, message| {
            if let HocuspocusMessage::Sync(SyncMessage::Step2(update))
            | HocuspocusMessage::SyncReply(SyncMessage::Step2(update)) = message
            {
                assert_eq!(address, name, "the answer has the address exactly as sent");
                diff = Some(update.to_vec());
            }
            diff.is_some()
        })
        .await;
    diff.unwrap()
}

/// The document state that a native client receives for this name.
async fn at_channel(server: &Server, name: &str) -> Vec<u8> {
    let mut native = Native::connect(server).await;
    let open = ToServer::Open { channel: 1, document: name, token: "", cursor: None, wants_state_vector: false };
    native.send(open).await;
    native.receive_until(|message| matches!(message, ServerMessage::Opened { .. })).await;
    native.send(ToServer::StateVector { channel: 1, state_vector: &[0] }).await;
    match native.receive_until(|message| matches!(message, ServerMessage::Diff { .. })).await {
        ServerMessage::Diff { update, .. } => update,
        other => panic!("{other:?}"),
    }
}

/// A y-websocket client types `text` at `path`. Returns the update after it is saved.
async fn write(server: &Server, path: &str, text: &str) -> Vec<u8> {
    let update = typed(7, text);
    let mut socket = Socket::open(server, &format!("/{path}")).await;
    socket.join().await;
    socket.sync(SyncMessage::Update(&update)).await;
    assert_eq!(socket.receive_sync().await, (2, update.clone()));
    update
}

#[tokio::test]
async fn encoded_and_plain_name_open_one_document_in_every_dialect() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let longest = ("%F0%9F%98%80".repeat(512), "\u{1f600}".repeat(512));
    for (path, name) in [
        ("space%20name", "space name"),
        ("%E6%96%87%E6%A1%A3", "文档"),
        ("%22%3C%3E%5E%60%7B%7C%7D", "\"<>^`{|}"),
        ("notes/2026%20%E2%82%AC", "notes/2026 €"),
        (&longest.0, &longest.1),
    ] {
        let update = write(&server, path, name).await;
        for spelling in [path, name] {
            assert_eq!(at_address(&server, spelling).await, update, "Hocuspocus {spelling}");
            assert_eq!(at_channel(&server, spelling).await, update, "native {spelling}");
        }
        assert_eq!(at_path(&server, path).await, update);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn reserved_characters_stay_encoded_and_name_another_document() {
    let server = start(Arc::new(MemoryStore::new())).await;
    let names = ["a/b", "a%2Fb", "a%2fb", "a%252Fb", "a:b", "a%3Ab", "a%3Fb", "a%23b", "a%25b", "a%ffb"];
    let mut updates = Vec::new();
    for name in names {
        updates.push(write(&server, name, name).await);
    }
    for (name, update) in names.iter().zip(&updates) {
        assert_eq!(at_path(&server, name).await, *update, "{name}");
        assert_eq!(at_address(&server, name).await, *update, "{name}");
    }
    server.stop().await.unwrap();
}

/// `tests/fixtures/names/record.mjs` generates the file.
#[test]
fn path_made_from_a_name_by_a_url_parser_is_that_name() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/names/url.json");
    let names: Vec<(String, String)> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(names.len(), 500);
    let mut encoded = 0;
    for (name, path) in names {
        let document = DocumentName::parse(&path).unwrap();
        assert_eq!(document, DocumentName::parse(&name).unwrap(), "{name:?} is sent as {path:?}");
        assert_eq!(DocumentName::parse(document.as_str()), Ok(document.clone()), "decoding twice changes {path:?}");
        encoded += usize::from(name != path);
    }
    assert!(encoded > 200, "only {encoded} names have characters that are encoded");
}

fn exact(name: &str) -> DocumentName {
    DocumentName::exact(name).unwrap()
}

/// Writes a store of an older version: the document names are stored as they were spelled.
fn old_store(dir: &Path, documents: &[(&str, &[u8])]) {
    let store = SledStore::open(dir).unwrap();
    for (name, update) in documents {
        let record = Record { seq: Seq(1), time_ms: 1, update: Bytes::copy_from_slice(update) };
        store.commit(&[Write::Append { document: exact(name), epoch: Epoch(3), records: vec![record] }]).unwrap();
    }
    store.close().unwrap();
}

#[tokio::test]
async fn document_of_an_older_store_is_served_under_its_name() {
    let (dir, update, other) = (tempfile::tempdir().unwrap(), typed(7, "old"), typed(8, "other"));
    old_store(dir.path(), &[("space%20name", &update), ("both ways", &other), ("both%20ways", &update)]);
    let server = start(Arc::new(SledStore::open_checked(dir.path()).unwrap())).await;
    for name in ["space%20name", "space name"] {
        assert_eq!(at_address(&server, name).await, update, "{name}");
        assert_eq!(at_channel(&server, name).await, update, "{name}");
    }
    assert_eq!(at_path(&server, "space%20name").await, update);
    assert_eq!(at_path(&server, "both%20ways").await, other);
    server.stop().await.unwrap();
    let store = SledStore::open_checked(dir.path()).unwrap();
    assert_eq!(
        store.load(&exact("both%20ways")).unwrap().unwrap().records[0].update,
        update,
        "the other document is kept"
    );
}

#[tokio::test]
async fn older_backup_restores_documents_under_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let update = typed(7, "old");
    // A backup of an older version has the spelling as the name.
    let (old, document) = (MemoryStore::new(), exact("space%20name"));
    let record = Record { seq: Seq(1), time_ms: 1, update: update.clone().into() };
    old.commit(&[Write::Append { document, epoch: Epoch(3), records: vec![record] }]).unwrap();
    backup::take(&old, &path("backup"), backup::Pace::Full, &backup::Cancel::default(), &mut |_| ()).unwrap();

    let taken = backup::Backup::open(&path("backup")).unwrap();
    for typed in ["space name", "space%20name"] {
        assert_eq!(taken.find(typed), Ok(exact("space%20name")));
    }
    assert_eq!(taken.find("a%20b"), Ok(exact("a b")), "a name that is not in the backup is parsed");
    backup::restore_all(&taken, &path("data")).unwrap();
    let server = start(Arc::new(SledStore::open_checked(&path("data")).unwrap())).await;
    assert_eq!(at_address(&server, "space name").await, update);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn path_prefix_is_not_part_of_the_document_name() {
    let raw = RawConfig { path_prefix: Some("/collab".into()), ..RawConfig::default() };
    let mut config = settings();
    config.path_prefix = raw.check().unwrap().path_prefix;
    let server = start_with(&config, Arc::new(MemoryStore::new()), Arc::new(OpenToAll)).await;
    let update = write(&server, "collab/notes%20a", "x").await;
    for path in ["collab/notes%20a", "notes%20a"] {
        assert_eq!(at_path(&server, path).await, update, "{path}");
    }
    assert_eq!(at_address(&server, "notes a").await, update);
    assert_eq!(at_address(&server, "collab/notes a").await, [0, 0], "a Hocuspocus name is not a path");
    let (code, _) = {
        let mut socket = Socket::open(&server, "/collab/").await;
        socket.sync(SyncMessage::Step1(&[0])).await;
        socket.receive_close().await
    };
    assert_eq!(code, 4404, "the prefix alone names no document");
    server.stop().await.unwrap();
}
