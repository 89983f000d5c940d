//! `syncline-sim floor`: a bare relay that shows what the machine's sockets allow, as a baseline for servers.
//!
//! No CRDT, no disk, no bounded queues: one thread on epoll reads a client's frames, re-encodes them as server frames and
//! writes them to every other client of the same path, with one write per receiver and batch of bytes read. It understands
//! just enough y-websocket for a client to join: it answers sync step 1 with an empty update (or, with `--answer`, a document
//! of a given size) and drops sync step 2. Not for production: a receiver that does not read makes its memory grow.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};
use syncline_protocol::sync::SyncMessage;
use syncline_protocol::ywebsocket::YWebsocketMessage;

use crate::load::hub::{ACCEPT, KEY, RELAY_NAME};
use crate::load::marker;
use crate::peer::frame::{self, Header};

const READ_BYTES: usize = 64 * 1024;
const EVENTS: usize = 1024;
const BACKLOG: i32 = 4096;
const LISTENER: Token = Token(usize::MAX);
/// Largest HTTP request.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Largest number of unsent bytes of one client; with more, a measurement would mean nothing.
const MAX_UNSENT_BYTES: usize = 1024 * 1024 * 1024;

/// The first two bytes of sync step 1 and of sync step 2 (y-websocket).
const SYNC_STEP_1: [u8; 2] = [0, 0];
const SYNC_STEP_2: [u8; 2] = [0, 1];

/// Arguments of `floor`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FloorArgs {
    /// Address and port to listen on; port 0 takes any free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Answer each joining client with a document of this many bytes.
    #[arg(long, value_name = "BYTES")]
    answer: Option<usize>,
}

struct Client {
    stream: TcpStream,
    /// Number of its path; `None` before the upgrade.
    path: Option<usize>,
    /// An incomplete frame or request.
    received: Vec<u8>,
    unsent: VecDeque<Bytes>,
    unsent_bytes: usize,
}

struct Relay {
    poll: Poll,
    clients: Vec<Option<Client>>,
    /// Unused numbers in `clients`.
    free: Vec<usize>,
    /// Number of each path.
    paths: HashMap<String, usize>,
    /// The clients of each path, by its number.
    members: Vec<Vec<usize>>,
    /// The frame that answers sync step 1.
    answer: Bytes,
}

/// Listens, prints the address, and relays until the process is stopped.
pub(crate) fn run(args: &FloorArgs) -> Result<()> {
    let mut listener = listen(args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    writeln!(std::io::stdout(), "relaying on ws://{}", listener.local_addr()?)?;
    std::io::stdout().flush()?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let (clients, free, paths, members) = (Vec::new(), Vec::new(), HashMap::new(), Vec::new());
    let mut relay = Relay { poll, clients, free, paths, members, answer: answer_frame(args.answer) };
    let (mut events, mut scratch) = (Events::with_capacity(EVENTS), vec![0; READ_BYTES]);
    loop {
        match relay.poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if event.token() == LISTENER {
                relay.accept(&listener)?;
                continue;
            }
            let number = event.token().0;
            if event.is_writable() {
                relay.drain(number);
            }
            if event.is_readable() && relay.read(number, &mut scratch).is_err() {
                relay.leave(number);
            }
        }
    }
}

