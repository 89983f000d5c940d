//! The named scenarios, and the parameters that modify them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::idle::Idle;
use super::keystroke::Keystroke;
use super::marker::MARKER_CHARS;
use super::stored::{Action, Stored};
use super::storm::{Join, Reconnect};
use super::trace::TraceJob;
use super::traffic::{SendPolicy, Traffic, Until};

/// Name of a scenario. The comments are shown by `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Name {
    /// Defined by the parameters; by default one document, one writer at 10 updates/s, one reader.
    Traffic,
    /// 4 writers with 16 updates in flight each, 100 readers of one document.
    FanOutThrottle,
    /// 1 writer with 64 updates in flight, 1 reader: the cost of receiving an update.
    Ingest,
    /// 1 writer at 20 updates/s, 1,000 readers.
    FanOut,
    /// 1,000 documents with 3 clients each, one of which types 5 updates/s.
    Many,
    /// Like `many`, with an awareness update for every keystroke.
    ManyAwareness,
    /// 1,000 documents with one writer each; counts acknowledged updates.
    Durable,
    /// 5,000 idle connections, each with its own document.
    Idle,
    /// A recorded editing session, sent as fast as possible, to 10 readers.
    Trace,
    /// Like `trace`, 64 keystrokes at a time.
    TraceFlow,
    /// The first and the second client of a document after a restart (--prepare, --document).
    ColdOpen,
    /// Memory of an open document, and after a quiet time (--prepare, --document).
    HeldOpen,
    /// 2,000 clients of 200 documents are cut and reconnect at the same time.
    ReconnectStorm,
    /// 150 clients join one document of 20 MiB at the same time.
    JoinStorm,
    /// A keystroke in an empty document and in one of a million edits.
    Keystroke,
}

/// Directory of the default traces, in the source tree of the build.
const TRACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/traces");

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no scenario is hidden").get_name())
    }
}

/// Parameters of a scenario; one that is not given keeps the scenario's value.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Parameters {
    /// Number of documents.
    #[arg(long)]
    pub documents: Option<usize>,
    /// Number of connections in total (idle, reconnect-storm, join-storm).
    #[arg(long)]
    pub connections: Option<usize>,
    /// Writing connections per document.
    #[arg(long)]
    pub writers: Option<usize>,
    /// Connections per document that only read.
    #[arg(long)]
    pub readers: Option<usize>,
    /// Updates per second of each writer.
    #[arg(long, conflicts_with = "in_flight")]
    pub rate: Option<f64>,
    /// Instead of a rate: number of updates that each writer keeps in flight.
    #[arg(long)]
    pub in_flight: Option<usize>,
    /// Count an update as in flight until the server acknowledges it, not until every connection has received it.
    #[arg(long, requires = "in_flight")]
    pub until_acked: bool,
    /// Send an awareness update (presence) with every update.
    #[arg(long)]
    pub awareness: bool,
    /// Send all updates that a writer may send in one socket write; editors write each update separately.
    #[arg(long)]
    pub burst: bool,
    /// Characters inserted by an update, at least 7.
    #[arg(long, value_name = "CHARS")]
    pub payload: Option<usize>,
    /// Length of the measurement in seconds.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Length of the warm-up before it in seconds.
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Trace file: JSON of the editing-traces collection, plain or .gz [default: one of the tests' fixtures]
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Name of the document to fill or open (cold-open, held-open), or of a new document (trace, trace-flow).
    #[arg(long, value_name = "NAME")]
    pub document: Option<String>,
    /// Send nothing; connect a new client and compare its text with the end of the trace (trace, trace-flow; --document).
    #[arg(long)]
    pub verify_only: bool,
    /// Fill the document, for a later run (cold-open, held-open).
    #[arg(long)]
    pub prepare: bool,
    /// Size in bytes of the document that all clients join (join-storm).
    #[arg(long, value_name = "BYTES", default_value_t = 20 * 1024 * 1024)]
    pub bytes: usize,
    /// Number of edits in the long document (keystroke).
    #[arg(long, default_value_t = 1_000_000)]
    pub edits: usize,
    /// Ignore the marker with this number, to prove that the check fails.
    #[arg(long, hide = true)]
    pub forget: Option<u64>,
}

/// A scenario with all its parameters.
pub(super) enum Workload {
    /// Writers and readers.
    Traffic(Traffic),
    /// Idle connections.
    Idle(Idle),
    /// A recorded editing session.
    Trace(TraceJob),
    /// A document stored on the server.
    Stored(Stored),
    /// Clients that reconnect at the same time.
    Reconnect(Reconnect),
    /// Clients that join one document at the same time.
    Join(Join),
    /// Keystrokes in an empty and in a long document.
    Keystroke(Keystroke),
}

