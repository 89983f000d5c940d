//! The server's metrics: one shared struct, incremented where each event happens and rendered for Prometheus by
//! [`Metrics::page`]. `docs/metrics.md` explains each metric to operators.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use syncline_log::Figures;
use syncline_protocol::close::Close;

/// Prefix of every metric name.
const PREFIX: &str = "syncline";

/// Counters since the start of the server.
#[derive(Debug, Default)]
pub struct Metrics {
    /// WebSocket connections accepted.
    pub sessions: Counter,
    /// Updates applied to documents.
    pub updates: Counter,
    /// Updates queued for readers.
    pub delivered: Counter,
    /// Slow readers brought up to date by a diff.
    pub resyncs: Counter,
    /// Snapshots written in place of records.
    pub compactions: Counter,
    /// Documents that could not be loaded.
    pub loads_failed: Counter,
    /// Documents asked to leave memory, or to drop what can be rebuilt, because the memory limit of open
    /// documents was reached.
    pub documents_evicted: Counter,
    /// Documents not opened because no open document could release memory.
    pub documents_refused: Counter,
    /// Times that opening a document waited for its rate limit.
    pub open_pauses: Counter,
    /// Sessions that the server closed.
    pub sessions_closed: Closings,
    /// Documents refused to a session, or closed for it, while the session stayed open.
    pub documents_closed: Closings,
    /// Edits that were rejected while their session stayed open.
    pub edits_refused: Closings,
    /// Sessions refused because there were too many, in total or from their address.
    pub connections_refused: Counter,
    /// Sessions, or documents of one, refused because their user had too many connections.
    pub users_refused: Counter,
    /// Sockets cut before their first message to make room for others.
    pub unfinished_cut: Counter,
    /// Times that reading from a connection paused for its rate limit.
    pub pauses: Counter,
    /// Sessions closed because they sent far more than their rate limit.
    pub floods: Counter,
    /// Sessions closed because their client sent nothing for too long, or because their socket accepted no data.
    pub vanished: Counter,
    /// Slow readers cut because too much data was queued for all of them together.
    pub cut_for_memory: Counter,
    /// Sessions closed because of an incomplete message.
    pub partial_refused: Counter,
    /// Messages ignored: of an unknown type, text, for a refused document, or too many before a token.
    pub messages_ignored: Counter,
    /// Awareness updates or states dropped: malformed or over a limit.
    pub awareness_dropped: Counter,
}

/// Counters by close code (`protocol/SPEC.md`, Close codes).
#[derive(Debug, Default)]
pub struct Closings(Family<Code, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u32,
}

impl Closings {
    /// Adds one to the counter of `close`'s code.
    pub fn count(&self, close: &Close) {
        self.0.get_or_create(&Code { code: close.code().into() }).inc();
    }

    /// The count for a code.
    pub fn get(&self, code: u16) -> u64 {
        self.0.get(&Code { code: code.into() }).map_or(0, |count| count.get())
    }
}

/// Current values for the gauges, read when `/metrics` is requested.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Open sessions.
    pub sessions: usize,
    /// Sockets that have not sent a first message.
    pub unfinished: usize,
    /// Documents in memory.
    pub documents: usize,
    /// Estimated bytes of memory of these documents.
    pub document_bytes: usize,
    /// Bytes queued for slow readers.
    pub outbox_bytes: usize,
    /// Figures of the log.
    pub log: Figures,
    /// A storage error has occurred: nothing is saved any more.
    pub has_storage_failed: bool,
}

impl Metrics {
    /// Renders all metrics in the OpenMetrics text format 1.0.
    pub fn page(&self, now: &Now) -> String {
        let mut registry = Registry::with_prefix(PREFIX);
        self.register(&mut registry);
        now.register(&mut registry);
        let mut page = String::new();
        // Writing to a string fails only if a metric's own encoder fails; these are plain numbers.
        text::encode(&mut page, &registry).ok();
        page
    }

