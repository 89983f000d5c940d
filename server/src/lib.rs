//! The Syncline server as a library.
pub mod log;
