//! Who may: which names this server answers to, which web pages may publish and read, and who holds a token.
//!
//! A browser sends its requests from inside the user's network, for whatever page happens to be open. Two attacks
//! follow, and each has its check here:
//! - *DNS rebinding*: a page's own name is pointed at this server, which then is "same origin" with the page.
//!   [`is_misdirected`] refuses names that nobody told it.
//! - *Cross-site posting*: a form or `fetch` of another site posts here; the browser sends it and only hides the answer.
//!   [`is_cross_site`] refuses it, by `Origin` and `Sec-Fetch-Site`, which a page cannot set. A program that is no browser
//!   sends neither. Reading across sites is the browser's to refuse, unless [`cors`] allows it.
//!
//! Tokens (`--token-file`) come as the password of Basic credentials (RFC 7617), which every browser can ask for and its
//! EventSource then sends, or as a Bearer token (RFC 6750 §2.1). Never in the URL, for URLs are logged, shared and kept.
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

/// Whether a Host is a public name that this server was not told of. Addresses cannot be rebound, and nobody outside
/// can own a name of one label, or of a domain that is reserved for home networks (RFC 6762, RFC 8375) or for the machine
/// itself (RFC 6761 §6.3).
pub fn is_misdirected(config: &Config, authority: &str) -> bool {
    let host = split_port(authority).0.to_ascii_lowercase();
    let name = host.strip_suffix('.').unwrap_or(&host);
    let address = name.parse::<IpAddr>().is_ok() || is_ipv6(name);
    let local = [".localhost", ".local", ".lan", ".home.arpa", ".internal"].iter().any(|suffix| name.ends_with(suffix));
    !(address || local || (!name.is_empty() && !name.contains('.')) || config.hosts.iter().any(|h| h == name))
}

/// Whether a request comes from a page of another site (WHATWG Fetch, "Origin header"; W3C Fetch Metadata).
pub fn is_cross_site(config: &Config, req: &Request) -> bool {
    if allowed_origin(config, req).is_some() {
        return false;
    }
    let says_so = req.field_values("sec-fetch-site").any(|site| site.eq_ignore_ascii_case(b"cross-site"));
    // Behind a proxy that ends TLS the page's scheme is https, and ours is http; so a Host may have either's default port.
    let host = req.authority.unwrap_or_default().to_ascii_lowercase();
    let same = |sent: &[u8]| {
        let sent = origin(&String::from_utf8_lossy(sent));
        let is = |scheme| sent.split_once("://") == Some((scheme, without_default_port(&host, scheme)));
        is("http") || is("https") || sent.strip_prefix("https://") == Some(without_default_port(&host, "http"))
    };
    says_so || !req.field_values("origin").all(same)
}

/// The value of `Access-Control-Allow-Origin` for this request, if `--allow-origin` covers it.
fn allowed_origin<'a>(config: &Config, req: &Request<'a>) -> Option<&'a str> {
    let has = |wanted: &str| config.origins.iter().any(|o| o == wanted);
    req.field("origin").filter(|sent| has(&origin(sent))).or(has("*").then_some("*"))
}

/// The field lines by which a browser lets another site's page read the answer (WHATWG Fetch, "CORS protocol").
pub fn cors(config: &Config, req: &Request) -> String {
    let vary = if config.origins.is_empty() { "" } else { "Vary: Origin\r\n" };
    let Some(origin) = allowed_origin(config, req) else { return vary.into() };
    let mut fields = format!("{vary}Access-Control-Allow-Origin: {origin}\r\n");
    // A page may send what its user gave the browser, and some always do; a browser does not allow that together with `*`.
    if origin != "*" {
        fields += "Access-Control-Allow-Credentials: true\r\n";
    }
    if req.method == "OPTIONS" {
        fields += PREFLIGHT;
        // By name, for `*` covers neither `Authorization` nor a request with credentials.
        let mut names = req.list("access-control-request-headers");
        names.retain(|name| is_token(name));
        if !names.is_empty() {
            let names = names.join(&b", "[..]);
            fields.extend(["Access-Control-Allow-Headers: ", &String::from_utf8_lossy(&names), "\r\n"]);
        }
    }
    fields
}

const PREFLIGHT: &str = "Access-Control-Allow-Methods: GET, HEAD, POST, OPTIONS\r\nAccess-Control-Max-Age: 86400\r\n";

/// The tokens of `--token-file`. A right for which there is none is everybody's. They cannot be printed:
/// there is no `Debug`.
#[derive(Default)]
pub struct Tokens {
    publish: Vec<String>,
    read: Vec<String>,
}

