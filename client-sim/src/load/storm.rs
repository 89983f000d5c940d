//! Many clients at the same time: `reconnect-storm`, where clients that were cut reconnect together, and `join-storm`, where
//! clients join one large document.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::RngExt;
use syncline_protocol::varint::write_var_uint;

use super::marker::{self, MARKER_CHARS};
use super::measure::UsageSample;
use super::report::{Figures, Report, mib};
use super::session::{SessionEvent, Sessions, Target};
use super::stored::{wait_until, wait_until_quiet};
use crate::peer::Peer;
use crate::proc::usage;

/// Longest wait in one turn of the event loop.
const TURN: Duration = Duration::from_millis(20);
/// How long the cut clients stay disconnected.
const AWAY: Duration = Duration::from_secs(2);
/// Updates that each client has before it is cut.
const UPDATES_BEFORE: u32 = 20;
/// Updates that each client misses while it is disconnected.
const UPDATES_MISSED: u32 = 5;
/// Characters of one update of the large document.
const LARGE_CHARS: usize = 64 * 1024;
/// Updates of the large document sent between two turns of the event loop.
const LARGE_UPDATES_PER_TURN: u32 = 8;
/// The document counts as stored when nothing has arrived for this long.
const SETTLED: Duration = Duration::from_millis(1500);

/// Parameters of `reconnect-storm`.
#[derive(Debug, Clone)]
pub(super) struct Reconnect {
    /// Number of clients that are cut.
    pub clients: usize,
    /// Number of documents, over which the clients are distributed.
    pub documents: usize,
}

/// Cuts all clients, changes their documents, and reconnects all clients at the same time.
pub(super) fn reconnect(target: &Target, job: &Reconnect, name: &str) -> Result<Report> {
    ensure!(job.documents > 0 && job.clients > 0, "--connections and --documents must be at least 1");
    let prefix = format!("load-{:08x}", rand::rng().random::<u32>());
    let names: Vec<String> = (0..job.documents).map(|number| format!("{prefix}-{number}")).collect();
    // One writer of each document stays connected and changes the document while the others are disconnected.
    let mut sessions = Sessions::new(target.clone())?;
    sessions.join_all(&names)?;
    ensure!(!sessions.relay, "reconnect-storm needs a server that stores documents; the bare relay does not");
    send_updates(&mut sessions, names.len(), 0..UPDATES_BEFORE)?;
    let clients: Vec<String> = (0..job.clients).map(|number| names[number % names.len()].clone()).collect();
    sessions.join_all(&clients)?;
    for number in names.len()..names.len() + clients.len() {
        sessions.hub.cut(number);
    }
    let away = Instant::now();
    send_updates(&mut sessions, names.len(), UPDATES_BEFORE..UPDATES_BEFORE + UPDATES_MISSED)?;
    wait_until_quiet(&mut sessions, AWAY.saturating_sub(away.elapsed()).max(Duration::from_millis(100)))?;

    let (before, first) = (UsageSample::now(target.pid)?, sessions.all.len());
    let (joined, received) = (sessions.joined, sessions.hub.bytes_received);
    let mut lacking: Vec<u32> = vec![UPDATES_MISSED; clients.len()];
    for (number, document) in clients.iter().enumerate() {
        sessions.connect_with(document, &state_vector(client_of(number % names.len()), UPDATES_BEFORE))?;
    }
    let (mut synced, mut complete, mut missing) = (None, None, clients.len());
    let mut rss_peak = 0;
    while complete.is_none() || synced.is_none() {
        ensure!(
            before.at.elapsed() < target.stall,
            "{missing} of {} clients did not receive all missed updates in time",
            clients.len()
        );
        sessions.turn(TURN, |connection, event, now| {
            let SessionEvent::Data { bytes, .. } = event else { return };
            let Some(lacks) = connection.checked_sub(first).and_then(|client| lacking.get_mut(client)) else { return };
            let arrived = marker::find(bytes).filter(|&(_, number)| number >= UPDATES_BEFORE).count() as u32;
            if *lacks > 0 && arrived >= *lacks {
                missing -= 1;
            }
            *lacks = lacks.saturating_sub(arrived);
            if missing == 0 {
                complete.get_or_insert(now);
            }
        })?;
        if sessions.joined - joined >= clients.len() {
            synced.get_or_insert_with(Instant::now);
        }
    }
    let after = UsageSample::now(target.pid)?;
    rss_peak = after.server.map_or(rss_peak, |server| server.peak_bytes);
    let since = |at: Option<Instant>| at.map(|at| (at - before.at).as_secs_f64());
    let mut figures = Figures::default();
    figures.add_known("all_synced_s", "all in sync, s", since(synced));
    figures.add_known("all_content_s", "all have the missed updates, s", since(complete));
    let cpu = after.server_cpu_since(&before);
    figures.add_known("cpu_s", "server CPU, s", cpu);
    figures.add_known(
        "cpu_us_per_client",
        "server CPU, us per client",
        cpu.map(|cpu| 1e6 * cpu / clients.len() as f64),
    );
    figures.add(
        "bytes_to_clients",
        "bytes to clients, including upgrade",
        (sessions.hub.bytes_received - received) as f64,
    );
    if rss_peak > 0 {
        figures.add("rss_peak_mib", "server memory, peak, MiB", mib(rss_peak));
    }
    figures.add_known("others_cores", "CPU of other programs, cores", after.others_since(&before));
    Ok(Report {
        ok: true,
        scenario: name.to_owned(),
        about: format!(
            "{} clients of {} documents cut, each missing {UPDATES_MISSED} updates, all reconnected at the same time",
            job.clients, job.documents
        ),
        seconds: after.seconds_since(&before),
        generator_share: after.generator_share_since(&before),
        generator_busy: after.generator_busy_since(&before),
        figures,
        ..Report::default()
    })
}

