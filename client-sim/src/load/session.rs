//! The talk on each connection until it has joined its document, over a [`Hub`].

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::frame;
use super::hub::{Address, Event, Hub};
use super::speak::{Dialect, EMPTY_STATE_VECTOR, Heard};

/// A look at the clock at least this often.
const TURN: Duration = Duration::from_millis(100);

/// Where and how to connect, for all scenarios.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where.
    pub address: Address,
    /// How to speak.
    pub dialect: Dialect,
    /// Token, if the server wants one.
    pub token: Option<String>,
    /// The server's process.
    pub pid: Option<u32>,
    /// Give up after this time without anything arriving.
    pub stall: Duration,
    /// Connections that are being made at once.
    pub at_once: usize,
}

/// One connection's state.
#[derive(Debug)]
pub struct Session {
    /// The name of its document.
    pub document: String,
    /// What it has, when it joins.
    pub state_vector: Vec<u8>,
    /// The server answered our question.
    pub joined: bool,
    /// Answers to the server's questions that it has not acknowledged (Hocuspocus).
    pub unanswered: usize,
    /// Bytes of the document's data so far.
    pub data_bytes: u64,
    /// In a message that is document data; true: the answer to our question.
    inside: Option<bool>,
}

/// What the sessions make of what they hear.
#[derive(Debug)]
pub enum Said<'a> {
    /// Joined.
    Joined,
    /// Document data, or a piece of it: see [`frame::Piece`].
    Data {
        /// The bytes.
        bytes: &'a [u8],
        /// The data begins here.
        first: bool,
        /// The data ends here.
        last: bool,
    },
    /// An update is saved (Hocuspocus).
    Saved,
    /// Presence.
    Awareness,
}

/// All connections of a run. A connection has the same number here and in the hub.
pub struct Sessions {
    /// The sockets.
    pub hub: Hub,
    /// The sessions.
    pub all: Vec<Session>,
    /// Where.
    pub target: Target,
    /// The server is the bare relay of this program.
    pub relay: bool,
    /// How many have joined.
    pub joined: usize,
    /// Frames with document data received.
    pub frames: u64,
    /// Messages to send after the turn: connection, message.
    replies: Vec<(usize, Vec<u8>)>,
    frame: Vec<u8>,
}

impl Sessions {
    /// No connection yet.
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

    /// Connects a client that has nothing of `document`.
    pub fn connect(&mut self, document: &str) -> Result<usize> {
        self.connect_with(document, &EMPTY_STATE_VECTOR)
    }

    /// Connects a client that has what `state_vector` says.
    pub fn connect_with(&mut self, document: &str, state_vector: &[u8]) -> Result<usize> {
        let Target { address, dialect, token, .. } = &self.target;
        let number = self.hub.connect(address, &dialect.path(&address.base, document, token.as_deref()))?;
        self.all.push(Session {
            document: document.to_owned(),
            state_vector: state_vector.to_vec(),
            joined: false,
            unanswered: 0,
            data_bytes: 0,
            inside: None,
        });
        Ok(number)
    }

    /// Connects one client to each of `documents`, [`Target::at_once`] at a time, until all have joined. Gives the time
    /// it took.
    pub fn join_all(&mut self, documents: &[String]) -> Result<Duration> {
        let (begin, joined) = (Instant::now(), self.joined);
        let mut documents = documents.iter();
        let (mut begun, all) = (0, documents.len());
        let (mut last, mut moved) = (joined, Instant::now());
        while self.joined - joined < all {
            while begun - (self.joined - joined) < self.target.at_once {
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
                "{} of {all} clients have joined, and nothing happened for {} s",
                self.joined - joined,
                self.target.stall.as_secs()
            );
        }
        Ok(begin.elapsed())
    }

    /// One turn of the hub: what is part of joining is answered, the rest is told.
    pub fn turn(&mut self, timeout: Duration, mut tell: impl FnMut(usize, Said<'_>, Instant)) -> Result<()> {
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
                    let mut said = |said: Said<'_>| match said {
                        Said::Joined => {
                            *joined += 1;
                            tell(number, said, now);
                        }
                        Said::Data { first, .. } => {
                            *frames += u64::from(first);
                            tell(number, said, now);
                        }
                        Said::Saved | Said::Awareness => tell(number, said, now),
                    };
                    session.hear(target, piece, &mut said, |reply| replies.push((number, reply)))
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
            self.say(number, &message)?;
        }
        Ok(())
    }

    /// Sends one message.
    pub fn say(&mut self, number: usize, message: &[u8]) -> Result<()> {
        self.frame.clear();
        frame::write(&mut self.frame, frame::BINARY, message);
        self.hub.send(number, &self.frame)
    }

    /// Cuts and forgets all.
    pub fn clear(&mut self) {
        self.hub.clear();
        self.all.clear();
        self.joined = 0;
    }
}

impl Session {
    fn hear(
        &mut self,
        target: &Target,
        piece: frame::Piece<'_>,
        said: &mut impl FnMut(Said<'_>),
        reply: impl FnOnce(Vec<u8>),
    ) -> Result<()> {
        if !piece.first {
            if let Some(answer) = self.inside {
                self.data_bytes += (piece.bytes.len() - frame::OVERLAP_BYTES.min(piece.bytes.len())) as u64;
                said(Said::Data { bytes: piece.bytes, first: false, last: piece.last });
                self.ended(answer && piece.last, said);
            }
            return Ok(());
        }
        self.inside = None;
        match target.dialect.hear(piece.bytes).with_context(|| format!("document {}", self.document))? {
            Heard::Update { at, answer } => {
                let data = &piece.bytes[at..];
                self.data_bytes += data.len() as u64;
                self.inside = Some(answer);
                said(Said::Data { bytes: data, first: true, last: piece.last });
                self.ended(answer && piece.last, said);
            }
            Heard::Question => {
                self.unanswered += usize::from(target.dialect == Dialect::Hocuspocus);
                reply(target.dialect.nothing_new(&self.document));
            }
            Heard::Status { saved: true } if self.unanswered > 0 => self.unanswered -= 1,
            Heard::Status { saved: true } => said(Said::Saved),
            Heard::Status { saved: false } => bail!("the server refuses writes to {}", self.document),
            Heard::Awareness => said(Said::Awareness),
            Heard::Ping => reply(target.dialect.pong().to_vec()),
            Heard::Denied(reason) => bail!("the server refused {}: {reason}", self.document),
            Heard::Other => {}
        }
        Ok(())
    }

    fn ended(&mut self, answered: bool, said: &mut impl FnMut(Said<'_>)) {
        if answered && !self.joined {
            self.joined = true;
            said(Said::Joined);
        }
    }
}
