//! RESP, the protocol of Redis and Valkey, in its version 2, and the address of such a server. Pure.
//!
//! A command is an array of bulk strings; a reply begins with a byte that says what it is:
//!
//! ```text
//! *2 $4 AUTH $6 secret       each word with its length, each line ended with CR LF
//! +OK                        a text
//! -ERR unknown command       an error
//! :42                        a number
//! $5 hello                   a bulk string: five bytes, and CR LF behind them
//! *2 :1 :2                   an array of two replies
//! $-1  *-1                   null
//! ```
//!
//! Source: Redis documentation, "Redis serialization protocol specification"; for the address the `redis` scheme in the
//! registry of URI schemes (RFC 7595).
//!
//! Any program that may write to a Redis can make a reply of any size. What is too large to be kept is read and dropped, and
//! [`Reply::Large`] stands in its place: the next reply is found all the same.
//!
//! Limits: [`MAX_LINE`], [`MAX_DEPTH`], [`MAX_STRING`], `MAX_ELEMENTS`, `MAX_REPLY`, and the bytes that are kept, which the caller gives.
//! Memory is taken for bytes that are there, not for a length that is only claimed. Deliberately absent: RESP3, TLS.

use crate::wire::percent;
use std::fmt;
use std::io::{self, BufRead, ErrorKind, Read};

/// Limit: bytes of a line: an error, a number, a length.
pub const MAX_LINE: u64 = 64 << 10;
/// What an element takes in memory, roughly.
pub const ELEMENT: u64 = 64;
/// Limit: arrays within arrays. `XREAD` needs four.
pub const MAX_DEPTH: u8 = 8;
/// Limit: bytes of a string, as Redis has it (redis.conf, `proto-max-bulk-len`).
pub const MAX_STRING: u64 = 512 << 20;
/// Limit: elements of an array.
const MAX_ELEMENTS: u64 = 64 << 20;
/// Limit: bytes that are read of one reply. It has two entries at least, and none has more than 1 GB (redis.conf,
/// `client-query-buffer-limit`).
const MAX_REPLY: u64 = 5 << 29;
/// Where a Redis listens if nobody says otherwise.
const PORT: u16 = 6379;

/// What a server answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// A simple string, or a bulk string.
    Text(Vec<u8>),
    /// An error, which begins with a word in capitals.
    Error(String),
    /// A number.
    Number(i64),
    /// No string, or no array.
    Null,
    /// An array. If it ends with [`Reply::Large`], further elements were dropped.
    List(Vec<Reply>),
    /// What was too large to be kept.
    Large,
}

impl Reply {
    /// The bytes of a text.
    pub fn text(&self) -> Option<&[u8]> {
        if let Reply::Text(text) = self { Some(text) } else { None }
    }

    /// The elements of an array; of anything else none.
    pub fn list(&self) -> &[Reply] {
        if let Reply::List(list) = self { list } else { &[] }
    }

    /// In an array of names and values, the value of this name.
    pub fn get(&self, name: &str) -> Option<&Reply> {
        let name = Some(name.as_bytes());
        self.list().as_chunks().0.iter().find_map(|[key, value]| (key.text() == name).then_some(value))
    }
}

/// A command.
pub fn command(words: &[impl AsRef<str>]) -> Vec<u8> {
    let words = words.iter().map(AsRef::as_ref);
    let strings = words.map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", strings.len(), strings.collect::<String>()).into()
}

/// Reads one reply, and keeps at most `most` bytes of it; if it is an array, `each` of an element. A part of a reply counts as
/// [`ELEMENT`] beside its own bytes.
///
/// # Errors
/// `UnexpectedEof` if the stream, or what may be read of it, ends within it; `InvalidData` if it is none, or over a limit; and
/// what the stream itself answers.
pub fn read(stream: &mut impl BufRead, each: u64, most: u64) -> io::Result<Reply> {
    reply(&mut stream.take(MAX_REPLY), MAX_DEPTH, each, &mut { most })
}

