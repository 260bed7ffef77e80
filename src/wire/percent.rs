//! Percent-decoding, and a test for texts of certain characters. Pure.

/// Returns whether a text is not empty and contains only ASCII letters, digits and the bytes in `further`.
pub fn is_made_of(text: impl AsRef<[u8]>, further: &[u8]) -> bool {
    let text = text.as_ref();
    !text.is_empty() && text.iter().all(|b| b.is_ascii_alphanumeric() || further.contains(b))
}

/// Decodes percent-encoding (RFC 3986 §2.1). With `form`, `+` means a space (WHATWG URL,
/// "application/x-www-form-urlencoded"). Returns `None` if the encoding is malformed or the result is not UTF-8.
pub fn decode(text: &str, form: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b'+' if form => b' ',
            b => b,
        });
    }
    String::from_utf8(out).ok()
}
