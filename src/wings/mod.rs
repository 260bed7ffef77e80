//! What can be left out.

pub mod lab;
pub mod lessons;
pub mod redis;
pub mod trace;
pub mod websocket;
