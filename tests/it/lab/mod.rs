//! Taps, and the page that shows every byte.

pub mod access;
pub mod growth;
pub mod http;
pub mod old_engine;
pub mod page;
pub mod readme;
pub mod sockets;
pub mod taps;
pub mod ways;
pub mod words;
