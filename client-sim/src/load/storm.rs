//! Many at once: `reconnect-storm`, clients that were cut and come back together, and `join-storm`, clients that all
//! want one large document.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::RngExt;
use syncline_protocol::varint::write_var_uint;

use super::marker::{self, MARKER_CHARS};
use super::measure::Look;
use super::report::{Figures, Report, mib};
use super::session::{Said, Sessions, Target};
use super::stored::{quiet, until};
use crate::proc::usage;

/// Longest wait in a turn.
const TURN: Duration = Duration::from_millis(20);
/// How long the cut clients stay away.
const AWAY: Duration = Duration::from_secs(2);
/// Updates each client has, and those it misses while it is away.
const HAS: u32 = 20;
const MISSES: u32 = 5;
/// Characters of one update of the large document.
const LARGE_CHARS: usize = 64 * 1024;
/// Its updates that are on their way at once.
const LARGE_AT_ONCE: u32 = 8;
/// Nothing more comes when nothing came for so long.
const SETTLED: Duration = Duration::from_millis(1500);

/// `reconnect-storm`.
#[derive(Debug, Clone)]
pub struct Reconnect {
    /// Clients that are cut.
    pub clients: usize,
    /// Documents they share out.
    pub documents: usize,
}

/// Cuts all clients, lets their documents change, and lets them come back at once.
pub fn reconnect(target: &Target, job: &Reconnect, name: &str) -> Result<Report> {
    ensure!(job.documents > 0 && job.clients > 0, "no clients of no documents can come back");
    let prefix = format!("load-{:08x}", rand::rng().random::<u32>());
    let names: Vec<String> = (0..job.documents).map(|number| format!("{prefix}-{number}")).collect();
    // One writer of each document stays; it is what changes while the others are away.
    let mut sessions = Sessions::new(target.clone())?;
    sessions.join_all(&names)?;
    ensure!(!sessions.relay, "a relay has nothing to bring a client up to date with");
    type_on(&mut sessions, &names, 0..HAS)?;
    let clients: Vec<String> = (0..job.clients).map(|number| names[number % names.len()].clone()).collect();
    sessions.join_all(&clients)?;
    for number in names.len()..names.len() + clients.len() {
        sessions.hub.cut(number);
    }
    let away = Instant::now();
    type_on(&mut sessions, &names, HAS..HAS + MISSES)?;
    quiet(&mut sessions, AWAY.saturating_sub(away.elapsed()).max(Duration::from_millis(100)))?;

    let (before, first) = (Look::now(target.pid)?, sessions.all.len());
    let (joined, received) = (sessions.joined, sessions.hub.bytes_received);
    let mut lacking: Vec<u32> = vec![MISSES; clients.len()];
    for (number, document) in clients.iter().enumerate() {
        sessions.connect_with(document, &state_vector(client_of(number % names.len()), HAS))?;
    }
    let (mut synced, mut complete, mut missing) = (None, None, clients.len());
    let mut rss_peak = 0;
    while complete.is_none() || synced.is_none() {
        ensure!(before.at.elapsed() < target.stall, "{missing} of {} clients are not up to date", clients.len());
        sessions.turn(TURN, |connection, said, now| {
            let Said::Data { bytes, .. } = said else { return };
            let Some(lacks) = connection.checked_sub(first).and_then(|client| lacking.get_mut(client)) else { return };
            let came = marker::find(bytes).filter(|&(_, number)| number >= HAS).count() as u32;
            if *lacks > 0 && came >= *lacks {
                missing -= 1;
            }
            *lacks = lacks.saturating_sub(came);
            if missing == 0 {
                complete.get_or_insert(now);
            }
        })?;
        if sessions.joined - joined >= clients.len() {
            synced.get_or_insert_with(Instant::now);
        }
    }
    let after = Look::now(target.pid)?;
    rss_peak = after.server.map_or(rss_peak, |server| server.peak_bytes);
    let since = |at: Option<Instant>| at.map(|at| (at - before.at).as_secs_f64());
    let mut figures = Figures::default();
    figures.add_known("all_synced_s", "all in sync, s", since(synced));
    figures.add_known("all_content_s", "all have what they missed, s", since(complete));
    let cpu = after.server_cpu_since(&before);
    figures.add_known("cpu_s", "server CPU, s", cpu);
    figures.add_known("cpu_us_per_client", "server CPU, us a client", cpu.map(|cpu| 1e6 * cpu / clients.len() as f64));
    figures.add(
        "bytes_to_clients",
        "bytes to clients, upgrade included",
        (sessions.hub.bytes_received - received) as f64,
    );
    if rss_peak > 0 {
        figures.add("rss_peak_mib", "server memory at most, MiB", mib(rss_peak));
    }
    figures.add_known("others_cores", "CPU of everything else, cores", after.others_since(&before));
    Ok(Report {
        ok: true,
        scenario: name.to_owned(),
        about: format!(
            "{} clients of {} documents cut, {MISSES} updates missed each, all back at once",
            job.clients, job.documents
        ),
        seconds: after.seconds_since(&before),
        generator_share: after.generator_share_since(&before),
        generator_busy: after.generator_busy_since(&before),
        figures,
        ..Report::default()
    })
}

/// The client that writes a document.
fn client_of(document: usize) -> u64 {
    1 << 31 | document as u64
}

