//! HTTP/1.1: parses the heads of requests, and writes the heads of responses. Pure, except that `Date` needs the clock.
//!
//! The grammar of a request (RFC 9112 §2.1, §3, §5; RFC 9110 §5.6.2 for `token`):
//!
//! ```text
//! request      = request-line CRLF *( field-line CRLF ) CRLF [ body ]
//! request-line = token SP request-target SP "HTTP/" DIGIT "." DIGIT
//! field-line   = token ":" OWS field-value OWS
//! ```
//!
//! A request is read in three steps, so that a refusal is sent as soon as it is certain:
//!
//! 1. While the head arrives, [`HeadEnd`] looks for its end. It checks the line ends and the limits.
//! 2. [`Request::parse`] parses the complete head.
//! 3. The caller reads the body, by its length or with `chunked.rs`.
//!
//! Deviation: RFC 9112 §2.2 lets a server accept a lone LF as a line end. We refuse it. If two parsers disagree about
//! where a line ends, an attacker can smuggle a request past one of them.
//!
//! Limits: [`MAX_TARGET`], [`MAX_FIELDS`], [`MAX_SECTION`], `MAX_METHOD`, `MAX_VERSION`; the caller limits the body.
//! Deliberately absent: HTTP/2, compression, ranges, conditional requests.

use crate::system::time::{clock, set_clock};
use crate::wire::percent;
use crate::wire::reject::*;
use std::mem::take;
use std::net::Ipv6Addr;

/// Limit: the bytes of a request target.
pub const MAX_TARGET: usize = 8 << 10;
/// Limit: the bytes of a header section or a trailer section.
pub const MAX_SECTION: usize = 16 << 10;
/// Limit: the field lines of a header section.
pub const MAX_FIELDS: usize = 100;
/// Limit: the bytes before the request target. The longest registered method has 17.
const MAX_METHOD: usize = 32;
/// Limit: the bytes after the request target. A version has 8, or 10 with its space and CR.
const MAX_VERSION: usize = 32;

/// The length of a body (RFC 9112 §6.3).
#[derive(Debug, PartialEq)]
pub enum BodyLength {
    /// A number of bytes. It is 0 if the head gives no length.
    Known(usize),
    /// The body is in chunks and ends with the last chunk.
    Chunked,
}

/// The head of a request.
pub struct Request<'a> {
    /// The method as sent. Methods are case-sensitive (RFC 9110 §9.1).
    pub method: &'a str,
    /// The path, percent-decoded.
    pub path: String,
    query: &'a str,
    /// The request target as sent, for the request log. It has no control characters.
    pub target: &'a str,
    /// Host and port: from the request target if it has the absolute form, else from `Host` (RFC 9112 §3.2.2). A
    /// request of HTTP/1.0 may have none.
    pub authority: Option<&'a str>,
    /// The minor version: 0 for HTTP/1.0, else 1. All versions from HTTP/1.1 on are treated alike (RFC 9110 §2.5).
    pub minor: u8,
    /// The length of the body.
    pub body_length: BodyLength,
    /// Whether the client waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1).
    pub expects: bool,
    fields: Vec<(&'a [u8], &'a [u8])>,
}

/// Finds the end of a head while the head arrives. It looks at each byte twice: when the byte comes, and when its line
/// ends.
#[derive(Default)]
pub struct HeadEnd {
    seen: usize,       // the number of bytes that were looked at
    line_start: usize, // of the current line
    part_start: usize, // of the current part: the method, the target, the version, or the header section
    parts: usize,      // how many parts have ended: the method, the target, the version, and then each field line
}

