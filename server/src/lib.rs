//! The Syncline server as a library: tests and other programs run it in-process. `main.rs` is the binary.
//!
//! Data flows one way: socket -> [`session`] -> [`dialect`] -> [`registry`] -> [`document`] -> the log
//! (`syncline-log`) -> disk. Acknowledgements and frames for readers flow back through queues whose senders never wait. `ids`,
//! `outbox`, `metrics`, `limits`, `log_limit`, `config` and `auth` are leaves that any module may use.
//! `ARCHITECTURE.md` is the overview; each invariant is documented in the file that enforces it.

pub mod admin;
pub mod auth;
pub mod cli;
pub mod config;
pub mod dialect;
pub mod document;
pub mod http;
pub mod ids;
pub mod import_export;
pub mod limits;
pub mod log_limit;
pub mod metrics;
pub mod outbox;
pub mod registry;
pub mod server;
pub mod session;
mod websocket;

pub use config::Config;
pub use server::{Connections, ListenError, Listener, Server};
