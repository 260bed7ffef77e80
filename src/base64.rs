//! Base64 (RFC 4648 §4), for Basic credentials and the WebSocket handshake. Pure.

/// Encodes bytes, with padding.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (24 - 8 * group.len());
        for digit in 0..4 {
            out.push(match (bits >> (18 - 6 * digit)) as u8 & 63 {
                _ if digit > group.len() => '=',
                n @ 0..=25 => char::from(b'A' + n),
                n @ 26..=51 => char::from(b'a' + n - 26),
                n @ 52..=61 => char::from(b'0' + n - 52),
                62 => '+',
                _ => '/',
            });
        }
    }
    out
}

/// Decodes a text, with or without its padding. `None` where it is not base64 in its one right form.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(digits.len());
    let (mut bits, mut count) = (0u32, 0);
    for b in digits.bytes() {
        let digit = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, count) = (bits << 6 | u32::from(digit), count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // What is left are zero bits, fewer than a digit (§3.5); padding, where there is any, completes a group of four.
    let padded = text.len() == digits.len() || (text.len().is_multiple_of(4) && text.len() - digits.len() <= 2);
    (bits == 0 && count < 6 && padded).then_some(out)
}
