//! A word to one subscriber, or to all but one.

pub mod data;
pub mod framing;
pub mod growth;
pub mod http;
pub mod readme;
pub mod recipients;
pub mod slow;
