//! The sources of the tests, for tests that check whether something is tested.

use std::fs::{read_dir, read_to_string};
use std::path::Path;

/// Returns the text of all files in `tests/it` and its folders.
pub fn tests() -> String {
    tests_in("")
}

/// Returns the text of all files in a folder of `tests/it`.
pub fn tests_in(folder: &str) -> String {
    read(&Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it")).join(folder))
}

/// Returns the text of all files in `src` and its folders.
pub fn program() -> String {
    read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")))
}

fn read(path: &Path) -> String {
    if !path.is_dir() {
        return read_to_string(path).unwrap();
    }
    read_dir(path).unwrap().map(|entry| read(&entry.unwrap().path())).collect()
}
