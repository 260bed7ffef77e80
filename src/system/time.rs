//! The clock, durations in milliseconds, and random numbers.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time before this program was made, in seconds since 1970: the beginning of 2025.
const PAST: u64 = 1_735_689_600;

/// Returns the time since 1970 that the clock shows.
pub fn clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the same time, or None if the clock is clearly not set: it shows a time before this program was made. Boards
/// without a battery start in 1970.
pub fn set_clock() -> Option<Duration> {
    Some(clock()).filter(|time| time.as_secs() >= PAST)
}

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
