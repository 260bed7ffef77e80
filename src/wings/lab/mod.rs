//! The wire lab.

pub mod taps;
