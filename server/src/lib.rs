//! The Syncline server as a library.
pub mod cli;
pub mod log;
