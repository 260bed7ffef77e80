//! What the machine gives: standard error, limits, the listening socket.

pub mod limits;
pub mod listener;
pub mod report;
