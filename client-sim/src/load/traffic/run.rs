//! One run of traffic: sends updates on schedule and records what arrives.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::RngExt;

use super::{Counts, SendPolicy, Traffic, Until, report};
use crate::load::ledger::{Arrival, DeliveryLedger};
use crate::load::marker;
use crate::load::measure::{LatencySeries, UsageSample};
use crate::load::report::Report;
use crate::load::session::{SessionEvent, Sessions, Target};
use crate::peer::{Dialect, frame};

/// Longest wait in one turn of the event loop.
const TURN: Duration = Duration::from_millis(20);
/// Largest number of updates sent before sockets are read: a rate that cannot be kept must not starve the readers.
const SENDS_PER_TURN: usize = 256;
/// Largest number of documents whose content a new client checks at the end.
const CHECKED_DOCUMENTS: usize = 20;

/// A writer.
struct Writer {
    connection: usize,
    /// Its Yjs client id.
    client: u64,
    /// Its number in the document, as in markers.
    place: usize,
    /// Whether its window may have room.
    ready: bool,
}

/// A run. Writers have the same numbers here and in the ledger; connections have the same numbers here, in the ledger and in
/// the hub.
pub(super) struct TrafficRun<'a> {
    traffic: &'a Traffic,
    pub(super) sessions: Sessions,
    pub(super) ledger: DeliveryLedger,
    pub(super) series: LatencySeries,
    writers: Vec<Writer>,
    /// The writer of each connection.
    writer_of: Vec<Option<usize>>,
    /// Number of updates sent on schedule, of all writers in turn (with a rate).
    due: u64,
    awareness_received: u64,
    /// Number of markers received by readers, including repeated ones.
    markers: u64,
    /// Longest delay of a send behind its schedule.
    late: Duration,
    /// Time of the last received document data.
    last_progress: Instant,
    bytes: Vec<u8>,
}

impl<'a> TrafficRun<'a> {
    pub(super) fn join(target: &Target, traffic: &'a Traffic) -> Result<Self> {
        let prefix = format!("load-{:08x}", rand::rng().random::<u32>());
        let mut names = Vec::new();
        let mut ledger = DeliveryLedger::new(traffic.documents);
        let (mut writers, mut writer_of) = (Vec::new(), Vec::new());
        for document in 0..traffic.documents {
            for member in 0..traffic.writers + traffic.readers {
                let connection = names.len();
                names.push(format!("{prefix}-{document}"));
                let writer = ledger.connect(document, member < traffic.writers);
                writer_of.push(writer);
                if writer.is_some() {
                    // 32 bits as in Yjs 13; the top bit gives all ids the same encoded length.
                    let client = u64::from(rand::rng().random::<u32>() | 1 << 31);
                    writers.push(Writer { connection, client, place: member, ready: true });
                }
            }
        }
        ledger.begin();
        let mut sessions = Sessions::new(target.clone())?;
        sessions.join_all(&names)?;
        let mut run = Self {
            traffic,
            sessions,
            ledger,
            series: LatencySeries::new(),
            writers,
            writer_of,
            due: 0,
            awareness_received: 0,
            markers: 0,
            late: Duration::ZERO,
            last_progress: Instant::now(),
            bytes: Vec::new(),
        };
        run.prefill()?;
        Ok(run)
    }

    fn prefill(&mut self) -> Result<()> {
        let Some(update) = &self.traffic.prefill else { return Ok(()) };
        for writer in self.writers.iter().filter(|writer| writer.place == 0) {
            let message = self.sessions.all[writer.connection].update(update);
            self.sessions.send_message(writer.connection, &message)?;
        }
        let wanted = update.len() as u64 / 2;
        let receivers: Vec<usize> =
            (0..self.writer_of.len()).filter(|&number| self.writer_of[number].is_none()).collect();
        let begin = Instant::now();
        while receivers.iter().any(|&number| self.sessions.all[number].data_bytes < wanted) {
            self.sessions.turn(TURN, |_, _, _| {})?;
            ensure!(
                begin.elapsed() < self.sessions.target.stall,
                "the initial content did not reach the readers in time"
            );
        }
        Ok(())
    }

