//! What a server is told: [`Config`], and the table of options that set it. Pure.
//!
//! One table, [`OPTIONS`], holds every option of the core: the help, the environment's names and the parser all come from
//! it (`flags.rs`). A wing has a table of its own; what its options were given stands in [`WingOptions`].
//!
//! Limits: numbers have the ranges that their messages name.

use crate::wire::http::{host_of, origin};
use crate::wire::percent::is_made_of;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Limit: the largest SIZE, so that sums of sizes cannot overflow.
const MAX_SIZE: u64 = 1 << 30;

/// What the server was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address and port to listen on; none: a listening socket on standard input.
    pub listen: Option<SocketAddr>,
    /// A directory for the channels' logs; none: in memory.
    pub data: Option<PathBuf>,
    /// With `data`: an event is heard, and its POST answered, only once it is on the disk.
    pub sync: bool,
    /// Bytes kept per channel.
    pub history: usize,
    /// How long a reader is left without a byte.
    pub heartbeat: Duration,
    /// Milliseconds, the middle of the reconnection times that readers are given.
    pub retry: u64,
    /// When to end a stream, so that its client reconnects.
    pub max_age: Option<Duration>,
    /// Bytes in a request's body.
    pub max_body: usize,
    /// Open connections, readers included.
    pub max_connections: usize,
    /// Channels in use.
    pub max_channels: usize,
    /// Further names that this server answers to, in lower case.
    pub hosts: Vec<String>,
    /// Further web origins that may read and publish, or `*`.
    pub origins: Vec<String>,
    /// The file that says who publishes and reads; none: everybody.
    pub token_file: Option<PathBuf>,
    /// No line per request.
    pub quiet: bool,
    /// How long a channel without a reader and without a new event is remembered.
    pub forget: Duration,
    /// What the options of wings were given.
    pub wing_options: WingOptions,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Some((Ipv4Addr::LOCALHOST, 8000).into()),
            data: None,
            sync: false,
            history: 1 << 20,
            heartbeat: Duration::from_secs(15),
            retry: 2000,
            max_age: None,
            max_body: 64 << 10,
            max_connections: 10_000,
            max_channels: 1000,
            hosts: Vec::new(),
            origins: Vec::new(),
            token_file: None,
            quiet: false,
            forget: Duration::from_secs(3600),
            wing_options: WingOptions::default(),
        }
    }
}

/// The values of options that are a wing's, by the options' names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct WingOptions(BTreeMap<&'static str, String>);

impl WingOptions {
    /// What an option was given.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.0.get(option).map(String::as_str)
    }

    /// Gives an option a value.
    pub fn set(&mut self, option: &'static str, value: &str) {
        self.0.insert(option, value.into());
    }
}

/// Names alone: a value may hold a password.
impl fmt::Debug for WingOptions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What is wrong with a value is told by what would be right.
pub type ValueResult<T = ()> = Result<T, &'static str>;

/// An option.
pub struct Opt {
    /// Its name, without the hyphens.
    pub name: &'static str,
    /// What stands for its value; empty for a switch.
    pub value: &'static str,
    /// What the help says.
    pub help: &'static str,
    /// Sets it. An error says what would be right.
    pub set: fn(&mut Config, &str) -> ValueResult,
    /// Its value may hold a password, and is never shown.
    pub secret: bool,
}

/// An option whose value may be shown.
pub const fn option(
    name: &'static str, value: &'static str, help: &'static str, set: fn(&mut Config, &str) -> ValueResult,
) -> Opt {
    Opt { name, value, help, set, secret: false }
}

