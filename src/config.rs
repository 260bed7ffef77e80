//! The settings of a server: [`Config`], and the table of options that set it. Pure.
//!
//! The table [`OPTIONS`] has every option of the core. The help, the names of environment variables and the parser all
//! come from it (`flags.rs`). A wing has a table of its own, and the values of its options are in [`WingOptions`].
//!
//! Limits: numbers have the ranges that their error messages state.

use crate::wire::http::{host_of, origin};
use crate::wire::percent::is_made_of;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Limit: the largest SIZE, so that sums of sizes do not overflow.
const MAX_SIZE: u64 = 1 << 30;

/// The settings of a server. [`Config::default`] has the defaults of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The address and port to listen on. `None` means the listening socket on standard input.
    pub listen: Option<SocketAddr>,
    /// The directory for the logs of the channels. `None` means that the logs are in memory.
    pub data: Option<PathBuf>,
    /// With `data`: subscribers get an event, and its POST gets a response, only when the event is on the disk.
    pub sync: bool,
    /// The bytes of each log that are kept.
    pub history: usize,
    /// Limit: the bytes of all logs in memory and of all bodies in flight. `None` means a share of what the system
    /// allows.
    pub memory: Option<usize>,
    /// The time after which a subscriber that got no bytes gets a comment.
    pub heartbeat: Duration,
    /// The mean reconnection time of subscribers, in milliseconds. Each gets a random time within half of it.
    pub retry: u64,
    /// The mean time after which a stream ends, so that its client reconnects. `None` means that no stream ends by
    /// itself.
    pub max_age: Option<Duration>,
    /// Limit: the bytes of a request's body, but at most a quarter of `memory`.
    pub max_body: usize,
    /// Limit: open connections, subscribers included.
    pub max_connections: usize,
    /// Limit: open connections of one client address. An IPv6 /64 network counts as one address. Connections over
    /// loopback do not count. `None` means half of all.
    pub max_per_address: Option<usize>,
    /// Limit: channels, with those that only have a file.
    pub max_channels: usize,
    /// Host names of this server, beside addresses and local names. They are in lower case.
    pub hosts: Vec<String>,
    /// Web origins of other sites that may read and publish, or `*` for all. They are in the form of [`origin`].
    pub origins: Vec<String>,
    /// The file of the tokens for publishing and reading. `None` means that everybody may do both.
    pub token_file: Option<PathBuf>,
    /// Whether to write no line for each request.
    pub quiet: bool,
    /// The time after which a channel is forgotten that has no subscribers and no new events.
    pub forget: Duration,
    /// The values of the options of wings.
    pub wing_options: WingOptions,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Some((Ipv4Addr::LOCALHOST, 8000).into()),
            data: None,
            sync: false,
            history: 1 << 20,
            memory: None,
            heartbeat: Duration::from_secs(15),
            retry: 2000,
            max_age: None,
            max_body: 64 << 10,
            max_connections: 10_000,
            max_per_address: None,
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

/// The values of the options of wings, by the names of the options.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct WingOptions(BTreeMap<&'static str, String>);

impl WingOptions {
    /// Returns the value of an option, if it was set.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.0.get(option).map(String::as_str)
    }

    /// Sets the value of an option.
    pub fn set(&mut self, option: &'static str, value: &str) {
        self.0.insert(option, value.into());
    }
}

