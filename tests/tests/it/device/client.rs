//! The Rust client with the real server and a real store: both dialects, offline edits, a server restart.

use std::sync::Arc;
use std::time::Duration;

use syncline_client::{Client, ClientConfig, Dialect};
use syncline_log::SledStore;
use syncline_server::auth::OpenToAll;
use syncline_server::{Config, Server};
use syncline_tests::live::{settings, start_with};
use yrs::{Text, WriteTxn};

const DIALECTS: [Dialect; 2] = [Dialect::YWebsocket, Dialect::Hocuspocus];
/// Longest wait for an event. Reached only when a test fails.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

async fn serve(config: &Config, dir: &std::path::Path) -> Server {
    start_with(config, Arc::new(SledStore::open(dir).unwrap()), Arc::new(OpenToAll)).await
}

fn client(server: &Server, dialect: Dialect) -> Client {
    let mut config = ClientConfig::new(format!("ws://{}", server.address()), "doc", dialect);
    config.backoff.first = Duration::from_millis(5);
    Client::connect(config).unwrap()
}

async fn in_time<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_LIMIT, wait).await.unwrap_or_else(|_| panic!("timed out waiting: {what}"))
}

async fn insert(client: &Client, text: &'static str) {
    let change = move |txn: &mut yrs::TransactionMut<'_>| txn.get_or_insert_text("text").insert(txn, 0, text);
    client.edit(change).await.unwrap();
}

async fn until_text(client: &Client, wanted: impl Fn(&str) -> bool) -> String {
    in_time("the text", async {
        loop {
            let text = client.text("text").await.unwrap();
            if wanted(&text) {
                return text;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn two_dialects_converge_after_offline_edits_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = settings();
    let server = serve(&config, dir.path()).await;
    // The restarted server listens on the same address, the only thing the clients know.
    config.listen = server.address();
    let clients = DIALECTS.map(|dialect| client(&server, dialect));
    for one in &clients {
        in_time("synced", one.wait_until_synced()).await.unwrap();
    }

    clients[0].go_offline().await.unwrap();
    insert(&clients[0], "offline ").await;
    insert(&clients[1], "connected ").await;
    in_time("saved", clients[1].wait_until_saved()).await.unwrap();
    assert!(clients[0].status().borrow().unsaved > 0, "an edit made offline is not saved");
    clients[0].go_online().await.unwrap();
    in_time("the offline edit is saved", clients[0].wait_until_saved()).await.unwrap();
    let both = |text: &str| text.contains("offline ") && text.contains("connected ");
    assert_eq!(until_text(&clients[0], both).await, until_text(&clients[1], both).await);

    server.stop().await.unwrap();
    insert(&clients[1], "while down ").await;
    let server = serve(&config, dir.path()).await;
    in_time("saved after the restart", clients[1].wait_until_saved()).await.unwrap();
    until_text(&clients[0], |text| text.contains("while down ")).await;

    let fresh = client(&server, Dialect::Hocuspocus);
    in_time("synced", fresh.wait_until_synced()).await.unwrap();
    let text = fresh.text("text").await.unwrap();
    for part in ["offline ", "connected ", "while down "] {
        assert_eq!(text.matches(part).count(), 1, "{text}");
    }
    for one in clients.iter().chain([&fresh]) {
        one.close().await;
    }
    server.stop().await.unwrap();
}
