//! Logs in Redis Streams.

pub mod cli;
pub mod cluster;
pub mod foreign;
pub mod growth;
pub mod hostile;
pub mod http;
pub mod outage;
pub mod readme;
pub mod report;
pub mod resp;
pub mod server;
pub mod soak;
