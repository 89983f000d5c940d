//! What the `syncline` command does besides serving.

pub mod inspect;
