//! What stands in a file of a log, and what to do with it after a crash.
//!
//! A file is an event stream, such as a client could be sent as it is:
//!
//! ```text
//! : tincan log; no longer kept: everything up to 1763654400123-40
//!
//! data: soup is ready
//! id: 1763654400123-41
//!
//! ```
//!
//! Its first block is a comment, its *head*; the rest are events (`event.rs`), each with its id. What follows the last
//! blank line was not finished when the process ended: it is cut, by the rule by which a client discards it (WHATWG HTML,
//! "Interpreting an event stream"). Everything else that this server would not have written is damage, or not a log at
//! all: it is told, and nothing is touched.
//!
//! Limits: `LINE`. Deliberately absent: checksums. A byte that changed within the data of an event is not noticed.

use crate::id::Id;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

/// Limit: the bytes of a line that are looked at: enough for a head and for an id.
const LINE: u64 = MAX_HEAD as u64;
/// A head has at most so many bytes.
pub const MAX_HEAD: usize = 128;
/// Bytes read from a file at a time.
const READ: usize = 64 << 10;
const HEAD: &str = ": tincan log";
const DROPPED: &str = "; no longer kept: everything up to ";
/// How the lines of an event begin, but for its id.
const FIELDS: [&[u8]; 3] = [b"event: ", b"retry: ", b"data: "];

/// The head of a file, where events up to this id were dropped.
pub fn head(dropped: Id) -> String {
    let dropped = if dropped > Id::default() { format!("{DROPPED}{dropped}") } else { String::new() };
    format!("{HEAD}{dropped}\n\n")
}

/// Where a line may stand in a file.
enum At {
    Start,
    Head,
    Fields,
    Id(Id),
    Bad,
}

/// What a file holds.
#[derive(Debug)]
pub struct Found {
    /// Bytes of the head.
    pub head: u64,
    /// Bytes up to the end of the last whole unit.
    pub good: u64,
    /// Bytes in all.
    pub len: u64,
    /// Behind `good` there is a hole.
    pub hole: bool,
    /// The id up to which its head says that events were dropped, if it has a head.
    pub dropped: Option<Id>,
    /// The id of its first event, if it has one.
    pub first: Option<Id>,
}

impl Found {
    /// What is cut off, in words; `kept`: the file that has it from now on.
    pub fn words(&self, kept: &str) -> String {
        let what = match self.hole {
            true => "a hole that a power cut has left was cut off, with what follows it",
            false => "an unfinished event was cut off",
        };
        format!("{what}, {} bytes; {kept} has them", self.len - self.good)
    }
}

/// Reads a file through, and takes `last` to its last id.
pub fn recover(file: &File, last: &mut Id) -> io::Result<Found> {
    let mut reader = BufReader::with_capacity(READ, file);
    let (mut line, mut pos, mut good, mut at) = (Vec::new(), 0, 0, At::Start);
    let (mut dropped, mut first, mut foreign) = (None, None, false);
    let mut head = 0;
    loop {
        line.clear();
        let mut len = reader.by_ref().take(LINE).read_until(b'\n', &mut line)?;
        if len == 0 {
            break;
        }
        if !line.ends_with(b"\n") {
            len += reader.skip_until(b'\n')?;
        }
        pos += len as u64;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if pos == len as u64 {
            foreign = !text.starts_with(HEAD.as_bytes()) && !HEAD.as_bytes().starts_with(text);
        }
        at = match at {
            At::Head if text.is_empty() => {
                (head, good) = (pos, pos);
                At::Start
            }
            At::Id(id) if text.is_empty() => {
                good = pos;
                first = first.or(Some(id));
                *last = id;
                At::Start
            }
            // An empty line to a client, but not one of ours: other hands have changed the ends of lines.
            _ if text.is_empty() || text == b"\r" => return Err(damaged(good)),
            At::Start if pos == len as u64 && text.starts_with(HEAD.as_bytes()) => {
                let text = String::from_utf8_lossy(text);
                let id = text.split_once(DROPPED).map_or(Some(Id::default()), |(_, id)| Id::parse(id));
                dropped = id.filter(can_grow);
                At::Head
            }
            At::Start | At::Fields if FIELDS.iter().any(|name| text.starts_with(name)) => At::Fields,
            At::Fields => {
                // The first one of a file has none before it to follow, or it has lost it in a power cut.
                let follows = |id: &Id| if first.is_none() { *last < *id } else { last.precedes(*id) };
                Id::from_line(text).filter(|id| can_grow(id) && follows(id)).map_or(At::Bad, At::Id)
            }
            _ => At::Bad,
        };
    }
    if good == 0 && foreign {
        return Err(damaged(0));
    }
    Ok(Found { head, good, len: pos, hole: false, dropped, first })
}

/// Whether there can be an id after this one, and a later epoch.
fn can_grow(id: &Id) -> bool {
    id.epoch.max(id.seq) < u64::MAX
}

fn damaged(byte: u64) -> io::Error {
    let why = format!(
        "from byte {byte} on it is no log as this server writes it; nothing was changed. \
         Move it away, or put back what stood there"
    );
    io::Error::new(ErrorKind::InvalidData, why)
}
