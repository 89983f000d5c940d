//! The scenarios by name, and the parameters that change them.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::idle::Idle;
use super::marker::MARKER_CHARS;
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
}

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
}

/// Documents, writers, readers, pace, awareness, seconds.
type Shape = (usize, usize, usize, Pace, bool, f64);

impl Name {
    fn shape(self) -> Shape {
        let window = |updates| Pace::Window(updates, Until::Delivered);
        match self {
            Name::Traffic | Name::Idle => (1, 1, 1, Pace::Rate(10.0), false, 5.0),
            Name::FanOutThrottle => (1, 4, 100, window(16), false, 10.0),
            Name::Ingest => (1, 1, 1, window(64), false, 10.0),
            Name::FanOut => (1, 1, 1000, Pace::Rate(20.0), false, 10.0),
            Name::Many => (1000, 1, 2, Pace::Rate(5.0), false, 10.0),
            Name::ManyAwareness => (1000, 1, 2, Pace::Rate(5.0), true, 10.0),
            Name::Durable => (1000, 1, 0, Pace::Window(16, Until::Acked), false, 10.0),
        }
    }

    /// What it does, with the parameters.
    pub fn job(self, parameters: &Parameters) -> Result<Job> {
        let (documents, writers, readers, pace, awareness, seconds) = self.shape();
        let seconds = parameters.seconds.unwrap_or(seconds);
        ensure!(seconds > 0.0 && parameters.warmup >= 0.0, "nothing can be measured in no time");
        let time = Duration::try_from_secs_f64(seconds)?;
        if self == Name::Idle {
            let connections = parameters.connections.unwrap_or(5000);
            let documents = parameters.documents.unwrap_or(connections);
            return Ok(Job::Idle(Idle { connections, documents, time }));
        }
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
        Ok(Job::Traffic(Traffic {
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
        }))
    }
}
