//! What must never be shown, and how a terminal is shown the rest. Pure.
//!
//! A secret is found as it is, percent-encoded (RFC 3986 §2.1), or within base64 (RFC 4648 §4), where it stands in one of
//! three ways, by what is before it.
//!
//! Deliberately absent: further encodings, such as one percent-encoding within another.

use crate::system::report;
use crate::wire::base64;

/// A byte, and whether it must not be shown.
pub type MarkedByte = (u8, bool);

/// Bytes that may be shown, as far as anybody knows.
pub fn unmarked(bytes: &[u8]) -> Vec<MarkedByte> {
    bytes.iter().map(|byte| (*byte, false)).collect()
}

/// The bytes alone.
pub fn plain_bytes(text: &[MarkedByte]) -> Vec<u8> {
    text.iter().map(|byte| byte.0).collect()
}

/// What must never be shown, in each of its spellings. It cannot be printed: there is no `Debug`.
#[derive(Default)]
pub struct Secrets(Vec<Vec<u8>>);

impl Secrets {
    /// Takes the tokens.
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Secrets {
        let spellings =
            |token: &'a str| [token.into(), base64_digits(token, 0), base64_digits(token, 1), base64_digits(token, 2)];
        Secrets(tokens.into_iter().flat_map(spellings).filter(|s| !s.is_empty()).collect())
    }

    /// Marks each one in a text. Returns where the part at its end begins that may become one, if more follows.
    pub fn mark(&self, text: &mut [MarkedByte]) -> usize {
        let bytes = plain_bytes(text);
        let mut sure = bytes.len();
        for start in 0..bytes.len() {
            let here = bytes.get(start..).unwrap_or_default();
            for secret in &self.0 {
                for coded in [false, true] {
                    match match_secret(here, secret, coded) {
                        Some(Some(n)) => hide(text.iter_mut().skip(start).take(n)),
                        Some(None) => sure = sure.min(start),
                        None => {}
                    }
                }
            }
        }
        sure
    }
}

/// Whether the value of a field of this name is a credential: `Authorization`, `Cookie`, and what is named like them.
pub fn is_credential(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    ["authorization", "cookie"].iter().any(|word| name.contains(word))
}

/// Marks bytes, but for a line's end.
pub fn hide<'a>(text: impl IntoIterator<Item = &'a mut MarkedByte>) {
    text.into_iter().for_each(|b| b.1 |= !b"\r\n".contains(&b.0));
}

/// How many bytes at the front of a text spell a secret; `Some(None)` where the text ends before it does. `coded`: any of
/// them may be percent-encoded.
fn match_secret(text: &[u8], secret: &[u8], coded: bool) -> Option<Option<usize>> {
    let digit = |b: &u8| char::from(*b).to_digit(16);
    let mut rest = text;
    for &byte in secret {
        rest = match rest {
            [b'%', a, b, rest @ ..] if coded && digit(a)? * 16 + digit(b)? == u32::from(byte) => rest,
            [] => return Some(None),
            [b'%'] | [b'%', _] if coded => return Some(None),
            [b, rest @ ..] if *b == byte => rest,
            _ => return None,
        };
    }
    Some(Some(text.len() - rest.len()))
}

/// The digits of base64 that a token alone decides, where so many bytes stand before it.
fn base64_digits(token: &str, before: usize) -> Vec<u8> {
    let all = "\0".repeat(before) + token;
    base64::encode(all.as_bytes()).bytes().take(all.len() * 8 / 6).skip((before * 8).div_ceil(6)).collect()
}

/// A text for a terminal, without what must not be shown.
pub fn visible(text: &[MarkedByte]) -> String {
    let run = |run: &[MarkedByte]| {
        if run.iter().any(|b| b.1) { "(not shown)".into() } else { report::visible(plain_bytes(run)) }
    };
    text.chunk_by(|a, b| a.1 == b.1).map(run).collect()
}
