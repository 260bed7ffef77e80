//! HTTP/1.1: bytes to [`Request`], and the heads of responses. Pure: no sockets, no clock but for `Date`.
//!
//! The grammar (RFC 9112 §2.1, §3, §5; RFC 9110 §5.6.2 for `token`):
//!
//! ```text
//! request      = request-line CRLF *( field-line CRLF ) CRLF [ body ]
//! request-line = token SP request-target SP "HTTP/" DIGIT "." DIGIT
//! field-line   = token ":" OWS field-value OWS
//! ```
//!
//! Reading is in three steps, so that a refusal comes as soon as it is certain: [`HeadEnd`] sees whole lines and the
//! limits while the head arrives, [`Request::parse`] takes the complete head; `chunked.rs` or a length has the body.
//!
//! Deviation: §2.2 lets a server accept a lone LF as a line end. We refuse it, for two parsers that disagree about
//! where a line ends are what request smuggling is made of.
//!
//! Limits: [`MAX_TARGET`], [`MAX_FIELDS`], [`MAX_SECTION`]; the body's is the caller's.
//! Deliberately absent: HTTP/2, compression, ranges, conditional requests.

use crate::wire::percent;
use crate::wire::reject::*;
use std::mem::take;
use std::net::Ipv6Addr;
use std::time::{SystemTime, UNIX_EPOCH};

/// Limit: bytes in a request target.
pub const MAX_TARGET: usize = 8 << 10;
/// Limit: bytes in a header section or a trailer section.
pub const MAX_SECTION: usize = 16 << 10;
/// Limit: field lines in a header section.
pub const MAX_FIELDS: usize = 100;
/// Limit: bytes before the request target. The longest registered method has 17.
const MAX_METHOD: usize = 32;
/// Limit: bytes behind the request target. A version has 8, with its space and CR 10.
const MAX_VERSION: usize = 32;

/// How long the body is (RFC 9112 §6.3).
#[derive(Debug, PartialEq)]
pub enum BodyLength {
    /// This many bytes; none where nothing is said.
    Known(usize),
    /// Until the last chunk.
    Chunked,
}

/// The head of a request.
pub struct Request<'a> {
    /// As sent; methods are case-sensitive (RFC 9110 §9.1).
    pub method: &'a str,
    /// The path with its percent-encoding undone.
    pub path: String,
    query: &'a str,
    /// As sent, for the log: free of control characters.
    pub target: &'a str,
    /// Host and port, from the target's absolute form, else from `Host` (RFC 9112 §3.2.2); HTTP/1.0 may have none.
    pub authority: Option<&'a str>,
    /// 0 for HTTP/1.0; 1 for HTTP/1.1, and for every higher minor version, which is treated alike (RFC 9110 §2.5).
    pub minor: u8,
    /// How long the body is.
    pub body_length: BodyLength,
    /// The client waits for `100 Continue` before it sends the body (RFC 9110 §10.1.1).
    pub expects: bool,
    fields: Vec<(&'a [u8], &'a [u8])>,
}

/// Where a head ends that is still arriving. Each byte is looked at as it comes, and each line once more as it ends.
#[derive(Default)]
pub struct HeadEnd {
    seen: usize,
    line: usize,  // where the last line begins
    part: usize,  // where its method, target or version begins; or the section
    parts: usize, // that have ended: those three, and then the field lines
}

impl HeadEnd {
    /// Looks at what has come since the last time: how many bytes the head has, or `None` if the blank line is not there
    /// yet. `buf` has all of it so far. Empty lines before the request line are not its business.
    ///
    /// # Errors
    /// A line end that is no CR LF, a target or a section over its limit.
    pub fn find(&mut self, buf: &[u8]) -> Result<Option<usize>, Reject> {
        while let Some(&byte) = buf.get(self.seen) {
            let line = buf.get(self.line..self.seen).unwrap_or_default();
            self.seen += 1;
            if byte == b'\n' {
                let text = line.strip_suffix(b"\r").ok_or(LONE_LF)?;
                if text.contains(&b'\r') {
                    return Err(LONE_CR);
                }
                if text.is_empty() {
                    return Ok(Some(self.seen));
                }
                self.line = self.seen;
                if self.parts < 3 {
                    self.part = self.seen;
                }
                self.parts = self.parts.max(2) + 1;
            }
            let (most, reject) = match self.parts {
                0 => (MAX_METHOD, REQUEST_LINE), // with the space behind it
                1 => (MAX_TARGET + usize::from(byte == b' '), LONG_TARGET),
                2 => (MAX_VERSION - 1, REQUEST_LINE), // the space before it is one of its bytes
                _ => (MAX_SECTION + 1, LARGE_SECTION), // with the CR of the blank line
            };
            if self.seen - self.part > most || self.parts > 3 + MAX_FIELDS {
                let is_method = self.parts == 0 && is_token(buf.get(self.part..self.seen - 1).unwrap_or_default());
                return Err(if is_method { METHOD } else { reject });
            }
            if byte == b' ' && self.parts < 2 {
                self.parts += 1;
                self.part = self.seen;
            }
        }
        Ok(None)
    }
}

