//! The log.
pub mod store;
