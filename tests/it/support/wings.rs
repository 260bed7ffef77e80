//! Which wings this build has: a test that needs a second one asks for it here.

use std::path::Path;
use tincan::wings::DOORS;

/// All that there are, also those that this tree was taken without.
pub const ALL: [&str; 6] = ["trace", "lab", "lessons", "websocket", "address", "redis"];

/// Whether a wing is in this build.
pub fn has(wing: &str) -> bool {
    DOORS.iter().any(|door| door.name == wing && door.wing.is_some())
}

/// Whether all of them are.
pub fn has_all() -> bool {
    ALL.into_iter().all(has)
}

/// Whether a wing's folder was taken out of this tree, and its tests and documents with it.
pub fn is_gone(wing: &str) -> bool {
    !Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wings").join(wing).exists()
}

/// Whether a path of the tree is in a folder of a wing that was taken out.
pub fn went_with_its_wing(path: &str) -> bool {
    let folder_of = |wing: &str| ["src/wings", "tests/it", "static"].map(|folder| format!("{folder}/{wing}"));
    let holds = |folder: &String| Path::new(path).starts_with(folder);
    ALL.into_iter().filter(|wing| is_gone(wing)).any(|wing| folder_of(wing).iter().any(holds))
}
