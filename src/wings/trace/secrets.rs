//! Secrets that must never be shown, and how text is shown on a terminal without them. Pure.
//!
//! A secret is found in three forms: as it is, percent-encoded (RFC 3986 §2.1), and within base64 (RFC 4648 §4).
//! Base64 spells the same bytes in three ways. Which one depends on how many bytes come before them.
//!
//! Deliberately absent: further encodings, such as one percent-encoding within another.

use crate::system::report;
use crate::wire::base64;

/// A byte, and whether it must be hidden.
pub type MarkedByte = (u8, bool);

/// Returns bytes that are not yet marked as secret.
pub fn unmarked(bytes: &[u8]) -> Vec<MarkedByte> {
    bytes.iter().map(|byte| (*byte, false)).collect()
}

/// Returns the bytes without their marks.
pub fn plain_bytes(text: &[MarkedByte]) -> Vec<u8> {
    text.iter().map(|byte| byte.0).collect()
}

/// All spellings of all secrets. There is no `Debug`, so they cannot be printed.
#[derive(Default)]
pub struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    /// Collects the spellings of these tokens.
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Secrets {
        let spellings =
            |token: &'a str| [token.into(), base64_digits(token, 0), base64_digits(token, 1), base64_digits(token, 2)];
        Secrets(tokens.into_iter().flat_map(spellings).filter(|s| !s.is_empty()).collect())
    }

    /// Marks each secret in a text. The end of the text may be the beginning of a secret, if more text follows.
    /// Returns the position of that beginning, or else the length of the text.
    pub fn mark(&self, text: &mut [MarkedByte]) -> usize {
        let bytes = plain_bytes(text);
        let mut certain = bytes.len();
        for start in 0..bytes.len() {
            let rest = bytes.get(start..).unwrap_or_default();
            for secret in &self.0 {
                for may_be_encoded in [false, true] {
                    match match_secret(rest, secret, may_be_encoded) {
                        Some(Some(n)) => hide(text.iter_mut().skip(start).take(n)),
                        Some(None) => certain = certain.min(start),
                        None => {}
                    }
                }
            }
        }
        certain
    }
}

/// Returns whether a field of this name has credentials: `Authorization`, `Cookie`, and similar names.
pub fn is_credential(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    ["authorization", "cookie"].iter().any(|word| name.contains(word))
}

/// Marks bytes, but not the end of a line.
pub fn hide<'a>(text: impl IntoIterator<Item = &'a mut MarkedByte>) {
    text.into_iter().for_each(|b| b.1 |= !b"\r\n".contains(&b.0));
}

/// Compares the beginning of a text with a secret. Returns the number of bytes that spell it, or `Some(None)` if the
/// text ends first, or None if it is not there. `may_be_encoded`: any of its bytes may be percent-encoded.
fn match_secret(text: &[u8], secret: &[u8], may_be_encoded: bool) -> Option<Option<usize>> {
    let digit = |b: &u8| char::from(*b).to_digit(16);
    let mut rest = text;
    for &byte in secret {
        rest = match rest {
            [b'%', a, b, rest @ ..] if may_be_encoded && digit(a)? * 16 + digit(b)? == u32::from(byte) => rest,
            [] => return Some(None),
            [b'%'] | [b'%', _] if may_be_encoded => return Some(None),
            [b, rest @ ..] if *b == byte => rest,
            _ => return None,
        };
    }
    Some(Some(text.len() - rest.len()))
}

/// Returns the base64 digits that depend on the token alone, if `before` bytes come before it.
fn base64_digits(token: &str, before: usize) -> Vec<u8> {
    let bytes = "\0".repeat(before) + token;
    base64::encode(bytes.as_bytes()).bytes().take(bytes.len() * 8 / 6).skip((before * 8).div_ceil(6)).collect()
}

/// Returns a text for a terminal. `(not shown)` replaces what is marked.
pub fn visible(text: &[MarkedByte]) -> String {
    let run = |run: &[MarkedByte]| {
        if run.iter().any(|b| b.1) { "(not shown)".into() } else { report::visible(plain_bytes(run)) }
    };
    text.chunk_by(|a, b| a.1 == b.1).map(run).collect()
}
