//! The sources of the tests, for those that look whether something is tested.

use std::fs::{read_dir, read_to_string};
use std::path::Path;

/// What stands in the files of `tests/it` and its folders, one after the other.
pub fn tests() -> String {
    tests_in("")
}

/// What stands in the files of a folder in `tests/it`.
pub fn tests_in(folder: &str) -> String {
    read(&Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")).join(folder))
}

/// The text of all files in `src` and its folders.
pub fn program() -> String {
    read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")))
}

fn read(path: &Path) -> String {
    if !path.is_dir() {
        return read_to_string(path).unwrap();
    }
    read_dir(path).unwrap().map(|entry| read(&entry.unwrap().path())).collect()
}
