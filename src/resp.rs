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
//! Limits: [`MAX_LINE`], [`MAX_DEPTH`], and the bytes of a reply, which the reader gives; memory is taken for bytes that are there, not for a length that is
//! only claimed. Deliberately absent: RESP3, TLS.

use crate::percent;
use std::fmt;
use std::io::{self, BufRead, ErrorKind, Read};

/// Limit: bytes of a line: an error, a number, a length.
pub const MAX_LINE: u64 = 64 << 10;
/// What an element takes in memory, roughly.
pub const ELEMENT: u64 = 64;
/// Limit: arrays within arrays. `XREAD` needs four.
pub const MAX_DEPTH: u8 = 8;
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
    /// An array.
    List(Vec<Reply>),
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

/// Writes a command.
pub fn command(words: &[&str], out: &mut Vec<u8>) {
    out.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// A command alone.
pub fn alone(words: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    command(words, &mut out);
    out
}

/// Reads one reply, of `most` bytes, where each element of an array counts as [`ELEMENT`] more.
///
/// # Errors
/// `UnexpectedEof` where the stream ends within it, `InvalidData` where it is none, or over a limit; and what the stream
/// itself answers.
pub fn read(stream: &mut impl BufRead, most: u64) -> io::Result<Reply> {
    reply(stream, MAX_DEPTH, &mut { most })
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

fn reply(stream: &mut impl BufRead, depth: u8, room: &mut u64) -> io::Result<Reply> {
    let line = line(stream)?;
    *room = room.checked_sub(ELEMENT + line.len() as u64).ok_or_else(|| wrong("a reply is too large"))?;
    let (kind, rest) = line.split_first().ok_or_else(|| wrong("this is no Redis: an empty line"))?;
    let text = || String::from_utf8_lossy(rest);
    let number = || text().parse().map_err(|_| wrong("this is no Redis: no number where one is due"));
    match kind {
        b'+' => return Ok(Reply::Text(rest.into())),
        b'-' => return Ok(Reply::Error(text().into())),
        b':' => return number().map(Reply::Number),
        b'$' | b'*' => {}
        _ => return Err(wrong("this is no Redis: a reply begins with none of + - : $ *")),
    }
    let Ok(len) = u64::try_from(number()?) else { return Ok(Reply::Null) };
    if *kind == b'*' {
        let depth = depth.checked_sub(1).ok_or_else(|| wrong("this is no Redis: too many arrays within arrays"))?;
        return (0..len).map(|_| reply(stream, depth, room)).collect::<io::Result<_>>().map(Reply::List);
    }
    *room = room.checked_sub(len).ok_or_else(|| wrong("a reply is too large"))?;
    let mut bytes = Vec::new();
    stream.by_ref().take(len + 2).read_to_end(&mut bytes)?;
    let whole = bytes.len() as u64 == len + 2;
    without_end(bytes, whole, "this is no Redis: a string does not end where it should").map(Reply::Text)
}

/// Reads a line; returns it without its end.
fn line(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    let whole = line.ends_with(b"\n") || line.len() as u64 == MAX_LINE;
    without_end(line, whole, "this is no Redis: a line does not end with CR LF")
}

/// Takes the end off a line or a string, where the stream has not ended within it.
fn without_end(mut bytes: Vec<u8>, whole: bool, why: &str) -> io::Result<Vec<u8>> {
    if !whole {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let len = bytes.strip_suffix(b"\r\n").ok_or_else(|| wrong(why))?.len();
    bytes.truncate(len);
    Ok(bytes)
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
