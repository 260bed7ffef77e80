//! What all tests use: a real server, and clients of every kind.

pub mod browser;
pub mod documents;
pub mod growth;
pub mod harness;
pub mod process;
pub mod refusals;
pub mod slow_readers;
pub mod sources;
#[allow(dead_code)] // each build uses the part that its wings need
pub mod websocket;
pub mod wings;
