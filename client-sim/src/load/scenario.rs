//! The scenarios by name, and the parameters that change them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::idle::Idle;
use super::keystroke::Keystroke;
use super::marker::MARKER_CHARS;
use super::stored::{Act, Stored};
use super::storm::{Join, Reconnect};
use super::trace::Trace;
use super::traffic::{Pace, Traffic, Until};

/// The scenarios.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// What the parameters say: by default one document, one writer at 10 updates a second, one reader.
    Traffic,
    /// 4 writers with 16 updates in flight each, 100 readers of one document.
    FanOutThrottle,
    /// 1 writer with 64 updates in flight, 1 reader: what taking in an update costs.
    Ingest,
    /// 1 writer at 20 updates/s, 1,000 readers.
    FanOut,
    /// 1,000 documents with 3 clients each, one of them types 5 updates/s.
    Many,
    /// The same with a presence for every keystroke.
    ManyAwareness,
    /// 1,000 documents, a writer each, updates counted when they are acknowledged.
    Durable,
    /// 5,000 connections with a document each, doing nothing.
    Idle,
    /// A real editing session as fast as it can be sent, to 10 readers.
    Trace,
    /// The same, 64 keystrokes at a time.
    TraceFlow,
    /// The first and the second client of a document after a restart (--prepare, --document).
    ColdOpen,
    /// Memory of a document held open, and after it was quiet (--prepare, --document).
    HeldOpen,
    /// 2,000 clients of 200 documents are cut and come back at once.
    ReconnectStorm,
    /// 150 clients join one document of 20 MB at once.
    JoinStorm,
    /// A keystroke into an empty document and into one of a million edits.
    Keystroke,
}

/// Traces by default, where this was built.
const TRACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/traces");

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no scenario is hidden").get_name())
    }
}

/// What can be changed. What is not given is as the scenario has it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Parameters {
    /// Documents.
    #[arg(long)]
    pub documents: Option<usize>,
    /// Connections in all (idle).
    #[arg(long)]
    pub connections: Option<usize>,
    /// Connections of each document that write.
    #[arg(long)]
    pub writers: Option<usize>,
    /// Connections of each document that only read.
    #[arg(long)]
    pub readers: Option<usize>,
    /// Updates of each writer a second.
    #[arg(long, conflicts_with = "in_flight")]
    pub rate: Option<f64>,
    /// No rate: each writer has so many updates on their way.
    #[arg(long)]
    pub in_flight: Option<usize>,
    /// An update is on its way until the server acknowledges it, not until everybody has it.
    #[arg(long, requires = "in_flight")]
    pub until_acked: bool,
    /// A presence with every update.
    #[arg(long)]
    pub awareness: bool,
    /// What a writer may send at once leaves in one write; an editor makes a write for each update.
    #[arg(long)]
    pub burst: bool,
    /// Characters of an update, at least 7.
    #[arg(long, value_name = "CHARS")]
    pub payload: Option<usize>,
    /// Seconds that are measured.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds before.
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// An editing session: JSON of the editing-traces collection, plain or .gz [default: from the tests' fixtures]
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// The document that is filled, or opened (cold-open, held-open).
    #[arg(long, value_name = "NAME")]
    pub document: Option<String>,
    /// Fill the document, for a later run (cold-open, held-open).
    #[arg(long)]
    pub prepare: bool,
    /// Bytes of text of the document that all join (join-storm).
    #[arg(long, value_name = "BYTES", default_value_t = 20 * 1024 * 1024)]
    pub bytes: usize,
    /// Edits of the long document (keystroke).
    #[arg(long, default_value_t = 1_000_000)]
    pub edits: usize,
    /// Overlook one marker, to see the check fail.
    #[arg(long, hide = true)]
    pub forget: Option<u64>,
}

/// What is to be done.
pub enum Job {
    /// Writers and readers.
    Traffic(Traffic),
    /// Nobody does anything.
    Idle(Idle),
    /// An editing session.
    Trace(Trace),
    /// A document on the server.
    Stored(Stored),
    /// Everybody comes back.
    Reconnect(Reconnect),
    /// Everybody wants one document.
    Join(Join),
    /// Into an empty and a long document.
    Keystroke(Keystroke),
}

