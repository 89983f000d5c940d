//! Drives clients over a [`Hub`]: connects them, passes messages between sockets and clients, and emits what arrives.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::hub::{Address, Event, Hub};
use crate::peer::frame::{self, Piece};
use crate::peer::{Dialect, Peer, Received};

/// Longest wait in one turn of the event loop.
const TURN: Duration = Duration::from_millis(100);

/// The server and how to connect to it; the same for all scenarios.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Address of the server.
    pub address: Address,
    /// Wire protocol.
    pub dialect: Dialect,
    /// Token, if the server requires one.
    pub token: Option<String>,
    /// Process id of the server; `None`: its CPU and memory are not measured.
    pub pid: Option<u32>,
    /// The run fails when nothing arrives for this long.
    pub stall: Duration,
    /// Maximum number of connections being opened at the same time.
    pub max_connecting: usize,
}

/// An event of a session.
#[derive(Debug)]
pub(super) enum SessionEvent<'a> {
    /// The session has joined its document.
    Joined,
    /// Document data, or a piece of it: see [`Piece`].
    Data {
        /// The bytes.
        bytes: &'a [u8],
        /// Whether the data begins in this piece.
        first: bool,
        /// Whether the data ends in this piece.
        last: bool,
    },
    /// The server saved the oldest unanswered updates of the connection, this many (native, Hocuspocus).
    Saved(u64),
    /// An awareness update.
    Awareness,
}

/// All connections of a run. A connection has the same number here and in the hub.
pub(super) struct Sessions {
    /// The sockets.
    pub hub: Hub,
    /// The clients, by connection number.
    pub all: Vec<Peer>,
    /// The server.
    pub target: Target,
    /// Whether the server is the bare relay of this program.
    pub relay: bool,
    /// Number of sessions that have joined.
    pub joined: usize,
    /// Number of frames with document data received.
    pub frames: u64,
    /// Messages to send after the turn: connection, message.
    replies: Vec<(usize, Vec<u8>)>,
    frame: Vec<u8>,
}

impl Sessions {
    /// Creates sessions for `target` without any connection.
    pub(super) fn new(target: Target) -> Result<Self> {
        Ok(Self {
            hub: Hub::new()?,
            all: Vec::new(),
            target,
            relay: false,
            joined: 0,
            frames: 0,
            replies: Vec::new(),
            frame: Vec::new(),
        })
    }

    /// Connects a client with an empty copy of `document`.
    pub(super) fn connect(&mut self, document: &str) -> Result<usize> {
        self.connect_peer(self.peer(document))
    }

    /// Connects a client whose copy of `document` has this state vector.
    pub(super) fn connect_with(&mut self, document: &str, state_vector: &[u8]) -> Result<usize> {
        self.connect_peer(self.peer(document).with_state_vector(state_vector))
    }

    fn peer(&self, document: &str) -> Peer {
        let Target { dialect, token, .. } = &self.target;
        Peer::new(*dialect, document.to_owned(), rand::random()).with_token(token.as_deref())
    }

    fn connect_peer(&mut self, peer: Peer) -> Result<usize> {
        let address = &self.target.address;
        let number = self.hub.connect(address, &peer.path(&address.base))?;
        self.all.push(peer);
        Ok(number)
    }

    /// Connects one client to each of `documents`, at most [`Target::max_connecting`] at a time, and waits until all have
    /// joined. Returns the time that it took.
    pub(super) fn join_all(&mut self, documents: &[String]) -> Result<Duration> {
        let (begin, joined) = (Instant::now(), self.joined);
        let mut documents = documents.iter();
        let (mut begun, all) = (0, documents.len());
        let (mut last, mut moved) = (joined, Instant::now());
        while self.joined - joined < all {
            while begun - (self.joined - joined) < self.target.max_connecting {
                let Some(document) = documents.next() else { break };
                self.connect(document)?;
                begun += 1;
            }
            self.turn(TURN, |_, _, _| {})?;
            if self.joined > last {
                (last, moved) = (self.joined, Instant::now());
            }
            ensure!(
                moved.elapsed() < self.target.stall,
                "{} of {all} clients have joined, and no other joined for {} s",
                self.joined - joined,
                self.target.stall.as_secs()
            );
        }
        Ok(begin.elapsed())
    }

    /// Runs one turn of the hub: answers messages that belong to joining, and calls `on_event` for the others.
    pub(super) fn turn(
        &mut self,
        timeout: Duration,
        mut on_event: impl FnMut(usize, SessionEvent<'_>, Instant),
    ) -> Result<()> {
        let Self { hub, all, target, relay, joined, frames, replies, .. } = self;
        let mut failure = None;
        hub.turn(timeout, |number, event, now| {
            let peer = &mut all[number];
            let result = match event {
                Event::Open { relay: is_relay } => {
                    *relay |= is_relay;
                    replies.extend(peer.hello().into_iter().map(|message| (number, message)));
                    Ok(())
                }
                Event::Lost(why) if why.kind() == ErrorKind::ConnectionRefused => {
                    Err(anyhow::anyhow!("{why}; start the server first, or name its address with --url"))
                }
                Event::Lost(why) => Err(why.into()),
                Event::Piece(piece) => {
                    let had_joined = peer.joined();
                    let mut emit = |event: SessionEvent<'_>| {
                        *frames += u64::from(matches!(event, SessionEvent::Data { first: true, .. }));
                        on_event(number, event, now);
                    };
                    let handled = handle(peer, piece, |reply| replies.push((number, reply)), &mut emit);
                    if !had_joined && peer.joined() {
                        *joined += 1;
                        emit(SessionEvent::Joined);
                    }
                    handled
                }
            };
            if let Err(error) = result {
                failure.get_or_insert(error.context(format!("connection {number} to {}", target.address)));
            }
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        for (number, message) in std::mem::take(&mut self.replies) {
            self.send_message(number, &message)?;
        }
        Ok(())
    }

    /// Sends one message.
    pub(super) fn send_message(&mut self, number: usize, message: &[u8]) -> Result<()> {
        self.frame.clear();
        frame::write(&mut self.frame, frame::BINARY, message);
        self.hub.send(number, &self.frame)
    }

    /// Cuts and removes all connections.
    pub(super) fn clear(&mut self) {
        self.hub.clear();
        self.all.clear();
        self.joined = 0;
    }
}

/// Passes a piece to a client and emits its event, if it is one.
fn handle(
    peer: &mut Peer,
    piece: Piece<'_>,
    reply: impl FnOnce(Vec<u8>),
    emit: &mut impl FnMut(SessionEvent<'_>),
) -> Result<()> {
    let received = peer.receive(piece, reply).with_context(|| format!("document {}", peer.document))?;
    match received {
        Received::Data { bytes, first, last } => emit(SessionEvent::Data { bytes, first, last }),
        Received::Saved(count) => emit(SessionEvent::Saved(count)),
        Received::Awareness => emit(SessionEvent::Awareness),
        Received::Refused(reason) => bail!("the server refuses writes to {}: {reason}", peer.document),
        Received::Closed { reason, .. } => bail!("the server denied access to {}: {reason}", peer.document),
        Received::Other => {}
    }
    Ok(())
}
