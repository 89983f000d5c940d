//! One life of the server: the real registry, document tasks, sessions, outboxes and log, in one thread on virtual time.
//!
//! Left out are what lies before a session (listening, HTTP) and below the log (sled): tests with real sockets and a real
//! disk have those. The log's thread is replaced by [`Server::disk_step`], which does what it does in three steps, so that
//! a plan can put anything between them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use syncline_log::{Batch, Committed, Committer, Log};
use syncline_protocol::ids::DocumentName;
use syncline_server::auth::OpenToAll;
use syncline_server::document::event::{Event, Origin};
use syncline_server::document::frame::Framing;
use syncline_server::document::{Compaction, DocumentOptions};
use syncline_server::ids::{Draw, SessionId};
use syncline_server::limits::{Gate, RawLimits};
use syncline_server::log_limit::LogLimit;
use syncline_server::metrics::Metrics;
use syncline_server::outbox::{Budget, Outbox};
use syncline_server::registry::{Lease, Registry};
use syncline_server::session::{self, Context, Peer, SessionLimits, Stop};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::disk::Disk;
use crate::pipe::Pipe;
use crate::socket::Socket;

/// Rounds in which a stopping server must come to its end.
const STOP_ROUNDS: usize = 200;
/// What waits for a session that reads nothing.
const LEASE_OUTBOX_BYTES: usize = 1 << 20;
/// How long sessions may take to end then, as in the real server.
const SESSIONS_TIMEOUT: Duration = Duration::from_secs(5);

/// How a plan's server is set up.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a document stays in memory without a session.
    pub idle: Duration,
    /// How long nothing changes until a document is compacted.
    pub quiet: Duration,
    /// When a snapshot replaces its records.
    pub compaction: Compaction,
    /// Bytes that wait for a socket before its reader falls behind.
    pub outbox_bytes: usize,
    /// Bytes that the network takes from the server before the client reads.
    pub network_bytes: usize,
}

enum Disking {
    Idle,
    Taken(Batch),
    Committed(Committed),
}

/// A running server.
pub struct Server {
    runtime: Runtime,
    context: Arc<Context>,
    sessions: TaskTracker,
    /// Ends the sessions that did not end in time.
    cut: CancellationToken,
    log: Log,
    committer: Committer,
    disking: Disking,
    disk: Arc<Disk>,
    settings: Settings,
    accepted: u64,
}

impl Server {
    /// Starts on what the disk has.
    pub fn start(disk: Arc<Disk>, settings: Settings, draw: Draw) -> Self {
        #[expect(clippy::expect_used, reason = "a simulation without a runtime is none")]
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("no runtime");
        let (log, committer) = Log::by_hand(Arc::clone(&disk) as Arc<dyn syncline_log::Store>);
        let metrics = Arc::new(Metrics::default());
        let Settings { idle, quiet, compaction, outbox_bytes, .. } = settings;
        let options = DocumentOptions { quiet, compaction, draw, ..DocumentOptions::new(idle) };
        let registry = Registry::new(log.clone(), options, Arc::clone(&metrics));
        let limits = SessionLimits { outbox_bytes, ..SessionLimits::default() };
        let stop = Stop::default();
        // A plan sends more in a virtual second than anybody does in a real one.
        let raw = RawLimits { messages_per_second: Some(0), bytes_per_second: Some(0), ..RawLimits::default() };
        let gate = Gate::new(raw.into(), Arc::clone(&metrics));
        let (log_limit, outboxes) = (LogLimit::default(), Budget::new(usize::MAX));
        let context =
            Arc::new(Context { registry, auth: Arc::new(OpenToAll), limits, outboxes, metrics, log_limit, stop, gate });
        let sessions = TaskTracker::new();
        let (cut, disking) = (CancellationToken::new(), Disking::Idle);
        Self { runtime, context, sessions, cut, log, committer, disking, disk, settings, accepted: 0 }
    }

    /// A new connection; `path` names the document in the y-websocket dialect.
    pub fn accept(&mut self, path: &str) -> Socket {
        let (pipe, server_end, client_end) = Pipe::new(self.settings.network_bytes);
        self.accepted += 1;
        let (id, address) = (SessionId(self.accepted), Ipv4Addr::LOCALHOST.into());
        let peer = Peer { id, path: path.to_owned(), address, user: None, unfinished: None };
        let session = session::run(server_end, Bytes::new(), peer, Arc::clone(&self.context));
        self.sessions.spawn_on(self.cut.clone().run_until_cancelled_owned(session), self.runtime.handle());
        Socket::new(pipe, client_end)
    }