/// Documents, writers, readers, pace, awareness, seconds.
type Shape = (usize, usize, usize, Pace, bool, f64);

impl Name {
    fn shape(self) -> Shape {
        let window = |updates| Pace::Window(updates, Until::Delivered);
        match self {
            Name::Ingest | Name::Keystroke => (1, 1, 1, window(64), false, 5.0),
            Name::FanOutThrottle => (1, 4, 100, window(16), false, 5.0),
            Name::FanOut => (1, 1, 1000, Pace::Rate(20.0), false, 10.0),
            Name::Many => (1000, 1, 2, Pace::Rate(5.0), false, 10.0),
            Name::ManyAwareness => (1000, 1, 2, Pace::Rate(5.0), true, 10.0),
            Name::Durable => (1000, 1, 0, Pace::Window(16, Until::Acked), false, 5.0),
            Name::HeldOpen => (1, 1, 1, Pace::Rate(10.0), false, 40.0),
            _ => (1, 1, 1, Pace::Rate(10.0), false, 5.0),
        }
    }

    /// What it does, with the parameters.
    pub fn job(self, parameters: &Parameters) -> Result<Job> {
        let connections = |usual| parameters.connections.unwrap_or(usual);
        let trace = |usual: &str| parameters.trace.clone().unwrap_or_else(|| PathBuf::from(TRACES).join(usual));
        let time = parameters.time(self.shape().5)?;
        let stored = |act| {
            let act = if parameters.prepare { Act::Prepare } else { act };
            let (document, trace) = (parameters.document.clone(), trace("automerge-paper.json.gz"));
            Job::Stored(Stored { document, trace, act })
        };
        let replay = |flow| {
            let (file, readers) = (trace("sveltecomponent.json.gz"), parameters.readers.unwrap_or(10));
            Job::Trace(Trace { file, readers, flow, leave_out: parameters.forget })
        };
        Ok(match self {
            Name::Idle => {
                let connections = connections(5000);
                let documents = parameters.documents.unwrap_or(connections);
                Job::Idle(Idle { connections, documents, time })
            }
            Name::Trace => replay(None),
            Name::TraceFlow => replay(Some(parameters.in_flight.unwrap_or(64))),
            Name::ColdOpen => stored(Act::Cold),
            Name::HeldOpen => stored(Act::Held(time)),
            Name::ReconnectStorm => {
                let documents = parameters.documents.unwrap_or(200);
                Job::Reconnect(Reconnect { clients: connections(2000), documents })
            }
            Name::JoinStorm => Job::Join(Join { clients: connections(150), bytes: parameters.bytes }),
            Name::Keystroke => Job::Keystroke(Keystroke {
                traffic: self.traffic(parameters, time)?,
                trace: trace("automerge-paper.json.gz"),
                edits: parameters.edits,
            }),
            _ => Job::Traffic(self.traffic(parameters, time)?),
        })
    }

    fn traffic(self, parameters: &Parameters, time: Duration) -> Result<Traffic> {
        let (documents, writers, readers, pace, awareness, _) = self.shape();
        let until = match pace {
            Pace::Window(_, until) => until,
            Pace::Rate(_) => Until::Delivered,
        };
        let pace = match (parameters.rate, parameters.in_flight) {
            (Some(rate), _) => Pace::Rate(rate),
            (None, Some(updates)) if parameters.until_acked => Pace::Window(updates, Until::Acked),
            (None, Some(updates)) => Pace::Window(updates, until),
            (None, None) => pace,
        };
        Ok(Traffic {
            documents: parameters.documents.unwrap_or(documents),
            writers: parameters.writers.unwrap_or(writers),
            readers: parameters.readers.unwrap_or(readers),
            pace,
            awareness: awareness || parameters.awareness,
            burst: parameters.burst,
            chars: parameters.payload.unwrap_or(MARKER_CHARS),
            warmup: Duration::try_from_secs_f64(parameters.warmup)?,
            time,
            prefill: None,
            forget: parameters.forget,
        })
    }
}

impl Parameters {
    fn time(&self, usual_s: f64) -> Result<Duration> {
        let seconds = self.seconds.unwrap_or(usual_s);
        ensure!(seconds > 0.0 && self.warmup >= 0.0, "nothing can be measured in no time");
        Ok(Duration::try_from_secs_f64(seconds)?)
    }
}