impl HeadEnd {
    /// Looks at the bytes that came since the last call. Returns the length of the head, or `None` if its blank line
    /// has not come yet. `buf` has all bytes of the head so far. The caller skips empty lines before the request line.
    ///
    /// # Errors
    /// If a line does not end with CR LF, or if a part is over its limit.
    pub fn find(&mut self, buf: &[u8]) -> Result<Option<usize>, Reject> {
        while let Some(&byte) = buf.get(self.seen) {
            let line = buf.get(self.line_start..self.seen).unwrap_or_default();
            self.seen += 1;
            if byte == b'\n' {
                let text = line.strip_suffix(b"\r").ok_or(LONE_LF)?;
                if text.contains(&b'\r') {
                    return Err(LONE_CR);
                }
                if text.is_empty() {
                    return Ok(Some(self.seen));
                }
                self.line_start = self.seen;
                if self.parts < 3 {
                    self.part_start = self.seen;
                }
                self.parts = self.parts.max(2) + 1;
            }
            let (max, reject) = match self.parts {
                0 => (MAX_METHOD, REQUEST_LINE), // with the space after it
                1 => (MAX_TARGET + usize::from(byte == b' '), LONG_TARGET),
                2 => (MAX_VERSION - 1, REQUEST_LINE), // the space before it is one of its bytes
                _ => (MAX_SECTION + 1, LARGE_SECTION), // with the CR of the blank line
            };
            if self.seen - self.part_start > max || self.parts > 3 + MAX_FIELDS {
                let is_method =
                    self.parts == 0 && is_token(buf.get(self.part_start..self.seen - 1).unwrap_or_default());
                return Err(if is_method { METHOD } else { reject });
            }
            if byte == b' ' && self.parts < 2 {
                self.parts += 1;
                self.part_start = self.seen;
            }
        }
        Ok(None)
    }
}

/// Returns whether a text is a `token` (RFC 9110 §5.6.2).
pub fn is_token(text: &[u8]) -> bool {
    percent::is_made_of(text, b"!#$%&'*+-.^_`|~")
}

