//! Times in milliseconds.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Duration;

/// A number drawn at random. The keys of std's hash maps are the randomness that std has.
pub fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// `middle`, give or take a share of it, so that clients do not come back in step.
pub fn jitter(middle: u64, percent: u64) -> u64 {
    let spread = middle.saturating_mul(percent) / 100;
    middle - spread + random() % (2 * spread + 1)
}

/// A duration in milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
