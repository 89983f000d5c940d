//! Many client sockets on one thread: connecting, the HTTP upgrade, non-blocking reads and writes.
//!
//! mio without a runtime: a runtime's tasks and wake-ups would cost the generator more than the sockets do. All reads go
//! through one shared buffer; a connection buffers bytes only while a message is incomplete.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Socket, Type};

use crate::peer::frame::{self, Frames, Piece};

/// Largest read from a socket.
const READ_BYTES: usize = 512 * 1024;
/// Largest number of events handled in one turn.
const EVENTS: usize = 1024;
/// Number of connections from one local address.
const PORTS: usize = 20_000;
/// Largest HTTP response to the upgrade.
const MAX_RESPONSE_BYTES: usize = 16 * 1024;
/// Largest number of unsent bytes of one connection.
const MAX_UNSENT_BYTES: usize = 256 * 1024 * 1024;

// The example of RFC 6455, section 1.3: a constant key, whose answer needs no hashing.
/// `Sec-WebSocket-Key` of every upgrade.
pub(super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// `Sec-WebSocket-Accept` that answers [`KEY`].
pub(super) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// `Server` header of the bare relay (`syncline-sim floor`).
pub(super) const RELAY_NAME: &str = "syncline-floor";

/// Address of a server.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// `host:port`, for the HTTP request.
    pub host: String,
    /// Resolved address.
    pub socket: SocketAddr,
    /// Path in front of document names.
    pub base: String,
}

impl Address {
    /// Parses `ws://host:port/path` and resolves the host.
    pub(super) fn of(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("ws://").with_context(|| {
            format!(
                "{url:?} is not a ws:// address; wss:// is not supported, because TLS would measure the generator's own \
                 cryptography"
            )
        })?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        let mut found = host.to_socket_addrs().with_context(|| format!("cannot resolve {host}"))?;
        let socket = found.next().with_context(|| format!("{host} has no address"))?;
        let base = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { host, socket, base })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ws://{}{}", self.host, self.base)
    }
}

/// Starts to connect. The number of connections between two addresses is limited by the number of ports, so connections to
/// the loopback start from a new local address every [`PORTS`] connections.
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

/// An event of a connection.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// The upgrade has completed.
    Open {
        /// Whether the server is the bare relay of this program.
        relay: bool,
    },
    /// A message, or a piece of a large one.
    Piece(Piece<'a>),
    /// The connection ended without having been cut by this side. Holds the reason.
    Lost(io::Error),
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
    /// Received bytes of an incomplete message.
    received: Vec<u8>,
    /// Bytes not yet accepted by the socket.
    unsent: VecDeque<u8>,
}