/// Whether this is a `token` (RFC 9110 §5.6.2).
pub fn is_token(text: &[u8]) -> bool {
    percent::is_made_of(text, b"!#$%&'*+-.^_`|~")
}

impl<'a> Request<'a> {
    /// Parses a complete head: request line to blank line.
    ///
    /// # Errors
    /// The first rule that the head breaks.
    pub fn parse(head: &'a [u8]) -> Result<Request<'a>, Reject> {
        let mut lines = head.split(|&b| b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l));
        let line = str::from_utf8(lines.next().unwrap_or_default()).map_err(|_| REQUEST_LINE)?;
        let [method, target, version] = line.split(' ').collect::<Vec<_>>()[..] else { return Err(REQUEST_LINE) };
        let minor = match version.strip_prefix("HTTP/").ok_or(REQUEST_LINE)?.as_bytes() {
            [b'1', b'.', minor] if minor.is_ascii_digit() => u8::from(*minor > b'0'),
            [a, b'.', b] if a.is_ascii_digit() && b.is_ascii_digit() => return Err(VERSION),
            _ => return Err(REQUEST_LINE),
        };
        if !is_token(method.as_bytes()) {
            return Err(REQUEST_LINE);
        }
        let fields = lines.take_while(|l| !l.is_empty()).map(field_line).collect::<Result<_, _>>()?;
        let (authority, target_path) = match target {
            "*" if method == "OPTIONS" => (None, "*"),
            _ if method == "CONNECT" && !split_port(target).1.is_empty() => {
                (Some(host_of(target.as_bytes()).ok_or(TARGET)?), "*")
            }
            _ => split_target(target).ok_or(TARGET)?,
        };
        let (path, query) = target_path.split_once('?').unwrap_or((target_path, ""));
        // An empty path is `/` (RFC 9110 §4.2.3).
        let path = percent::decode(if path.is_empty() { "/" } else { path }, false).ok_or(TARGET)?;
        let framing = BodyLength::Known(0);
        let mut req =
            Request { method, path, query, target, authority, minor, body_length: framing, expects: false, fields };
        match (&req.field_values("host").collect::<Vec<_>>()[..], minor) {
            ([], 1) => return Err(NO_HOST),
            ([], _) => {}
            // The target's own authority replaces the field (RFC 9112 §3.2.2), which must be valid all the same.
            ([host], _) => req.authority = authority.or(Some(host_of(host).ok_or(BAD_HOST)?)),
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

    /// RFC 9112 §6.3. A length that does not parse is an error, never "no body".
    fn find_body_length(&self) -> Result<BodyLength, Reject> {
        let chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
        // In a length an empty member is an error, for the field is no list but by a common mistake (RFC 9110 §8.6).
        match (self.field_bytes("transfer-encoding"), &self.members("content-length")[..]) {
            (None, []) => Ok(BodyLength::Known(0)),
            (None, [one @ [_, ..], others @ ..])
                if one.iter().all(u8::is_ascii_digit) && others.iter().all(|l| l == one) =>
            {
                // Digits that are no usize are a number all the same, and too large for any limit.
                Ok(BodyLength::Known(String::from_utf8_lossy(one).parse().unwrap_or(usize::MAX)))
            }
            (None, _) => Err(LENGTH),
            (_, [_, ..]) => Err(BOTH_LENGTHS),
            _ if self.minor == 0 => Err(CODING_1_0),
            _ => match &self.list("transfer-encoding")[..] {
                [one] if chunked(one) => Ok(BodyLength::Chunked),
                [before @ .., _] if before.iter().any(chunked) => Err(NOT_LAST),
                _ => Err(CODING),
            },
        }
    }

    /// The values of all field lines of a name, in any case.
    pub fn field_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |f| f.0.eq_ignore_ascii_case(name.as_bytes())).map(|f| f.1)
    }

