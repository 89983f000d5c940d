//! The rows of the benchmark table: the scenario of each, how its programs are started, and the target.

/// How the programs are started for a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The server and the floor in turn, each a new process.
    Both,
    /// Like `Both`; the floor answers each joining client with a document of this many bytes.
    BothAnswering(usize),
    /// The server alone: the relay has no equivalent.
    Server,
    /// The server alone, after it was filled and restarted.
    Restarted,
}

/// Target value of a figure.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    /// At least this value.
    AtLeast(f64),
    /// At most this value.
    AtMost(f64),
    /// At most this multiple of the floor's figure.
    OfFloor(f64),
    /// At most this multiple of Syncline's figure in the row of the named scenario.
    OfScenario(f64, &'static str),
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct TableRow {
    /// Label in the table, unit last.
    pub name: &'static str,
    /// JSON pointer to the value in the report of `load`.
    pub pointer: &'static str,
    /// Factor from the report's unit to the label's unit.
    pub scale: f64,
    /// Target value, in the label's unit.
    pub target: Goal,
}

/// One run of `syncline-sim load`, and what is read from it.
#[derive(Debug)]
pub(super) struct Measure {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// How its programs are started.
    pub stage: Stage,
    /// Extra arguments of a short run; `None`: left out of short runs because it takes too long.
    pub short: Option<&'static [&'static str]>,
    /// Table rows read from the report.
    pub rows: &'static [TableRow],
}

const fn row(name: &'static str, pointer: &'static str, target: Goal) -> TableRow {
    TableRow { name, pointer, scale: 1.0, target }
}

const fn ms(name: &'static str, pointer: &'static str, target: Goal) -> TableRow {
    TableRow { name, pointer, scale: 1e-3, target }
}

const SHORT: Option<&[&str]> = Some(&["--seconds", "1", "--warmup", "0.5"]);
/// Size of the document that all clients of `join-storm` join.
const LARGE_BYTES: usize = 20 * 1024 * 1024;

use Goal::{AtLeast, AtMost, OfFloor, OfScenario};

