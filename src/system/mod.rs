//! What the machine gives: standard error, threads, times, limits, the listening socket.

pub mod report;
pub mod threads;
pub mod time;
pub mod limits;
pub mod memory;
pub mod listener;
