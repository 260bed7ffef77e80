//! Taps, and the page with every byte.

pub mod growth;
pub mod http;
pub mod page;
pub mod sockets;
pub mod taps;
