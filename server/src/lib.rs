//! The Syncline server as a library, so that tests and other programs can run it in-process. `main.rs` is the binary.
//!
//! Data flows one way: socket -> [`session`] -> [`registry`] -> [`document`] -> the log (`syncline-log`) -> disk. What flows back
//! (acks, frames for readers) is pushed and never waits. `ids`, `outbox`, `metrics`, `limits`, `log_limit`, `config` and `auth` are leaves
//! anyone may use. `ARCHITECTURE.md` tells the story; the invariants stand in the files that hold them.

pub mod admin;
pub mod auth;
pub mod cli;
pub mod config;
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

pub use config::Config;
pub use server::{ListenError, Listener, Server};
