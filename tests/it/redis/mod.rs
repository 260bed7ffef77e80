//! Logs in Redis Streams.

pub mod cluster;
pub mod foreign;
pub mod hostile;
pub mod nodes;
pub mod outage;
pub mod resp;
pub mod soak;
