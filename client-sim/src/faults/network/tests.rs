//! Tests of each network fault, observed at both ends. The server echoes.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

/// Generous: everything here takes milliseconds.
const SOON: Duration = Duration::from_secs(10);
/// How long a test waits for something that must not happen.
const NOT_NOW: Duration = Duration::from_millis(60);

/// Starts an echo server. When a connection ends, the channel yields everything that the server read from it.
async fn echo(prefix: &'static str) -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (received, ends) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let received = received.clone();
            tokio::spawn(async move {
                let (mut all, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(len @ 1..) = socket.read(&mut piece).await {
                    all.extend_from_slice(&piece[..len]);
                    let answer = [prefix.as_bytes(), &piece[..len]].concat();
                    if socket.write_all(&answer).await.is_err() {
                        break;
                    }
                }
                received.send(all).await.unwrap();
            });
        }
    });
    (address, ends)
}

async fn network() -> (Network, DeviceLink, mpsc::Receiver<Vec<u8>>) {
    let (address, ends) = echo("").await;
    let network = Network::new(1);
    network.set_server(Some(address));
    let link = network.link(0).await.unwrap();
    (network, link, ends)
}

async fn dial(link: &DeviceLink) -> TcpStream {
    timeout(SOON, TcpStream::connect(link.address)).await.unwrap().unwrap()
}

async fn ask(socket: &mut TcpStream, question: &[u8]) -> Vec<u8> {
    socket.write_all(question).await.unwrap();
    let mut answer = vec![0; question.len()];
    timeout(SOON, socket.read_exact(&mut answer)).await.unwrap().unwrap();
    answer
}

