//! Messages to the operator on standard error, and how bytes from clients are shown on a terminal.

use std::io::{self, Write};

/// Writes one or more lines to standard error in one system call, so that lines of several threads do not mix. (std
/// does not buffer standard error: each piece of a format string would be a call.) Ignores errors, because there is no
/// other place to report them.
pub fn report(mut lines: String) {
    if !lines.ends_with('\n') {
        lines.push('\n');
    }
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// Returns bytes as text that is safe to show on a terminal. A character that a terminal obeys or does not show becomes
/// its picture (Unicode, "Control Pictures"), or its code point in angle brackets. A byte that is not UTF-8 becomes its
/// value in angle brackets.
pub fn visible(bytes: impl AsRef<[u8]>) -> String {
    let mut out = String::new();
    for chunk in bytes.as_ref().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                ' '..='~' => out.push(c),
                '\0'..='\x1f' => out.extend(char::from_u32(0x2400 + u32::from(c))),
                '\x7f' => out.push('␡'),
                // The characters that Rust escapes after a letter: control and format characters (such as those that
                // turn the direction of writing), white space other than the space, and unassigned code points.
                _ if format!("x{c}").escape_debug().count() > 2 => out += &format!("⟨U+{:04X}⟩", u32::from(c)),
                _ => out.push(c),
            }
        }
        out.extend(chunk.invalid().iter().map(|b| format!("⟨{b:02X}⟩")));
    }
    out
}
