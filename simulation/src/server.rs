//! A server process: the real registry, document tasks, sessions, outboxes and log, in one thread on virtual time.
//!
//! The layers above a session (listening, HTTP) and below the log (sled) are not included; tests with real sockets and a
//! real disk cover them. [`Server::disk_step`] replaces the log's thread and does its work in three steps, between which a
//! plan can do anything.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use syncline_log::{Batch, Committed, Committer, Log};
use syncline_protocol::ids::DocumentName;
use syncline_server::Metrics;
use syncline_server::auth::{Handshake, OpenToAll};
use syncline_server::config::{RawLimits, SessionLimits};
use syncline_server::internals::{
    Budget, Compaction, Context, DocumentOptions, Draw, Gate, Lease, NativeEncoder, Origin, Outbox, Peer, Registry,
    SessionEvent, SessionId, run_session,
};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::disk::Disk;
use crate::pipe::Pipe;
use crate::socket::Socket;

/// The limit of rounds until a stopping server must have stopped.
const STOP_ROUNDS: usize = 200;
/// The outbox size of a slow session, which reads nothing.
const LEASE_OUTBOX_BYTES: usize = 1 << 20;
/// How long sessions may take to end when the server stops, as in the real server.
const SESSIONS_TIMEOUT: Duration = Duration::from_secs(5);

/// The configuration of a plan's server.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a document without sessions stays in memory.
    pub idle: Duration,
    /// How long a document must be unchanged before it is compacted as idle.
    pub quiet: Duration,
    /// When a snapshot replaces records.
    pub compaction: Compaction,
    /// The size of an outbox, beyond which a slow reader is resynced.
    pub outbox_bytes: usize,
    /// The size of the network's buffer to a client.
    pub network_bytes: usize,
}

/// The next step of [`Server::disk_step`].
enum CommitStage {
    Idle,
    Taken(Batch),
    Committed(Committed),
}

/// A running server.
pub struct Server {
    runtime: Runtime,
    context: Arc<Context>,
    sessions: TaskTracker,
    /// Cancels sessions that do not end in time.
    cut: CancellationToken,
    log: Log,
    committer: Committer,
    commit_stage: CommitStage,
    disk: Arc<Disk>,
    settings: Settings,
    accepted: u64,
}

impl Server {
    /// Starts a server on the content of the disk.
    pub fn start(disk: Arc<Disk>, settings: Settings, draw: Draw) -> Self {
        #[expect(clippy::expect_used, reason = "the simulation cannot run without a runtime")]
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("the runtime cannot be created");
        let (log, committer) = Log::with_committer(Arc::clone(&disk) as Arc<dyn syncline_log::Store>);
        let metrics = Arc::new(Metrics::default());
        let Settings { idle, quiet, compaction, outbox_bytes, .. } = settings;
        let options = DocumentOptions { quiet, compaction, draw, ..DocumentOptions::new(idle) };
        let registry = Registry::new(log.clone(), options, Arc::clone(&metrics));
        let limits = SessionLimits { outbox_bytes, ..SessionLimits::default() };
        // No rate limits: a plan sends more in a virtual second than a client does in a real one.
        let raw = RawLimits { messages_per_second: Some(0), bytes_per_second: Some(0), ..RawLimits::default() };
        let gate = Gate::new(raw.into(), Arc::clone(&metrics));
        let context = Context::new(registry, Arc::new(OpenToAll), gate, limits, Budget::new(usize::MAX));
        let sessions = TaskTracker::new();
        let (cut, commit_stage) = (CancellationToken::new(), CommitStage::Idle);
        Self { runtime, context, sessions, cut, log, committer, commit_stage, disk, settings, accepted: 0 }
    }

    /// Accepts a new connection. `path` contains the document name in the y-websocket dialect.
    pub fn accept(&mut self, path: &str) -> Socket {
        let (pipe, server_end, client_end) = Pipe::new(self.settings.network_bytes);
        self.accepted += 1;
        let handshake = Handshake::new(path, (Ipv4Addr::LOCALHOST, 0).into());
        let peer = Peer { id: SessionId(self.accepted), handshake, user: None, unfinished: None };
        let session = run_session(server_end, Bytes::new(), peer, Arc::clone(&self.context));
        self.sessions.spawn_on(self.cut.clone().run_until_cancelled_owned(session), self.runtime.handle());
        Socket::new(pipe, client_end)
    }

