//! What the server tells its owner, on standard error, and how a terminal is shown what others said.

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

/// Bytes for a terminal, as text: what it would obey, or not show, is there as its picture (Unicode, "Control Pictures"), or
/// as its code point or byte in angle brackets.
pub fn visible(bytes: impl AsRef<[u8]>) -> String {
    let mut out = String::new();
    for chunk in bytes.as_ref().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                ' '..='~' => out.push(c),
                '\0'..='\x1f' => out.extend(char::from_u32(0x2400 + u32::from(c))),
                '\x7f' => out.push('␡'),
                // What Rust escapes behind a letter: controls, what turns the direction of writing and other format
                // characters, white space but the plain one, what is not assigned.
                _ if format!("x{c}").escape_debug().count() > 2 => out += &format!("⟨U+{:04X}⟩", u32::from(c)),
                _ => out.push(c),
            }
        }
        out.extend(chunk.invalid().iter().map(|b| format!("⟨{b:02X}⟩")));
    }
    out
}
