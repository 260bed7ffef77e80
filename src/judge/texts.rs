//! What the judge says, how it says it, and how it finds it again in the data of events.

use crate::http::{Connection, Head, NoHead, Url};
use std::time::Instant;
use tincan::wire::event::json;

/// How texts are put into the body of a POST.
pub struct Publisher {
    url: Url,
    before: String,
    after: String,
    encoding: Encoding,
}

/// How the text is encoded within the body.
enum Encoding {
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
        let quoted = template.split_once("\"{}\"").map(|(before, after)| (format!("{before}\""), format!("\"{after}")));
        let any = template.split_once("{}").map(|(before, after)| (before.to_string(), after.to_string()));
        let (before, after) = quoted.or(any).ok_or("--body: {} must stand for the text, such as msg={}")?;
        let encoding = if before.trim_start().starts_with(['{', '[', '"']) {
            Encoding::Json
        } else if before.ends_with('=') {
            Encoding::Urlencoded
        } else {
            Encoding::Plain
        };
        Ok(Publisher { url, before, after, encoding })
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
        let (media_type, text) = match self.encoding {
            Encoding::Plain => ("text/plain; charset=utf-8", text.into()),
            Encoding::Json => ("application/json", in_quotes(&json(text)).into()),
            Encoding::Urlencoded => ("application/x-www-form-urlencoded", percent_encode(text)),
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

/// Returns a JSON string without its quotes.
fn in_quotes(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

fn percent_encode(text: &str) -> String {
    let encode = |byte| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// A text that tests a rule.
pub struct Text {
    pub rule: &'static str,
    /// It is in each line of the text, and in no other text.
    pub nonce: String,
    pub text: String,
    /// It need not arrive unchanged, but it must set nothing but data.
    pub is_forgery: bool,
    /// A server may refuse it, if it says so.
    pub may_refuse: bool,
}

/// The reconnection time in the text of `forged-field`, in milliseconds. It is different in each run.
pub fn forged_retry(nonce: &str) -> String {
    (100_000 + nonce.bytes().fold(0, |sum: u32, byte| (sum * 31 + u32::from(byte)) % 400_000)).to_string()
}

/// Returns the texts, in the order in which they are said. The empty one has no nonce, and is said apart.
pub fn texts(nonce: &str) -> Vec<Text> {
    let retry = forged_retry(nonce);
    let digits = "0123456789 ".repeat(5_900); // with what is around them just less than 64 KiB, a common limit
    // The rule, whether the text may be refused, and the text.
    let table: [(&str, bool, &str); 14] = [
        ("lf", false, "@ one\n@ two"),
        ("lines", false, "@ one\n\n@ three\n@ four"),
        ("crlf", false, "@ one\r\n@ two"),
        ("cr", true, "@ one\r@ two"),
        ("leading-space", false, "  @ after two spaces"),
        ("colon", false, ": @ is no comment"),
        ("nul", true, "@ one\0two"),
        ("bom", true, "\u{feff}@ after a byte order mark"),
        ("u2028", false, "@ one\u{2028}two\u{2029}three\u{85}four"),
        ("utf-8", false, "@ crème brûlée, 汤, 🍲"),
        ("large", true, &format!("@ {digits} @")),
        ("forged-id", true, "id: @\n@ two\n@ three\nid: @\n@ five"),
        ("forged-event", true, "event: @\n@ two\n@ three\n\nevent: @\ndata: @ forged\n\n@ last"),
        ("forged-field", true, &format!("retry: {retry}\n@ two\n@ three\nretry: {retry}\n@ five")),
    ];
    let text = |(rule, may_refuse, text): (&'static str, bool, &str)| {
        let nonce = format!("{nonce}-{rule}.");
        let is_forgery = rule.starts_with("forged-");
        Text { rule, text: text.replace('@', &nonce), nonce, is_forgery, may_refuse }
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
