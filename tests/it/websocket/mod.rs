//! WebSocket.

pub mod frames;
pub mod sockets;
