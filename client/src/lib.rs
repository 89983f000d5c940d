//! The offline-first client. Its parts arrive with their first users.
