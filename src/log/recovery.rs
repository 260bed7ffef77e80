//! Recovery: reads a file of a log and finds out how much of it is whole after a crash. It only reads. The caller cuts
//! off the rest.
//!
//! A file is an event stream. A client could be sent the file as it is:
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
//! The first block is a comment, the *head* of the file. All that follows are *units*. A unit is what one POST wrote.
//! It is kept or cut off as a whole:
//!
//! ```text
//! file   = head *unit
//! unit   = block           ; without a NUL
//!        / seal n(block)   ; with m NULs in all n blocks
//! seal   = ": one POST, " n " events, " m " NULs" LF
//! block  = 1*(("event: " / "retry: " / "data: ") *any LF) "id: " id LF LF
//! ```
//!
//! A unit begins with a seal (`event.rs`) only if it has several events or a NUL. Each id is the one that follows the
//! id before it (`Id::precedes`). Older versions wrote no seals. Their files are read event by event, and a NUL in
//! their data is taken for a hole.
//!
//! After the last whole unit there can be one of these:
//!
//! - **An unfinished unit**: the file ends within it. The process ended, or the power was cut, during the write. A
//!   client discards such an event as well (WHATWG HTML, "Interpreting an event stream").
//! - **A hole**. A file system puts pages on the disk in any order. After a power cut a file may have its new length,
//!   but not every page that was not yet synced. A page that was never written reads as NULs, even if a later page is
//!   there. A hole can begin and end anywhere. It can replace line ends, ids, seals and whole units.
//! - **Damage**: anything else that this server does not write. It is reported, and the file is not changed.
//!
//! A hole only turns bytes into NULs. So it never makes a blank line or a seal, and a unit has a hole if and only if it
//! has more NULs than its seal says (without a seal: more than none). What follows a hole is not read, because it is
//! unknown where the next unit begins.
//!
//! Not detected: a file system that shows old blocks of the disk instead of NULs. That can happen if it puts a file's
//! new length on the disk before the data and does not record which blocks are unwritten. A file system is safe if it
//! has one of these: ordered data, a size that is updated only after the data, or unwritten extents. ext4 has none of
//! them if it is mounted with `data=writeback` and without delayed allocation.
//!
//! Limits: `READ_SIZE`. Deliberately absent: checksums. If a byte within the data of an event changes to anything but
//! NUL, this is not noticed.

use crate::wire::event::seal_line;
use crate::wire::id::Id;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek};

/// The size of a head in bytes, at most.
pub const MAX_HEAD: usize = 128;
/// Limit: bytes that are read from a file at a time. Of a longer line only the first `READ_SIZE` bytes are parsed, but
/// all its NULs are counted.
const READ_SIZE: usize = 64 << 10;
const HEAD_TEXT: &str = ": tincan log";
const DROPPED_TEXT: &str = "; no longer kept: everything up to ";
/// What a line of an event begins with, except its id.
const FIELDS: [&[u8]; 3] = [b"event: ", b"retry: ", b"data: "];

/// Returns the head of a file. `dropped` is the id up to which events are no longer kept, or 0-0.
pub fn head(dropped: Id) -> String {
    let dropped = if dropped > Id::default() { format!("{DROPPED_TEXT}{dropped}") } else { String::new() };
    format!("{HEAD_TEXT}{dropped}\n\n")
}

/// The result of reading a file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scan {
    /// The length of the head in bytes; 0 if the head is not whole.
    pub head_len: u64,
    /// The bytes up to the end of the last whole unit; what follows is to be cut off.
    pub whole_len: u64,
    /// The length of the file in bytes.
    pub len: u64,
    /// Whether the unit after `good` has a hole. Otherwise that unit is unfinished.
    pub hole: bool,
    /// The id in the head, up to which events are no longer kept; 0-0 if the head has no id. None if the id is not
    /// valid.
    pub dropped: Option<Id>,
    /// The id of the first event.
    pub first: Option<Id>,
}

/// Reads a whole file and returns what it holds. `last_id` is the id of the last event before this file. The function
/// advances it to the last id in the file's whole units.
///
/// # Errors
/// If the disk fails, or if the file is damaged (`InvalidData`).
pub fn recover(mut file: &File, last_id: &mut Id) -> io::Result<Scan> {
    let mut scan = Scan { len: file.metadata()?.len(), ..Scan::default() };
    file.rewind()?;
    let mut reader = BufReader::with_capacity(READ_SIZE, file.take(scan.len));
    let mut piece = Vec::new(); // a line with its end, or a part of a long line
    let mut unit = Unit { expected: Expected::Head, blocks_left: 1, nuls: 0, sealed_nuls: 0, scan, last_id: *last_id };
    loop {
        let begins_line = piece.is_empty() || piece.ends_with(b"\n");
        piece.clear();
        reader.by_ref().take(READ_SIZE as u64).read_until(b'\n', &mut piece)?;
        if piece.is_empty() {
            return Ok(scan);
        }
        if unit.expected == Expected::Head && is_foreign(&piece) {
            return Err(damaged(0));
        }
        unit.add(&piece, begins_line);
        if unit.nuls > unit.sealed_nuls {
            scan.hole = true;
            return Ok(scan);
        }
        if unit.blocks_left > 0 {
            continue;
        }
        if unit.expected == Expected::Broken || unit.nuls < unit.sealed_nuls {
            return Err(damaged(scan.whole_len));
        }
        if scan.whole_len == 0 {
            unit.scan.head_len = unit.scan.whole_len;
        }
        scan = unit.scan;
        *last_id = unit.last_id;
        unit = Unit { expected: Expected::Unit, blocks_left: 1, nuls: 0, sealed_nuls: 0, ..unit };
    }
}

