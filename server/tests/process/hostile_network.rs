//! A real server process under attack, beside a healthy pair of clients: the pair converges, and memory stays
//! bounded.
//!
//! Latencies are printed but not limited. Random tests print their seed; `SYNCLINE_SEED=<seed>` replays one,
//! `SYNCLINE_MUTATIONS=<n>` sends more frames.

mod mutate;
mod pair;
mod process;

use std::time::{Duration, Instant};

use mutate::Mutator;
use pair::Pair;
use process::Process;
use syncline_protocol::varint::write_var_uint;
use syncline_tests::raw_websocket::{self, BINARY, Frame, RawSocket, Received, message_of, upgrade_request};
use tokio::net::TcpSocket;

/// Allowed memory growth of an attacked server: what messages in transit need, not the lengths they claim.
const MAX_GROWTH_BYTES: u64 = 64 * 1024 * 1024;
/// Allowed growth while a hundred replies are queued, each of which would be megabytes.
const MAX_ANSWERS_GROWTH_BYTES: u64 = 48 * 1024 * 1024;
/// File descriptor limit of a server that runs short of them, and how many it may have open: an eighth is
/// reserved, not used for connections, and the server has a few files of its own.
const FILES: u64 = 80;
const MOST_FILES: usize = 76;
/// Allowed growth while much data goes through one document, with or without a reader that does not read.
const MAX_TRAFFIC_BYTES: u64 = 16 * 1024 * 1024;
const ATTACKERS: u64 = 8;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_frames_harm_only_their_sender() {
    let seed = from_environment("SYNCLINE_SEED", rand::random());
    let frames = from_environment("SYNCLINE_MUTATIONS", 10_000);
    println!("SYNCLINE_SEED={seed}");
    let server = Process::start(&[]).await;
    let pair = Pair::begin(server.address(), "/shared").await;
    let before = server.forget_peak();
    let attacks = (0..ATTACKERS).map(|attacker| {
        let address = server.address();
        tokio::spawn(async move {
            let mut mutator = Mutator::new(seed.wrapping_add(attacker));
            let (mut sent, mut refused) = (0, 0);
            while sent < frames / ATTACKERS {
                let mut socket = RawSocket::open(address, mutator.path()).await;
                for bytes in mutator.connection_frames() {
                    socket.write(&bytes).await;
                    sent += 1;
                }
                socket.finish().await;
                refused += u64::from(matches!(socket.receive_close().await, Received::Close { code: Some(_), .. }));
            }
            (sent, refused)
        })
    });
    let (mut sent, mut refused) = (0, 0);
    for attack in attacks.collect::<Vec<_>>() {
        let (more_sent, more_refused) = attack.await.unwrap();
        (sent, refused) = (sent + more_sent, refused + more_refused);
    }
    let report = pair.end().await;
    let growth = server.peak().saturating_sub(before);
    println!("{sent} frames, {refused} sessions refused; {report}; the server grew by {} KiB", growth / 1024);
    assert!(refused > 100, "hardly any session was refused: {refused}");
    assert!(growth < MAX_GROWTH_BYTES, "grew by {growth} bytes");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_unfinished_connections_are_bounded() {
    process::raise_file_limit();
    let server = Process::start(&[]).await;
    let pair = Pair::begin(server.address(), "/healthy").await;
    let before = server.forget_peak();
    let mut sockets = Vec::new();
    for number in 0..2_000 {
        let mut socket = RawSocket::connect(server.address()).await;
        match number % 3 {
            // Request headers that do not end.
            0 => socket.write(b"GET /doc HTTP/1.1\r\nHost: x\r\nX-Slow: ").await,
            // An upgraded connection that sends nothing.
            1 => socket.write(raw_websocket::upgrade_request("/doc").as_bytes()).await,
            // An upgraded connection whose first message does not end.
            _ => {
                socket.write(raw_websocket::upgrade_request("/doc").as_bytes()).await;
                socket.write(&[0x82, 0xff, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 2, 3, 4, 0]).await;
            }
        }
        sockets.push(socket);
    }
    for _ in 0..3 {
        for socket in &mut sockets {
            socket.write(b"x").await;
        }
    }
    let report = pair.end().await;
    let growth = server.peak().saturating_sub(before);
    println!("2,000 slow sockets; {report}; the server grew by {} KiB", growth / 1024);
    assert!(growth < MAX_GROWTH_BYTES, "grew by {growth} bytes");
    drop(sockets);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_short_of_descriptors_keeps_sessions_and_recovers() {
    process::raise_file_limit();
    let server = Process::start_with_files(FILES).await;
    let pair = Pair::begin(server.address(), "/healthy").await;
    // Silent connections are closed for new ones; some descriptors are reserved for the store.
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(RawSocket::connect(server.address()).await);
        assert!(server.open_files() <= MOST_FILES, "{} are open", server.open_files());
    }
    // Sessions are kept: a further connection gets an error response immediately.
    let (mut sessions, mut answer) = (Vec::new(), String::new());
    while answer.is_empty() {
        assert!(sessions.len() < FILES as usize, "every connection was accepted");
        let mut socket = RawSocket::connect(server.address()).await;
        socket.write(upgrade_request("/full").as_bytes()).await;
        let head = socket.read_head().await;
        if head.starts_with("HTTP/1.1 101") {
            socket.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
            while !matches!(socket.receive().await, Received::Frame { payload, .. } if payload.starts_with(&[0, 1])) {}
            sessions.push(socket);
        } else {
            answer = head;
        }
        assert!(server.open_files() <= MOST_FILES, "{} are open", server.open_files());
    }
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    println!("{} sessions were accepted, {} files are open", sessions.len(), server.open_files());
    drop((silent, sessions));
    // Refused until the server has noticed that they are gone.
    let late = async {
        loop {
            let mut late = RawSocket::connect(server.address()).await;
            late.write(upgrade_request("/healthy").as_bytes()).await;
            if late.read_head().await.starts_with("HTTP/1.1 101") {
                return late;
            }
        }
    };
    let mut late = tokio::time::timeout(Duration::from_secs(30), late).await.expect("there is room again");
    late.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
    while !matches!(late.receive().await, Received::Frame { payload, .. } if payload.starts_with(&[0, 1])) {}
    println!("{}", pair.end().await);
    server.stop().await;
}

/// Fifty megabytes go through a document with a reader that does not read, and as many without one.
/// `SYNCLINE_MEGABYTES=<n>` changes the amount.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_costs_little_memory_and_converges() {
    let megabytes = from_environment("SYNCLINE_MEGABYTES", 50);
    let (without, report) = traffic(megabytes, false).await;
    println!("{megabytes} MB without a slow reader: the server grew by {} KiB; {report}", without / 1024);
    let (growth, report) = traffic(megabytes, true).await;
    println!("{megabytes} MB past a slow reader: the server grew by {} KiB; {report}", growth / 1024);
    assert!(without < MAX_TRAFFIC_BYTES, "without a slow reader it grew by {without} bytes");
    assert!(growth < MAX_TRAFFIC_BYTES, "with one it grew by {growth} bytes");
}

