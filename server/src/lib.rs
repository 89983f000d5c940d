//! The Syncline server as a library, for programs that run it in-process, with their own access control or listener. `main.rs` is
//! the binary. The interface: [`Config`], [`Server`], [`Listener`], [`auth`], [`Metrics`]. `server/examples/access.rs` uses it.
//!
//! Data flows one way: socket -> `session` -> `dialect` -> `registry` -> `document` -> the log (`syncline-log`) -> disk.
//! Acknowledgements and frames for readers flow back through queues whose senders never wait. `ids`, `outbox`, `metrics`,
//! `limits`, `log_limit`, `config` and `auth` are leaves that any module may use. `ARCHITECTURE.md` is the overview; each
//! invariant is documented in the file that enforces it.

mod admin;
pub mod auth;
#[doc(hidden)]
pub mod cli;
pub mod config;
mod dialect;
mod document;
mod http;
mod ids;
mod import_export;
mod limits;
mod log_limit;
mod metrics;
mod outbox;
mod registry;
mod server;
mod session;
mod unix_time;
mod websocket;

pub use admin::AdminSocket;
pub use config::Config;
pub use metrics::Metrics;
pub use server::{Connections, ListenError, Listener, Server};
pub use session::Stream;

/// For this project's binary, tests, simulation and fuzzer only: it changes without notice.
#[doc(hidden)]
pub mod internals {
    pub use crate::admin::{Running, SOCKET_FILE};
    pub use crate::dialect::{NativeEncoder, YWebsocketEncoder};
    pub use crate::document::core::{Core, CoreLimits, LoadedDocument};
    pub use crate::document::event::{Effect, Event, Origin, SessionEvent};
    pub use crate::document::frame::Frame;
    pub use crate::document::message::Message;
    pub use crate::document::outcome::{Acks, Outcome};
    pub use crate::document::recent_changes::RecentChanges;
    pub use crate::document::{Compaction, DocumentOptions};
    pub use crate::http::fuzzing::operator as fuzz_operator;
    pub use crate::http::handshake::{Head, look};
    pub use crate::http::operator::documents::Imported;
    pub use crate::ids::{Draw, LeaseId, SessionId};
    pub use crate::import_export::{Format, MAX_IMPORT_BYTES, check as check_import, parse as parse_import};
    pub use crate::limits::Gate;
    pub use crate::outbox::{Budget, Outbox};
    pub use crate::registry::{Lease, Registry};
    pub use crate::session::fuzzing::frames as fuzz_frames;
    pub use crate::session::{Context, Peer, Socket, Wire, run as run_session};
}
