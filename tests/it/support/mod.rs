//! What all tests use: a real server, and clients of every kind.

pub mod browser;
pub mod commands;
pub mod documents;
pub mod event_server;
pub mod follower;
pub mod growth;
pub mod harness;
#[allow(dead_code)] // the core alone has no manual of a wing
pub mod manual;
pub mod memory_group;
pub mod network;
pub mod process;
pub mod refusals;
pub mod reporting;
pub mod slow_readers;
pub mod sources;
#[allow(dead_code)] // each build uses the part that its wings need
pub mod websocket;
pub mod wings;
