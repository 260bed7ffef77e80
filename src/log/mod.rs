#![doc = include_str!("README.md")]
//!
//! The log of a channel: its bytes, in memory or in files, and the positions in them.

pub mod recovery;
pub mod disk;
pub mod part;
pub mod writer;
pub mod positions;
