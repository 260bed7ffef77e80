//! Base64 (RFC 4648 §4), as in Basic credentials. Pure.

/// The digits in the order of their values, and then the padding character.
const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";

/// Encodes bytes. The result is padded.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, b| bits << 8 | usize::from(*b)) << (24 - 8 * group.len());
        for digit in 0..4 {
            let value = if digit > group.len() { 64 } else { bits >> (18 - 6 * digit) & 63 };
            out.extend(DIGITS.chars().nth(value));
        }
    }
    out
}

/// Decodes a text, with or without padding. Returns `None` if the text is not the canonical encoding of some bytes.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bits = 0;
    let mut count = 0;
    for digit in text.trim_end_matches('=').chars() {
        bits = bits << 6 | DIGITS.find(digit)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    // Encoding again finds a surplus digit, surplus bits (§3.5) and wrong padding.
    let canonical = encode(&out);
    (text == canonical || text == canonical.trim_end_matches('=')).then_some(out)
}
