//! Which wings this build has. A test that needs another wing asks here.

use std::path::Path;
use tincan::wings::DOORS;

/// All wings of tincan, even if this tree lacks some.
pub const ALL: [&str; 6] = ["trace", "lab", "lessons", "websocket", "address", "redis"];

/// Returns whether a wing is in this build.
pub fn has(wing: &str) -> bool {
    DOORS.iter().any(|door| door.name == wing && door.wing.is_some())
}

/// Returns whether all wings are in this build.
pub fn has_all() -> bool {
    ALL.into_iter().all(has)
}

/// Returns whether a wing's folder was taken out of this tree, together with its tests and documents.
pub fn is_gone(wing: &str) -> bool {
    !Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wings").join(wing).exists()
}

/// Returns whether a path of the tree belongs to a folder of a wing that was taken out.
pub fn went_with_its_wing(path: &str) -> bool {
    let folder_of = |wing: &str| ["src/wings", "tests/it", "static"].map(|folder| format!("{folder}/{wing}"));
    let holds = |folder: &String| Path::new(path).starts_with(folder);
    ALL.into_iter().filter(|wing| is_gone(wing)).any(|wing| folder_of(wing).iter().any(holds))
}