impl<'a> Request<'a> {
    /// Parses a complete head, from the request line to the blank line.
    ///
    /// # Errors
    /// The refusal for the first rule that the head breaks.
    pub fn parse(head: &'a [u8]) -> Result<Request<'a>, Reject> {
        let mut lines = head.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let (method, target, minor) = request_line(lines.next().unwrap_or_default())?;
        let fields = lines.take_while(|line| !line.is_empty()).map(field_line).collect::<Result<_, _>>()?;
        let (authority, target_path) = match target {
            "*" if method == "OPTIONS" => (None, "*"),
            // Only CONNECT has the authority form (RFC 9112 §3.2.3). `route.rs` refuses it by its method.
            _ if method == "CONNECT" && !split_port(target).1.is_empty() => {
                (Some(host_of(target.as_bytes()).ok_or(TARGET)?), "*")
            }
            _ => split_target(target).ok_or(TARGET)?,
        };
        let (path, query) = target_path.split_once('?').unwrap_or((target_path, ""));
        // An empty path is `/` (RFC 9110 §4.2.3).
        let path = percent::decode(if path.is_empty() { "/" } else { path }, false).ok_or(TARGET)?;
        let body_length = BodyLength::Known(0);
        let mut req = Request { method, path, query, target, authority, minor, body_length, expects: false, fields };
        match req.field_values("host").collect::<Vec<_>>()[..] {
            [] if minor == 1 => return Err(NO_HOST),
            [] => {}
            // The authority of the request target replaces the field, which must still be valid (RFC 9112 §3.2.2).
            [host] => req.authority = authority.or(Some(host_of(host).ok_or(BAD_HOST)?)),
            _ => return Err(TWO_HOSTS),
        }
        req.body_length = req.find_body_length()?;
        let expected = req.list("expect");
        if expected.iter().any(|member| !member.eq_ignore_ascii_case(b"100-continue")) {
            return Err(EXPECT);
        }
        req.expects = minor == 1 && !expected.is_empty();
        Ok(req)
    }

    /// Returns the length of the body (RFC 9112 §6.3). A malformed length is an error, and never means "no body".
    fn find_body_length(&self) -> Result<BodyLength, Reject> {
        let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
        // Content-Length is not a list, but some senders repeat it (RFC 9110 §8.6). An empty member is an error.
        match (self.field_bytes("transfer-encoding"), &self.members("content-length")[..]) {
            (None, []) => Ok(BodyLength::Known(0)),
            (None, [first @ [_, ..], others @ ..])
                if first.iter().all(u8::is_ascii_digit) && others.iter().all(|other| other == first) =>
            {
                // A number that does not fit into a usize is larger than any limit.
                Ok(BodyLength::Known(String::from_utf8_lossy(first).parse().unwrap_or(usize::MAX)))
            }
            (None, _) => Err(LENGTH),
            (_, [_, ..]) => Err(BOTH_LENGTHS),
            _ if self.minor == 0 => Err(CODING_1_0),
            _ => match &self.list("transfer-encoding")[..] {
                [coding] if is_chunked(coding) => Ok(BodyLength::Chunked),
                [before @ .., _] if before.iter().any(is_chunked) => Err(NOT_LAST),
                _ => Err(CODING),
            },
        }
    }

    /// Returns the values of all field lines of this name. The case of the name does not matter.
    pub fn field_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |f| f.0.eq_ignore_ascii_case(name.as_bytes())).map(|f| f.1)
    }

    /// Returns the first value of a field. The case of the name does not matter.
    pub fn field_bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.field_values(name).next()
    }

    /// Returns the first value of a field as text. It is empty if it is not UTF-8. The case of the name does not
    /// matter.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.field_bytes(name).map(|v| str::from_utf8(v).unwrap_or_default())
    }

    /// Returns the members of a comma-separated list, from all field lines of this name. Empty members do not count
    /// (RFC 9110 §5.6.1.2).
    pub fn list(&self, name: &str) -> Vec<&'a [u8]> {
        let mut members = self.members(name);
        members.retain(|member| !member.is_empty());
        members
    }

    /// Returns the members of a comma-separated list, empty ones included.
    fn members(&self, name: &str) -> Vec<&'a [u8]> {
        self.field_values(name).flat_map(|value| split(value, b',')).collect()
    }

    /// Returns whether a list has this member. The case of name and member does not matter.
    pub fn list_has(&self, name: &str, member: &str) -> bool {
        self.list(name).iter().any(|m| m.eq_ignore_ascii_case(member.as_bytes()))
    }

    /// Returns the names and values of the query's parameters, as sent.
    pub fn params(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// Returns the value of a query parameter, decoded as from an HTML form.
    ///
    /// # Errors
    /// [`TARGET`] if the encoding is malformed, or if the value is not UTF-8.
    pub fn param(&self, name: &str) -> Result<Option<String>, Reject> {
        let found = self.params().find(|pair| pair.0 == name);
        found.map(|(_, value)| percent::decode(value, true).ok_or(TARGET)).transpose()
    }

    /// Returns the last event ID of a client: the value of `Last-Event-ID`, else of the query parameter `lastEventId`.
    /// The case of both names does not matter. Polyfills use the parameter if they cannot send the field. Some append
    /// one more to the URL at each reconnection, so the last one counts.
    pub fn last_event_id(&self) -> Option<String> {
        let field = self.field_bytes("last-event-id").filter(|id| !id.is_empty());
        let ids = self.params().filter(|(name, id)| name.eq_ignore_ascii_case("lastEventId") && !id.is_empty());
        let query = || ids.last().map(|(_, id)| percent::decode(id, true).unwrap_or(id.into()));
        field.map(|id| String::from_utf8_lossy(id).into()).or_else(query)
    }

    /// Returns whether the connection can carry another request (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        !self.list_has("connection", "close") && (self.minor == 1 || self.list_has("connection", "keep-alive"))
    }

    /// Returns the weight that `Accept` gives to a media type, in thousandths (RFC 9110 §12.5.1). The most specific
    /// range decides. Without `Accept` every media type has the full weight.
    pub fn type_weight(&self, main_type: &str, subtype: &str) -> u16 {
        let ranges = [&format!("{main_type}/{subtype}"), &format!("{main_type}/*"), "*/*"];
        let default = if self.field_bytes("accept").is_none() { 1000 } else { 0 };
        ranges.into_iter().find_map(|range| self.range_weight(range)).unwrap_or(default)
    }

    /// Returns whether `Accept` names `text/event-stream` itself. That of EventSource does.
    pub fn is_event_source(&self) -> bool {
        self.range_weight("text/event-stream").is_some()
    }

    /// Returns the weight of a range in `Accept`, or `None` if `Accept` does not name that range.
    fn range_weight(&self, range: &str) -> Option<u16> {
        let mut members = self.list("accept").into_iter().map(|member| split(member, b';'));
        let is_range = |name: &&[u8]| name.eq_ignore_ascii_case(range.as_bytes());
        let parts = members.find(|parts| parts.first().is_some_and(is_range))?;
        let weight = parts.into_iter().find_map(|part| {
            let (name, value) = str::from_utf8(part).ok()?.split_once('=')?;
            name.eq_ignore_ascii_case("q").then_some(value)
        });
        Some(weight.map_or(1000, thousandths))
    }
}

