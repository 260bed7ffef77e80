//! RESP version 2, the protocol of Redis and Valkey, and the address of such a server. Pure.
//!
//! A command is an array of bulk strings. The first byte of a reply says what it is:
//!
//! ```text
//! *2 $4 AUTH $6 secret       a command: each word with its length, each line ended with CR LF
//! +OK                        a simple string
//! -ERR unknown command       an error
//! :42                        a number
//! $5 hello                   a bulk string: five bytes, then CR LF
//! *2 :1 :2                   an array of two replies
//! $-1  *-1                   null
//! ```
//!
//! Source: Redis documentation, "Redis serialization protocol specification". For the address: the `redis` scheme in
//! the registry of URI schemes (RFC 7595).
//!
//! Any program that may write to a Redis can make a reply of any size. A part that is too large to be kept is read
//! and dropped, and [`Reply::Large`] replaces it. So the next reply is found all the same.
//!
//! Limits: [`MAX_LINE`], [`MAX_DEPTH`], [`MAX_STRING`], `MAX_ELEMENTS`, `MAX_REPLY`. The caller limits the bytes that
//! are kept. Memory is only taken for bytes that have arrived, never for a claimed length.
//! Deliberately absent: RESP3, TLS.

use crate::wire::percent;
use std::fmt;
use std::io::{self, BufRead, ErrorKind, Read};

/// Limit: bytes of a line. A line is an error, a number or a length.
pub const MAX_LINE: u64 = 64 << 10;
/// The memory that an element takes beside its own bytes, roughly.
pub const ELEMENT: u64 = 64;
/// Limit: arrays within arrays. `XREAD` needs four.
pub const MAX_DEPTH: u8 = 8;
/// Limit: bytes of a string. It is the limit of Redis itself (redis.conf, `proto-max-bulk-len`).
pub const MAX_STRING: u64 = 512 << 20;
/// Limit: elements of an array.
const MAX_ELEMENTS: u64 = 64 << 20;
/// Limit: bytes of one reply that are read. It has room for two entries of a stream: none has more than 1 GB
/// (redis.conf, `client-query-buffer-limit`).
const MAX_REPLY: u64 = 5 << 29;
/// The default port of Redis.
const PORT: u16 = 6379;

/// A reply of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// A simple string, or a bulk string.
    Text(Vec<u8>),
    /// An error, which begins with a word in capitals.
    Error(String),
    /// A number.
    Number(i64),
    /// Null: no string, or no array.
    Null,
    /// An array. If it ends with [`Reply::Large`], further elements were dropped.
    List(Vec<Reply>),
    /// A part of a reply that was too large to be kept.
    Large,
}

impl Reply {
    /// Returns the bytes, if this is a string.
    pub fn text(&self) -> Option<&[u8]> {
        if let Reply::Text(text) = self { Some(text) } else { None }
    }

    /// Returns the elements, or none if this is not an array.
    pub fn list(&self) -> &[Reply] {
        if let Reply::List(list) = self { list } else { &[] }
    }

    /// Returns the value of a name, if this is an array of names and values.
    pub fn get(&self, name: &str) -> Option<&Reply> {
        let name = Some(name.as_bytes());
        self.list().as_chunks().0.iter().find_map(|[key, value]| (key.text() == name).then_some(value))
    }
}

/// Returns the bytes of a command with these words.
pub fn command(words: &[impl AsRef<str>]) -> Vec<u8> {
    let words = words.iter().map(AsRef::as_ref);
    let strings = words.map(|word| format!("${}\r\n{word}\r\n", word.len()));
    format!("*{}\r\n{}", strings.len(), strings.collect::<String>()).into()
}

/// Reads one reply. It keeps at most `max` bytes of the reply, and at most `max_element` bytes of an element of an
/// array. Each part of a reply counts as [`ELEMENT`] bytes more.
///
/// # Errors
/// `UnexpectedEof` if the stream or `MAX_REPLY` ends inside the reply; `InvalidData` if the bytes are not a reply, or
/// a reply is over a limit; and the errors of the stream itself.
pub fn read(stream: &mut impl BufRead, max_element: u64, max: u64) -> io::Result<Reply> {
    reply(&mut stream.take(MAX_REPLY), MAX_DEPTH, max_element, &mut { max })
}

