//! The scanner of v1 updates and state vectors.
