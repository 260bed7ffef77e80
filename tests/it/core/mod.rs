//! The core: behaviour that every build has, even one without wings.

pub mod board;
pub mod budget;
pub mod channel;
pub mod cli;
pub mod crash;
pub mod data;
pub mod faults;
pub mod filesystems;
pub mod framing;
pub mod gate;
pub mod growth;
pub mod hostile;
pub mod http;
pub mod listen;
pub mod props;
pub mod publish;
pub mod recovery;
pub mod report;
pub mod slow;
pub mod small;
pub mod soak;
pub mod socket;
pub mod tidy;
pub mod tokens;
pub mod wings;
