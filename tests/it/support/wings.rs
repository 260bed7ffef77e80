//! Which wings this build has: a test that needs a second one asks for it here.

use tincan::wings::DOORS;

/// Whether a wing is in this build.
pub fn has(wing: &str) -> bool {
    DOORS.iter().any(|door| door.name == wing && door.wing.is_some())
}

/// Whether all of them are.
pub fn has_all() -> bool {
    DOORS.iter().all(|door| door.wing.is_some())
}
