//! The lessons.

pub mod played;
