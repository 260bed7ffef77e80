//! A connection's bytes, for a person.

pub mod explain;
pub mod secrets;
pub mod watch;
