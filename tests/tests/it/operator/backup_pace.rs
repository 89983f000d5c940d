//! The cost of a running backup for editors: acknowledgement latencies with and without one, on a store of some hundred
//! megabytes. It prints the latencies and asserts none of them:
//!
//! `cargo test --release -p syncline-tests --test it backup_pace -- --ignored --nocapture`
//!
//! `SYNCLINE_STORE_MB` (300) and `SYNCLINE_DOCUMENT_KB` (64) change the store, `SYNCLINE_DIR` sets the directory
//! and thereby the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use syncline_log::store::Write;
use syncline_log::{Record, SledStore, Store};
use syncline_protocol::ids::{DocumentName, Epoch, Seq};
use syncline_protocol::sync::SyncMessage;
use syncline_server::auth::OpenToAll;
use syncline_server::cli::StoreArgs;
use syncline_server::cli::backup::{BackupArgs, backup};
use syncline_server::{AdminSocket, Server};
use syncline_tests::live::{Socket, settings, start_with};
use yrs::{Doc, Text, Transact};

const WRITERS: u64 = 20;
/// Each writer's pause between an acknowledgement and the next edit.
const PAUSE: Duration = Duration::from_millis(20);
const QUIET: Duration = Duration::from_secs(15);

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn fill(data: &Path, documents: usize, bytes: usize) {
    let store = SledStore::open(data).unwrap();
    let mut writes = Vec::new();
    for number in 0..documents {
        let doc = Doc::with_client_id(number as u64 + 1);
        let text = doc.get_or_insert_text("text");
        let mut txn = doc.transact_mut();
        // Varied words: the store does not compress, but the measurement should not depend on that.
        let words: String =
            (0..bytes / 8).map(|word| format!("{:07x} ", (word * 2_654_435_761) % 0xfff_ffff)).collect();
        text.insert(&mut txn, 0, &words);
        let record = Record { seq: Seq(1), time_ms: 0, update: txn.encode_update_v1().into() };
        let document = DocumentName::parse(&format!("stored-{number}")).unwrap();
        writes.push(Write::Append { document, epoch: Epoch(1), records: vec![record] });
        if writes.len() * bytes > 4 << 20 || number + 1 == documents {
            store.commit(&std::mem::take(&mut writes)).unwrap();
        }
    }
    store.close().unwrap();
}

/// Types letters one by one, each after the echo that acknowledges the one before. Returns the latency of each.
async fn write(server: &Server, writer: u64, end: &AtomicBool) -> Vec<Duration> {
    let mut socket = Socket::open(server, &format!("/edited-{writer}")).await;
    socket.join().await;
    let doc = Doc::with_client_id(rand::random::<u32>().into());
    let text = doc.get_or_insert_text("text");
    let mut took = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let update = {
            let mut txn = doc.transact_mut();
            text.push(&mut txn, "x");
            txn.encode_update_v1()
        };
        let since = Instant::now();
        socket.sync(SyncMessage::Update(&update)).await;
        while socket.receive_sync().await.1 != update {}
        took.push(since.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    took
}

/// Runs all writers until `until` completes, and prints their latencies.
async fn measure<T>(server: &Arc<Server>, what: &str, until: impl Future<Output = T>) -> T {
    let end = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (server, end) = (Arc::clone(server), Arc::clone(&end));
            tokio::spawn(async move { write(&server, writer, &end).await })
        })
        .collect();
    let since = Instant::now();
    let done = until.await;
    let took = since.elapsed();
    end.store(true, Ordering::Relaxed);
    let mut all = Vec::new();
    for writer in writers {
        all.extend(writer.await.unwrap());
    }
    all.sort_unstable();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{what:<28} {:>6.1} s  {:>6} acks  p50 {:>6.2} ms  p99 {:>6.2} ms  p99.9 {:>6.2} ms  max {:>6.2} ms",
        took.as_secs_f64(),
        all.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    done
}

#[tokio::test(flavor = "multi_thread")]
// Prints latencies for people to compare; it asserts no timing, so it could not fail in CI.
#[ignore = "a benchmark of one minute; run by hand"]
async fn acknowledgement_times_with_and_without_a_backup() {
    let parent = std::env::var_os("SYNCLINE_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent).unwrap();
    let (data, backups) = (dir.path().join("data"), dir.path().join("backups"));
    let bytes = setting("SYNCLINE_DOCUMENT_KB", 64) << 10;
    let documents = (setting("SYNCLINE_STORE_MB", 300) << 20) / bytes;
    fill(&data, documents, bytes);
    println!("{documents} documents of {bytes} bytes; {WRITERS} writers, each an edit every {PAUSE:?} after its ack");
    let store = SledStore::open(&data).unwrap();
    let server = Arc::new(start_with(&settings(), Arc::new(store), Arc::new(OpenToAll)).await);
    server.serve_admin(AdminSocket::bind(&data).unwrap());
    let take = || {
        let args = BackupArgs { dir: backups.clone(), store: StoreArgs::at(&data), verify: false };
        async { tokio::task::spawn_blocking(move || backup(&args, &mut std::io::stdout())).await.unwrap().unwrap() }
    };
    measure(&server, "without a backup", tokio::time::sleep(QUIET)).await;
    measure(&server, "during the first backup", take()).await;
    measure(&server, "without a backup", tokio::time::sleep(QUIET)).await;
    measure(&server, "during an incremental one", take()).await;
}