    /// Takes a lease on a document, like a session on another thread that then does not run for a while.
    pub fn lease(&self, name: &DocumentName) -> Lease {
        let _runtime = self.runtime.enter();
        self.context.services.registry.open(name)
    }

    /// Begins a slow session, whose outbox is never read. False: the document has left memory despite the lease.
    pub fn begin_session(&self, lease: &Lease) -> bool {
        let encoder = Box::new(NativeEncoder::new(0));
        self.runtime.block_on(lease.begin(Arc::new(Outbox::new(LEASE_OUTBOX_BYTES)), encoder, 1)).is_ok()
    }

    /// Opens the document and sends an update. False: the document has left memory despite the lease.
    pub fn send_update(&self, lease: &Lease, update: Bytes) -> bool {
        let bytes = update.len();
        let resume = SessionEvent::Resume { cursor: None, wants_state_vector: false, read_only: false };
        let change = SessionEvent::Update { update, origin: Origin::Change, batch: 1 };
        self.runtime.block_on(async { lease.send(resume, 0).await.is_ok() && lease.send(change, bytes).await.is_ok() })
    }

    /// Ends a slow session.
    pub fn end_session(&self, lease: Lease) {
        let _runtime = self.runtime.enter();
        drop(lease);
    }

    /// Advances the time, and runs everything that is due.
    pub fn advance(&self, ms: u64) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(ms)).await });
    }

    /// Runs every ready task `turns` times, possibly without completing all work.
    pub fn run_tasks(&self, turns: usize) {
        self.runtime.block_on(async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Performs the next step of the log's thread, and describes it: takes, commits or reports a batch. `None`: nothing to do.
    pub fn disk_step(&mut self) -> Option<&'static str> {
        let (next, did) = match std::mem::replace(&mut self.commit_stage, CommitStage::Idle) {
            CommitStage::Idle => (CommitStage::Taken(self.committer.take()?), "takes a batch"),
            CommitStage::Taken(batch) => (CommitStage::Committed(self.committer.commit(batch)), "commits the batch"),
            CommitStage::Committed(committed) => {
                committed.report();
                (CommitStage::Idle, "reports the batch")
            }
        };
        self.commit_stage = next;
        Some(did)
    }

    /// Whether no batch is being committed or reported.
    pub fn disk_is_idle(&self) -> bool {
        matches!(self.commit_stage, CommitStage::Idle)
    }

    /// Whether the log has failed.
    pub fn log_has_failed(&self) -> bool {
        self.log.failed().is_some()
    }

    /// The log, to check after the stop whether it failed.
    pub fn log(&self) -> Log {
        self.log.clone()
    }

    /// The numbers of documents in memory and of document tasks. They are equal when all tasks have run.
    pub fn documents_and_tasks(&self) -> (usize, usize) {
        (self.context.services.registry.len(), self.context.services.registry.task_count())
    }

    /// The numbers of resyncs and of compactions.
    pub fn resyncs_and_compactions(&self) -> (u64, u64) {
        (self.context.services.metrics.resyncs.get(), self.context.services.metrics.compactions.get())
    }

    /// Simulates a power loss: memory is lost, and a commit in progress is partly on the disk.
    pub fn crash(self) {
        // A failed log does not write.
        if let CommitStage::Taken(batch) = &self.commit_stage
            && !self.log_has_failed()
        {
            self.disk.crash_during(batch.writes());
        }
    }

    /// Stops like `Server::stop`: sessions, documents, log. Returns false if it did not stop within `STOP_ROUNDS`.
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
        let registry = Arc::clone(&self.context.services.registry);
        // Longer than any stop takes here.
        let stopping = async move { registry.stop(tokio::time::Instant::now() + Duration::from_secs(3600)).await };
        let stopping = self.runtime.spawn(stopping);
        for _ in 0..STOP_ROUNDS {
            self.advance(1);
            if stopping.is_finished() && self.disk_is_idle() {
                // A snapshot may still be queued.
                while self.disk_step().is_some() {}
                return true;
            }
            self.disk_step();
        }
        false
    }
}
