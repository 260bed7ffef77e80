//! What stands in a file of a log, and how much of it is whole after a crash. It only reads; its caller cuts.
//!
//! A file is an event stream, such as a client could be sent as it is:
//!
//! ```text
//! : tincan log; no longer kept: everything up to 1763654400123-40
//!
//! data: soup is ready
//! id: 1763654400123-41
//!
//! : one POST, 2 events, 1 NULs
//! data: bread
//! id: 1763654400123-42
//!
//! data: one NUL: ␀
//! id: 1763654400123-43
//!
//! ```
//!
//! Its first block is a comment, its *head*. The rest are *units*. A unit is what one POST wrote, and stays or goes as a
//! whole:
//!
//! ```text
//! file   = head *unit
//! unit   = block           ; which has no NUL
//!        / seal n(block)   ; which together have m NULs
//! seal   = ": one POST, " n " events, " m " NULs" LF
//! block  = 1*(("event: " / "retry: " / "data: ") *any LF) "id: " id LF LF
//! ```
//!
//! A seal (`event.rs`) stands before a unit only if it has several events or a NUL, and each id is the next one. A file of
//! a version that wrote no seals is read as well, event by event; but a NUL in its data is a hole.
//!
//! What can follow the last whole unit:
//!
//! - **An unfinished unit**: the file ends in it. The process ended, or the power was cut, while it was written. A client
//!   discards such an event as well (WHATWG HTML, "Interpreting an event stream").
//! - **A hole**. A file system puts pages on the disk in any order. After a power cut a file may have its new length, and
//!   a later page of what was not yet synced, but not an earlier one. The missing page was never written, so it reads as
//!   NULs. A hole can begin and end anywhere. It swallows line ends, ids, seals and whole units.
//! - **Damage**: everything else that this server would not have written. It is told, and nothing is touched.
//!
//! A hole only ever turns bytes into NULs. So it makes no blank line and no seal, and a unit has a hole if and only if it
//! has more NULs than its seal says. Nothing behind a hole is looked at: there it is unknown where a unit begins.
//!
//! Out of reach: a file system that shows old blocks of the disk instead of NULs. It does so if it puts a file's new length
//! on the disk before the data, and keeps no note of which blocks are not yet written. So a file system needs ordered data,
//! a size that it updates only after the write, or unwritten extents. ext4 with `data=writeback` and without delayed
//! allocation has none of them.
//!
//! Limits: `READ`. Deliberately absent: checksums. A byte that changed within the data of an event, to anything but NUL,
//! is not noticed.

use crate::wire::event::seal_line;
use crate::wire::id::Id;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek};

/// A head has at most so many bytes.
pub const MAX_HEAD: usize = 128;
/// Limit: the bytes that are read from a file at a time, and how much of a line is looked at. In all of it NULs count.
const READ_SIZE: usize = 64 << 10;
const HEAD_TEXT: &str = ": tincan log";
const DROPPED_TEXT: &str = "; no longer kept: everything up to ";
/// How the lines of an event begin, but for its id.
const FIELDS: [&[u8]; 3] = [b"event: ", b"retry: ", b"data: "];

/// The head of a file, where events up to this id were dropped.
pub fn head(dropped: Id) -> String {
    let dropped = if dropped > Id::default() { format!("{DROPPED_TEXT}{dropped}") } else { String::new() };
    format!("{HEAD_TEXT}{dropped}\n\n")
}

/// What stands in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scan {
    /// The bytes of its head; 0 if that is not whole.
    pub head: u64,
    /// The bytes up to the end of the last whole unit.
    pub good: u64,
    /// The bytes of the file.
    pub len: u64,
    /// Whether what is behind `good` begins with a unit that has a hole. Otherwise it is an unfinished unit.
    pub hole: bool,
    /// The id up to which the head says that events were dropped.
    pub dropped: Option<Id>,
    /// The id of the first event.
    pub first: Option<Id>,
}

