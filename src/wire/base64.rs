//! Base64 (RFC 4648 §4), for Basic credentials and what is made of bytes elsewhere. Pure.

/// The digits by their values, and behind them what pads.
const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=";

/// Encodes bytes, with padding.
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

/// Decodes a text, with or without its padding. `None` where it is not base64 in its one right form.
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
    // A digit or a bit too many (§3.5), or padding that is not right, would not come out again.
    let right = encode(&out);
    (text == right || text == right.trim_end_matches('=')).then_some(out)
}
