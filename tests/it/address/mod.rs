//! Events for one subscriber, or for all but one.

pub mod data;
pub mod framing;
pub mod growth;
pub mod http;
pub mod readme;
pub mod recipients;
pub mod slow;
