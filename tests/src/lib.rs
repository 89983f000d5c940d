//! Tests across crates live in `tests/tests`; this library is empty on purpose.
