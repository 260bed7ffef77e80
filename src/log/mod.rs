//! A channel's bytes: their files, what a crash leaves of them, and the positions in them.

pub mod disk;
pub mod positions;
pub mod recovery;
pub mod writer;