/// Reads a file through, and takes `last` from the last id before this file to the last one in it.
///
/// # Errors
/// If the disk fails, or the file is damaged.
pub fn recover(mut file: &File, last: &mut Id) -> io::Result<Scan> {
    let mut found = Scan { len: file.metadata()?.len(), ..Scan::default() };
    file.rewind()?;
    let mut reader = BufReader::with_capacity(READ_SIZE, file.take(found.len));
    let mut piece = Vec::new(); // a line with its end, or some of a long one
    let mut unit = Unit { expected: Expected::Head, blocks: 1, nuls: 0, sealed: 0, found, last: *last };
    loop {
        let begins = piece.is_empty() || piece.ends_with(b"\n");
        piece.clear();
        reader.by_ref().take(READ_SIZE as u64).read_until(b'\n', &mut piece)?;
        if piece.is_empty() {
            return Ok(found);
        }
        if unit.expected == Expected::Head && is_foreign(&piece) {
            return Err(damaged(0));
        }
        unit.add(&piece, begins);
        if unit.nuls > unit.sealed {
            found.hole = true;
            return Ok(found);
        }
        if unit.blocks > 0 {
            continue;
        }
        if unit.expected == Expected::Wrong || unit.nuls < unit.sealed {
            return Err(damaged(found.good));
        }
        if found.good == 0 {
            unit.found.head = unit.found.good;
        }
        found = unit.found;
        *last = unit.last;
        unit = Unit { expected: Expected::Unit, blocks: 1, nuls: 0, sealed: 0, ..unit };
    }
}

/// What has to come next.
#[derive(PartialEq)]
enum Expected {
    /// The head.
    Head,
    /// A seal or a field.
    Unit,
    /// A field.
    Block,
    /// A field or an id.
    Fields,
    /// The blank line.
    End,
    /// It has not come.
    Wrong,
}

/// A unit, as far as it was read. The head is one as well.
struct Unit {
    expected: Expected,
    blocks: u64, // that have to come
    nuls: u64,
    sealed: u64, // how many NULs its seal says
    found: Scan, // with it, as far as it was read
    last: Id,
}

impl Unit {
    /// Takes the next piece; if that begins no line, more of the last one.
    fn add(&mut self, piece: &[u8], begins: bool) {
        self.found.good += piece.len() as u64;
        self.nuls += piece.iter().filter(|&&byte| byte == 0).count() as u64;
        if begins {
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.expected = self.after_line(line);
            // The other one is an empty line to a client, but not one of ours: other hands have changed the ends of lines.
            self.blocks -= u64::from(line.is_empty() || line == b"\r");
        }
    }

    /// What has to come behind this line.
    fn after_line(&mut self, text: &[u8]) -> Expected {
        match self.expected {
            Expected::Head if text.starts_with(HEAD_TEXT.as_bytes()) => {
                let text = String::from_utf8_lossy(text);
                let id = text.split_once(DROPPED_TEXT).map_or(Some(Id::default()), |(_, id)| Id::parse(id));
                self.found.dropped = id.filter(can_grow);
                Expected::End
            }
            Expected::Unit if let Some(seal) = seal(text) => {
                (self.blocks, self.sealed) = seal;
                Expected::Block
            }
            Expected::Unit | Expected::Block | Expected::Fields if FIELDS.iter().any(|name| text.starts_with(name)) => {
                Expected::Fields
            }
            Expected::Fields if let Some(id) = Id::from_line(text).filter(|id| can_grow(id) && self.follows(id)) => {
                self.found.first = self.found.first.or(Some(id));
                self.last = id;
                Expected::End
            }
            Expected::End if text.is_empty() => Expected::Block,
            _ => {
                // Without a NUL so far, it is not a hole that made it wrong. Otherwise it may be one, with fewer NULs so
                // far than the seal counts, for the event's own come later. A hole makes no blank line, so behind as many
                // blank lines as the unit has blocks all of it was read, and its NULs can be compared.
                if self.nuls == 0 {
                    self.blocks = 1;
                    self.sealed = u64::MAX;
                }
                Expected::Wrong
            }
        }
    }

    /// Whether this id can be the next. The first one of a file has none before it to follow, or it has lost it in a
    /// power cut.
    fn follows(&self, id: &Id) -> bool {
        if self.found.first.is_none() { self.last < *id } else { self.last.precedes(*id) }
    }
}

/// How many events and NULs a seal says: exactly as `event.rs` writes it, and only if that would.
fn seal(line: &[u8]) -> Option<(u64, u64)> {
    let text = str::from_utf8(line).ok()?;
    let (events, nuls) = text.strip_prefix(": one POST, ")?.strip_suffix(" NULs")?.split_once(" events, ")?;
    let events = events.parse().ok()?;
    let nuls = nuls.parse().ok()?;
    (seal_line(events, nuls)? == text).then_some((events, nuls))
}

/// Whether a file that begins with this line is no log. What is before its first NUL, if it has one, was written so.
fn is_foreign(line: &[u8]) -> bool {
    let text = line.split(|byte| matches!(byte, 0 | b'\n')).next().unwrap_or_default();
    !text.starts_with(HEAD_TEXT.as_bytes()) && !HEAD_TEXT.as_bytes().starts_with(text)
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