impl Tokens {
    /// Reads the file: lines `publish TOKEN` and `read TOKEN`, empty lines, and comments that begin with `#`.
    ///
    /// # Errors
    /// Where it cannot be read, or others than its owner (a file of root's: than its group) can; where a line is none of
    /// these. No token is ever shown.
    pub fn load(path: &Path) -> io::Result<Tokens> {
        let at = format!("--token-file {}", path.display());
        let told = |e: io::Error| io::Error::new(e.kind(), format!("{at}: {e}"));
        let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{at}{why}"));
        let file = File::open(path).map_err(told)?;
        let meta = file.metadata().map_err(told)?;
        let mode = meta.mode() & 0o777;
        if !meta.is_file() {
            return Err(wrong(" is no file; write lines `publish TOKEN` and `read TOKEN` into one"));
        }
        // Root may hand it to a group: systemd does so with a credential, by an ACL that shows as the group's right.
        let others = if meta.uid() == 0 { 0o037 } else { 0o077 };
        if mode & others != 0 {
            return Err(wrong(&format!(
                " has mode {mode:03o}, so others than its owner can read or change it; chmod 600 it"
            )));
        }
        let text = io::read_to_string(file.take(MAX_TOKEN_FILE + 1)).map_err(told)?;
        if text.len() as u64 > MAX_TOKEN_FILE {
            return Err(wrong(&format!(" has more than {MAX_TOKEN_FILE} bytes")));
        }
        let mut tokens = Tokens::default();
        for (line, n) in text.lines().zip(1..) {
            match line.split_whitespace().collect::<Vec<_>>()[..] {
                [] => {}
                [word, ..] if word.starts_with('#') => {}
                [right @ ("publish" | "read"), token] if token.bytes().all(|b| b.is_ascii_graphic()) => {
                    let of = if right == "read" { &mut tokens.read } else { &mut tokens.publish };
                    of.push(token.into());
                }
                _ => return Err(wrong(&format!(", line {n}: write `publish TOKEN` or `read TOKEN`, in ASCII"))),
            }
        }
        match tokens.publish.is_empty() && tokens.read.is_empty() {
            true => Err(wrong(" has no token; write `publish TOKEN` or `read TOKEN`, one a line")),
            false => Ok(tokens),
        }
    }

    /// Whether reading needs one.
    pub fn guards_reading(&self) -> bool {
        !self.read.is_empty()
    }

    /// What everybody may do; nothing if each right needs a token.
    pub fn open_to_all(&self) -> Option<&'static str> {
        match (self.read.is_empty(), self.publish.is_empty()) {
            (true, true) => Some("read and publish"),
            (true, false) => Some("read"),
            (false, true) => Some("publish"),
            _ => None,
        }
    }

    /// All of them, to be kept out of sight.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.publish.iter().chain(&self.read).map(String::as_str)
    }

    /// Whether the request may do what one of this method does. Preflights carry no credentials (WHATWG Fetch, "CORS
    /// protocol and credentials"), and `/health` tells nothing.
    ///
    /// # Errors
    /// What is wrong with its token: there is none, it is not known, or it has the other right alone.
    pub fn check(&self, req: &Request, method: &str) -> Result<(), Reject> {
        let (tokens, others, [missing, unknown, wrong]) = match method {
            "POST" => (&self.publish, &self.read, [PUBLISH_TOKEN, PUBLISH_UNKNOWN, PUBLISH_RIGHT]),
            _ => (&self.read, &self.publish, [READ_TOKEN, READ_UNKNOWN, READ_RIGHT]),
        };
        if tokens.is_empty() || method == "OPTIONS" || req.path == "/health" {
            return Ok(());
        }
        let Some(given) = presented_token(req).filter(|given| !given.is_empty()) else { return Err(missing) };
        // All of them are compared, so the time does not tell which one it was.
        let known = |tokens: &[String]| tokens.iter().fold(false, |known, token| known | is_equal(&given, token));
        match (known(tokens), known(others)) {
            (true, _) => Ok(()),
            (_, true) => Err(wrong),
            _ => Err(unknown),
        }
    }
}

/// The token that a request brings.
fn presented_token(req: &Request) -> Option<Vec<u8>> {
    let (scheme, value) = req.field("authorization")?.split_once(' ')?;
    let value = value.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.into());
    }
    let credentials = base64::decode(value).filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    Some(credentials.splitn(2, |&b| b == b':').nth(1)?.into()) // a user name has no colon (RFC 7617 §2)
}

/// Compares in a time that depends on `given` alone, which is the guesser's own.
fn is_equal(given: &[u8], token: &str) -> bool {
    let unlike = given
        .iter()
        .zip(token.bytes().cycle())
        .fold(given.len() ^ token.len(), |unlike, (a, b)| black_box(unlike | usize::from(a ^ b)));
    unlike == 0
}
