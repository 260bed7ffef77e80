//! Who writes and who reads.

pub mod framing;
pub mod watch;
pub mod subscriber;
pub mod state;
pub mod publish;
pub mod turn;
pub mod hub;
pub mod pump;