/// Writes only the names, because a value may contain a password.
impl fmt::Debug for WingOptions {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The result for a value of an option. An error names the valid values, in words that fit after "give".
pub type ValueResult<T = ()> = Result<T, &'static str>;

/// An option of the command line.
pub struct Opt {
    /// The name, without the leading hyphens.
    pub name: &'static str,
    /// The word for its value in the help. It is empty for a switch.
    pub value: &'static str,
    /// The description in the help.
    pub help: &'static str,
    /// Parses a value and sets the option.
    pub set: fn(&mut Config, &str) -> ValueResult,
    /// Whether the value may contain a password. Such a value is never shown.
    pub secret: bool,
}

/// Returns an option whose value may be shown.
pub const fn option(
    name: &'static str, value: &'static str, help: &'static str, set: fn(&mut Config, &str) -> ValueResult,
) -> Opt {
    Opt { name, value, help, set, secret: false }
}

/// The options of the core, in the order of the help.
pub const OPTIONS: &[Opt] = &[
    option(
        "listen",
        "ADDR:PORT",
        "where to listen [127.0.0.1:8000]; - takes the listening socket from stdin",
        |config, value| {
            // Shortcut: `localhost` is the only name that works here. No name is looked up.
            config.listen =
                value.strip_prefix("localhost:").map_or(value.into(), |port| format!("127.0.0.1:{port}")).parse().ok();
            check(
                config.listen.is_some() || value == "-",
                "an IP address (or localhost) and a port, such as 127.0.0.1:8000, or -",
            )
        },
    ),
    option("data", "DIR", "keep the logs of the channels in this directory; without it, in memory", |config, value| {
        config.data = Some(value.into());
        check(!value.is_empty(), "a directory")
    }),
    option("sync", "", "with --data: wait for the disk before an event is delivered or confirmed", |config, value| {
        switch(value).map(|on| config.sync = on)
    }),
    option("history", "SIZE", "bytes to keep for each channel [1M]", |config, value| {
        size(value).map(|n| config.history = n)
    }),
    option(
        "memory",
        "SIZE",
        "all logs in memory and all bodies; without it, a quarter of the memory",
        |config, value| size(value).map(|n| config.memory = Some(n)),
    ),
    option("heartbeat", "SECS", "send an idle subscriber a comment this often [15]", |config, value| {
        number(value, 1, 86_400, "a number of seconds from 1 to 86400 (a day)")
            .map(|n| config.heartbeat = Duration::from_secs(n))
    }),
    option("retry", "MS", "how long clients wait before they reconnect, plus or minus half [2000]", |config, value| {
        number(value, 0, 86_400_000, "a number of milliseconds from 0 to 86400000 (a day)").map(|n| config.retry = n)
    }),
    option("max-age", "SECS", "end each stream after this time, plus or minus a tenth [never]", |config, value| {
        number(value, 1, 31_536_000, "a number of seconds from 1 to 31536000 (a year)")
            .map(|n| config.max_age = Some(Duration::from_secs(n)))
    }),
    option("max-body", "SIZE", "largest body of a POST [64K]", |config, value| {
        size(value).map(|n| config.max_body = n)
    }),
    option("max-connections", "N", "connections at a time, subscribers included [10000]", |config, value| {
        count(value).map(|n| config.max_connections = n)
    }),
    option("max-per-address", "N", "connections from one address; without it, half of all", |config, value| {
        count(value).map(|n| config.max_per_address = Some(n))
    }),
    option("max-channels", "N", "channels, including those that only have a file [1000]", |config, value| {
        count(value).map(|n| config.max_channels = n)
    }),
    option("host", "NAME", "further host name of this server; may be repeated", |config, value| {
        config.hosts.push(value.trim_end_matches('.').to_ascii_lowercase());
        check(is_made_of(value, b"-._"), "a host name without scheme and port, such as chat.example.org")
    }),
    option("allow-origin", "ORIGIN", "web origin that may read and publish, or *; may be repeated", |config, value| {
        config.origins.push(origin(value));
        let is_origin = |(scheme, host)| is_made_of(scheme, b"+-.") && host_of(str::as_bytes(host)).is_some();
        let expected = "an origin without a path, such as https://example.org or capacitor://localhost, or null, or *";
        check(value == "*" || value == "null" || value.split_once("://").is_some_and(is_origin), expected)
    }),
    option("token-file", "FILE", "file of access tokens: lines `publish TOKEN` and `read TOKEN`", |config, value| {
        config.token_file = Some(value.into());
        check(!value.is_empty(), "a file")
    }),
    option("quiet", "", "do not write a line for each request", |config, value| {
        switch(value).map(|on| config.quiet = on)
    }),
];

/// Checks a value.
///
/// # Errors
/// `expected`, which names the valid values, if the value is not `valid`.
pub fn check(valid: bool, expected: &'static str) -> ValueResult {
    if valid { Ok(()) } else { Err(expected) }
}

/// Parses the value of a switch. On the command line it is empty.
///
/// # Errors
/// The valid values, if the value is none of them.
pub fn switch(text: &str) -> ValueResult<bool> {
    match text {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("1 or 0"),
    }
}

fn number(text: &str, min: u64, max: u64, expected: &'static str) -> ValueResult<u64> {
    text.parse().ok().filter(|n| !text.starts_with('+') && (min..=max).contains(n)).ok_or(expected)
}

fn count(text: &str) -> ValueResult<usize> {
    number(text, 1, 10_000_000, "a number from 1 to 10000000").map(|n| n as usize)
}

fn size(text: &str) -> ValueResult<usize> {
    let expected = "a size from 1 to 1G: bytes, or a number with K, M or G";
    let shift = match text.as_bytes() {
        [.., b'K' | b'k'] => 10,
        [.., b'M' | b'm'] => 20,
        [.., b'G' | b'g'] => 30,
        _ => 0,
    };
    let digits = text.get(..text.len() - usize::from(shift > 0)).unwrap_or_default();
    number(digits, 1, MAX_SIZE >> shift, expected).map(|n| (n as usize) << shift)
}
