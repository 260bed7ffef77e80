//! The command line and the environment: words to a [`Config`]. Pure: it is given the words, it prints nothing.
//!
//! One table, `OPTIONS`, holds every option: the help, the environment's names and the parser all come from it.
//! A flag wins over `TINCAN_…`, which wins over `PORT`; the options that may be repeated
//! add up within one source, and stand in one variable with commas between them.
//!
//! Limits: numbers have the ranges that their messages name.

use crate::wings::redis::resp::{Address, MAX_STRING};
use crate::wire::http::{host_of, origin};
use crate::wire::percent::is_made_of;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// As in `Cargo.toml`, which a build with `rustc` alone does not read.
const VERSION: &str = "0.1.0";
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
    /// The Redis that keeps the channels' logs, for this node and others.
    pub redis: Option<Address>,
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
    /// Show every connection's bytes on standard error.
    pub trace: bool,
    /// No line per request.
    pub quiet: bool,
    /// How long a channel without a reader and without a new event is remembered.
    pub forget: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Some((Ipv4Addr::LOCALHOST, 8000).into()),
            data: None,
            sync: false,
            redis: None,
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
            trace: false,
            quiet: false,
            forget: Duration::from_secs(3600),
        }
    }
}

/// What is wrong with a value is told by what would be right.
type Told<T = ()> = Result<T, &'static str>;

type Set = fn(&mut Config, &str) -> Told;

/// Name, what stands for its value (empty for a switch), help, and how it is set; an error says what would be right.
const OPTIONS: &[(&str, &str, &str, Set)] = &[
    ("listen", "ADDR:PORT", "where to listen [127.0.0.1:8000]; - takes the listening socket from stdin", |c, v| {
        // Shortcut: no other name is looked up.
        c.listen = v.strip_prefix("localhost:").map_or(v.into(), |port| format!("127.0.0.1:{port}")).parse().ok();
        check(c.listen.is_some() || v == "-", "an IP address (or localhost) and a port, such as 127.0.0.1:8000, or -")
    }),
    ("data", "DIR", "keep each channel's log in this directory; without it, in memory", |c, v| {
        c.data = Some(v.into());
        check(!v.is_empty(), "a directory")
    }),
    ("sync", "", "with --data: an event is heard, its POST answered, once it is on the disk", |c, v| {
        switch(v).map(|on| c.sync = on)
    }),
    ("redis", "HOST:PORT", "keep the logs in Redis Streams, and share them with every other node", |c, v| {
        c.redis = Address::parse(v);
        check(c.redis.is_some(), "HOST:PORT, or redis://USER:PASSWORD@HOST:PORT/DB, percent-encoded")
    }),
    ("history", "SIZE", "bytes kept per channel [1M]", |c, v| size(v).map(|n| c.history = n)),
    ("heartbeat", "SECS", "an idle reader gets a comment this often [15]", |c, v| {
        number(v, 1, 86_400, "seconds from 1 to 86400").map(|n| c.heartbeat = Duration::from_secs(n))
    }),
    ("retry", "MS", "how long clients wait before they reconnect, give or take half [2000]", |c, v| {
        number(v, 0, 86_400_000, "milliseconds up to 86400000 (a day)").map(|n| c.retry = n)
    }),
    ("max-age", "SECS", "end each stream after this time, give or take a tenth [never]", |c, v| {
        number(v, 1, 31_536_000, "seconds from 1 to 31536000 (a year)")
            .map(|n| c.max_age = Some(Duration::from_secs(n)))
    }),
    ("max-body", "SIZE", "largest body of a POST [64K]", |c, v| size(v).map(|n| c.max_body = n)),
    ("max-connections", "N", "connections at a time, readers included [10000]", |c, v| {
        count(v).map(|n| c.max_connections = n)
    }),
    ("max-channels", "N", "channels at a time [1000]", |c, v| count(v).map(|n| c.max_channels = n)),
    ("host", "NAME", "a further name that this server answers to; may be repeated", |c, v| {
        c.hosts.push(v.trim_end_matches('.').to_ascii_lowercase());
        check(is_made_of(v, b"-._"), "a host name without scheme and port, such as chat.example.org")
    }),
    ("allow-origin", "ORIGIN", "a further web origin that may read and publish, or *; may be repeated", |c, v| {
        c.origins.push(origin(v));
        let is = |(scheme, host): (&str, &str)| is_made_of(scheme, b"+-.") && host_of(host.as_bytes()).is_some();
        let right = "an origin without a path, such as https://example.org or capacitor://localhost, or null, or *";
        check(v == "*" || v == "null" || v.split_once("://").is_some_and(is), right)
    }),
    ("token-file", "FILE", "lines `publish TOKEN`, `read TOKEN`: who may publish, who may read", |c, v| {
        c.token_file = Some(v.into());
        check(!v.is_empty(), "a file")
    }),
    ("trace", "", "show every connection's bytes on stderr, each line with what it is", |c, v| {
        switch(v).map(|on| c.trace = on)
    }),
    ("quiet", "", "no line per request", |c, v| switch(v).map(|on| c.quiet = on)),
];