/// Default documents, writers, readers, send policy, awareness and seconds of a scenario.
type Defaults = (usize, usize, usize, SendPolicy, bool, f64);

impl Name {
    fn defaults(self) -> Defaults {
        let window = |updates| SendPolicy::Window(updates, Until::Delivered);
        match self {
            Name::Ingest | Name::Keystroke => (1, 1, 1, window(64), false, 5.0),
            Name::FanOutThrottle => (1, 4, 100, window(16), false, 5.0),
            Name::FanOut => (1, 1, 1000, SendPolicy::Rate(20.0), false, 10.0),
            Name::Many => (1000, 1, 2, SendPolicy::Rate(5.0), false, 10.0),
            Name::ManyAwareness => (1000, 1, 2, SendPolicy::Rate(5.0), true, 10.0),
            Name::Durable => (1000, 1, 0, SendPolicy::Window(16, Until::Acked), false, 5.0),
            Name::HeldOpen => (1, 1, 1, SendPolicy::Rate(10.0), false, 40.0),
            _ => (1, 1, 1, SendPolicy::Rate(10.0), false, 5.0),
        }
    }

    /// The scenario with its parameters applied.
    pub(super) fn workload(self, parameters: &Parameters) -> Result<Workload> {
        let connections = |default| parameters.connections.unwrap_or(default);
        let trace = |default: &str| parameters.trace.clone().unwrap_or_else(|| PathBuf::from(TRACES).join(default));
        let time = parameters.time(self.defaults().5)?;
        let stored = |action| {
            let action = if parameters.prepare { Action::Prepare } else { action };
            let (document, trace) = (parameters.document.clone(), trace("automerge-paper.json.gz"));
            Workload::Stored(Stored { document, trace, action })
        };
        let replay = |flow| {
            Workload::Trace(TraceJob {
                file: trace("sveltecomponent.json.gz"),
                document: parameters.document.clone(),
                verify_only: parameters.verify_only,
                readers: parameters.readers.unwrap_or(10),
                flow,
                leave_out: parameters.forget,
            })
        };
        Ok(match self {
            Name::Idle => {
                let connections = connections(5000);
                let documents = parameters.documents.unwrap_or(connections);
                Workload::Idle(Idle { connections, documents, time })
            }
            Name::Trace => replay(None),
            Name::TraceFlow => replay(Some(parameters.in_flight.unwrap_or(64))),
            Name::ColdOpen => stored(Action::Cold),
            Name::HeldOpen => stored(Action::Held(time)),
            Name::ReconnectStorm => {
                let documents = parameters.documents.unwrap_or(200);
                Workload::Reconnect(Reconnect { clients: connections(2000), documents })
            }
            Name::JoinStorm => Workload::Join(Join { clients: connections(150), bytes: parameters.bytes }),
            Name::Keystroke => Workload::Keystroke(Keystroke {
                traffic: self.traffic(parameters, time)?,
                trace: trace("automerge-paper.json.gz"),
                edits: parameters.edits,
            }),
            _ => Workload::Traffic(self.traffic(parameters, time)?),
        })
    }

    fn traffic(self, parameters: &Parameters, time: Duration) -> Result<Traffic> {
        let (documents, writers, readers, policy, awareness, _) = self.defaults();
        let until = match policy {
            SendPolicy::Window(_, until) => until,
            SendPolicy::Rate(_) => Until::Delivered,
        };
        let policy = match (parameters.rate, parameters.in_flight) {
            (Some(rate), _) => SendPolicy::Rate(rate),
            (None, Some(updates)) if parameters.until_acked => SendPolicy::Window(updates, Until::Acked),
            (None, Some(updates)) => SendPolicy::Window(updates, until),
            (None, None) => policy,
        };
        Ok(Traffic {
            documents: parameters.documents.unwrap_or(documents),
            writers: parameters.writers.unwrap_or(writers),
            readers: parameters.readers.unwrap_or(readers),
            policy,
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
    fn time(&self, default_s: f64) -> Result<Duration> {
        let seconds = self.seconds.unwrap_or(default_s);
        ensure!(seconds > 0.0 && self.warmup >= 0.0, "--seconds must be above 0, --warmup at least 0");
        Ok(Duration::try_from_secs_f64(seconds)?)
    }
}