    fn register(&self, registry: &mut Registry) {
        let counters = [
            ("sessions", "WebSocket connections accepted", &self.sessions),
            ("updates", "Updates applied to documents", &self.updates),
            ("delivered", "Updates queued for readers", &self.delivered),
            ("resyncs", "Slow readers brought up to date by a diff", &self.resyncs),
            ("compactions", "Snapshots written in place of records", &self.compactions),
            ("loads_failed", "Documents that could not be loaded", &self.loads_failed),
            ("documents_evicted", "Documents asked to release memory for others", &self.documents_evicted),
            ("documents_refused", "Documents not opened because memory was short", &self.documents_refused),
            ("open_pauses", "Times that opening a document waited for its rate limit", &self.open_pauses),
            (
                "connections_refused",
                "Sessions refused: too many, in total or from an address",
                &self.connections_refused,
            ),
            ("users_refused", "Sessions or documents refused: too many of one user", &self.users_refused),
            ("unfinished_cut", "Sockets without a first message cut to make room for others", &self.unfinished_cut),
            ("pauses", "Times that reading from a connection paused for its rate limit", &self.pauses),
            ("floods", "Sessions closed for sending far more than their rate limit", &self.floods),
            ("vanished", "Sessions closed because their client did not respond", &self.vanished),
            ("cut_for_memory", "Slow readers cut because too much was queued for all of them", &self.cut_for_memory),
            ("partial_refused", "Sessions closed because of an incomplete message", &self.partial_refused),
            ("messages_ignored", "Messages ignored: unknown types, text, refused documents", &self.messages_ignored),
            ("awareness_dropped", "Awareness updates dropped: malformed or over a limit", &self.awareness_dropped),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let closings = [
            ("sessions_closed", "Sessions that the server closed, by close code", &self.sessions_closed),
            ("documents_closed", "Documents refused to a session or closed for it, by code", &self.documents_closed),
            ("edits_refused", "Edits that were rejected, by code", &self.edits_refused),
        ];
        for (name, help, closings) in closings {
            registry.register(name, help, closings.0.clone());
        }
    }
}

impl Now {
    fn register(&self, registry: &mut Registry) {
        let gauges = [
            ("sessions_open", "Open sessions", self.sessions),
            ("unfinished_open", "Open sockets that have not sent a first message", self.unfinished),
            ("documents_open", "Documents in memory", self.documents),
            ("documents_open_bytes", "Estimated bytes of memory of open documents", self.document_bytes),
            (
                "storage_failed",
                "1 after the first storage error: nothing is saved any more",
                self.has_storage_failed.into(),
            ),
            ("outbox_bytes", "Bytes queued for slow readers, in total", self.outbox_bytes),
            ("log_waiting_bytes", "Bytes waiting to be written to disk", self.log.waiting_bytes),
        ];
        for (name, help, value) in gauges {
            registry.register(name, help, ConstGauge::new(value as u64));
        }
        let Figures { commits, commit_time, .. } = self.log;
        let counter = |value: u64| {
            let counter = Counter::<u64>::default();
            counter.inc_by(value);
            counter
        };
        registry.register("log_commits", "Commits to disk, each with a sync", counter(commits));
        let seconds = Counter::<f64>::default();
        seconds.inc_by(commit_time.as_secs_f64());
        let help = "Total time of commits; divide by log_commits for the average";
        registry.register_with_unit("log_commit", help, Unit::Seconds, seconds);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The sample lines of a page: name, labels and value.
    fn samples(page: &str) -> Vec<&str> {
        page.lines().filter(|line| !line.starts_with('#')).collect()
    }

    fn now() -> Now {
        let log = Figures { commits: 7, commit_time: Duration::from_millis(1_500), waiting_bytes: 10 };
        Now {
            sessions: 3,
            unfinished: 1,
            documents: 2,
            document_bytes: 8_192,
            outbox_bytes: 4_096,
            log,
            has_storage_failed: true,
        }
    }

    #[test]
    fn page_shows_counters_and_current_values() {
        let metrics = Metrics::default();
        metrics.updates.inc_by(5);
        metrics.sessions_closed.count(&Close::TimedOut);
        metrics.sessions_closed.count(&Close::TimedOut);
        metrics.edits_refused.count(&Close::StorageFailed);
        let page = metrics.page(&now());
        for expected in [
            "syncline_updates_total 5",
            "syncline_sessions_closed_total{code=\"4504\"} 2",
            "syncline_edits_refused_total{code=\"4507\"} 1",
            "syncline_sessions_open 3",
            "syncline_documents_open 2",
            "syncline_documents_open_bytes 8192",
            "syncline_outbox_bytes 4096",
            "syncline_storage_failed 1",
            "syncline_log_waiting_bytes 10",
            "syncline_log_commits_total 7",
            "syncline_log_commit_seconds_total 1.5",
        ] {
            assert!(samples(&page).contains(&expected), "{expected} in {page}");
        }
        assert!(page.ends_with("# EOF\n"));
        assert_eq!((metrics.sessions_closed.get(4504), metrics.sessions_closed.get(4400)), (2, 0));
    }

    #[test]
    fn every_metric_is_documented() {
        let document = include_str!("../../docs/metrics.md");
        let page = Metrics::default().page(&now());
        let names = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        let missing: Vec<_> = names.filter(|name| !document.contains(&format!("`{name}"))).collect();
        assert!(missing.is_empty(), "docs/metrics.md does not mention {missing:?}");
    }
}