/// Returns the error for bytes that are not a reply.
fn invalid(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// Reads a reply and takes its size from `room`. The first byte that does not fit makes `room` zero.
fn reply(stream: &mut impl BufRead, depth: u8, max_element: u64, room: &mut u64) -> io::Result<Reply> {
    let line = line(stream)?;
    *room = room.saturating_sub(ELEMENT + line.len() as u64);
    let fits = *room > 0;
    let (first, text_bytes) = line.split_first().ok_or_else(|| invalid("this is not a Redis server: an empty line"))?;
    let text = String::from_utf8_lossy(text_bytes);
    let number = || text.parse::<i64>().map_err(|_| invalid("this is not a Redis server: a number is missing"));
    let reply = match first {
        b'+' => Reply::Text(text_bytes.into()),
        b'-' => Reply::Error(text.into()),
        b':' => Reply::Number(number()?),
        b'$' | b'*' => match (first, u64::try_from(number()?)) {
            (_, Err(_)) => Reply::Null,
            (b'$', Ok(length @ ..=MAX_STRING)) => string(stream, length, room)?,
            (b'*', Ok(length @ ..=MAX_ELEMENTS)) => Reply::List(elements(stream, length, depth, max_element, room)?),
            _ => return Err(invalid("this is not a Redis server: an array or a string is too large")),
        },
        _ => return Err(invalid("this is not a Redis server: a reply begins with none of + - : $ *")),
    };
    Ok(if fits { reply } else { Reply::Large })
}

/// Reads the elements of an array. It keeps them up to the first that is too large.
fn elements(
    stream: &mut impl BufRead, length: u64, depth: u8, max_element: u64, room: &mut u64,
) -> io::Result<Vec<Reply>> {
    let depth =
        depth.checked_sub(1).ok_or_else(|| invalid("this is not a Redis server: too many arrays within arrays"))?;
    let mut list = Vec::new();
    for _ in 0..length {
        let mut element_room = max_element.min(*room);
        *room -= element_room;
        let mut element = reply(stream, depth, u64::MAX, &mut element_room)?;
        *room += element_room;
        if *room == 0 {
            element = Reply::Large; // this reply has no room left at all
        }
        if list.last() != Some(&Reply::Large) {
            list.push(element);
        }
    }
    Ok(list)
}

/// Reads a bulk string and its CR LF.
fn string(stream: &mut impl BufRead, length: u64, room: &mut u64) -> io::Result<Reply> {
    *room = room.saturating_sub(length);
    let kept = if *room > 0 { length } else { 0 };
    let mut bytes = Vec::new();
    let mut end = [0; 2];
    stream.take(kept).read_to_end(&mut bytes)?;
    io::copy(&mut stream.take(length - kept), &mut io::sink())?;
    stream.read_exact(&mut end)?;
    if end != *b"\r\n" {
        return Err(invalid("this is not a Redis server: a string does not end with CR LF"));
    }
    Ok(if *room > 0 { Reply::Text(bytes) } else { Reply::Large })
}

/// Reads a line. Returns it without its end.
fn line(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    stream.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    if !line.ends_with(b"\n") && line.len() as u64 != MAX_LINE {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(line
        .strip_suffix(b"\r\n")
        .ok_or_else(|| invalid("this is not a Redis server: a line does not end with CR LF"))?
        .into())
}

/// The address of a server, and the user and password for it. Only host and port are ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user. Empty for the default user.
    pub user: String,
    /// The password. Empty if there is none.
    pub password: String,
    /// The number of the database.
    pub database: u32,
}

impl Address {
    /// Reads `HOST:PORT` or `redis://USER:PASSWORD@HOST:PORT/DATABASE`. Everything but HOST may be left out.
    pub fn parse(text: &str) -> Option<Address> {
        let rest = text.strip_prefix("redis://").or_else(|| Some(text).filter(|t| !t.contains(['/', '@'])))?;
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (userinfo, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let (host, port) = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => host.split_at(host.find(':').unwrap_or(host.len())),
        };
        let number = |text: &str, default: u32| match text {
            "" => Some(default),
            digits => digits.parse().ok().filter(|_| !digits.starts_with('+')),
        };
        let port =
            if port.is_empty() { PORT } else { u16::try_from(number(port.strip_prefix(':')?, PORT.into())?).ok()? };
        (port > 0 && percent::is_made_of(host, b"-._:")).then_some(())?;
        let user = percent::decode(user, false)?;
        let password = percent::decode(password, false)?;
        let database = number(database, 0)?;
        // A user without a password is refused. It is probably a password without its colon.
        (user.is_empty() || !password.is_empty()).then(|| Address { host: host.into(), port, user, password, database })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Address { host, port, .. } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Does not show the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Address({self})")
    }
}