    /// A lease on a document, as a session on another thread takes one and then has no turn for a while.
    pub fn lease(&self, name: &DocumentName) -> Lease {
        let _runtime = self.runtime.enter();
        self.context.registry.open(name)
    }

    /// The session says who it is: its frames go nowhere. False: the document has left under its lease.
    pub fn begin(&self, lease: &Lease) -> bool {
        let framing = Framing::Native { channel: 0 };
        self.runtime.block_on(lease.begin(Arc::new(Outbox::new(LEASE_OUTBOX_BYTES)), framing, 1)).is_ok()
    }

    /// It opens the document and brings an update. False: the document has left under its lease.
    pub fn bring(&self, lease: &Lease, update: Bytes) -> bool {
        let (id, bytes) = (lease.id(), update.len());
        let resume = Event::Resume { lease: id, cursor: None, wants_state_vector: false, read_only: false };
        let change = Event::Update { lease: id, update, origin: Origin::Change, batch: 1 };
        self.runtime.block_on(async { lease.send(resume, 0).await.is_ok() && lease.send(change, bytes).await.is_ok() })
    }

    /// It is gone.
    pub fn end(&self, lease: Lease) {
        let _runtime = self.runtime.enter();
        drop(lease);
    }

    /// Lets this time pass, and everything happen that happens in it.
    pub fn pass(&self, ms: u64) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(ms)).await });
    }

    /// Lets every task that can go on do so `turns` times: less than everything that would happen.
    pub fn turn(&self, turns: usize) {
        self.runtime.block_on(async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        });
    }

    /// What the log's thread does next: takes what is queued, commits it, or reports it. In words; `None`: nothing to do.
    pub fn disk_step(&mut self) -> Option<&'static str> {
        let (next, did) = match std::mem::replace(&mut self.disking, Disking::Idle) {
            Disking::Idle => (Disking::Taken(self.committer.take()?), "takes what is queued"),
            Disking::Taken(batch) => (Disking::Committed(self.committer.commit(batch)), "commits it"),
            Disking::Committed(committed) => {
                committed.report();
                (Disking::Idle, "reports it")
            }
        };
        self.disking = next;
        Some(did)
    }

    /// True when nothing is on its way to the disk.
    pub fn disk_is_idle(&self) -> bool {
        matches!(self.disking, Disking::Idle)
    }

    /// True when the log takes no more.
    pub fn log_has_failed(&self) -> bool {
        self.log.failed().is_some()
    }

    /// Its log, to ask after its end whether it failed.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// Documents in memory, and their tasks: the same number when nothing is on the move.
    pub fn documents_and_tasks(&self) -> (usize, usize) {
        (self.context.registry.len(), self.context.registry.task_count())
    }

    /// Slow readers brought up to date, and snapshots made.
    pub fn counted(&self) -> (u64, u64) {
        (self.context.metrics.resyncs.get(), self.context.metrics.compactions.get())
    }

    /// The power goes: memory is lost, and of a commit on its way some is on the disk.
    pub fn crash(self) {
        // A log that has failed would not have written it.
        if let Disking::Taken(batch) = &self.disking
            && !self.log_has_failed()
        {
            self.disk.crash_during(batch.writes());
        }
    }

    /// Stops as `Server::stop` does: sessions, documents, log. Returns false when that does not come to an end.
    pub fn stop(mut self) -> bool {
        self.context.stop.cancel();
        self.sessions.close();
        let (sessions, cut) = (self.sessions.clone(), self.cut.clone());
        self.runtime.block_on(async move {
            if tokio::time::timeout(SESSIONS_TIMEOUT, sessions.wait()).await.is_err() {
                cut.cancel();
                sessions.wait().await;
            }
        });
        let registry = Arc::clone(&self.context.registry);
        // Nothing here is too much work for a stop.
        let stopping = async move { registry.stop(tokio::time::Instant::now() + Duration::from_secs(3600)).await };
        let stopping = self.runtime.spawn(stopping);
        for _ in 0..STOP_ROUNDS {
            self.pass(1);
            if stopping.is_finished() && self.disk_is_idle() {
                // What is queued behind the last answer: a snapshot.
                while self.disk_step().is_some() {}
                return true;
            }
            self.disk_step();
        }
        false
    }
}