    /// Runs the warm-up and the measurement, then waits for everything in flight.
    pub(super) fn measure(&mut self) -> Result<Report> {
        let pid = self.sessions.target.pid;
        let begin = Instant::now();
        while begin.elapsed() < self.traffic.warmup {
            self.step(begin, "warm-up")?;
        }
        self.series.restart();
        self.late = Duration::ZERO;
        let (before, from) = (UsageSample::now(pid)?, self.counts());
        while before.at.elapsed() < self.traffic.time {
            self.step(begin, "measuring")?;
        }
        let (after, to) = (UsageSample::now(pid)?, self.counts());
        self.series.finish();
        self.drain()?;
        Ok(report(self.traffic, &before, &after, from, to, self.late))
    }

    /// Runs one turn: sends what is due and records what arrived.
    fn step(&mut self, begin: Instant, stage: &str) -> Result<()> {
        let timeout = match self.traffic.policy {
            SendPolicy::Rate(rate) => self.send_due(begin, rate)?,
            SendPolicy::Window(updates, until) => {
                self.fill_windows(updates, until)?;
                TURN
            }
        };
        self.receive(timeout)?;
        self.series.tick(Instant::now(), stage);
        let stall = self.sessions.target.stall;
        ensure!(
            self.ledger.missing == 0 || self.last_progress.elapsed() < stall,
            "nothing arrived for {} s",
            stall.as_secs()
        );
        Ok(())
    }

    /// Sends the updates that are due; returns the time until the next one. Writers take turns, so that their updates are
    /// spread out.
    fn send_due(&mut self, begin: Instant, rate: f64) -> Result<Duration> {
        let interval = 1.0 / (rate * self.writers.len() as f64);
        for _ in 0..SENDS_PER_TURN {
            let next = begin + Duration::from_secs_f64(self.due as f64 * interval);
            let now = Instant::now();
            if next > now {
                return Ok((next - now).min(TURN));
            }
            self.late = self.late.max(now - next);
            let writer = (self.due % self.writers.len() as u64) as usize;
            self.due += 1;
            self.send(writer, 1)?;
        }
        Ok(Duration::ZERO)
    }

    fn fill_windows(&mut self, updates: usize, until: Until) -> Result<()> {
        for writer in 0..self.writers.len() {
            if !std::mem::take(&mut self.writers[writer].ready) {
                continue;
            }
            let open = match until {
                Until::Delivered => self.ledger.undelivered(writer),
                Until::Acked => self.ledger.unacknowledged(writer),
            };
            if open < updates {
                self.send(writer, updates - open)?;
            }
        }
        Ok(())
    }

    /// Sends the next `count` updates of a writer: each in its own socket write, as an editor does, or all in one.
    fn send(&mut self, writer: usize, count: usize) -> Result<()> {
        let Writer { connection, client, place, .. } = self.writers[writer];
        let (mut now, mut update) = (Instant::now(), Vec::with_capacity(64 + self.traffic.chars));
        self.bytes.clear();
        for _ in 0..count {
            if !self.bytes.is_empty() && !self.traffic.burst {
                self.sessions.hub.send(connection, &self.bytes)?;
                self.bytes.clear();
                now = Instant::now();
            }
            let number = self.ledger.send(writer, now);
            ensure!(number < marker::MAX_UPDATES, "a writer sent more updates than markers can number");
            update.clear();
            marker::write_update(&mut update, client, place, number, self.traffic.chars);
            let peer = &mut self.sessions.all[connection];
            frame::write(&mut self.bytes, frame::BINARY, &peer.update(&update));
            if self.traffic.awareness {
                let awareness = peer.awareness(client, u64::from(number) + 1);
                frame::write(&mut self.bytes, frame::BINARY, &awareness);
            }
        }
        self.sessions.hub.send(connection, &self.bytes)
    }

