//! Load and scenarios.
fn main() {}
