//! Who may: which names this server answers to, and which web pages may publish and read.
//!
//! A browser sends its requests from inside the user's network, for whatever page happens to be open. Two attacks
//! follow, and each has its check here:
//! - *DNS rebinding*: a page's own name is pointed at this server, which then is "same origin" with the page.
//!   [`misdirected`] refuses names that nobody told it.
//! - *Cross-site posting*: a form or `fetch` of another site posts here; the browser sends it and only hides the answer.
//!   [`cross_site`] refuses it, by `Origin` and `Sec-Fetch-Site`, which a page cannot set. A program that is no browser
//!   sends neither. Reading across sites is the browser's to refuse, unless [`cors`] allows it.

use crate::flags::Config;
use crate::http::{Request, split_port};
use std::net::{IpAddr, Ipv6Addr};

/// Whether a Host is a public name that this server was not told of. Addresses cannot be rebound, and nobody outside
/// can own a name of one label or of a domain that is reserved for home networks (RFC 6762, RFC 8375).
pub fn misdirected(config: &Config, authority: &str) -> bool {
    let host = split_port(authority).0.to_ascii_lowercase();
    let name = host.strip_suffix('.').unwrap_or(&host);
    let literal = name.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address = name.parse::<IpAddr>().is_ok() || literal.is_some_and(|h| h.parse::<Ipv6Addr>().is_ok());
    let local = [".local", ".lan", ".home.arpa", ".internal"].iter().any(|suffix| name.ends_with(suffix));
    !(address || local || (!name.is_empty() && !name.contains('.')) || config.hosts.iter().any(|h| h == name))
}

/// Whether a request comes from a page of another site (WHATWG Fetch, "Origin header"; W3C Fetch Metadata).
pub fn cross_site(config: &Config, req: &Request) -> bool {
    if allowed(config, req).is_some() {
        return false;
    }
    let says_so = req.all("sec-fetch-site").any(|site| site.eq_ignore_ascii_case(b"cross-site"));
    // Compared without the scheme: behind a proxy that ends TLS, ours is http and the page's is https.
    let same = |origin: &[u8], host: &str| {
        let origin = std::str::from_utf8(origin).ok().and_then(|o| o.split_once("://"));
        origin.is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host))
    };
    says_so || !req.all("origin").all(|origin| req.authority.is_some_and(|host| same(origin, host)))
}

/// The value of `Access-Control-Allow-Origin` for this request, where `--allow-origin` covers it.
fn allowed<'a>(config: &Config, req: &Request<'a>) -> Option<&'a str> {
    if config.origins.iter().any(|o| o == "*") {
        return Some("*");
    }
    req.field("origin").filter(|o| config.origins.iter().any(|a| a.eq_ignore_ascii_case(o)))
}

/// The field lines by which a browser lets another site's page read the answer (WHATWG Fetch, "CORS protocol").
pub fn cors(config: &Config, req: &Request) -> String {
    let vary = if config.origins.is_empty() { "" } else { "Vary: Origin\r\n" };
    let Some(origin) = allowed(config, req) else { return vary.into() };
    let preflight = if req.method == "OPTIONS" { PREFLIGHT } else { "" };
    format!("{vary}Access-Control-Allow-Origin: {origin}\r\n{preflight}")
}

const PREFLIGHT: &str = "Access-Control-Allow-Methods: GET, HEAD, POST, OPTIONS\r\n\
    Access-Control-Allow-Headers: Cache-Control, Content-Type, Last-Event-ID\r\n\
    Access-Control-Max-Age: 86400\r\n";