/// Listens with a backlog for thousands of simultaneous connects: mio has 128, and a lost SYN costs its client a second.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// The frame that answers sync step 1: an empty update, or one text of `bytes` bytes.
fn answer_frame(bytes: Option<usize>) -> Bytes {
    let update = bytes.map_or(vec![0, 0], |bytes| {
        let mut update = Vec::new();
        marker::write_update(&mut update, 1, 0, 0, bytes.max(marker::MARKER_CHARS));
        update
    });
    let sync = SyncMessage::Step2(&update);
    let message = YWebsocketMessage::Sync(sync).encode();
    let mut out = Vec::new();
    frame::write_plain(&mut out, frame::BINARY, &message);
    out.into()
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener) -> Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot accept"),
            };
            stream.set_nodelay(true).ok();
            let number = self.free.pop().unwrap_or(self.clients.len());
            self.poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
            let (received, unsent) = (Vec::new(), VecDeque::new());
            let client = Some(Client { stream, path: None, received, unsent, unsent_bytes: 0 });
            match self.clients.get_mut(number) {
                Some(slot) => *slot = client,
                None => self.clients.push(client),
            }
        }
    }

    /// Reads everything that has arrived and relays it. An error disconnects the client.
    fn read(&mut self, number: usize, scratch: &mut [u8]) -> Result<()> {
        loop {
            let Some(client) = self.clients.get_mut(number).and_then(Option::as_mut) else { return Ok(()) };
            let len = match client.stream.read(scratch) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            ensure!(len > 0, "the client closed the connection");
            let batch = client.parse(&mut scratch[..len])?;
            if let Some(path) = batch.path {
                let Self { paths, members, .. } = self;
                let path = *paths.entry(path).or_insert_with(|| {
                    members.push(Vec::new());
                    members.len() - 1
                });
                members[path].push(number);
                client.path = Some(path);
                client.send(upgrade())?;
            }
            for _ in 0..batch.step_1_count {
                client.send(self.answer.clone())?;
            }
            let path = client.path;
            if let (Some(path), false) = (path, batch.frames.is_empty()) {
                self.relay(number, path, &batch.frames);
            }
            if len < scratch.len() {
                return Ok(());
            }
        }
    }

    /// Writes the frames to every other client of the path.
    fn relay(&mut self, from: usize, path: usize, frames: &[u8]) {
        // A copy shared by the clients whose socket is full; the others need none.
        let mut shared = None;
        let mut gone = Vec::new();
        for &to in self.members[path].iter().filter(|&&to| to != from) {
            let Some(client) = &mut self.clients[to] else { continue };
            let mut sent = 0;
            if client.unsent.is_empty() {
                match client.stream.write(frames) {
                    Ok(len) => sent = len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => {
                        gone.push(to);
                        continue;
                    }
                }
            }
            if sent < frames.len() {
                let shared = shared.get_or_insert_with(|| Bytes::copy_from_slice(frames));
                if client.queue(shared.slice(sent..)).is_err() {
                    gone.push(to);
                }
            }
        }
        for number in gone {
            self.leave(number);
        }
    }

    fn drain(&mut self, number: usize) {
        let Some(client) = self.clients.get_mut(number).and_then(Option::as_mut) else { return };
        if client.drain().is_err() {
            self.leave(number);
        }
    }

    fn leave(&mut self, number: usize) {
        let Some(mut client) = self.clients.get_mut(number).and_then(Option::take) else { return };
        self.poll.registry().deregister(&mut client.stream).ok();
        if let Some(path) = client.path {
            self.members[path].retain(|&member| member != number);
        }
        self.free.push(number);
    }
}

/// The content of one read.
#[derive(Default)]
struct Batch {
    /// Path of an upgrade request.
    path: Option<String>,
    /// Number of sync step 1 messages to answer.
    step_1_count: usize,
    /// Frames to relay, encoded as a server does.
    frames: Vec<u8>,
}

impl Client {
    fn parse(&mut self, bytes: &mut [u8]) -> Result<Batch> {
        let mut batch = Batch::default();
        if self.path.is_some() && self.received.is_empty() {
            let done = parse_frames(bytes, &mut batch);
            self.received.extend_from_slice(&bytes[done..]);
            return Ok(batch);
        }
        self.received.extend_from_slice(bytes);
        if self.path.is_none() {
            let Some(end) = self.received.windows(4).position(|end| end == b"\r\n\r\n") else {
                ensure!(self.received.len() < MAX_REQUEST_BYTES, "the HTTP request is too long");
                return Ok(batch);
            };
            let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
            ensure!(head.contains(KEY), "only `syncline-sim load` is served");
            batch.path = head.split_ascii_whitespace().nth(1).map(str::to_owned);
            self.received.drain(..end + 4);
        }
        let mut received = std::mem::take(&mut self.received);
        let done = parse_frames(&mut received, &mut batch);
        if done < received.len() {
            received.drain(..done);
            self.received = received;
        }
        Ok(batch)
    }

    fn send(&mut self, bytes: Bytes) -> Result<()> {
        self.queue(bytes)?;
        self.drain()
    }

    fn queue(&mut self, bytes: Bytes) -> Result<()> {
        self.unsent_bytes += bytes.len();
        ensure!(self.unsent_bytes <= MAX_UNSENT_BYTES, "the client does not read");
        self.unsent.push_back(bytes);
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        while let Some(first) = self.unsent.front_mut() {
            match self.stream.write(first) {
                Ok(len) => {
                    first.advance(len);
                    self.unsent_bytes -= len;
                    if first.is_empty() {
                        self.unsent.pop_front();
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent = VecDeque::new();
        Ok(())
    }
}

/// Re-encodes a client's frames as a server's; returns the number of bytes consumed.
fn parse_frames(bytes: &mut [u8], batch: &mut Batch) -> usize {
    let mut at = 0;
    while let Some(header) = Header::read(&bytes[at..]) {
        let begin = at + header.bytes;
        let Some(payload) = usize::try_from(header.payload_bytes).ok().and_then(|len| {
            let end = begin.checked_add(len)?;
            bytes.get_mut(begin..end)
        }) else {
            break;
        };
        if let Some(key) = header.mask {
            frame::mask(payload, key);
        }
        at = begin + payload.len();
        match (header.opcode, payload.get(..2)) {
            (frame::BINARY, Some(front)) if front == SYNC_STEP_1 => batch.step_1_count += 1,
            (frame::BINARY, Some(front)) if front == SYNC_STEP_2 => {}
            (frame::BINARY, _) => frame::write_plain(&mut batch.frames, frame::BINARY, payload),
            _ => {}
        }
    }
    at
}

fn upgrade() -> Bytes {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nServer: {RELAY_NAME}\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    )
    .into()
}
