//! Joins documents over a [`Hub`] and turns its events into session events.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::frame;
use super::hub::{Address, Event, Hub};
use super::speak::{Dialect, EMPTY_STATE_VECTOR, MessageHead};

/// Longest wait in one turn of the event loop.
const TURN: Duration = Duration::from_millis(100);

/// The server and how to connect to it; the same for all scenarios.
#[derive(Debug, Clone)]
pub struct Target {
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

/// State of one connection.
#[derive(Debug)]
pub struct Session {
    /// Name of its document.
    pub document: String,
    /// State vector sent when it joins.
    pub state_vector: Vec<u8>,
    /// Whether the server has answered its sync step 1.
    pub joined: bool,
    /// Sync step 2 messages sent that the server has not acknowledged with a SyncStatus (Hocuspocus).
    pub unacked_step_2: usize,
    /// Bytes of document data received.
    pub data_bytes: u64,
    /// Set within a message of document data; true if it is a sync step 2.
    inside: Option<bool>,
}

/// An event of a session.
#[derive(Debug)]
pub enum SessionEvent<'a> {
    /// The session has joined its document.
    Joined,
    /// Document data, or a piece of it: see [`frame::Piece`].
    Data {
        /// The bytes.
        bytes: &'a [u8],
        /// Whether the data begins in this piece.
        first: bool,
        /// Whether the data ends in this piece.
        last: bool,
    },
    /// The server saved an update (Hocuspocus).
    Saved,
    /// An awareness update.
    Awareness,
}

/// All connections of a run. A connection has the same number here and in the hub.
pub struct Sessions {
    /// The sockets.
    pub hub: Hub,
    /// The sessions, by connection number.
    pub all: Vec<Session>,
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
    pub fn new(target: Target) -> Result<Self> {
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
    pub fn connect(&mut self, document: &str) -> Result<usize> {
        self.connect_with(document, &EMPTY_STATE_VECTOR)
    }

    /// Connects a client whose copy of `document` has this state vector.
    pub fn connect_with(&mut self, document: &str, state_vector: &[u8]) -> Result<usize> {
        let Target { address, dialect, token, .. } = &self.target;
        let number = self.hub.connect(address, &dialect.path(&address.base, document, token.as_deref()))?;
        self.all.push(Session {
            document: document.to_owned(),
            state_vector: state_vector.to_vec(),
            joined: false,
            unacked_step_2: 0,
            data_bytes: 0,
            inside: None,
        });
        Ok(number)
    }

    /// Connects one client to each of `documents`, at most [`Target::max_connecting`] at a time, and waits until all have
    /// joined. Returns the time that it took.
    pub fn join_all(&mut self, documents: &[String]) -> Result<Duration> {
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
    pub fn turn(
        &mut self,
        timeout: Duration,
        mut on_event: impl FnMut(usize, SessionEvent<'_>, Instant),
    ) -> Result<()> {
        let Self { hub, all, target, relay, joined, frames, replies, .. } = self;
        let mut failure = None;
        hub.turn(timeout, |number, event, now| {
            let session = &mut all[number];
            let result = match event {
                Event::Open { relay: is_relay } => {
                    *relay |= is_relay;
                    let hello = target.dialect.hello(&session.document, target.token.as_deref(), &session.state_vector);
                    replies.extend(hello.into_iter().map(|message| (number, message)));
                    Ok(())
                }
                Event::Lost(why) => Err(anyhow::anyhow!(why)),
                Event::Piece(piece) => {
                    let mut emit = |event: SessionEvent<'_>| match event {
                        SessionEvent::Joined => {
                            *joined += 1;
                            on_event(number, event, now);
                        }
                        SessionEvent::Data { first, .. } => {
                            *frames += u64::from(first);
                            on_event(number, event, now);
                        }
                        SessionEvent::Saved | SessionEvent::Awareness => on_event(number, event, now),
                    };
                    session.handle_piece(target, piece, &mut emit, |reply| replies.push((number, reply)))
                }
            };
            if let Err(error) = result {
                failure.get_or_insert(error.context(format!("connection {number}")));
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
    pub fn send_message(&mut self, number: usize, message: &[u8]) -> Result<()> {
        self.frame.clear();
        frame::write(&mut self.frame, frame::BINARY, message);
        self.hub.send(number, &self.frame)
    }

    /// Cuts and removes all connections.
    pub fn clear(&mut self) {
        self.hub.clear();
        self.all.clear();
        self.joined = 0;
    }
}

impl Session {
    fn handle_piece(
        &mut self,
        target: &Target,
        piece: frame::Piece<'_>,
        emit: &mut impl FnMut(SessionEvent<'_>),
        reply: impl FnOnce(Vec<u8>),
    ) -> Result<()> {
        if !piece.first {
            if let Some(step_2) = self.inside {
                self.data_bytes += (piece.bytes.len() - frame::OVERLAP_BYTES.min(piece.bytes.len())) as u64;
                emit(SessionEvent::Data { bytes: piece.bytes, first: false, last: piece.last });
                self.join_if(step_2 && piece.last, emit);
            }
            return Ok(());
        }
        self.inside = None;
        match target.dialect.classify(piece.bytes).with_context(|| format!("document {}", self.document))? {
            MessageHead::Update { at, step_2 } => {
                let data = &piece.bytes[at..];
                self.data_bytes += data.len() as u64;
                self.inside = Some(step_2);
                emit(SessionEvent::Data { bytes: data, first: true, last: piece.last });
                self.join_if(step_2 && piece.last, emit);
            }
            MessageHead::SyncStep1 => {
                self.unacked_step_2 += usize::from(target.dialect == Dialect::Hocuspocus);
                reply(target.dialect.empty_step_2(&self.document));
            }
            MessageHead::Status { saved: true } if self.unacked_step_2 > 0 => self.unacked_step_2 -= 1,
            MessageHead::Status { saved: true } => emit(SessionEvent::Saved),
            MessageHead::Status { saved: false } => bail!("the server refuses writes to {}", self.document),
            MessageHead::Awareness => emit(SessionEvent::Awareness),
            MessageHead::Ping => reply(target.dialect.pong().to_vec()),
            MessageHead::Denied(reason) => bail!("the server denied access to {}: {reason}", self.document),
            MessageHead::Other => {}
        }
        Ok(())
    }

    fn join_if(&mut self, complete: bool, emit: &mut impl FnMut(SessionEvent<'_>)) {
        if complete && !self.joined {
            self.joined = true;
            emit(SessionEvent::Joined);
        }
    }
}
