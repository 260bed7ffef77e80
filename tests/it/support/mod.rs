//! What tests stand on: a real server, and who talks to it.

pub mod browser;
pub mod growth;
pub mod harness;
pub mod process;
pub mod redis;
pub mod refusals;
pub mod slow_readers;
pub mod sources;
pub mod websocket;
pub mod wings;
