//! Tests of the `syncline` binary as a process of its own: its memory, its file descriptors, its environment, its commands.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a panic fails the test, and a measurement is printed")]

mod delete;
mod hostile_network;
mod open_and_leave;
mod public_address;
mod repair;
