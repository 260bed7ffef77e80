//! Bytes and what they mean: pure, no sockets, no files.

pub mod reject;
pub mod id;
pub mod percent;
pub mod base64;
pub mod event;
pub mod http;
pub mod chunked;