/// Client id of the writer of a document.
fn client_of(document: usize) -> u64 {
    1 << 31 | document as u64
}

/// Sends the updates `numbers` from the writer of each document, then waits until nothing more arrives. A writer's connection
/// has the same number as its document.
fn send_updates(sessions: &mut Sessions, documents: usize, numbers: std::ops::Range<u32>) -> Result<()> {
    let mut update = Vec::new();
    for number in numbers {
        for document in 0..documents {
            update.clear();
            marker::write_update(&mut update, client_of(document), 0, number, MARKER_CHARS);
            let message = sessions.all[document].update(&update);
            sessions.send_message(document, &message)?;
        }
        sessions.turn(Duration::from_millis(1), |_, _, _| {})?;
    }
    wait_until_quiet(sessions, Duration::from_millis(300))
}

fn state_vector(client: u64, updates: u32) -> Vec<u8> {
    let mut out = vec![1];
    write_var_uint(&mut out, client);
    write_var_uint(&mut out, u64::from(updates) * MARKER_CHARS as u64);
    out
}

/// Parameters of `join-storm`.
#[derive(Debug, Clone)]
pub(super) struct Join {
    /// Number of clients that join.
    pub clients: usize,
    /// Size of the document in bytes.
    pub bytes: usize,
}

/// Fills a document (the relay already has one, see `floor --answer`) and joins all clients at the same time.
pub(super) fn join(target: &Target, job: &Join, name: &str) -> Result<Report> {
    ensure!(
        job.clients > 0 && job.bytes >= LARGE_CHARS,
        "--connections must be at least 1, --bytes at least {LARGE_CHARS}"
    );
    let document = format!("load-{:08x}", rand::rng().random::<u32>());
    let empty = UsageSample::now(target.pid)?;
    let mut sessions = Sessions::new(target.clone())?;
    let updates = (job.bytes / LARGE_CHARS) as u32;
    let writer = sessions.connect(&document)?;
    wait_until(&mut sessions, |sessions| sessions.joined == 1, "the document was not opened in time")?;
    let mut update = Vec::new();
    if !sessions.relay {
        for number in 0..updates {
            update.clear();
            marker::write_update(&mut update, client_of(0), 0, number, LARGE_CHARS);
            let message = sessions.all[writer].update(&update);
            sessions.send_message(writer, &message)?;
            if number % LARGE_UPDATES_PER_TURN == 0 {
                sessions.turn(Duration::from_millis(5), |_, _, _| {})?;
            }
        }
        wait_until_quiet(&mut sessions, SETTLED)?;
    }
    let wanted = if sessions.relay { sessions.all[writer].data_bytes } else { u64::from(updates) * LARGE_CHARS as u64 };
    let (before, received) = (UsageSample::now(target.pid)?, sessions.hub.bytes_received);
    for _ in 0..job.clients {
        sessions.connect(&document)?;
    }
    let mut found = vec![0; job.clients + 1];
    let (mut moved, mut rss_peak) = (Instant::now(), 0);
    let complete = |peer: &Peer| peer.joined() && peer.data_bytes >= wanted;
    while !sessions.all[1..].iter().all(complete) {
        ensure!(moved.elapsed() < target.stall, "not every client received the document in time");
        sessions.turn(TURN, |connection, event, now| {
            if let SessionEvent::Data { bytes, .. } = event {
                found[connection] += marker::find(bytes).count();
                moved = now;
            }
        })?;
        rss_peak = target.pid.and_then(usage).map_or(0, |usage| usage.rss_bytes).max(rss_peak);
    }
    let after = UsageSample::now(target.pid)?;
    let mut failures = Vec::new();
    let short = found[1..].iter().filter(|&&found| !sessions.relay && found < updates as usize).count();
    if short > 0 {
        failures.push(format!("{short} of {} clients received an incomplete document", job.clients));
    }
    let (seconds, bytes) = (after.seconds_since(&before), (sessions.hub.bytes_received - received) as f64);
    let mut figures = Figures::default();
    figures.add("all_have_it_s", "all clients complete, s", seconds);
    figures.add("received_mib", "received, MiB", bytes / (1024.0 * 1024.0));
    figures.add("received_mib_per_s", "received, MiB/s", bytes / (1024.0 * 1024.0) / seconds);
    figures.add_known("cpu_s", "server CPU, s", after.server_cpu_since(&before));
    if let (Some(empty), Some(with)) = (empty.server, before.server) {
        figures.add("rss_before_mib", "server memory before, MiB", mib(empty.rss_bytes));
        figures.add("rss_with_mib", "server memory, document open, MiB", mib(with.rss_bytes));
        figures.add("rss_peak_mib", "server memory, peak while joining, MiB", mib(rss_peak));
        let over = rss_peak.saturating_sub(empty.rss_bytes) as f64 / job.bytes as f64;
        figures.add("peak_in_documents", "peak above start, in documents", over);
    }
    figures.add_known("others_cores", "CPU of other programs, cores", after.others_since(&before));
    Ok(Report {
        ok: failures.is_empty(),
        failures,
        scenario: name.to_owned(),
        about: format!("{} clients join a document of {:.1} MiB at the same time", job.clients, mib(job.bytes as u64)),
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
    fn state_vector_covers_the_updates_before_the_cut() {
        let read = StateVector::decode_v1(&state_vector(client_of(7), UPDATES_BEFORE)).unwrap();
        assert_eq!((read.len(), read.get(&ClientID::new(client_of(7)))), (1, UPDATES_BEFORE * MARKER_CHARS as u32));
    }
}
