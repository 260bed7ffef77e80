//! WebSocket (RFC 6455).

pub mod frames;
pub mod sha1;
pub mod socket;
