//! Access: the names of this server, the web pages that may publish and read, and the tokens.
//!
//! A browser sends requests from inside the user's network, for any page that happens to be open. Two attacks follow.
//! Each has its check here:
//! - *DNS rebinding*: an attacker points the name of its own page at this server. The browser then takes this server
//!   and the page for the same origin. [`is_misdirected`] refuses all public names that `--host` does not list.
//! - *Cross-site posting*: a form or `fetch` of another site posts to this server. The browser sends the request and
//!   only hides the response from the page. [`is_cross_site`] refuses the request by its `Origin` and
//!   `Sec-Fetch-Site`, which a page cannot set. A program that is not a browser sends neither. Reading across sites
//!   is refused by the browser itself, unless [`cors`] allows it.
//!
//! A client sends its token (`--token-file`) as the password of Basic credentials (RFC 7617) or as a Bearer token
//! (RFC 6750 §2.1). Every browser can ask its user for a password, and its EventSource then sends it. A token is
//! never part of the URL, because URLs are logged, shared and kept.
//!
//! Limits: `MAX_TOKEN_FILE`. Deliberately absent: users, sessions, rights to single channels.

use crate::config::Config;
use crate::wire::base64;
use crate::wire::http::{Request, is_ipv6, is_token, origin, split_port, without_default_port};
use crate::wire::reject::*;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Limit: bytes in the token file.
const MAX_TOKEN_FILE: u64 = 64 << 10;

/// Returns whether a Host is a public name that `--host` does not list. Only public names can be rebound. An address
/// cannot. Nobody outside can own a name of one label, or a name in a domain that is reserved for home networks (RFC
/// 6762, RFC 8375) or for the machine itself (RFC 6761 §6.3).
pub fn is_misdirected(config: &Config, authority: &str) -> bool {
    let host = split_port(authority).0.to_ascii_lowercase();
    let name = host.strip_suffix('.').unwrap_or(&host);
    let is_address = name.parse::<IpAddr>().is_ok() || is_ipv6(name);
    let is_local =
        [".localhost", ".local", ".lan", ".home.arpa", ".internal"].iter().any(|suffix| name.ends_with(suffix));
    !(is_address || is_local || (!name.is_empty() && !name.contains('.')) || config.hosts.iter().any(|h| h == name))
}

/// Returns whether a request comes from a page of another site (WHATWG Fetch, "Origin header"; W3C Fetch Metadata).
pub fn is_cross_site(config: &Config, req: &Request) -> bool {
    if allowed_origin(config, req).is_some() {
        return false;
    }
    let is_declared_cross_site =
        req.field_values("sec-fetch-site").any(|site| site.eq_ignore_ascii_case(b"cross-site"));
    // Behind a proxy that ends TLS, the page's scheme is https and ours is http. So the Host may have either default
    // port.
    let host = req.authority.unwrap_or_default().to_ascii_lowercase();
    let is_same_origin = |sent: &[u8]| {
        let sent = origin(&String::from_utf8_lossy(sent));
        let is_host = |scheme| sent.split_once("://") == Some((scheme, without_default_port(&host, scheme)));
        is_host("http")
            || is_host("https")
            || sent.strip_prefix("https://") == Some(without_default_port(&host, "http"))
    };
    is_declared_cross_site || !req.field_values("origin").all(is_same_origin)
}

/// Returns the value of `Access-Control-Allow-Origin` for this request, if `--allow-origin` covers its origin.
fn allowed_origin<'a>(config: &Config, req: &Request<'a>) -> Option<&'a str> {
    let allows = |wanted: &str| config.origins.iter().any(|o| o == wanted);
    req.field("origin").filter(|sent| allows(&origin(sent))).or(allows("*").then_some("*"))
}

/// Returns the field lines with which a browser lets another site's page read the response (WHATWG Fetch, "CORS
/// protocol").
pub fn cors(config: &Config, req: &Request) -> String {
    let vary = if config.origins.is_empty() { "" } else { "Vary: Origin\r\n" };
    let Some(origin) = allowed_origin(config, req) else { return vary.into() };
    let mut fields = format!("{vary}Access-Control-Allow-Origin: {origin}\r\n");
    // Some pages always send credentials (cookies, passwords). A browser refuses those together with `*`.
    if origin != "*" {
        fields += "Access-Control-Allow-Credentials: true\r\n";
    }
    if req.method == "OPTIONS" {
        fields += "Access-Control-Allow-Methods: GET, HEAD, POST, OPTIONS\r\nAccess-Control-Max-Age: 86400\r\n";
        // The names are listed, because `*` covers neither `Authorization` nor a request with credentials.
        let mut names = req.list("access-control-request-headers");
        names.retain(|name| is_token(name));
        if !names.is_empty() {
            let names = names.join(&b", "[..]);
            fields.extend(["Access-Control-Allow-Headers: ", &String::from_utf8_lossy(&names), "\r\n"]);
        }
    }
    fields
}

