//! Lessons.

pub mod script;
