//! The lessons.

pub mod access;
pub mod eventsource;
pub mod http;
pub mod old_engine;
pub mod played;
pub mod readme;
pub mod tokens;
pub mod traced;
