//! The scanner of awareness updates.
