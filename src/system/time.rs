//! Durations in milliseconds, and random numbers.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// Returns a random number. It comes from the random keys of a hash map, because std has no other source.
pub fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Returns a random number within `percent` of `middle`, so that clients do not reconnect at the same moment.
pub fn jitter(middle: u64, percent: u64) -> u64 {
    let spread = middle.saturating_mul(percent) / 100;
    middle - spread + random() % (2 * spread + 1)
}

/// Returns a duration in milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
