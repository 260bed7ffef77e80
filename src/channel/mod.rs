//! Who writes and who reads.

pub mod duplex;
pub mod framing;
pub mod hub;
pub mod state;
pub mod subscriber;
