//! What tests stand on: a real server, and who talks to it.

pub mod harness;
pub mod sources;