    /// The first value of a field. `name` in any case.
    pub fn field_bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.field_values(name).next()
    }

    /// The first value of a field, empty where it is not UTF-8. `name` in any case.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.field_bytes(name).map(|v| str::from_utf8(v).unwrap_or_default())
    }

    /// The members of a field that is a comma-separated list, over all its field lines. Empty ones do not count
    /// (RFC 9110 §5.6.1.2).
    pub fn list(&self, name: &str) -> Vec<&'a [u8]> {
        let mut members = self.members(name);
        members.retain(|member| !member.is_empty());
        members
    }

    fn members(&self, name: &str) -> Vec<&'a [u8]> {
        self.field_values(name).flat_map(|value| split(value, b',')).collect()
    }

    /// Whether a field that is a list has this member, in any case.
    pub fn list_has(&self, name: &str, member: &str) -> bool {
        self.list(name).iter().any(|m| m.eq_ignore_ascii_case(member.as_bytes()))
    }

    /// The query's parameters, names and values, as sent.
    pub fn params(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// The value of a query parameter, decoded as an HTML form encodes it.
    ///
    /// # Errors
    /// If its encoding is broken, or not UTF-8.
    pub fn param(&self, name: &str) -> Result<Option<String>, Reject> {
        let found = self.params().find(|pair| pair.0 == name);
        found.map(|(_, value)| percent::decode(value, true).ok_or(TARGET)).transpose()
    }

    /// The place from which a client goes on: that of its `Last-Event-ID` field, or else of the query, in any case of letters.
    /// Polyfills say it there if they cannot send the field, and some add one each time, so the last one counts.
    pub fn last_event_id(&self) -> Option<String> {
        let field = self.field_bytes("last-event-id").filter(|id| !id.is_empty());
        let is_id = |(name, id): &(&str, &str)| name.eq_ignore_ascii_case("lastEventId") && !id.is_empty();
        let query = || self.params().filter(is_id).last().map(|(_, id)| percent::decode(id, true).unwrap_or(id.into()));
        field.map(|id| String::from_utf8_lossy(id).into()).or_else(query)
    }

    /// Whether the connection can carry another request (RFC 9112 §9.3).
    pub fn keep_alive(&self) -> bool {
        !self.list_has("connection", "close") && (self.minor == 1 || self.list_has("connection", "keep-alive"))
    }

    /// How much the client wants this media type, in thousandths (RFC 9110 §12.5.1): the most specific range decides;
    /// without an `Accept` field everything is as good as anything.
    pub fn quality(&self, main_type: &str, subtype: &str) -> u16 {
        let ranges = [&format!("{main_type}/{subtype}"), &format!("{main_type}/*"), "*/*"];
        let without = if self.field_bytes("accept").is_none() { 1000 } else { 0 };
        ranges.into_iter().find_map(|range| self.weight(range)).unwrap_or(without)
    }

    /// Whether `Accept` names `text/event-stream` itself, as EventSource does.
    pub fn is_event_source(&self) -> bool {
        self.weight("text/event-stream").is_some()
    }

    /// The weight of a range that `Accept` names.
    fn weight(&self, range: &str) -> Option<u16> {
        let is_range = |name: &&[u8]| name.eq_ignore_ascii_case(range.as_bytes());
        let accepted = self.list("accept");
        let mut named = accepted.iter().map(|accepted| split(accepted, b';'));
        let parts = named.find(|parts| parts.first().is_some_and(is_range))?;
        let weight = parts.into_iter().find_map(|part| {
            let (name, value) = str::from_utf8(part).ok()?.split_once('=')?;
            name.eq_ignore_ascii_case("q").then_some(value)
        });
        Some(weight.map_or(1000, thousandths))
    }
}

/// A weight such as `0.8` (RFC 9110 §12.4.2: at most 1, and at most three decimals); 1000 where it is none.
fn thousandths(weight: &str) -> u16 {
    let (whole, decimals) = weight.split_once('.').unwrap_or((weight, ""));
    match (whole, format!("{decimals:0<3}").parse()) {
        ("0", Ok(n @ 0..=999)) if !decimals.starts_with('+') => n,
        _ => 1000,
    }
}

/// A field line, without its end: name and value.
///
/// # Errors
/// The rule that it breaks.
pub fn field_line(line: &[u8]) -> Result<(&[u8], &[u8]), Reject> {
    if let [b' ' | b'\t', ..] = line {
        return Err(FOLDED);
    }
    let mut parts = line.splitn(2, |&b| b == b':');
    let name = parts.next().unwrap_or_default();
    let value = parts.next().ok_or(FIELD_NAME)?;
    if let [.., b' ' | b'\t'] = name {
        return Err(SPACE_BEFORE_COLON);
    }
    if !is_token(name) {
        return Err(FIELD_NAME);
    }
    if has_control(value) {
        return Err(FIELD_VALUE);
    }
    // Optional white space is space and tab (RFC 9110 §5.6.3); other white space is a control character.
    Ok((name, value.trim_ascii()))
}

/// Whether a control character stands there, other than a tab.
pub fn has_control(text: &[u8]) -> bool {
    text.iter().any(|&b| b.is_ascii_control() && b != b'\t')
}