/// The writers (connection and document have the same number) send these updates, and see them acknowledged or wait.
fn type_on(sessions: &mut Sessions, names: &[String], numbers: std::ops::Range<u32>) -> Result<()> {
    let mut update = Vec::new();
    for number in numbers {
        for (document, name) in names.iter().enumerate() {
            update.clear();
            marker::write_update(&mut update, client_of(document), 0, number, MARKER_CHARS);
            let message = sessions.target.dialect.update(name, &update);
            sessions.say(document, &message)?;
        }
        sessions.turn(Duration::from_millis(1), |_, _, _| {})?;
    }
    quiet(sessions, Duration::from_millis(300))
}

fn state_vector(client: u64, updates: u32) -> Vec<u8> {
    let mut out = vec![1];
    write_var_uint(&mut out, client);
    write_var_uint(&mut out, u64::from(updates) * MARKER_CHARS as u64);
    out
}

/// `join-storm`.
#[derive(Debug, Clone)]
pub struct Join {
    /// Clients that join.
    pub clients: usize,
    /// Bytes of text of the document.
    pub bytes: usize,
}

/// Fills a document (a relay has it already: `floor --answer`), and lets all join at once.
pub fn join(target: &Target, job: &Join, name: &str) -> Result<Report> {
    ensure!(job.clients > 0 && job.bytes >= LARGE_CHARS, "at least one client, and a document of {LARGE_CHARS} bytes");
    let document = format!("load-{:08x}", rand::rng().random::<u32>());
    let empty = Look::now(target.pid)?;
    let mut sessions = Sessions::new(target.clone())?;
    let updates = (job.bytes / LARGE_CHARS) as u32;
    let writer = sessions.connect(&document)?;
    until(&mut sessions, |sessions| sessions.joined == 1, "the document was not opened")?;
    let mut update = Vec::new();
    if !sessions.relay {
        for number in 0..updates {
            update.clear();
            marker::write_update(&mut update, client_of(0), 0, number, LARGE_CHARS);
            let message = sessions.target.dialect.update(&document, &update);
            sessions.say(writer, &message)?;
            if number % LARGE_AT_ONCE == 0 {
                sessions.turn(Duration::from_millis(5), |_, _, _| {})?;
            }
        }
        quiet(&mut sessions, SETTLED)?;
    }
    let wanted = if sessions.relay { sessions.all[writer].data_bytes } else { u64::from(updates) * LARGE_CHARS as u64 };
    let (before, received) = (Look::now(target.pid)?, sessions.hub.bytes_received);
    for _ in 0..job.clients {
        sessions.connect(&document)?;
    }
    let mut found = vec![0; job.clients + 1];
    let (mut moved, mut rss_peak) = (Instant::now(), 0);
    let complete = |session: &super::session::Session| session.joined && session.data_bytes >= wanted;
    while !sessions.all[1..].iter().all(complete) {
        ensure!(moved.elapsed() < target.stall, "not every client got the document");
        sessions.turn(TURN, |connection, said, now| {
            if let Said::Data { bytes, .. } = said {
                found[connection] += marker::find(bytes).count();
                moved = now;
            }
        })?;
        rss_peak = target.pid.and_then(usage).map_or(0, |usage| usage.rss_bytes).max(rss_peak);
    }
    let after = Look::now(target.pid)?;
    let mut failures = Vec::new();
    let short = found[1..].iter().filter(|&&found| !sessions.relay && found < updates as usize).count();
    if short > 0 {
        failures.push(format!("{short} of {} clients lack a part of the document", job.clients));
    }
    let (seconds, bytes) = (after.seconds_since(&before), (sessions.hub.bytes_received - received) as f64);
    let mut figures = Figures::default();
    figures.add("all_have_it_s", "all have it, s", seconds);
    figures.add("received_mib", "received, MiB", bytes / (1024.0 * 1024.0));
    figures.add("received_mib_per_s", "received, MiB/s", bytes / (1024.0 * 1024.0) / seconds);
    figures.add_known("cpu_s", "server CPU, s", after.server_cpu_since(&before));
    if let (Some(empty), Some(with)) = (empty.server, before.server) {
        figures.add("rss_before_mib", "server memory before, MiB", mib(empty.rss_bytes));
        figures.add("rss_with_mib", "server memory with the document, MiB", mib(with.rss_bytes));
        figures.add("rss_peak_mib", "server memory while they join, MiB", mib(rss_peak));
        let over = rss_peak.saturating_sub(empty.rss_bytes) as f64 / job.bytes as f64;
        figures.add("peak_in_documents", "more than before, in documents", over);
    }
    figures.add_known("others_cores", "CPU of everything else, cores", after.others_since(&before));
    Ok(Report {
        ok: failures.is_empty(),
        failures,
        scenario: name.to_owned(),
        about: format!("{} clients join a document of {:.1} MiB at once", job.clients, mib(job.bytes as u64)),
        relay: sessions.relay,
        seconds,
        generator_share: after.generator_share_since(&before),
        generator_busy: after.generator_busy_since(&before),
        figures,
        ..Report::default()
    })
}

#[cfg(test)]
mod tests {
    use syncline_client::yrs::updates::decoder::Decode;
    use syncline_client::yrs::{ClientID, StateVector};

    use super::*;

    #[test]
    fn a_state_vector_says_what_a_client_has() {
        let read = StateVector::decode_v1(&state_vector(client_of(7), HAS)).unwrap();
        assert_eq!((read.len(), read.get(&ClientID::new(client_of(7)))), (1, HAS * MARKER_CHARS as u32));
    }
}