/// Every measured scenario, in table order.
pub(super) const MEASURES: &[Measure] = &[
    Measure {
        scenario: "fan-out-throttle",
        stage: Stage::Both,
        short: SHORT,
        rows: &[
            row("4 writers, 16 in flight, 100 readers: deliveries/s", "/figures/deliveries_per_s", AtLeast(2e6)),
            row("the same: server CPU per delivery, us", "/figures/cpu_us_per_delivery", AtMost(0.5)),
        ],
    },
    Measure {
        scenario: "ingest",
        stage: Stage::Both,
        short: SHORT,
        rows: &[
            row(
                "1 writer, 64 in flight, 1 reader: server CPU per update, us",
                "/figures/cpu_us_per_update",
                AtMost(15.0),
            ),
            row("the same: updates/s", "/figures/updates_per_s", AtLeast(0.0)),
        ],
    },
    Measure {
        scenario: "fan-out",
        stage: Stage::Both,
        short: SHORT,
        rows: &[
            row(
                "1 writer at 20/s, 1,000 readers: server CPU per delivery, us",
                "/figures/cpu_us_per_delivery",
                OfFloor(1.1),
            ),
            ms("the same: latency p99, ms", "/latency/p99_us", OfFloor(1.1)),
        ],
    },
    Measure {
        scenario: "many",
        stage: Stage::Both,
        short: SHORT,
        rows: &[
            row(
                "1,000 documents, 3 clients, 5/s: server CPU per keystroke, us",
                "/figures/cpu_us_per_update",
                OfFloor(1.2),
            ),
            ms("the same: latency p99, ms", "/latency/p99_us", AtMost(5.0)),
        ],
    },
    Measure {
        scenario: "many-awareness",
        stage: Stage::Both,
        short: SHORT,
        rows: &[row(
            "with a presence update per keystroke: server CPU per keystroke, us",
            "/figures/cpu_us_per_update",
            OfScenario(1.6, "many"),
        )],
    },
    Measure {
        scenario: "trace-flow",
        stage: Stage::Both,
        short: Some(&[]),
        rows: &[
            row("sveltecomponent, 10 readers, 64 at a time: s", "/figures/until_all_have_it_s", AtMost(0.3)),
            row("the same: longest wait for an update, ms", "/figures/starved_ms", AtMost(100.0)),
        ],
    },
    Measure {
        scenario: "trace",
        stage: Stage::Both,
        short: Some(&[]),
        rows: &[
            row("sveltecomponent, 10 readers, as fast as possible: s", "/figures/until_all_have_it_s", AtMost(0.3)),
            row("the same: longest wait for an update, ms", "/figures/starved_ms", AtMost(100.0)),
        ],
    },
    Measure {
        scenario: "idle",
        stage: Stage::Both,
        short: Some(&["--connections", "1000", "--seconds", "1"]),
        rows: &[
            row("idle connections, one document each: KiB each", "/figures/kib_per_connection", AtMost(6.0)),
            row("the same: connects/s", "/figures/connects_per_s", AtLeast(10_000.0)),
            row("the same: server CPU per connect, us", "/figures/cpu_us_per_connect", AtMost(80.0)),
        ],
    },
    Measure {
        scenario: "cold-open",
        stage: Stage::Restarted,
        short: None,
        rows: &[
            row("automerge-paper after a restart: first client, ms", "/figures/first_ms", AtMost(5.0)),
            row("the same: second client, ms", "/figures/second_ms", AtMost(1.0)),
            row("the same: bytes to the first", "/figures/first_bytes", AtMost(320_000.0)),
        ],
    },
    Measure {
        scenario: "reconnect-storm",
        stage: Stage::Server,
        short: Some(&[]),
        rows: &[
            row(
                "2,000 clients of 200 documents reconnect together: all synced, s",
                "/figures/all_synced_s",
                AtMost(0.3),
            ),
            row("the same: server CPU, s", "/figures/cpu_s", AtMost(0.12)),
        ],
    },
    Measure {
        scenario: "join-storm",
        stage: Stage::BothAnswering(LARGE_BYTES),
        short: None,
        rows: &[
            row("150 clients join 20 MiB together: s", "/figures/all_have_it_s", OfFloor(1.5)),
            row("the same: memory, in multiples of the document", "/figures/peak_in_documents", AtMost(4.0)),
        ],
    },
    Measure {
        scenario: "held-open",
        stage: Stage::Restarted,
        short: None,
        rows: &[
            row("automerge-paper open: MiB", "/figures/open_mib", AtMost(8.0)),
            row("the same after a quiet time: MiB", "/figures/quiet_mib", AtMost(1.0)),
        ],
    },
    Measure {
        scenario: "durable",
        stage: Stage::Server,
        short: SHORT,
        // 0.9 times the highest rate that sled reached when it was driven directly (43,000/s).
        rows: &[row("1,000 documents: durable updates/s", "/figures/acks_per_s", AtLeast(38_700.0))],
    },
    Measure {
        scenario: "keystroke",
        stage: Stage::Server,
        short: None,
        rows: &[
            row("a keystroke in an empty document: server CPU, us", "/figures/empty_cpu_us", AtMost(15.0)),
            row("the same in one of a million edits: ratio", "/figures/ratio", AtMost(1.5)),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_refers_to_a_figure_that_is_measured() {
        for (at, measure) in MEASURES.iter().enumerate() {
            for row in measure.rows {
                let both = matches!(measure.stage, Stage::Both | Stage::BothAnswering(_));
                assert!(!matches!(row.target, OfFloor(_)) || both, "{}: the floor is not measured", row.name);
                if let OfScenario(_, other) = row.target {
                    assert!(
                        MEASURES[..at].iter().any(|before| before.scenario == other),
                        "{}: {other} is not measured before it",
                        row.name
                    );
                }
            }
        }
    }
}
