//! A client that keeps opening and leaving documents costs the server no memory: documents without records
//! leave memory with their last session.

#![cfg(target_os = "linux")]
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use syncline_protocol::hocuspocus::HocuspocusMessage;
use syncline_protocol::varint::{write_var_bytes, write_var_uint};

/// Documents opened and left before memory is measured: buffers, threads and heaps have grown by then.
const WARM_UP: usize = 2_000;
/// Documents opened and left in total. At first each kept 3.4 KB for 30 s: 135 MB.
const DOCUMENTS: usize = 40_000;
/// Documents opened at the same time.
const TOGETHER: usize = 50;
/// Allowed rise of the peak after the warm-up.
const MAX_GROWTH_KB: u64 = 16 * 1024;

/// Documents held open at the same time, and how many of them per session.
const HELD: usize = 20_000;
const HELD_BY_EACH: usize = 100;
/// Longest wait for an expected event. Reached only if the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The server's resident memory now (`VmRSS:`), or its peak (`VmHWM:`).
fn memory_kb(server: &Running, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A binary WebSocket frame, masked with zeros.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x82, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    assert!(payload.len() < 126, "the length must fit one byte");
    frame.extend_from_slice(payload);
    frame
}

fn token(name: &str) -> Vec<u8> {
    let mut message = Vec::new();
    write_var_bytes(&mut message, name.as_bytes());
    write_var_uint(&mut message, 2);
    write_var_uint(&mut message, 0);
    write_var_bytes(&mut message, b"token");
    message
}

/// Opens documents and waits until all are authenticated. Returns their names.
fn open(socket: &mut BufReader<TcpStream>, documents: Range<usize>) -> Vec<String> {
    let names: Vec<_> = documents.map(|number| format!("document {number}")).collect();
    let opening: Vec<u8> = names.iter().flat_map(|name| frame(&token(name))).collect();
    socket.get_mut().write_all(&opening).unwrap();
    let mut authenticated = 0;
    while authenticated < names.len() {
        let mut head = [0; 2];
        socket.read_exact(&mut head).unwrap();
        assert!(head[1] < 126, "expected a short message");
        let mut message = vec![0; head[1].into()];
        socket.read_exact(&mut message).unwrap();
        // Frames that are not messages: pings, which are empty.
        let name_len = message.first().filter(|_| head[0] == 0x82);
        let kind = name_len.and_then(|len| message.get(1 + usize::from(*len)));
        authenticated += usize::from(kind == Some(&2));
    }
    names
}

fn open_and_leave(socket: &mut BufReader<TcpStream>, documents: Range<usize>) {
    let names = open(socket, documents);
    let leaving = names.iter().flat_map(|name| frame(&HocuspocusMessage::Close("").encode(name)));
    socket.get_mut().write_all(&leaving.collect::<Vec<u8>>()).unwrap();
}

/// Starts a server without rate limits, since only memory is tested. Returns its address, too.
fn start(data: &Path) -> (Running, String) {
    let mut server = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .args(["--opens-per-second=0", "--opens-per-second-in-all=0", "--messages-per-second=0"])
        .env_remove("SYNCLINE_ALLOCATOR_SETTLED")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let greeting = BufReader::new(server.stdout.take().unwrap()).lines().nth(1).unwrap().unwrap();
    let (_, address) = greeting.split_once("ws://").unwrap();
    (Running(server), address.to_owned())
}

fn connect(address: &str) -> BufReader<TcpStream> {
    let mut socket = BufReader::new(TcpStream::connect(address).unwrap());
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n");
    socket.get_mut().write_all(request.as_bytes()).unwrap();
    for line in socket.by_ref().lines() {
        if line.unwrap().is_empty() {
            break;
        }
    }
    socket
}

#[test]
fn opening_and_leaving_documents_takes_no_memory() {
    let data = tempfile::tempdir().unwrap();
    let (server, address) = start(data.path());
    let mut socket = connect(&address);
    let mut warm_kb = 0;
    for first in (0..DOCUMENTS).step_by(TOGETHER) {
        if first == WARM_UP {
            warm_kb = memory_kb(&server, "VmHWM:");
        }
        open_and_leave(&mut socket, first..first + TOGETHER);
    }
    let grown_kb = memory_kb(&server, "VmHWM:") - warm_kb;
    println!("{warm_kb} KB after {WARM_UP} documents, {grown_kb} KB more after {DOCUMENTS}");
    assert!(grown_kb <= MAX_GROWTH_KB, "{warm_kb} KB, and {grown_kb} KB more");
}

/// glibc's allocator alone would keep all of it: it returns only the end of a heap.
#[cfg(target_env = "gnu")]
#[test]
fn memory_of_many_open_documents_is_returned_to_the_system() {
    let data = tempfile::tempdir().unwrap();
    let (server, address) = start(data.path());
    let before_kb = memory_kb(&server, "VmRSS:");
    let mut sockets = Vec::new();
    for first in (0..HELD).step_by(HELD_BY_EACH) {
        let mut socket = connect(&address);
        open(&mut socket, first..first + HELD_BY_EACH);
        sockets.push(socket);
    }
    let held_kb = memory_kb(&server, "VmRSS:") - before_kb;
    drop(sockets);
    let began = Instant::now();
    let mut left_kb = held_kb;
    while left_kb > held_kb / 2 && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
        left_kb = memory_kb(&server, "VmRSS:").saturating_sub(before_kb);
    }
    println!("{held_kb} KB held, {left_kb} KB left");
    assert!(left_kb <= held_kb / 2, "{held_kb} KB held, {left_kb} KB left");
}