/// The options of the core, in the order in which the help has them.
pub const OPTIONS: &[Opt] = &[
    option(
        "listen",
        "ADDR:PORT",
        "where to listen [127.0.0.1:8000]; - takes the listening socket from stdin",
        |c, v| {
            // Shortcut: no other name is looked up.
            c.listen = v.strip_prefix("localhost:").map_or(v.into(), |port| format!("127.0.0.1:{port}")).parse().ok();
            check(
                c.listen.is_some() || v == "-",
                "an IP address (or localhost) and a port, such as 127.0.0.1:8000, or -",
            )
        },
    ),
    option("data", "DIR", "keep each channel's log in this directory; without it, in memory", |c, v| {
        c.data = Some(v.into());
        check(!v.is_empty(), "a directory")
    }),
    option("sync", "", "with --data: an event is heard, its POST answered, once it is on the disk", |c, v| {
        switch(v).map(|on| c.sync = on)
    }),
    option("history", "SIZE", "bytes kept per channel [1M]", |c, v| size(v).map(|n| c.history = n)),
    option("heartbeat", "SECS", "an idle reader gets a comment this often [15]", |c, v| {
        number(v, 1, 86_400, "seconds from 1 to 86400").map(|n| c.heartbeat = Duration::from_secs(n))
    }),
    option("retry", "MS", "how long clients wait before they reconnect, give or take half [2000]", |c, v| {
        number(v, 0, 86_400_000, "milliseconds up to 86400000 (a day)").map(|n| c.retry = n)
    }),
    option("max-age", "SECS", "end each stream after this time, give or take a tenth [never]", |c, v| {
        number(v, 1, 31_536_000, "seconds from 1 to 31536000 (a year)")
            .map(|n| c.max_age = Some(Duration::from_secs(n)))
    }),
    option("max-body", "SIZE", "largest body of a POST [64K]", |c, v| size(v).map(|n| c.max_body = n)),
    option("max-connections", "N", "connections at a time, readers included [10000]", |c, v| {
        count(v).map(|n| c.max_connections = n)
    }),
    option("max-channels", "N", "channels at a time [1000]", |c, v| count(v).map(|n| c.max_channels = n)),
    option("host", "NAME", "a further name that this server answers to; may be repeated", |c, v| {
        c.hosts.push(v.trim_end_matches('.').to_ascii_lowercase());
        check(is_made_of(v, b"-._"), "a host name without scheme and port, such as chat.example.org")
    }),
    option(
        "allow-origin",
        "ORIGIN",
        "a further web origin that may read and publish, or *; may be repeated",
        |c, v| {
            c.origins.push(origin(v));
            let is = |(scheme, host): (&str, &str)| is_made_of(scheme, b"+-.") && host_of(host.as_bytes()).is_some();
            let right = "an origin without a path, such as https://example.org or capacitor://localhost, or null, or *";
            check(v == "*" || v == "null" || v.split_once("://").is_some_and(is), right)
        },
    ),
    option("token-file", "FILE", "lines `publish TOKEN`, `read TOKEN`: who may publish, who may read", |c, v| {
        c.token_file = Some(v.into());
        check(!v.is_empty(), "a file")
    }),
    option("quiet", "", "no line per request", |c, v| switch(v).map(|on| c.quiet = on)),
];

/// Nothing, or what would be right.
///
/// # Errors
/// That.
pub fn check(ok: bool, right: &'static str) -> ValueResult {
    if ok { Ok(()) } else { Err(right) }
}

/// The value of a switch.
///
/// # Errors
/// What would be right.
pub fn switch(text: &str) -> ValueResult<bool> {
    match text {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("nothing, or in the environment 1 or 0"),
    }
}

fn number(text: &str, least: u64, most: u64, right: &'static str) -> ValueResult<u64> {
    text.parse().ok().filter(|n| !text.starts_with('+') && (least..=most).contains(n)).ok_or(right)
}

fn count(text: &str) -> ValueResult<usize> {
    number(text, 1, 10_000_000, "a number from 1 to 10000000").map(|n| n as usize)
}

fn size(text: &str) -> ValueResult<usize> {
    let right = "a size from 1 to 1G: bytes, or a number with K, M or G";
    let shift = match text.as_bytes() {
        [.., b'K' | b'k'] => 10,
        [.., b'M' | b'm'] => 20,
        [.., b'G' | b'g'] => 30,
        _ => 0,
    };
    let digits = text.get(..text.len() - usize::from(shift > 0)).unwrap_or_default();
    number(digits, 1, MAX_SIZE >> shift, right).map(|n| (n as usize) << shift)
}
