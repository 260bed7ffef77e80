//! What the server tells its owner, on standard error.

use std::io::{self, Write};

/// Writes a line, or lines that belong together, in one system call: std does not buffer standard error, so that each
/// piece of a format string would be a call of its own. A report that cannot be written is dropped, for nobody else is
/// there to be told.
pub fn report(mut lines: String) {
    if !lines.ends_with('\n') {
        lines.push('\n');
    }
    let _ = io::stderr().write_all(lines.as_bytes());
}
