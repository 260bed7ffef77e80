//! Taps, and the page with every byte.

pub mod page;
pub mod taps;
