//! The harness of the integration tests in `tests/tests`: a server in the test's process, clients of every
//! dialect down to hand-made WebSocket frames, devices, a faulty network, fixtures, hostile updates, the core of a
//! document, and the fuzz targets.

#![allow(clippy::unwrap_used, reason = "this is test code: a panic fails the test")]

use std::time::Duration;

pub mod devices;
pub mod document;
pub mod fixtures;
pub mod fuzz;
pub mod hostile_updates;
pub mod live;
pub mod native_client;
pub mod process;
pub mod proxy;
pub mod raw_websocket;
pub mod spoil;
pub mod websocket_case;

/// Time limit of every wait in a test; only a failing test reaches it.
pub const PATIENCE: Duration = Duration::from_secs(20);