/// Reads to the end of the connection; returns the bytes and the error that ended it, if any.
async fn rest(socket: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match timeout(SOON, socket.read(&mut piece)).await.unwrap() {
            Ok(0) => return (all, None),
            Ok(len) => all.extend_from_slice(&piece[..len]),
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

#[tokio::test]
async fn network_without_faults_forwards_and_counts_both_directions() {
    let (network, link, mut ends) = network().await;
    let mut socket = dial(&link).await;
    assert_eq!(ask(&mut socket, b"hello").await, b"hello");
    drop(socket);
    assert_eq!(ends.recv().await.unwrap(), b"hello");
    let expected = NetworkCounts { connections: 1, bytes_up: 5, bytes_down: 5, ..NetworkCounts::default() };
    assert_eq!(network.traffic(), expected);
}

#[tokio::test]
async fn cut_resets_open_connections_but_no_later_one() {
    let (network, link, mut ends) = network().await;
    let mut socket = dial(&link).await;
    ask(&mut socket, b"x").await;
    link.cut();
    assert_eq!(rest(&mut socket).await, (vec![], Some(ErrorKind::ConnectionReset)));
    assert_eq!(ends.recv().await.unwrap(), b"x");
    let mut socket = dial(&link).await;
    assert_eq!(ask(&mut socket, b"again").await, b"again");
    assert_eq!(network.traffic().cuts, 1);
}

#[tokio::test]
async fn connection_is_cut_after_exact_number_of_bytes() {
    let (_network, link, mut ends) = network().await;
    link.set(Faults { cut_after_bytes: Some(7..=7), ..Faults::default() });
    let mut socket = dial(&link).await;
    socket.write_all(b"0123456789").await.unwrap();
    assert_eq!(rest(&mut socket).await.1, Some(ErrorKind::ConnectionReset));
    // Seven at most: the reset may overtake bytes in transit.
    assert!(b"0123456".starts_with(&ends.recv().await.unwrap()));
}

#[tokio::test]
async fn partition_holds_back_data_and_closes_until_it_ends() {
    let (_network, link, mut ends) = network().await;
    let mut socket = dial(&link).await;
    ask(&mut socket, b"a").await;
    link.partition(true);
    socket.write_all(b"b").await.unwrap();
    let mut byte = [0; 1];
    assert!(timeout(NOT_NOW, socket.read(&mut byte)).await.is_err(), "a byte was forwarded during the partition");
    link.partition(false);
    timeout(SOON, socket.read_exact(&mut byte)).await.unwrap().unwrap();
    assert_eq!(&byte, b"b");
    link.partition(true);
    drop(socket);
    assert!(timeout(NOT_NOW, ends.recv()).await.is_err(), "the close was forwarded during the partition");
    link.partition(false);
    assert_eq!(timeout(SOON, ends.recv()).await.unwrap().unwrap(), b"ab");
}

#[tokio::test]
async fn half_open_connection_forwards_in_one_direction_only() {
    let (_network, link, mut ends) = network().await;
    link.set(Faults { stall_down: true, ..Faults::default() });
    let mut socket = dial(&link).await;
    socket.write_all(b"bytes").await.unwrap();
    assert!(timeout(NOT_NOW, socket.read(&mut [0; 1])).await.is_err(), "an answer was forwarded");
    drop(socket);
    assert_eq!(timeout(SOON, ends.recv()).await.unwrap().unwrap(), b"bytes");
}

#[tokio::test]
async fn connection_stops_forwarding_after_number_of_bytes() {
    let (_network, link, _ends) = network().await;
    link.set(Faults { silent_after_bytes: Some(8..=8), ..Faults::default() });
    let mut socket = dial(&link).await;
    assert_eq!(ask(&mut socket, b"abcd").await, b"abcd");
    socket.write_all(b"more").await.unwrap();
    assert!(timeout(NOT_NOW, socket.read(&mut [0; 1])).await.is_err(), "an answer was forwarded");
}

#[tokio::test]
async fn connection_is_reset_when_refused_or_without_server() {
    let (network, link, _ends) = network().await;
    link.set(Faults { refuse: true, ..Faults::default() });
    let mut socket = dial(&link).await;
    assert_eq!(rest(&mut socket).await.1, Some(ErrorKind::ConnectionReset));
    link.set(Faults::default());
    network.set_server(None);
    let mut socket = dial(&link).await;
    assert_eq!(rest(&mut socket).await.1, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn captive_portal_accepts_but_never_answers_until_switched_off() {
    let (network, link, mut ends) = network().await;
    link.set(Faults { captive: true, ..Faults::default() });
    let mut socket = dial(&link).await;
    socket.write_all(b"anybody?").await.unwrap();
    assert!(timeout(NOT_NOW, socket.read(&mut [0; 1])).await.is_err(), "the captive portal answered");
    link.set(Faults::default());
    assert_eq!(rest(&mut socket).await.1, Some(ErrorKind::ConnectionReset));
    assert!(ends.try_recv().is_err(), "the server received a captive connection");
    assert_eq!(network.traffic().bytes_up, 0);
}

#[tokio::test]
async fn lost_answer_is_dropped_after_server_received_the_bytes() {
    let (network, link, mut ends) = network().await;
    link.set(Faults { lost_answer_percent: 100, ..Faults::default() });
    let mut socket = dial(&link).await;
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    // One question at a time, until one gets no answer.
    for question in 0..10 {
        if socket.write_all(&[question]).await.is_err() {
            break;
        }
        asked.push(question);
        let mut answer = [0; 1];
        match timeout(SOON, socket.read_exact(&mut answer)).await.unwrap() {
            Ok(_) => answered.push(answer[0]),
            Err(_) => break,
        }
    }
    let received = timeout(SOON, ends.recv()).await.unwrap().unwrap();
    assert_eq!(received, asked, "the server did not receive every question");
    assert_eq!(answered, asked[..asked.len() - 1], "not exactly the last answer was lost");
    assert_eq!(network.traffic().lost_answers, 1);
}

#[tokio::test]
async fn delay_and_bandwidth_limit_delay_bytes() {
    let (_network, link, _ends) = network().await;
    link.set(Faults { delay_ms: Some(30..=30), bytes_per_s: Some(1000), ..Faults::default() });
    let mut socket = dial(&link).await;
    let begin = std::time::Instant::now();
    ask(&mut socket, &[7; 20]).await;
    // 30 ms in each direction, and 20 ms for 20 bytes.
    assert!(begin.elapsed() >= Duration::from_millis(100), "after {:?}", begin.elapsed());
}

#[tokio::test]
async fn moved_server_is_reached_at_the_same_address() {
    let (network, link, _ends) = network().await;
    let mut socket = dial(&link).await;
    ask(&mut socket, b"one").await;
    let (address, _other_ends) = echo(">").await;
    network.set_server(Some(address));
    assert_eq!(ask(&mut socket, b"still").await, b"still");
    let mut socket = dial(&link).await;
    socket.write_all(b"two").await.unwrap();
    let mut answer = [0; 4];
    timeout(SOON, socket.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b">two");
}