/// What is no reply.
fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// Reads a reply for which there is so much `room`; with the first byte that does not fit, none is left.
fn reply(stream: &mut impl BufRead, depth: u8, each: u64, room: &mut u64) -> io::Result<Reply> {
    let line = line(stream)?;
    *room = room.saturating_sub(ELEMENT + line.len() as u64);
    let fits = *room > 0;
    let (kind, rest) = line.split_first().ok_or_else(|| wrong("this is no Redis: an empty line"))?;
    let text = String::from_utf8_lossy(rest);
    let number = || text.parse::<i64>().map_err(|_| wrong("this is no Redis: no number where one is due"));
    let reply = match kind {
        b'+' => Reply::Text(rest.into()),
        b'-' => Reply::Error(text.into()),
        b':' => Reply::Number(number()?),
        b'$' | b'*' => match (kind, u64::try_from(number()?)) {
            (_, Err(_)) => Reply::Null,
            (b'$', Ok(length @ ..=MAX_STRING)) => string(stream, length, room)?,
            (b'*', Ok(length @ ..=MAX_ELEMENTS)) => Reply::List(elements(stream, length, depth, each, room)?),
            _ => return Err(wrong("this is no Redis: an array or a string is too large")),
        },
        _ => return Err(wrong("this is no Redis: a reply begins with none of + - : $ *")),
    };
    Ok(if fits { reply } else { Reply::Large })
}

/// Reads the elements of an array, and keeps them up to the first that is too large.
fn elements(stream: &mut impl BufRead, length: u64, depth: u8, each: u64, room: &mut u64) -> io::Result<Vec<Reply>> {
    let depth = depth.checked_sub(1).ok_or_else(|| wrong("this is no Redis: too many arrays within arrays"))?;
    let mut list = Vec::new();
    for _ in 0..length {
        let mut own = each.min(*room);
        *room -= own;
        let mut element = reply(stream, depth, u64::MAX, &mut own)?;
        *room += own;
        if *room == 0 {
            element = Reply::Large; // there is no room left at all
        }
        if list.last() != Some(&Reply::Large) {
            list.push(element);
        }
    }
    Ok(list)
}

/// Reads a string, and what ends it.
fn string(stream: &mut impl BufRead, length: u64, room: &mut u64) -> io::Result<Reply> {
    *room = room.saturating_sub(length);
    let kept = if *room > 0 { length } else { 0 };
    let mut bytes = Vec::new();
    let mut end = [0; 2];
    stream.take(kept).read_to_end(&mut bytes)?;
    io::copy(&mut stream.take(length - kept), &mut io::sink())?;
    stream.read_exact(&mut end)?;
    if end != *b"\r\n" {
        return Err(wrong("this is no Redis: a string does not end where it should"));
    }
    Ok(if *room > 0 { Reply::Text(bytes) } else { Reply::Large })
}

/// Reads a line; returns it without its end.
fn line(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") && line.len() as u64 != MAX_LINE {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(line.strip_suffix(b"\r\n").ok_or_else(|| wrong("this is no Redis: a line does not end with CR LF"))?.into())
}

/// Where a server is, and as whom to speak to it. What is shown of it is host and port alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// A user; empty: the default one.
    pub user: String,
    /// The password; empty: none.
    pub password: String,
    /// The number of the database.
    pub database: u32,
}

impl Address {
    /// Reads `HOST:PORT` or `redis://USER:PASSWORD@HOST:PORT/DATABASE`, where all but HOST can be left out.
    pub fn parse(text: &str) -> Option<Address> {
        let rest = text.strip_prefix("redis://").or_else(|| Some(text).filter(|t| !t.contains(['/', '@'])))?;
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let (host, port) = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        let number = |text: &str, none: u32| match text {
            "" => Some(none),
            digits => digits.parse().ok().filter(|_| !digits.starts_with('+')),
        };
        let port =
            if port.is_empty() { PORT } else { u16::try_from(number(port.strip_prefix(':')?, PORT.into())?).ok()? };
        (port > 0 && percent::is_made_of(host, b"-._:")).then_some(())?;
        let user = percent::decode(user, false)?;
        let password = percent::decode(password, false)?;
        let database = number(database, 0)?;
        // A user without a password could be nobody, and is more likely a password without its colon.
        (user.is_empty() || !password.is_empty()).then(|| Address { host: host.into(), port, user, password, database })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Address { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The password is not shown.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Address({self})")
    }
}
