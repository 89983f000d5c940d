//! The stock client over real sockets, against a minimal y-websocket server that can close connections.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use syncline_client::session::{AckKnowledge, Echo};
use syncline_client::yrs::updates::decoder::Decode;
use syncline_client::yrs::updates::encoder::Encode;
use syncline_client::yrs::{Doc, GetString, ReadTxn, StateVector, Text, Transact, Update, WriteTxn};
use syncline_client::{Client, ClientConfig, ClientError, Connection, Dialect};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// A server with one document; echoes every update to its author.
struct Server {
    doc: Arc<Mutex<Doc>>,
    url: String,
    /// When this changes, every connection is closed with the new code.
    close: watch::Sender<Option<u16>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let doc = Arc::new(Mutex::new(Doc::new()));
        let close = watch::Sender::new(None);
        let (shared, closing) = (Arc::clone(&doc), close.subscribe());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, Arc::clone(&shared), closing.clone()));
            }
        });
        Self { doc, url, close }
    }

    fn text(&self) -> String {
        let doc = self.doc.lock().unwrap();
        let txn = doc.transact();
        txn.get_text("text").map(|text| text.get_string(&txn)).unwrap_or_default()
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new(&self.url, "doc", Dialect::YWebsocket);
        config.backoff.first = Duration::from_millis(5);
        config
    }
}

async fn serve(socket: TcpStream, doc: Arc<Mutex<Doc>>, mut closing: watch::Receiver<Option<u16>>) {
    let mut socket = tokio_tungstenite::accept_async(socket).await.unwrap();
    closing.mark_unchanged();
    let step1 = doc.lock().unwrap().transact().state_vector().encode_v1();
    let step1 = YWebsocketMessage::Sync(SyncMessage::Step1(&step1)).encode();
    socket.send(Message::binary(step1)).await.unwrap();
    loop {
        let message = tokio::select! {
            message = socket.next() => message,
            _ = closing.changed() => {
                let code = closing.borrow().unwrap_or(1012).into();
                socket.close(Some(CloseFrame { code, reason: "closed by the test".into() })).await.ok();
                return;
            }
        };
        let Some(Ok(Message::Binary(frame))) = message else { return };
        let answer = {
            let doc = doc.lock().unwrap();
            match YWebsocketMessage::decode(&frame).unwrap() {
                YWebsocketMessage::Sync(SyncMessage::Step1(theirs)) => {
                    let theirs = StateVector::decode_v1(theirs).unwrap();
                    let update = doc.transact().encode_state_as_update_v1(&theirs);
                    YWebsocketMessage::Sync(SyncMessage::Step2(&update)).encode()
                }
                YWebsocketMessage::Sync(SyncMessage::Step2(update) | SyncMessage::Update(update)) => {
                    doc.transact_mut().apply_update(Update::decode_v1(update).unwrap()).unwrap();
                    YWebsocketMessage::Sync(SyncMessage::Update(update)).encode()
                }
                _ => continue,
            }
        };
        if socket.send(Message::binary(answer)).await.is_err() {
            return;
        }
    }
}

async fn type_text(client: &Client, text: &'static str) {
    let edit = move |txn: &mut syncline_client::yrs::TransactionMut<'_>| {
        let root = txn.get_or_insert_text("text");
        root.push(txn, text);
    };
    client.edit(edit).await.unwrap();
}

/// Fails the test if `work` takes longer than 10 s.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), work).await.expect("should be done within 10 s")
}

#[tokio::test]
async fn edits_made_offline_are_saved_after_going_online() {
    let server = Server::start().await;
    let client = Client::connect(server.config()).unwrap();
    in_time(client.wait_until_synced()).await.unwrap();
    in_time(client.go_offline()).await.unwrap();
    type_text(&client, "offline").await;
    assert_eq!(client.status().borrow().unsaved, 1);
    assert_eq!(server.text(), "");
    client.go_online().await.unwrap();
    in_time(client.wait_until_saved()).await.unwrap();
    assert_eq!(server.text(), "offline");
    assert_eq!(client.status().borrow().acks, AckKnowledge::Known);
    in_time(client.close()).await;
    assert_eq!(client.text("text").await, Err(ClientError::Closed));
}

#[tokio::test]
async fn client_reconnects_after_restart_and_stops_on_a_final_close() {
    let server = Server::start().await;
    let client = Client::connect(server.config()).unwrap();
    in_time(client.wait_until_synced()).await.unwrap();
    server.close.send_replace(Some(1012));
    let mut status = client.status();
    in_time(status.wait_for(|status| !status.synced)).await.unwrap();
    type_text(&client, "while away").await;
    in_time(client.wait_until_saved()).await.unwrap();
    assert_eq!(server.text(), "while away");

    server.close.send_replace(Some(4403));
    in_time(status.wait_for(|status| matches!(status.connection, Connection::Denied(_)))).await.unwrap();
    type_text(&client, "!").await;
    assert!(matches!(in_time(client.wait_until_saved()).await, Err(ClientError::Denied(_))));
    client.go_online().await.unwrap();
    in_time(status.wait_for(|status| status.synced && status.unsaved == 0)).await.unwrap();
    assert_eq!(server.text(), "while away!");
}

#[tokio::test]
async fn many_edits_keep_their_order_for_another_client() {
    let server = Server::start().await;
    let writer = Client::connect(server.config()).unwrap();
    in_time(writer.wait_until_synced()).await.unwrap();
    for _ in 0..500 {
        type_text(&writer, "ab").await;
    }
    in_time(writer.wait_until_saved()).await.unwrap();
    let reader = Client::connect(server.config()).unwrap();
    in_time(reader.wait_until_synced()).await.unwrap();
    assert_eq!(reader.text("text").await.unwrap(), "ab".repeat(500));
}

#[tokio::test]
async fn echo_without_durability_does_not_count_as_saved() {
    let server = Server::start().await;
    let mut config = server.config();
    config.echo = Echo::Nothing;
    let client = Client::connect(config).unwrap();
    in_time(client.wait_until_synced()).await.unwrap();
    type_text(&client, "x").await;
    let reader = Client::connect(server.config()).unwrap();
    in_time(async {
        while server.text() != "x" {
            tokio::task::yield_now().await;
        }
        reader.wait_until_synced().await.unwrap();
    })
    .await;
    let status = client.status().borrow().clone();
    assert_eq!((status.unsaved, status.acks), (1, AckKnowledge::Unknown));
}

#[tokio::test]
async fn client_waits_for_an_unreachable_server_and_can_close() {
    let mut config = ClientConfig::new("ws://127.0.0.1:1", "doc", Dialect::Hocuspocus);
    config.backoff.first = Duration::from_millis(1);
    let client = Client::connect(config).unwrap();
    let mut status = client.status();
    in_time(status.wait_for(|status| matches!(status.connection, Connection::Waiting(_)))).await.unwrap();
    type_text(&client, "kept").await;
    assert_eq!(client.text("text").await.unwrap(), "kept");
    in_time(client.close()).await;
}
