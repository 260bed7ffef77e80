//! The wing `--trace`.

pub mod cli;
#[cfg(feature = "websocket")]
pub mod frames;
pub mod growth;
pub mod lines;
pub mod readme;
pub mod report;
pub mod tokens;
