//! Many client sockets on one thread: connecting, the HTTP upgrade, reading and writing, without waiting for any.
//!
//! mio and nothing above it: a runtime's tasks and wake-ups would cost the generator more than the sockets do. What is
//! read goes through one shared buffer; a connection keeps bytes only while a message is cut.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use super::frame::{self, Frames, Piece};

/// Taken from a socket at once.
const READ_BYTES: usize = 512 * 1024;
/// Looked at in one turn.
const EVENTS: usize = 1024;
/// Connections from one address.
const PORTS: usize = 20_000;
/// Most bytes of an answer to the upgrade.
const MAX_RESPONSE_BYTES: usize = 16 * 1024;
/// Most bytes that wait for one socket to take them.
const MAX_WAITING_BYTES: usize = 256 * 1024 * 1024;

// The example of RFC 6455, section 1.3: one key is as good as another, and its answer needs no hashing.
/// The key of every upgrade.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// Its answer.
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// How the bare relay of this program names itself.
pub const RELAY_NAME: &str = "syncline-floor";

/// Where to connect.
#[derive(Debug, Clone)]
pub struct Address {
    /// `host:port`, for the request.
    pub host: String,
    /// What it resolved to.
    pub socket: SocketAddr,
    /// The path before document names.
    pub base: String,
}

impl Address {
    /// Reads `ws://host:port/path` and resolves it.
    pub fn of(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("ws://").with_context(|| {
            format!(
                "{url:?}: only ws:// addresses can be measured (TLS would measure the generator's own cryptography)"
            )
        })?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut found = host.to_socket_addrs().with_context(|| format!("{host} cannot be resolved"))?;
        let socket = found.next().with_context(|| format!("{host} has no address"))?;
        let base = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { host, socket, base })
    }
}

/// Begins to connect. From one address to another there are no more connections than ports; of addresses there are
/// many, on the loopback.
fn open(to: SocketAddr, number: usize) -> io::Result<TcpStream> {
    let from = match to.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => number / PORTS,
        _ => 0,
    };
    if from == 0 {
        return TcpStream::connect(to);
    }
    let from = u32::from(Ipv4Addr::LOCALHOST) + u32::try_from(from).unwrap_or(u32::MAX >> 8);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::from(from), 0)).into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// What happens to a connection.
#[derive(Debug)]
pub enum Event<'a> {
    /// The upgrade is done.
    Open {
        /// The server is the bare relay of this program.
        relay: bool,
    },
    /// A message, or a piece of a large one.
    Piece(Piece<'a>),
    /// It ended, and not because we wanted it to.
    Lost(String),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Upgrading,
    Open,
    Closed,
}

struct Connection {
    stream: TcpStream,
    state: State,
    frames: Frames,
    /// Received, a message that is cut.
    received: Vec<u8>,
    /// Not yet taken by the socket.
    waiting: VecDeque<u8>,
}

/// The sockets. A connection is known by its number, in the order of [`Hub::connect`].
pub struct Hub {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    pongs: Vec<(usize, Vec<u8>)>,
    /// Bytes written so far.
    pub bytes_sent: u64,
    /// Bytes read so far.
    pub bytes_received: u64,
}