/// Each client requests a different diff of a 16 MB document, and reads only the beginning of the reply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_replies_share_the_document() {
    unread_answers(40, 400_000, |number| vec![1, number % 40 + 1, number]).await;
}

/// The same with replies cut from many places: each client knows some letters of every other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_replies_of_many_short_parts_share_the_document() {
    const SECTIONS: u64 = 1_300;
    unread_answers(SECTIONS, 12_000, |number| {
        let mut state_vector = Vec::new();
        write_var_uint(&mut state_vector, SECTIONS);
        for client in 1..=SECTIONS {
            write_var_uint(&mut state_vector, client);
            write_var_uint(&mut state_vector, number.into());
        }
        state_vector
    })
    .await;
}

/// A hundred sockets request a document of this many sections, each with another state vector, and read
/// little of the reply.
async fn unread_answers(sections: u64, section_bytes: usize, state_vector: impl Fn(u8) -> Vec<u8>) {
    const READ_BYTES: usize = 100_000;
    process::raise_file_limit();
    let server = Process::start(&[]).await;
    let mut writer = RawSocket::open(server.address(), "/large").await;
    for client in 1..=sections {
        writer.send(Frame::new(BINARY, message_of(client, section_bytes))).await;
        while !matches!(writer.receive().await, Received::Frame { payload, .. } if payload.starts_with(&[0, 2])) {}
    }
    let pair = Pair::begin(server.address(), "/healthy").await;
    let before = server.forget_peak();
    let mut sockets = Vec::new();
    for number in 1..=100 {
        let mut socket = small_buffer_socket(&server, "/large").await;
        // y-websocket's step 1.
        let asked = state_vector(number);
        let mut step1 = vec![0, 0];
        write_var_uint(&mut step1, asked.len() as u64);
        socket.send(Frame::new(BINARY, [step1, asked].concat())).await;
        socket.begin_to_read(READ_BYTES).await;
        sockets.push(socket);
    }
    let growth = server.peak().saturating_sub(before);
    println!(
        "100 replies of {} bytes; {}; the server grew by {} KiB",
        sections as usize * section_bytes,
        pair.end().await,
        growth / 1024
    );
    assert!(growth < MAX_ANSWERS_GROWTH_BYTES, "grew by {growth} bytes");
    drop(sockets);
    server.stop().await;
}

