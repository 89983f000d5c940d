//! `idle`: many connections, a document each, that do nothing: what connecting costs, and what being there costs.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::RngExt;

use super::measure::Look;
use super::report::{Figures, Report};
use super::session::{Sessions, Target};

/// After the last has joined, before memory is looked at.
const SETTLE: Duration = Duration::from_secs(1);
/// Longest wait in a turn.
const TURN: Duration = Duration::from_millis(100);

/// What to do.
#[derive(Debug, Clone)]
pub struct Idle {
    /// Connections.
    pub connections: usize,
    /// Documents they share out.
    pub documents: usize,
    /// How long nothing is done; and how long memory may take to come back when all have left.
    pub time: Duration,
}

/// Runs it and reports.
pub fn run(target: &Target, idle: &Idle, name: &str) -> Result<Report> {
    let prefix = format!("load-{:08x}", rand::rng().random::<u32>());
    let names: Vec<String> =
        (0..idle.connections).map(|number| format!("{prefix}-{}", number % idle.documents.max(1))).collect();
    let mut sessions = Sessions::new(target.clone())?;
    let before = Look::now(target.pid)?;
    let took = sessions.join_all(&names)?;
    let joined = Look::now(target.pid)?;
    stay(&mut sessions, SETTLE)?;
    let settled = Look::now(target.pid)?;
    stay(&mut sessions, idle.time)?;
    let after = Look::now(target.pid)?;
    let relay = sessions.relay;
    sessions.clear();
    std::thread::sleep(idle.time);
    let left = Look::now(target.pid)?;

    let count = idle.connections as f64;
    let mut figures = Figures::default();
    figures.add("connects_per_s", "connects/s", count / took.as_secs_f64());
    let connect_cpu = joined.server_cpu_since(&before);
    figures.add_known("cpu_us_per_connect", "server CPU, us a connect", connect_cpu.map(|cpu| 1e6 * cpu / count));
    let idle_share = after.server_cpu_since(&settled).map(|cpu| 100.0 * cpu / after.seconds_since(&settled));
    figures.add_known("idle_cpu_percent", "server CPU while idle, % of a core", idle_share);
    let kib = |look: &Look| Some(look.server?.rss_bytes as f64 / 1024.0);
    let each = kib(&settled).zip(kib(&before)).map(|(with, without)| (with - without) / count);
    figures.add_known("kib_per_connection", "server memory a connection, KiB", each);
    for (key, name, look) in [
        ("rss_before_mib", "server memory before, MiB", &before),
        ("rss_with_mib", "server memory with all, MiB", &settled),
        ("rss_left_mib", "server memory when they left, MiB", &left),
    ] {
        figures.add_known(key, name, kib(look).map(|kib| kib / 1024.0));
    }
    figures.add_known("others_cores", "CPU of everything else, cores", joined.others_since(&before));
    Ok(Report {
        ok: true,
        scenario: name.to_owned(),
        about: format!("{} connections on {} documents, doing nothing", idle.connections, idle.documents),
        relay,
        seconds: joined.seconds_since(&before),
        generator_share: joined.generator_share_since(&before),
        generator_busy: joined.generator_busy_since(&before),
        figures,
        ..Report::default()
    })
}

/// Answers pings for a time.
fn stay(sessions: &mut Sessions, time: Duration) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        sessions.turn(TURN, |_, _, _| {})?;
    }
    Ok(())
}
