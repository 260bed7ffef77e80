//! The wing WebSocket.

pub mod budget;
pub mod frames;
pub mod framing;
pub mod growth;
pub mod http;
pub mod lesson;
pub mod readme;
pub mod sockets;