/// What the next line has to be.
#[derive(PartialEq)]
enum Expected {
    /// The head.
    Head,
    /// A seal, or a field line.
    Unit,
    /// A field line.
    Block,
    /// A field line, or the id line.
    Fields,
    /// The blank line.
    BlankLine,
    /// Anything: a line was not what it had to be.
    Broken,
}

/// The unit that is being read. The head is treated as a unit too.
struct Unit {
    expected: Expected,
    blocks_left: u64, // blocks that are not yet read to their end
    nuls: u64,        // NULs so far
    sealed_nuls: u64, // the number of NULs in the seal
    scan: Scan,       // the result, if this unit is whole
    last_id: Id,
}

impl Unit {
    /// Adds the next piece. `begins_line`: it begins a line; otherwise it continues a long one.
    fn add(&mut self, piece: &[u8], begins_line: bool) {
        self.scan.whole_len += piece.len() as u64;
        self.nuls += piece.iter().filter(|&&byte| byte == 0).count() as u64;
        if begins_line {
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.expected = self.after_line(line);
            // A line of CR alone is blank to a client, but this server does not write it. It ends the block as well, so
            // that the damage is found if a program has changed all line ends.
            self.blocks_left -= u64::from(line.is_empty() || line == b"\r");
        }
    }

    /// Returns what has to follow this line.
    fn after_line(&mut self, line: &[u8]) -> Expected {
        match self.expected {
            Expected::Head if line.starts_with(HEAD_TEXT.as_bytes()) => {
                let text = String::from_utf8_lossy(line);
                let id = text.split_once(DROPPED_TEXT).map_or(Some(Id::default()), |(_, id)| Id::parse(id));
                self.scan.dropped = id.filter(can_grow);
                Expected::BlankLine
            }
            Expected::Unit if let Some(seal) = parse_seal(line) => {
                (self.blocks_left, self.sealed_nuls) = seal;
                Expected::Block
            }
            Expected::Unit | Expected::Block | Expected::Fields if FIELDS.iter().any(|name| line.starts_with(name)) => {
                Expected::Fields
            }
            Expected::Fields if let Some(id) = Id::from_line(line).filter(|id| can_grow(id) && self.follows(id)) => {
                self.scan.first = self.scan.first.or(Some(id));
                self.last_id = id;
                Expected::BlankLine
            }
            Expected::BlankLine if line.is_empty() => Expected::Block,
            _ => {
                // If the unit has no NUL so far, a hole is not the cause. The file is damaged if a blank line follows,
                // and the unit is unfinished if none does.
                //
                // If the unit has NULs, a hole may be the cause. So the unit is read on, until it has either more NULs
                // than its seal says, or all its blank lines. The former is a hole. The latter is damage, because a
                // hole makes no blank line.
                if self.nuls == 0 {
                    self.blocks_left = 1;
                    self.sealed_nuls = u64::MAX;
                }
                Expected::Broken
            }
        }
    }

    /// Returns whether this id can be the next one. The first id of a file need only be greater than the ids before it:
    /// the events in between may have been lost in a power cut.
    fn follows(&self, id: &Id) -> bool {
        if self.scan.first.is_none() { self.last_id < *id } else { self.last_id.precedes(*id) }
    }
}

/// Parses a seal: the number of events and the number of NULs. Returns None if the line is not exactly what `event.rs`
/// writes for these two.
fn parse_seal(line: &[u8]) -> Option<(u64, u64)> {
    let text = str::from_utf8(line).ok()?;
    let (events, nuls) = text.strip_prefix(": one POST, ")?.strip_suffix(" NULs")?.split_once(" events, ")?;
    let events = events.parse().ok()?;
    let nuls = nuls.parse().ok()?;
    (seal_line(events, nuls)? == text).then_some((events, nuls))
}

/// Returns whether a file that begins with this line is not a log. Only what is before the first NUL counts, because
/// the NULs may be a hole.
fn is_foreign(line: &[u8]) -> bool {
    let text = line.split(|byte| matches!(byte, 0 | b'\n')).next().unwrap_or_default();
    !text.starts_with(HEAD_TEXT.as_bytes()) && !HEAD_TEXT.as_bytes().starts_with(text)
}

/// Returns whether a greater id, and a later epoch, can follow.
fn can_grow(id: &Id) -> bool {
    id.epoch.max(id.seq) < u64::MAX
}

fn damaged(byte: u64) -> io::Error {
    let message = format!(
        "from byte {byte} on it is not a log as this server writes it; nothing was changed. \
         Move it away, or restore it"
    );
    io::Error::new(ErrorKind::InvalidData, message)
}
