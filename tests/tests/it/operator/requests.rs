//! The operators' requests as HTTP on the admin socket: every document name reaches the server unchanged, refusals are
//! problem details, and a backup streams its progress and ends with its connection.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Store};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_server::auth::OpenToAll;
use syncline_server::internals::{Format, Imported, MAX_IMPORT_BYTES, Running, SOCKET_FILE};
use syncline_server::{AdminSocket, Server};
use syncline_tests::devices::{in_time, text_of};
use syncline_tests::live::{settings, start_with, typed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

async fn serve(data: &Path) -> Server {
    let server = start_with(&settings(), Arc::new(SledStore::open(data).unwrap()), Arc::new(OpenToAll)).await;
    server.serve_admin(AdminSocket::bind(data).unwrap());
    server
}

/// Sends a request whose body has `announced` bytes. Only `body` is sent of them.
async fn send(data: &Path, line: &str, body: &[u8], announced: u64) -> UnixStream {
    let mut socket = UnixStream::connect(data.join(SOCKET_FILE)).await.unwrap();
    let head = format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: {announced}\r\n\r\n");
    socket.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    socket
}

/// The status, and the head and body as they were sent.
async fn answer(mut socket: UnixStream) -> (u16, String) {
    let mut answer = Vec::new();
    in_time("an answer", socket.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

async fn ask(data: &Path, line: &str, body: &[u8]) -> (u16, String) {
    answer(send(data, line, body, body.len() as u64).await).await
}

/// A store with `documents` documents of `bytes` bytes.
fn fill(data: &Path, documents: u64, bytes: usize) {
    let store = SledStore::open(data).unwrap();
    for number in 1..=documents {
        let record = Record { seq: Seq(1), time_ms: 0, update: typed(number, &"x".repeat(bytes)).into() };
        let document = DocumentName::parse(&format!("doc-{number}")).unwrap();
        store.commit(&[Write::Append { document, epoch: Epoch(1), records: vec![record] }]).unwrap();
    }
    store.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_document_name_reaches_the_server_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = serve(&data).await;
    let longest = "\u{1f980}".repeat(512);
    let names = [
        ".",
        "..",
        "../..",
        "/",
        "//a//",
        "a/b",
        "a%2Fb",
        "%2F",
        "%",
        "%%2F",
        "a b",
        " a",
        "+",
        "?x=1&y#z",
        "#",
        "{name}",
        "*",
        ":a",
        "a;b,c=d",
        "\\",
        "\"",
        "e\u{301}",
        "\u{e9}",
        "\u{202e}",
        "日本語/🦀",
        &longest,
    ];
    let exact: Vec<_> = names.iter().map(|name| DocumentName::exact(name).unwrap()).collect();
    let commands = {
        let (data, exact) = (data.clone(), exact.clone());
        move || {
            let running = Running::find(&data).unwrap().unwrap();
            for (number, name) in exact.iter().enumerate() {
                let update = Bytes::from(typed(number as u64 + 1, name.as_str()));
                for expected in [Imported::Changed, Imported::Known] {
                    assert_eq!(
                        running.import(name, update.clone(), Format::Update, false).unwrap(),
                        expected,
                        "{name:?}"
                    );
                }
                assert_eq!(running.import(name, update, Format::Json, true).unwrap(), Imported::Exists, "{name:?}");
            }
            for name in &exact {
                assert_eq!(text_of(&running.export(name).unwrap().bytes), name.as_str());
            }
        }
    };
    in_time("the commands", tokio::task::spawn_blocking(commands)).await.unwrap();
    server.stop().await.unwrap();
    let mut stored = SledStore::open(&data).unwrap().list().unwrap();
    stored.sort();
    let mut expected = exact;
    expected.sort();
    assert_eq!(stored, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_request_is_answered_with_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = serve(&data).await;
    for (line, body, status, detail) in [
        ("GET /", &b""[..], 404, "no such path"),
        ("GET /admin/documents/", b"", 404, "no such path"),
        ("DELETE /admin/documents/doc", b"", 405, "does not support this method"),
        ("GET /admin/documents/doc", b"", 404, r#"document \"doc\" does not exist"#),
        ("GET /admin/documents/%ff", b"", 400, "UTF-8"),
        ("GET /admin/documents/%00", b"", 400, "the document name contains a control character"),
        ("POST /admin/documents/doc?format=xml", b"", 400, "unknown variant `xml`"),
        ("POST /admin/documents/doc?only_now=true", b"", 400, "unknown field `only_now`"),
        ("POST /admin/documents/doc", b"\x01hello", 422, r#"document \"doc\": not a valid Yjs v1 update"#),
        ("POST /admin/documents/doc?format=json", b"{", 422, r#"document \"doc\": not valid JSON"#),
        ("GET /admin/backups", b"", 405, "does not support this method"),
        ("POST /admin/backups", b"{}", 400, "cannot parse the request: missing field `dir`"),
        ("POST /admin/backups", br#"{"dir": "here"}"#, 400, "is not absolute"),
        ("POST /admin/backups", &[b' '; 100_000], 400, "cannot parse the request: length limit exceeded"),
        ("POST /admin/backups", br#"{"dir": "/dev/null/backup"}"#, 500, "/dev/null/backup"),
    ] {
        let (found, answer) = ask(&data, line, body).await;
        assert_eq!(found, status, "{line}: {answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{line}: {answer}");
        assert!(answer.contains(detail), "{line}: {answer}");
        assert_eq!(status == 405, answer.contains("allow: "), "{line}: {answer}");
    }
    // A file that announces too many bytes is refused before it is sent.
    let socket = send(&data, "POST /admin/documents/doc", b"", MAX_IMPORT_BYTES + 1).await;
    let (status, answer) = answer(socket).await;
    assert_eq!(status, 413, "{answer}");
    assert!(answer.contains(r#"document \"doc\": too large: an imported file may have at most"#), "{answer}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn document_and_backup_are_served_to_any_http_client() {
    let dir = tempfile::tempdir().unwrap();
    let (data, backups) = (dir.path().join("data"), dir.path().join("backups"));
    let server = serve(&data).await;
    let update = typed(1, "hello");
    let (status, imported) = ask(&data, "POST /admin/documents/a%2Fb?format=update", &update).await;
    assert_eq!(status, 200, "{imported}");
    assert!(imported.ends_with(r#"{"outcome":"changed"}"#), "{imported}");
    let (status, exported) = ask(&data, "GET /admin/documents/a%2Fb", b"").await;
    assert_eq!(status, 200, "{exported}");
    assert!(exported.contains("syncline-pending-updates: 0\r\n") && exported.contains("hello"), "{exported}");
    let request = serde_json::json!({ "dir": backups }).to_string();
    let (status, lines) = ask(&data, "POST /admin/backups", request.as_bytes()).await;
    assert_eq!(status, 200, "{lines}");
    assert!(lines.contains("content-type: application/jsonl\r\n"), "{lines}");
    assert!(lines.contains(r#"{"complete":{"documents":1,"written":1,"bytes":"#), "{lines}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_is_cancelled_when_its_connection_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (data, cut, complete) = (dir.path().join("data"), dir.path().join("cut"), dir.path().join("complete"));
    // Enough that a backup, which is taken gently, needs a second.
    fill(&data, 100, 200_000);
    let server = serve(&data).await;
    let request = |dir: &Path| serde_json::json!({ "dir": dir }).to_string().into_bytes();
    let body = request(&cut);
    let socket = send(&data, "POST /admin/backups", &body, body.len() as u64).await;
    in_time("the first pack file", async {
        while !cut.join("r000001-000.pack.new").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (status, answer) = ask(&data, "POST /admin/backups", &request(&complete)).await;
    assert_eq!(status, 409, "{answer}");
    assert!(answer.contains("another backup is being taken"), "{answer}");
    drop(socket);
    in_time("the next backup", async {
        while ask(&data, "POST /admin/backups", &request(&complete)).await.0 != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(complete.join("manifest.jsonl").exists());
    assert!(!cut.join("manifest.jsonl").exists(), "the backup went on without its connection");
    server.stop().await.unwrap();
}