/// Origin form or absolute form (RFC 9112 §3.2.1, §3.2.2): the authority, if any, and path with query. The authority form
/// (§3.2.3) is CONNECT's alone, which is understood, and refused for its method.
fn split_target(target: &str) -> Option<(Option<&str>, &str)> {
    // Deviation: RFC 3986 §2 has no `|`, `\`, `^`, braces or grave accents, but browsers leave them in a query as they
    // are (WHATWG URL, "query percent-encode set").
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

/// `uri-host [ ":" port ]` (RFC 9110 §7.2), as text where it is one.
pub fn host_of(value: &[u8]) -> Option<&str> {
    let text = str::from_utf8(value).ok()?;
    let (host, port) = split_port(text);
    // Deviation: a registered name may be percent-encoded and have other characters; no name in the DNS has them.
    let known = is_ipv6(host) || percent::is_made_of(host, b"-._~");
    (known && port.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

/// Whether a host is an IPv6 address, which stands in brackets (RFC 3986 §3.2.2).
pub fn is_ipv6(host: &str) -> bool {
    host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).is_some_and(|h| h.parse::<Ipv6Addr>().is_ok())
}

/// Host and port of an authority; the port is empty if there is none.
pub fn split_port(authority: &str) -> (&str, &str) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    }
}

/// An authority without a port that is empty, or the default of its scheme, for both equal none (RFC 9110 §4.2.3).
pub fn without_default_port<'a>(authority: &'a str, scheme: &str) -> &'a str {
    match (split_port(authority), scheme) {
        ((host, ""), _) | ((host, "80"), "http") | ((host, "443"), "https") => host,
        _ => authority,
    }
}

/// An origin as it is compared: in lower case, and without a default port.
pub fn origin(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    match text.split_once("://") {
        Some((scheme, authority)) => format!("{scheme}://{}", without_default_port(authority, scheme)),
        None => text,
    }
}

/// The parts of a value between delimiters that stand in no quoted string (RFC 9110 §5.6.4), without white space around
/// them.
pub fn split(value: &[u8], delimiter: u8) -> Vec<&[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    let ends = move |&byte: &u8| {
        let pair = take(&mut escaped);
        escaped = quoted && !pair && byte == b'\\';
        quoted ^= byte == b'"' && !pair;
        byte == delimiter && !quoted
    };
    value.split(ends).map(<[u8]>::trim_ascii).collect()
}

/// The `Cache-Control` of everything but the pages' files, refusals too (RFC 9111 §5.2.2).
///
/// - `no-store`: what is said now is not true later. Browsers keep polls on their disk otherwise, and a cache may keep a
///   404, 405, 414 or 501 that says nothing (RFC 9110 §15.1).
/// - `no-transform`: development servers and frameworks compress event streams otherwise, and hold them back meanwhile.
pub const NO_STORE: &str = "Cache-Control: no-store, no-transform\r\n";
/// That of the pages' files: they may be kept, but a cache asks before it uses one, for tomorrow's server may be a newer one.
pub const NO_CACHE: &str = "Cache-Control: no-cache\r\n";

/// The head of a response up to, but without, its blank line: status line, `Date`, `nosniff`, and `fields`, which are
/// whole field lines with their CRLF.
pub fn head(status: u16, fields: &[&str]) -> String {
    format!(
        "HTTP/1.1 {status} {}\r\nDate: {}\r\nX-Content-Type-Options: nosniff\r\n{}",
        reason(status),
        now(),
        fields.concat()
    )
}

/// The time, as [`date`] writes it.
pub fn now() -> String {
    date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// An IMF-fixdate (RFC 9110 §5.6.7) of a second since 1970, by the Gregorian calendar.
pub fn date(secs: u64) -> String {
    let days = secs / 86_400;
    let time = secs % 86_400;
    // Years that begin with March end with their leap day, so that months have a fixed place in them. Counted from
    // 1 March of the year 0, in quarters of a day: a century has 36,524 days and a quarter, then a year 365 and a quarter.
    let quarters = 4 * (days + 719_468) + 3;
    let century = quarters / 146_097;
    let quarters = (quarters % 146_097) | 3;
    let fifths = 5 * (quarters % 1_461 / 4) + 2;
    let month = fifths / 153; // 0 is March
    let day = fifths % 153 / 5 + 1;
    let year = 100 * century + quarters / 1_461 + u64::from(month >= 10);
    let name = |names: &'static str, n: u64| names.split(' ').nth(n as usize).unwrap_or_default();
    let month = name("Mar Apr May Jun Jul Aug Sep Oct Nov Dec Jan Feb", month);
    let weekday = name("Thu Fri Sat Sun Mon Tue Wed", days % 7); // 1970 began with a Thursday
    format!("{weekday}, {day:02} {month} {year} {:02}:{:02}:{:02} GMT", time / 3600, time / 60 % 60, time % 60)
}