/// The tokens of `--token-file`. If a right has no token, everybody has that right. There is no `Debug`, so tokens
/// cannot be printed.
#[derive(Default)]
pub struct Tokens {
    publish: Vec<String>,
    read: Vec<String>,
}

impl Tokens {
    /// Reads the file. It has lines `publish TOKEN` and `read TOKEN`, empty lines, and comments that begin with `#`.
    ///
    /// # Errors
    /// If the file cannot be read; if others than its owner can read it (for a file of root: others than its group);
    /// if a line is malformed; if there is no token. The error never shows a token.
    pub fn load(path: &Path) -> io::Result<Tokens> {
        let option = format!("--token-file {}", path.display());
        let failure = |e: io::Error| io::Error::new(e.kind(), format!("{option}: {e}"));
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{option}{why}"));
        let file = File::open(path).map_err(failure)?;
        let meta = file.metadata().map_err(failure)?;
        let mode = meta.mode() & 0o777;
        if !meta.is_file() {
            return Err(invalid(" is not a file; write lines `publish TOKEN` and `read TOKEN` into a file"));
        }
        // Root may give the file to a group. systemd does so with a credential: its ACL shows as the group's right.
        let others = if meta.uid() == 0 { 0o037 } else { 0o077 };
        if mode & others != 0 {
            return Err(invalid(&format!(
                " has mode {mode:03o}, so users other than its owner can read or change it; chmod 600 it"
            )));
        }
        let text = io::read_to_string(file.take(MAX_TOKEN_FILE + 1)).map_err(failure)?;
        if text.len() as u64 > MAX_TOKEN_FILE {
            return Err(invalid(&format!(" has more than {MAX_TOKEN_FILE} bytes")));
        }
        let mut tokens = Tokens::default();
        for (line, number) in text.lines().zip(1..) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [] => {}
                [word, ..] if word.starts_with('#') => {}
                [right @ ("publish" | "read"), token] if token.bytes().all(|b| b.is_ascii_graphic()) => {
                    let tokens_of_right = if right == "read" { &mut tokens.read } else { &mut tokens.publish };
                    tokens_of_right.push(token.into());
                }
                _ => return Err(invalid(&format!(", line {number}: write `publish TOKEN` or `read TOKEN`, in ASCII"))),
            }
        }
        match tokens.publish.is_empty() && tokens.read.is_empty() {
            true => Err(invalid(" has no token; write `publish TOKEN` or `read TOKEN`, one a line")),
            false => Ok(tokens),
        }
    }

    /// Returns whether reading needs a token.
    pub fn guards_reading(&self) -> bool {
        !self.read.is_empty()
    }

    /// Returns the rights that need no token, in words. None if both need one.
    pub fn open_to_all(&self) -> Option<&'static str> {
        match (self.read.is_empty(), self.publish.is_empty()) {
            (true, true) => Some("read and publish"),
            (true, false) => Some("read"),
            (false, true) => Some("publish"),
            _ => None,
        }
    }

    /// Returns all tokens, for code that must never show them.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.publish.iter().chain(&self.read).map(String::as_str)
    }

    /// Checks the token of a request. `method` decides which right is needed. Preflights carry no credentials (WHATWG
    /// Fetch, "CORS protocol and credentials"), and `/health` reveals nothing, so both need no token.
    ///
    /// # Errors
    /// If there is no token, if it is not known, or if it only has the other right.
    pub fn check(&self, req: &Request, method: &str) -> Result<(), Reject> {
        let (tokens, others, [missing, unknown, wrong]) = match method {
            "POST" => (&self.publish, &self.read, [PUBLISH_TOKEN, PUBLISH_UNKNOWN, PUBLISH_RIGHT]),
            _ => (&self.read, &self.publish, [READ_TOKEN, READ_UNKNOWN, READ_RIGHT]),
        };
        if tokens.is_empty() || method == "OPTIONS" || req.path == "/health" {
            return Ok(());
        }
        let Some(given) = presented_token(req).filter(|given| !given.is_empty()) else { return Err(missing) };
        // Each token is compared, so the time does not reveal which one is right.
        let known = |tokens: &[String]| tokens.iter().fold(false, |known, token| known | is_equal(&given, token));
        match (known(tokens), known(others)) {
            (true, _) => Ok(()),
            (_, true) => Err(wrong),
            _ => Err(unknown),
        }
    }
}

/// Returns the token that a request presents.
fn presented_token(req: &Request) -> Option<Vec<u8>> {
    let (scheme, value) = req.field("authorization")?.split_once(' ')?;
    let value = value.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.into());
    }
    let credentials = base64::decode(value).filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    Some(credentials.splitn(2, |&b| b == b':').nth(1)?.into()) // a user name has no colon (RFC 7617 §2)
}

/// Compares in a time that depends only on the length of `given`, which the client chose.
fn is_equal(given: &[u8], token: &str) -> bool {
    let unlike = given
        .iter()
        .zip(token.bytes().cycle())
        .fold(given.len() ^ token.len(), |unlike, (a, b)| black_box(unlike | usize::from(a ^ b)));
    unlike == 0
}