fn check(ok: bool, right: &'static str) -> Told {
    if ok { Ok(()) } else { Err(right) }
}

fn switch(text: &str) -> Told<bool> {
    match text {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("nothing, or in the environment 1 or 0"),
    }
}

fn number(text: &str, least: u64, most: u64, right: &'static str) -> Told<u64> {
    text.parse().ok().filter(|n| !text.starts_with('+') && (least..=most).contains(n)).ok_or(right)
}

fn count(text: &str) -> Told<usize> {
    number(text, 1, 10_000_000, "a number from 1 to 10000000").map(|n| n as usize)
}

fn size(text: &str) -> Told<usize> {
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

/// What the command line asks for.
pub enum Command {
    /// Run a server.
    Run(Box<Config>),
    /// Print this on standard output and stop.
    Print(String),
}

/// Reads the arguments (without the program's name), with `env` for the environment.
///
/// # Errors
/// One line for a person: what is wrong and what to do.
pub fn parse(args: &[String], env: impl Fn(&str) -> Option<String>) -> Result<Command, String> {
    let mut flags = Vec::new(); // an option's name, its value
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "-h" | "--help" => return Ok(Command::Print(help())),
            "-V" | "--version" => return Ok(Command::Print(format!("tincan {VERSION}\n"))),
            _ => {}
        }
        let (word, value) = arg.split_once('=').map_or((arg, None), |(w, v)| (w, Some(v)));
        let option = word.strip_prefix("--").and_then(|n| OPTIONS.iter().find(|o| o.0 == n));
        let Some((name, kind, ..)) = option else {
            let shown = if arg.contains("://") { "this".into() } else { format!("{arg:?}") }; // it may hold a password
            return Err(format!("{shown} is no option; `tincan --help` lists them"));
        };
        let value = match value {
            Some(_) if kind.is_empty() => return Err(format!("{word} takes no value; write {word} alone")),
            Some(value) => value,
            None if kind.is_empty() => "",
            None => args.next().ok_or_else(|| format!("{word} needs a value: {word} {kind}"))?,
        };
        flags.push((name, value));
    }
    let mut config = Config::default();
    for (name, kind, _, set) in OPTIONS {
        let mut source = format!("--{name}");
        let mut values: Vec<String> = flags.iter().filter(|f| f.0 == name).map(|f| f.1.to_string()).collect();
        if values.is_empty() {
            source = variable(name);
            let several = ["host", "allow-origin"].contains(name);
            let value = env(&source).unwrap_or_default();
            let path = ["DIR", "FILE"].contains(kind); // one that ends with a space is another without it
            let trim = |v| if path { v } else { str::trim(v) };
            let split = value.split(|c| several && c == ',').map(trim).filter(|v| !v.is_empty());
            values = split.map(String::from).collect();
        }
        if values.is_empty() && *name == "listen" {
            source = "PORT".into();
            values.extend(env("PORT").filter(|port| !port.is_empty()).map(|port| format!("0.0.0.0:{port}")));
        }
        for value in values {
            let shown = if *name == "redis" { "this value".into() } else { format!("{value:?}") }; // it may hold a password
            set(&mut config, &value).map_err(|right| format!("{source}: {shown} will not do; give {right}"))?;
        }
    }
    if config.sync && config.data.is_none() {
        return Err("--sync needs a disk to wait for; give --data DIR as well".into());
    }
    if config.redis.is_some() && config.max_body as u64 > MAX_STRING {
        return Err("--redis takes no string over 512M; give a smaller --max-body".into());
    }
    if config.redis.is_some() && config.data.is_some() {
        return Err("--redis and --data both keep the logs; leave one of them out".into());
    }
    Ok(Command::Run(Box::new(config)))
}

/// A note about variables that look like an option's and are none's; an orchestrator may have set them, so it is no more.
pub fn unknown_variables(variables: impl Iterator<Item = String>) -> Option<String> {
    let options: Vec<_> = OPTIONS.iter().map(|option| variable(option.0)).collect();
    let unknown = |name: &String| name.starts_with("TINCAN_") && !options.contains(name);
    let names: Vec<_> = variables.filter(unknown).collect();
    (!names.is_empty()).then(|| format!("note: no option has these variables, see --help: {}", names.join(", ")))
}

/// The environment's name for an option.
fn variable(option: &str) -> String {
    format!("TINCAN_{}", option.replace('-', "_").to_ascii_uppercase())
}

fn help() -> String {
    let mut out = String::from(
        "A channel is a URL; what you POST to it, everyone who GETs it hears.\n\nusage: tincan [OPTIONS]\n\n",
    );
    for (name, kind, text, _) in OPTIONS {
        let option = format!("--{name} {kind}");
        out += &format!("  {option:<22} {text}\n");
    }
    out.push_str(
        "  -h, --help             this text\n  -V, --version          the version\n\n\
         SIZE: bytes, or with K, M or G. --opt VALUE and --opt=VALUE are the same.\n\
         Environment: TINCAN_LISTEN, TINCAN_HISTORY and so on, below flags; PORT alone means 0.0.0.0:$PORT.\n",
    );
    out
}
