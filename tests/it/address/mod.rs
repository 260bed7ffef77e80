//! A word to one subscriber, or to all but one.

pub mod recipients;