/// The sockets. A connection is identified by its number, in the order of [`Hub::connect`].
pub(super) struct Hub {
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
    /// Creates a hub without connections.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            poll: Poll::new().context("cannot create a poll instance")?,
            events: Events::with_capacity(EVENTS),
            connections: Vec::new(),
            scratch: vec![0; READ_BYTES],
            pongs: Vec::new(),
            bytes_sent: 0,
            bytes_received: 0,
        })
    }

    /// Starts to connect; [`Event::Open`] follows when the upgrade has completed.
    pub(super) fn connect(&mut self, address: &Address, path: &str) -> Result<usize> {
        let number = self.connections.len();
        let mut stream = open(address.socket, number).map_err(|error| explain_connect(&error, address))?;
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n",
            address.host
        );
        let (state, unsent) = (State::Connecting, request.into_bytes().into());
        self.connections.push(Connection { stream, state, frames: Frames::default(), received: Vec::new(), unsent });
        Ok(number)
    }

    /// Waits for events, at most `timeout`, and calls `on_event` with the connection, the event and the time of its reading.
    pub(super) fn turn(
        &mut self,
        timeout: Duration,
        mut on_event: impl FnMut(usize, Event<'_>, Instant),
    ) -> Result<()> {
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
            if event.is_writable() && !connection.unsent.is_empty() {
                if connection.state == State::Connecting {
                    connection.state = State::Upgrading;
                    // Costs a system call, so it is done only once, here.
                    connection.stream.set_nodelay(true).ok();
                }
                match drain(connection) {
                    Ok(sent) => self.bytes_sent += sent,
                    Err(error) => connection.lost(error, &mut |event| on_event(number, event, Instant::now())),
                }
            }
            if event.is_readable() {
                self.bytes_received += connection.read(&mut self.scratch, &mut |event, now| {
                    if let Event::Piece(Piece { opcode: frame::PING, bytes, .. }) = event {
                        self.pongs.push((number, bytes.to_vec()));
                        return;
                    }
                    on_event(number, event, now);
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

    /// Sends complete frames; bytes that the socket does not accept are sent in a later turn.
    pub(super) fn send(&mut self, number: usize, bytes: &[u8]) -> Result<()> {
        let connection = &mut self.connections[number];
        if connection.state == State::Closed {
            return Ok(());
        }
        let mut sent = 0;
        if connection.unsent.is_empty() && connection.state == State::Open {
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
                    // The next read reports the lost connection.
                    Err(_) => return Ok(()),
                }
            }
        }
        ensure!(
            connection.unsent.len() + bytes.len() - sent <= MAX_UNSENT_BYTES,
            "the server does not read: more than {MAX_UNSENT_BYTES} bytes are unsent on one connection"
        );
        connection.unsent.extend(&bytes[sent..]);
        Ok(())
    }

    /// Closes a connection without a close frame, as a lost network does.
    pub(super) fn cut(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        if connection.state != State::Closed {
            connection.state = State::Closed;
            // Both directions, so that the peer sees the end immediately.
            connection.stream.shutdown(std::net::Shutdown::Both).ok();
            self.poll.registry().deregister(&mut connection.stream).ok();
        }
    }

    /// Cuts and removes all connections. Numbers start at 0 again.
    pub(super) fn clear(&mut self) {
        for number in 0..self.connections.len() {
            self.cut(number);
        }
        self.connections.clear();
    }
}

fn explain_connect(error: &io::Error, address: &Address) -> anyhow::Error {
    anyhow::anyhow!("cannot connect to {}: {error}", address.host)
}

/// Writes unsent bytes until the socket is full; returns the number of bytes written.
fn drain(connection: &mut Connection) -> io::Result<u64> {
    let mut all = 0;
    while !connection.unsent.is_empty() {
        match connection.stream.write(connection.unsent.as_slices().0) {
            Ok(sent) => {
                connection.unsent.drain(..sent);
                all += sent as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if connection.unsent.is_empty() {
        // Frees the buffer: thousands of connections must not each keep the capacity of their largest message.
        connection.unsent = VecDeque::new();
    }
    Ok(all)
}

impl Connection {
    fn lost(&mut self, why: io::Error, on_event: &mut impl FnMut(Event<'_>)) {
        self.state = State::Closed;
        on_event(Event::Lost(why));
    }

    /// Reads everything that has arrived; returns the number of bytes.
    fn read(&mut self, scratch: &mut [u8], on_event: &mut impl FnMut(Event<'_>, Instant)) -> u64 {
        let mut all = 0;
        while self.state != State::Closed {
            match self.stream.read(scratch) {
                Ok(0) => {
                    let end = io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection");
                    self.lost(end, &mut |event| on_event(event, Instant::now()));
                }
                Ok(len) => {
                    all += len as u64;
                    let now = Instant::now();
                    if let Err(error) = self.parse(&scratch[..len], &mut |event| on_event(event, now)) {
                        self.lost(io::Error::other(format!("{error:#}")), &mut |event| on_event(event, now));
                    }
                    // The socket is empty: epoll reports the next byte (epoll(7), edge-triggered streams).
                    if len < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => self.lost(error, &mut |event| on_event(event, Instant::now())),
            }
        }
        all
    }

    fn parse(&mut self, bytes: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> Result<()> {
        if self.state == State::Open && self.received.is_empty() {
            let done = self.parse_frames(bytes, on_event)?;
            self.received.extend_from_slice(&bytes[done..]);
            return Ok(());
        }
        self.received.extend_from_slice(bytes);
        if self.state != State::Open {
            let Some(relay) = self.take_upgrade_response()? else { return Ok(()) };
            self.state = State::Open;
            on_event(Event::Open { relay });
        }
        let received = std::mem::take(&mut self.received);
        let done = self.parse_frames(&received, on_event)?;
        if done < received.len() {
            self.received = received;
            self.received.drain(..done);
        }
        Ok(())
    }

    fn parse_frames(&mut self, bytes: &[u8], on_event: &mut impl FnMut(Event<'_>)) -> Result<usize> {
        let mut closed = None;
        let done = self.frames.parse(bytes, |piece| match piece.opcode {
            frame::CLOSE => closed = Some(close_reason(piece.bytes)),
            frame::PONG => {}
            _ => on_event(Event::Piece(piece)),
        });
        match closed {
            Some(reason) => bail!("the server closed the connection: {reason}"),
            None => Ok(done),
        }
    }

    /// Removes the response to the upgrade from the received bytes. Returns whether it is from the relay, or `None` when the
    /// response is incomplete.
    fn take_upgrade_response(&mut self) -> Result<Option<bool>> {
        let Some(end) = self.received.windows(4).position(|end| end == b"\r\n\r\n") else {
            ensure!(self.received.len() < MAX_RESPONSE_BYTES, "the HTTP response to the upgrade is too long");
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
        self.received.drain(..end + 4);
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.contains(" 101"), "the server did not upgrade to a WebSocket: {status}");
        ensure!(head.contains(ACCEPT), "the server answered the upgrade with a wrong Sec-WebSocket-Accept");
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