/// A queued reply keeps the document state of its time in memory. Here each reply is of another state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_old_states_are_cut_when_memory_is_scarce() {
    const READERS: usize = 12;
    const PATIENCE: Duration = Duration::from_secs(60);
    // Room for four states of the document.
    let server = Process::start(&["--max-outbox-bytes-in-all", "33554432"]).await;
    let mut writer = RawSocket::open(server.address(), "/large").await;
    let pair = Pair::begin(server.address(), "/healthy").await;
    writer.send(Frame::new(BINARY, message_of(1, 8_000_000))).await;
    let files = server.open_files();
    let mut readers = Vec::new();
    for client in 2..2 + READERS as u64 {
        // Large enough a change that the next reply is of a new state.
        writer.send(Frame::new(BINARY, message_of(client, 400_000))).await;
        while !matches!(writer.receive().await, Received::Frame { payload, .. } if payload.len() == 400_000) {}
        let mut reader = small_buffer_socket(&server, "/large").await;
        reader.send(Frame::new(BINARY, [0, 0, 1, 0])).await;
        reader.begin_to_read(100_000).await;
        readers.push(reader);
    }
    let began = Instant::now();
    while server.open_files() > files + 4 {
        assert!(began.elapsed() < PATIENCE, "{} readers of {READERS} are left", server.open_files() - files);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{} readers are left; {}", server.open_files().saturating_sub(files), pair.end().await);
    drop(readers);
    server.stop().await;
}

/// Sends this much data through a document in which a healthy pair works; returns the server's growth and the
/// pair's report.
async fn traffic(megabytes: u64, with_slow_reader: bool) -> (u64, pair::Report) {
    let server = Process::start(&[]).await;
    let pair = Pair::begin(server.address(), "/busy").await;
    let mut writer = pair::Writer::begin(server.address(), "/busy").await;
    let slow = if with_slow_reader { Some(slow_reader(&server).await) } else { None };
    let before = server.forget_peak();
    for _ in 0..megabytes * 20 {
        writer.replace_most(50_000).await;
    }
    let growth = server.peak().saturating_sub(before);
    let report = pair.end().await;
    if let Some(mut slow) = slow {
        let text = pair::Writer::text_now(server.address()).await;
        slow.until(|mirror| mirror == text).await;
    }
    server.stop().await;
    (growth, report)
}

/// A client that requests the whole document and reads nothing after the reply.
async fn slow_reader(server: &Process) -> pair::Mirror {
    pair::Mirror::join_over(small_buffer_socket(server, "/busy").await).await
}

/// A socket with a small receive buffer.
async fn small_buffer_socket(server: &Process, path: &str) -> RawSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    RawSocket::over(socket.connect(server.address()).await.unwrap(), path).await
}