/// Returns a weight such as `0.8` in thousandths (RFC 9110 §12.4.2: at most 1, and at most three decimals). A malformed
/// weight counts as 1.
fn thousandths(weight: &str) -> u16 {
    let (whole, decimals) = weight.split_once('.').unwrap_or((weight, ""));
    match (whole, format!("{decimals:0<3}").parse()) {
        ("0", Ok(n @ 0..=999)) if !decimals.starts_with('+') => n,
        _ => 1000,
    }
}

/// Parses the request line, which comes without its line end. Returns the method, the request target and the minor
/// version.
fn request_line(line: &[u8]) -> Result<(&str, &str, u8), Reject> {
    let line = str::from_utf8(line).map_err(|_| REQUEST_LINE)?;
    let [method, target, version] = line.split(' ').collect::<Vec<_>>()[..] else { return Err(REQUEST_LINE) };
    match version.strip_prefix("HTTP/").map(str::as_bytes) {
        Some([b'1', b'.', minor @ b'0'..=b'9']) if is_token(method.as_bytes()) => {
            Ok((method, target, u8::from(*minor > b'0')))
        }
        Some([b'0' | b'2'..=b'9', b'.', b'0'..=b'9']) => Err(VERSION),
        _ => Err(REQUEST_LINE),
    }
}

/// Parses a field line, which comes without its line end. Returns its name and value.
///
/// # Errors
/// The refusal for the first rule that the line breaks.
pub fn field_line(line: &[u8]) -> Result<(&[u8], &[u8]), Reject> {
    if let [b' ' | b'\t', ..] = line {
        return Err(FOLDED);
    }
    let mut parts = line.splitn(2, |&b| b == b':');
    let name = parts.next().unwrap_or_default();
    let value = parts.next().ok_or(FIELD_NAME)?;
    match name {
        [.., b' ' | b'\t'] => Err(SPACE_BEFORE_COLON),
        _ if !is_token(name) => Err(FIELD_NAME),
        _ if has_control(value) => Err(FIELD_VALUE),
        // Optional white space is space and tab (RFC 9110 §5.6.3). Other white space is a control character.
        _ => Ok((name, value.trim_ascii())),
    }
}

/// Returns whether a text contains a control character other than a tab.
pub fn has_control(text: &[u8]) -> bool {
    text.iter().any(|&b| b.is_ascii_control() && b != b'\t')
}

/// Splits a request target in origin form or absolute form (RFC 9112 §3.2.1, §3.2.2). Returns its authority, if it has
/// one, and its path with the query.
fn split_target(target: &str) -> Option<(Option<&str>, &str)> {
    // Deviation: RFC 3986 §2 does not allow `|`, `\`, `^`, braces and grave accents. We accept them, because browsers
    // do not encode them in a query (WHATWG URL, "query percent-encode set").
    if !target.bytes().all(|b| b.is_ascii_graphic() && !b"#\"<>".contains(&b)) {
        return None;
    }
    if target.starts_with('/') {
        return Some((None, target));
    }
    let (scheme, rest) = target.split_once("://")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    Some((Some(host_of(authority.as_bytes()).filter(|_| known)?), path))
}

/// Returns a value as text if it is `uri-host [ ":" port ]` (RFC 9110 §7.2).
pub fn host_of(value: &[u8]) -> Option<&str> {
    let text = str::from_utf8(value).ok()?;
    let (host, port) = split_port(text);
    // Deviation: RFC 3986 §3.2.2 allows more characters in a name, and percent-encoding. No name in the DNS has them.
    let is_host = is_ipv6(host) || percent::is_made_of(host, b"-._~");
    (is_host && port.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

/// Returns whether a host is an IPv6 address in brackets (RFC 3986 §3.2.2).
pub fn is_ipv6(host: &str) -> bool {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).is_some_and(|h| h.parse::<Ipv6Addr>().is_ok())
}

/// Splits an authority into host and port. The port is empty if there is none.
pub fn split_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    }
}

