//! The lessons.

pub mod access;
pub mod eventsource;
pub mod examined;
pub mod expected;
pub mod http;
pub mod model;
pub mod old_engine;
pub mod played;
pub mod readme;
pub mod scripts;
pub mod tokens;
pub mod traced;
