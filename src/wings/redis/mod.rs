//! Channels whose logs are Redis streams.

pub mod cluster;
pub mod follower;
pub mod pipe;
pub mod resp;
pub mod stream;