/// Returns an authority without its port, if the port is empty or the default of the scheme. Both equal no port (RFC
/// 9110 §4.2.3).
pub fn without_default_port<'a>(authority: &'a str, scheme: &str) -> &'a str {
    match (split_port(authority), scheme) {
        ((host, ""), _) | ((host, "80"), "http") | ((host, "443"), "https") => host,
        _ => authority,
    }
}

/// Returns an origin in the form in which origins are compared: in lower case, and without a default port.
pub fn origin(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    match text.split_once("://") {
        Some((scheme, authority)) => format!("{scheme}://{}", without_default_port(authority, scheme)),
        None => text,
    }
}

/// Splits a value at each delimiter outside quoted strings (RFC 9110 §5.6.4). Returns the parts without the white space
/// around them.
pub fn split(value: &[u8], delimiter: u8) -> Vec<&[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    let ends = move |&byte: &u8| {
        let is_escaped = take(&mut escaped);
        escaped = quoted && !is_escaped && byte == b'\\';
        quoted ^= byte == b'"' && !is_escaped;
        byte == delimiter && !quoted
    };
    value.split(ends).map(<[u8]>::trim_ascii).collect()
}

/// The `Cache-Control` of all responses except the pages' files, refusals included (RFC 9111 §5.2.2).
///
/// - `no-store`: a response is valid only now. Without this, browsers store polls on their disk, and a cache may store
///   a 404, 405, 414 or 501 that has no `Cache-Control` (RFC 9110 §15.1).
/// - `no-transform`: without this, development servers and frameworks compress event streams, and delay events
///   meanwhile.
pub const NO_STORE: &str = "Cache-Control: no-store, no-transform\r\n";
/// The `Cache-Control` of the pages' files. A cache may store a file, but asks the server before it uses the file,
/// because a new version of the server may have another one.
pub const NO_CACHE: &str = "Cache-Control: no-cache\r\n";

/// Returns the head of a response without its blank line: the status line, `Date`, `nosniff`, and `fields`. Each of
/// `fields` is a sequence of field lines, each with its CRLF. If the clock is not set, there is no `Date` (RFC 9110
/// §6.6.1).
pub fn head(status: u16, fields: &[&str]) -> String {
    format!(
        "HTTP/1.1 {status} {}\r\n{}X-Content-Type-Options: nosniff\r\n{}",
        reason(status),
        set_clock().map(|time| format!("Date: {}\r\n", date(time.as_secs()))).unwrap_or_default(),
        fields.concat()
    )
}

/// Returns the current time in the format of [`date`].
pub fn now() -> String {
    date(clock().as_secs())
}

/// Returns a time in seconds since 1970 as an IMF-fixdate (RFC 9110 §5.6.7), by the Gregorian calendar.
pub fn date(secs: u64) -> String {
    let days = secs / 86_400;
    let time = secs % 86_400;
    // If a year begins in March, its leap day is its last day, and each month begins at a fixed day of the year. So we
    // count from 1 March of the year 0. The unit is a quarter of a day: then a century has a whole number of units
    // (36,524 days and a quarter), and so has a year (365 days and a quarter).
    let quarters = 4 * (days + 719_468) + 3;
    let century = quarters / 146_097;
    let quarters = (quarters % 146_097) | 3;
    let fifths = 5 * (quarters % 1_461 / 4) + 2;
    let month = fifths / 153; // 0 is March
    let day = fifths % 153 / 5 + 1;
    let year = 100 * century + quarters / 1_461 + u64::from(month >= 10);
    let name = |names: &'static str, n: u64| names.split(' ').nth(n as usize).unwrap_or_default();
    let month = name("Mar Apr May Jun Jul Aug Sep Oct Nov Dec Jan Feb", month);
    let weekday = name("Thu Fri Sat Sun Mon Tue Wed", days % 7); // 1 January 1970 was a Thursday
    format!("{weekday}, {day:02} {month} {year} {:02}:{:02}:{:02} GMT", time / 3600, time / 60 % 60, time % 60)
}
