//! What the judge says, how it says it, and how it finds it again in the data of events.

use crate::http::{Connection, Head, NoHead, Url};
use std::time::Instant;
use tincan::wire::event::json;

/// How texts are put into the body of a POST.
pub struct Publisher {
    url: Url,
    before: String,
    after: String,
    form: Form,
}

/// How the text is encoded within the body.
enum Form {
    /// As it is.
    Plain,
    /// As a JSON string: the template begins as JSON does.
    Json,
    /// Percent-encoded: the template is a form, as `NAME={}`.
    Urlencoded,
}

impl Publisher {
    /// Returns a publisher whose bodies have this form. `{}` stands for the text.
    ///
    /// # Errors
    /// If the template has no `{}`.
    pub fn new(url: Url, template: &str) -> Result<Publisher, String> {
        let (before, after) = template.split_once("{}").ok_or("--body: {} must stand for the text, such as msg={}")?;
        let is_json = before.trim_start().starts_with(['{', '[', '"']);
        let form = if is_json {
            Form::Json
        } else if before.ends_with('=') {
            Form::Urlencoded
        } else {
            Form::Plain
        };
        Ok(Publisher { url, before: before.into(), after: after.into(), form })
    }

    /// Publishes a text. Returns the status of the response.
    ///
    /// # Errors
    /// If there is no response.
    pub fn say(&self, text: &str, deadline: Instant) -> Result<u16, String> {
        self.send(text, deadline).map(|(head, _)| head.status)
    }

    /// Publishes a text. Returns the head of the response, and the connection.
    ///
    /// # Errors
    /// If there is no response.
    pub fn send(&self, text: &str, deadline: Instant) -> Result<(Head, Connection), String> {
        let (media_type, text) = match self.form {
            Form::Plain => ("text/plain; charset=utf-8", text.into()),
            Form::Json => ("application/json", json(text).trim_matches('"').into()),
            Form::Urlencoded => ("application/x-www-form-urlencoded", percent_encode(text)),
        };
        let body = [&self.before, &*text, &self.after].concat();
        let length = body.len();
        let fields = format!("Content-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n");
        let connection = self.url.request(["POST", "HTTP/1.1"], &fields, body.as_bytes(), deadline);
        let mut connection = connection.map_err(|e| format!("no connection: {e}"))?;
        let head = connection.head(deadline).map_err(NoHead::why)?;
        Ok((head, connection))
    }
}

fn percent_encode(text: &str) -> String {
    let encode = |byte| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// What has to become of a text.
#[derive(Clone, Copy, PartialEq)]
pub enum Expected {
    /// It arrives unchanged, in one event. It may be decorated.
    Unchanged,
    /// The same, but a byte order mark at its beginning may be removed.
    WithoutMark,
    /// It sets nothing but data.
    NotForged,
}

/// A text that tests a rule.
pub struct Text {
    pub rule: &'static str,
    /// It is in each line of the text, and in no other text.
    pub nonce: String,
    pub text: String,
    pub expected: Expected,
    /// A server may refuse it, if it says so.
    pub may_refuse: bool,
}

/// The reconnection time in the text of `forged-field`, in milliseconds. It is different in each run.
pub fn forged_retry(nonce: &str) -> String {
    (100_000 + nonce.bytes().fold(0, |sum: u32, byte| (sum * 31 + u32::from(byte)) % 400_000)).to_string()
}

/// Returns the texts, in the order in which they are said. The empty one has no nonce, and is said apart.
pub fn texts(nonce: &str) -> Vec<Text> {
    use Expected::*;
    let retry = forged_retry(nonce);
    let digits = "0123456789 ".repeat(5_900); // with what is around them just less than 64 KiB, a common limit
    let table: [(&str, Expected, bool, &str); 14] = [
        ("lf", Unchanged, false, "@ one\n@ two"),
        ("lines", Unchanged, false, "@ one\n\n@ three\n@ four"),
        ("crlf", Unchanged, false, "@ one\r\n@ two"),
        ("cr", Unchanged, true, "@ one\r@ two"),
        ("leading-space", Unchanged, false, "  @ after two spaces"),
        ("colon", Unchanged, false, ": @ is no comment"),
        ("nul", Unchanged, true, "@ one\0two"),
        ("bom", WithoutMark, true, "\u{feff}@ after a byte order mark"),
        ("u2028", Unchanged, false, "@ one\u{2028}two\u{2029}three\u{85}four"),
        ("utf-8", Unchanged, false, "@ crème brûlée, 汤, 🍲"),
        ("large", Unchanged, true, &format!("@ {digits} @")),
        ("forged-id", NotForged, true, "id: @\n@ two\n@ three\nid: @\n@ five"),
        ("forged-event", NotForged, true, "event: @\n@ two\n@ three\n\nevent: @\ndata: @ forged\n\n@ last"),
        ("forged-field", NotForged, true, &format!("retry: {retry}\n@ two\n@ three\nretry: {retry}\n@ five")),
    ];
    let text = |(rule, expected, may_refuse, text): (&'static str, Expected, bool, &str)| {
        let nonce = format!("{nonce}-{rule}.");
        Text { rule, text: text.replace('@', &nonce), nonce, expected, may_refuse }
    };
    table.map(text).into()
}

/// Returns whether data has a text unchanged: as it is, with each line end as LF, or as a JSON string. That may be in
/// another JSON string.
pub fn has(data: &str, text: &str) -> bool {
    let lines = text.replace("\r\n", "\n").replace('\r', "\n");
    if data.contains(&lines) {
        return true;
    }
    let is_json = data.trim_start().starts_with(['{', '[', '"']);
    let once = unescape(data);
    is_json && [unescape(&once), once].iter().any(|data| data.contains(text) || data.contains(&lines))
}

/// Returns a text in which the escapes of JSON strings are replaced (RFC 8259 §7).
fn unescape(text: &str) -> String {
    let mut units = Vec::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        let escaped = if c == '\\' { rest.next() } else { None };
        let c = match escaped {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                units.push(u16::from_str_radix(&digits, 16).unwrap_or(0xfffd));
                continue;
            }
            Some(other) => other,
            None => c,
        };
        units.extend(c.encode_utf16(&mut [0; 2]).iter());
    }
    String::from_utf16_lossy(&units)
}