impl Hub {
    /// No connection yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            poll: Poll::new().context("cannot poll sockets")?,
            events: Events::with_capacity(EVENTS),
            connections: Vec::new(),
            scratch: vec![0; READ_BYTES],
            pongs: Vec::new(),
            bytes_sent: 0,
            bytes_received: 0,
        })
    }

    /// Begins to connect; [`Event::Open`] tells when it is done.
    pub fn connect(&mut self, address: &Address, path: &str) -> Result<usize> {
        let number = self.connections.len();
        let mut stream = open(address.socket, number).map_err(|error| explain_connect(&error, address))?;
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            address.host
        );
        let (state, waiting) = (State::Connecting, request.into_bytes().into());
        self.connections.push(Connection { stream, state, frames: Frames::default(), received: Vec::new(), waiting });
        Ok(number)
    }

    /// Waits for something to happen, at most `timeout`, and tells it all: connection, event, when it was seen.
    pub fn turn(&mut self, timeout: Duration, mut tell: impl FnMut(usize, Event<'_>, Instant)) -> Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other.context("cannot wait for sockets")?,
        }
        for event in &self.events {
            let number = event.token().0;
            let connection = &mut self.connections[number];
            if connection.state == State::Closed {
                continue;
            }
            if event.is_writable() && !connection.waiting.is_empty() {
                if connection.state == State::Connecting {
                    connection.state = State::Upgrading;
                    // It costs a system call; only here, once.
                    connection.stream.set_nodelay(true).ok();
                }
                match drain(connection) {
                    Ok(sent) => self.bytes_sent += sent,
                    Err(error) => connection.lost(&error, &mut |event| tell(number, event, Instant::now())),
                }
            }
            if event.is_readable() {
                self.bytes_received += connection.read(&mut self.scratch, &mut |event, now| {
                    if let Event::Piece(Piece { opcode: frame::PING, bytes, .. }) = event {
                        self.pongs.push((number, bytes.to_vec()));
                        return;
                    }
                    tell(number, event, now);
                });
            }
        }
        for (number, payload) in std::mem::take(&mut self.pongs) {
            let mut bytes = Vec::new();
            frame::write(&mut bytes, frame::PONG, &payload);
            self.send(number, &bytes)?;
        }
        Ok(())
    }

    /// Sends bytes that are whole frames; what the socket does not take waits for its turn.
    pub fn send(&mut self, number: usize, bytes: &[u8]) -> Result<()> {
        let connection = &mut self.connections[number];
        if connection.state == State::Closed {
            return Ok(());
        }
        let mut sent = 0;
        if connection.waiting.is_empty() && connection.state == State::Open {
            loop {
                match connection.stream.write(&bytes[sent..]) {
                    Ok(more) => {
                        sent += more;
                        self.bytes_sent += more as u64;
                        if sent == bytes.len() {
                            return Ok(());
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // Reading will tell it as the loss it is.
                    Err(_) => return Ok(()),
                }
            }
        }
        ensure!(
            connection.waiting.len() + bytes.len() - sent <= MAX_WAITING_BYTES,
            "the server takes nothing more: {MAX_WAITING_BYTES} bytes wait for one connection"
        );
        connection.waiting.extend(&bytes[sent..]);
        Ok(())
    }

    /// Cuts a connection without a word, as a lost network does.
    pub fn cut(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        if connection.state != State::Closed {
            connection.state = State::Closed;
            // Both directions: the peer sees the end at once.
            connection.stream.shutdown(std::net::Shutdown::Both).ok();
            self.poll.registry().deregister(&mut connection.stream).ok();
        }
    }

    /// Cuts and forgets all. Numbers begin anew.
    pub fn clear(&mut self) {
        for number in 0..self.connections.len() {
            self.cut(number);
        }
        self.connections.clear();
    }
}

fn explain_connect(error: &io::Error, address: &Address) -> anyhow::Error {
    anyhow::anyhow!("cannot connect to {}: {error}", address.host)
}

/// Writes what waits.
fn drain(connection: &mut Connection) -> io::Result<u64> {
    let mut all = 0;
    while !connection.waiting.is_empty() {
        match connection.stream.write(connection.waiting.as_slices().0) {
            Ok(sent) => {
                connection.waiting.drain(..sent);
                all += sent as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if connection.waiting.is_empty() {
        // Thousands of connections shall not each keep the room of their largest message.
        connection.waiting = VecDeque::new();
    }
    Ok(all)
}

impl Connection {
    fn lost(&mut self, why: &io::Error, tell: &mut impl FnMut(Event<'_>)) {
        self.state = State::Closed;
        tell(Event::Lost(why.to_string()));
    }

    /// Reads all there is; gives the number of bytes.
    fn read(&mut self, scratch: &mut [u8], tell: &mut impl FnMut(Event<'_>, Instant)) -> u64 {
        let mut all = 0;
        while self.state != State::Closed {
            match self.stream.read(scratch) {
                Ok(0) => {
                    let end = io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection");
                    self.lost(&end, &mut |event| tell(event, Instant::now()));
                }
                Ok(len) => {
                    all += len as u64;
                    let now = Instant::now();
                    if let Err(error) = self.take(&scratch[..len], &mut |event| tell(event, now)) {
                        self.lost(&io::Error::other(format!("{error:#}")), &mut |event| tell(event, now));
                    }
                    // The socket was emptied: the system tells of the next byte (epoll(7), edge-triggered streams).
                    if len < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.lost(&error, &mut |event| tell(event, Instant::now())),
            }
        }
        all
    }

    fn take(&mut self, bytes: &[u8], tell: &mut impl FnMut(Event<'_>)) -> Result<()> {
        if self.state == State::Open && self.received.is_empty() {
            let done = self.frames(bytes, tell)?;
            self.received.extend_from_slice(&bytes[done..]);
            return Ok(());
        }
        self.received.extend_from_slice(bytes);
        if self.state != State::Open {
            let Some(relay) = self.upgraded()? else { return Ok(()) };
            self.state = State::Open;
            tell(Event::Open { relay });
        }
        let received = std::mem::take(&mut self.received);
        let done = self.frames(&received, tell)?;
        if done < received.len() {
            self.received = received;
            self.received.drain(..done);
        }
        Ok(())
    }

    fn frames(&mut self, bytes: &[u8], tell: &mut impl FnMut(Event<'_>)) -> Result<usize> {
        let mut closed = None;
        let done = self.frames.take(bytes, |piece| match piece.opcode {
            frame::CLOSE => closed = Some(close_reason(piece.bytes)),
            frame::PONG => {}
            _ => tell(Event::Piece(piece)),
        });
        match closed {
            Some(reason) => bail!("the server closed the connection: {reason}"),
            None => Ok(done),
        }
    }

    /// Whether the answer to the upgrade is here, and from the relay; it is then taken from what was received.
    fn upgraded(&mut self) -> Result<Option<bool>> {
        let Some(end) = self.received.windows(4).position(|end| end == b"\r\n\r\n") else {
            ensure!(self.received.len() < MAX_RESPONSE_BYTES, "the answer to the upgrade does not end");
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
        self.received.drain(..end + 4);
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.contains(" 101"), "the server did not upgrade to a WebSocket: {status}");
        ensure!(head.contains(ACCEPT), "the server did not prove that it read our key");
        Ok(Some(head.contains(RELAY_NAME)))
    }
}

fn close_reason(payload: &[u8]) -> String {
    match payload.split_at_checked(2) {
        Some((code, reason)) => {
            format!("{} ({})", String::from_utf8_lossy(reason), u16::from_be_bytes([code[0], code[1]]))
        }
        None => "without a reason".into(),
    }
}