    fn receive(&mut self, timeout: Duration) -> Result<()> {
        let Self {
            sessions,
            ledger,
            series,
            writers,
            writer_of,
            awareness_received,
            markers,
            last_progress,
            traffic,
            ..
        } = self;
        let until_acked = matches!(traffic.policy, SendPolicy::Window(_, Until::Acked));
        let mut acked = |ledger: &mut DeliveryLedger, series: &mut LatencySeries, writer: usize, now| {
            if let Some(age) = ledger.acknowledge(writer, now) {
                series.acknowledged(age);
                writers[writer].ready |= until_acked;
            }
        };
        let mut everywhere = Vec::new();
        let echoes = sessions.target.dialect == Dialect::YWebsocket;
        sessions.turn(timeout, |connection, event, now| match event {
            SessionEvent::Data { bytes, .. } => {
                for (place, number) in marker::find(bytes) {
                    *markers += u64::from(writer_of[connection].is_none());
                    if writer_of[connection].is_none() && traffic.forget == Some(*markers) {
                        continue;
                    }
                    match ledger.arrive(connection, place, number, now) {
                        Arrival::Delivered { writer, age, everywhere: all } => {
                            series.delivered(age);
                            if all {
                                everywhere.push(writer);
                            }
                        }
                        Arrival::Echoed(writer) if echoes => acked(ledger, series, writer, now),
                        Arrival::Echoed(_) | Arrival::Known | Arrival::NoUpdate => {}
                    }
                }
                *last_progress = now;
            }
            SessionEvent::Saved(count) => {
                if let Some(writer) = writer_of[connection] {
                    (0..count).for_each(|_| acked(ledger, series, writer, now));
                }
            }
            SessionEvent::Awareness => *awareness_received += 1,
            SessionEvent::Joined => {}
        })?;
        if !until_acked {
            for writer in everywhere {
                self.writers[writer].ready = true;
            }
        }
        Ok(())
    }

    /// Waits until everything in flight has arrived and is acknowledged.
    fn drain(&mut self) -> Result<()> {
        self.last_progress = Instant::now();
        let stall = self.sessions.target.stall;
        let acks = self.ledger.acked > 0;
        while self.ledger.missing > 0 || acks && self.ledger.acked < self.ledger.sent {
            self.receive(TURN)?;
            let waited = self.last_progress.elapsed();
            ensure!(
                waited < stall || self.ledger.missing > 0,
                "{} of {} updates were not acknowledged",
                self.ledger.sent - self.ledger.acked,
                self.ledger.sent
            );
            if waited >= stall {
                // The ledger's complaints name what is missing.
                break;
            }
        }
        Ok(())
    }

    /// Checks that a client that joins now receives everything that was sent.
    pub(super) fn check_fresh_clients(&mut self) -> Result<()> {
        for document in 0..self.traffic.documents.min(CHECKED_DOCUMENTS) {
            let member = document * (self.traffic.writers + self.traffic.readers);
            let name = self.sessions.all[member].document.clone();
            let totals = self.ledger.totals(document);
            let mut has: Vec<Vec<bool>> = totals.iter().map(|&total| vec![false; total as usize]).collect();
            let fresh = self.sessions.connect(&name)?;
            let begin = Instant::now();
            while !self.sessions.all[fresh].joined() {
                self.sessions.turn(TURN, |connection, event, _| {
                    let SessionEvent::Data { bytes, .. } = event else { return };
                    for (place, number) in marker::find(bytes).filter(|_| connection == fresh) {
                        if let Some(has) = has.get_mut(place).and_then(|has| has.get_mut(number as usize)) {
                            *has = true;
                        }
                    }
                })?;
                ensure!(
                    begin.elapsed() < self.sessions.target.stall,
                    "a client that joined {name} at the end was not answered in time"
                );
            }
            let lacking = has.iter().flatten().filter(|&&has| !has).count();
            let all: u32 = totals.iter().sum();
            ensure!(lacking == 0, "a client that joined {name} at the end lacks {lacking} of {all} updates");
            self.sessions.hub.cut(fresh);
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        Counts {
            sent: self.ledger.sent,
            delivered: self.ledger.delivered,
            acked: self.ledger.acked,
            frames: self.sessions.frames,
            awareness: self.awareness_received,
            bytes_received: self.sessions.hub.bytes_received,
        }
    }
}
