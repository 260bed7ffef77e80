//! The lessons.

pub mod http;
pub mod played;
pub mod tokens;
pub mod traced;
