//! `idle`: many idle connections, each with its own document: the cost of connecting and of staying connected.

use std::time::{Duration, Instant};

use anyhow::Result;
use rand::RngExt;

use super::measure::UsageSample;
use super::report::{Figures, Report};
use super::session::{Sessions, Target};

/// Wait between the last join and the memory sample.
const SETTLE: Duration = Duration::from_secs(1);
/// Longest wait in one turn of the event loop.
const TURN: Duration = Duration::from_millis(100);

/// Parameters of an idle run.
#[derive(Debug, Clone)]
pub(super) struct Idle {
    /// Number of connections.
    pub connections: usize,
    /// Number of documents, over which the connections are distributed.
    pub documents: usize,
    /// How long the connections stay idle, and how long the server may take to free memory after they are closed.
    pub time: Duration,
}

/// Runs the scenario and returns its report.
pub(super) fn run(target: &Target, idle: &Idle, name: &str) -> Result<Report> {
    let prefix = format!("load-{:08x}", rand::rng().random::<u32>());
    let names: Vec<String> =
        (0..idle.connections).map(|number| format!("{prefix}-{}", number % idle.documents.max(1))).collect();
    let mut sessions = Sessions::new(target.clone())?;
    let before = UsageSample::now(target.pid)?;
    let took = sessions.join_all(&names)?;
    let joined = UsageSample::now(target.pid)?;
    answer_pings(&mut sessions, SETTLE)?;
    let settled = UsageSample::now(target.pid)?;
    answer_pings(&mut sessions, idle.time)?;
    let after = UsageSample::now(target.pid)?;
    let relay = sessions.relay;
    sessions.clear();
    std::thread::sleep(idle.time);
    let left = UsageSample::now(target.pid)?;

    let count = idle.connections as f64;
    let mut figures = Figures::default();
    figures.add("connects_per_s", "connects/s", count / took.as_secs_f64());
    let connect_cpu = joined.server_cpu_since(&before);
    figures.add_known("cpu_us_per_connect", "server CPU, us per connect", connect_cpu.map(|cpu| 1e6 * cpu / count));
    let idle_share = after.server_cpu_since(&settled).map(|cpu| 100.0 * cpu / after.seconds_since(&settled));
    figures.add_known("idle_cpu_percent", "server CPU while idle, % of a core", idle_share);
    let kib = |sample: &UsageSample| Some(sample.server?.rss_bytes as f64 / 1024.0);
    let each = kib(&settled).zip(kib(&before)).map(|(with, without)| (with - without) / count);
    figures.add_known("kib_per_connection", "server memory per connection, KiB", each);
    for (key, name, sample) in [
        ("rss_before_mib", "server memory before, MiB", &before),
        ("rss_with_mib", "server memory, all connected, MiB", &settled),
        ("rss_left_mib", "server memory, all closed, MiB", &left),
    ] {
        figures.add_known(key, name, kib(sample).map(|kib| kib / 1024.0));
    }
    figures.add_known("others_cores", "CPU of other programs, cores", joined.others_since(&before));
    Ok(Report {
        ok: true,
        scenario: name.to_owned(),
        about: format!("{} idle connections on {} documents", idle.connections, idle.documents),
        relay,
        seconds: joined.seconds_since(&before),
        generator_share: joined.generator_share_since(&before),
        generator_busy: joined.generator_busy_since(&before),
        figures,
        ..Report::default()
    })
}

/// Keeps the connections open for `time` and answers pings.
fn answer_pings(sessions: &mut Sessions, time: Duration) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        sessions.turn(TURN, |_, _, _| {})?;
    }
    Ok(())
}
