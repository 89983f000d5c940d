//! The integration tests: one binary, a module for each subject. What they share is the library, `tests/src`; tests that measure
//! the memory of their process are in `tests/tests/alone`, those of the server's binary in `server/tests/process`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails the test, and random tests print their seed"
)]

/// The clients: the durable device and the plain client, against a real server.
mod device {
    mod bad_servers;
    mod client;
    mod faults;
    mod handles;
    mod offline;
}

/// The pure core of the server's document, without sockets.
mod document {
    mod core;
    mod full;
    mod joining;
    mod native;
    mod pending;
    mod registers;
    mod unstored;
}

/// Bytes from outside: what npm packages send, and every decoder under fuzzing.
mod formats {
    mod fuzz;
    mod golden;
}

/// Backup, restore, repair, export and import.
mod operator {
    mod backup;
    mod backup_pace;
    mod errors;
    mod repair;
    mod requests;
}

/// The replica against yrs: the same updates, the same document.
mod replica {
    mod hub_registers;
    mod resting;
    mod scanner;
    mod split;
    mod structs;
    mod weighing;
}

/// Rules for the repository itself.
mod repository {
    mod circles;
    mod documents;
    mod licences;
    mod tidy;
    mod words;
}

/// A server in this process, over real sockets.
mod server {
    mod auth;
    mod compaction;
    mod crowd;
    mod durability;
    mod grant_changes;
    mod grants;
    mod growth;
    mod half_open;
    mod handshake;
    mod hostile;
    mod left_documents;
    mod lifecycle;
    mod limits;
    mod memory;
    mod merged;
    mod metrics;
    mod names;
    mod native;
    mod native_slow;
    mod races;
    mod refusals;
    mod registers;
    mod rfc6455;
    mod saved;
    mod slow_reader;
    mod stopping;
    mod streams;
    mod user_limits;
}
