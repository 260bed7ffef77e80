//! The append-only log of one channel: the bytes of its events, exactly as they go over the wire.
//!
//! Everything a reader is given is a copy of a range of this log. A *position* counts bytes since the log was opened;
//! those that may be heard only grow and are never used twice, so a reader's place stays true when older events are
//! dropped.
//!
//! The bytes lie in parts, in memory or in files (`--data`). What one POST publishes never spans two parts, and the
//! oldest part is dropped whole. In memory a part has a sixteenth of the limit, or [`PIECE`] if that is less. On disk
//! there are two: `NAME.sse`, and `NAME.old.sse`, which it becomes at half of the limit. There is no index beside them:
//! ids only grow, so [`Log::find`] searches in the bytes themselves, by halves.
//!
//! A log with files knows what stands in them, and does not touch them under its lock: `writer.rs` appends, and tells the
//! log ([`Log::commit`]). What was just written is in memory as well until all readers that keep up were given it, so
//! they never wait for the disk. Older bytes are read from a [`Stretch`] of a file, without the log.
//!
//! *Written* and *heard*: with `--sync` readers are given only what is on the disk. Without it a file's first event
//! alone waits for the disk, and so does an epoch's: then no id can be given out twice, whatever a power cut takes.
//!
//! Limits: the bytes kept are at most the limit given (the newest POST is kept even if it alone is larger); `RECENT`.
//! Deliberately absent: who reads, and when. Shortcut: a byte that changed within the data of an event is not noticed.

use crate::log::disk::{Dir, Home, LogFile, Output};
use crate::log::recovery::{self, Found, MAX_HEAD};
use crate::log::writer::{Begun, End, Mark, Newest, Writer};
use crate::wire::event::{self, Event};
use crate::wire::id::Id;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Limit: the bytes that one [`Log::read`] copies.
pub const PIECE: usize = 64 << 10;
/// An id line has at most 45 bytes; this many before a blank line always hold it.
const ID_LINE: usize = 64;
/// Limit: how often something can be taken back before a publisher has found out whether its event was among it.
const RETURNS: usize = 1000;
/// Limit: the bytes of a log with files that are in memory as well, unless the newest POST alone is more.
const RECENT: usize = 64 << 10;

/// Where a reader wants to start.
#[derive(PartialEq)]
pub enum From {
    /// With the next event.
    Now,
    /// With the oldest event kept.
    All,
    /// After the event with this id, which is given as the reader sent it.
    After(String),
}

/// Where a reader does start.
pub struct Place {
    /// The position of the first byte to send.
    pub pos: u64,
    /// The id of the event before it.
    pub id: Id,
    /// What the reader may have missed.
    pub gap: Option<Gap>,
}

/// Events that a reader asked for and cannot have.
#[derive(Debug, PartialEq)]
pub struct Gap {
    /// The first event after the gap, where there is one.
    pub from: Option<Id>,
    /// How many there were, where that is known.
    pub lost: Option<u64>,
}

impl Gap {
    /// The event that tells a reader of it, who had asked for what comes after this id.
    pub fn event(&self, asked: &str) -> Event {
        let from = self.from.map_or("null".into(), |id| format!("\"{id}\""));
        let lost = self.lost.map_or("null".into(), |n| n.to_string());
        let data = format!("{{\"asked\":{},\"from\":{from},\"lost\":{lost}}}", event::json(asked));
        Event::gap(data)
    }
}

/// The log was asked for bytes that are no longer there.
#[derive(Debug)]
pub struct Trimmed;

/// Bytes of a file, for those who may wait for the disk.
pub struct Stretch {
    file: Arc<LogFile>,
    offset: u64,
    len: usize,
}

impl Stretch {
    /// Appends what the disk gives at a time, at least one byte.
    ///
    /// # Errors
    /// If the disk fails, or has less than was written.
    pub fn read(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let before = out.len();
        out.resize(before + self.len, 0);
        let room = out.get_mut(before..).unwrap_or_default();
        let read = self.file.file.read_at(room, self.offset).and_then(|n| if n > 0 { Ok(n) } else { Err(shortened()) });
        out.truncate(before + read.as_ref().unwrap_or(&0));
        self.file.told(read.map(|_| ()))
    }
}

fn shortened() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "what was written to it is not there any more")
}

#[derive(Clone)]
struct Part {
    start: u64, // position of its first byte
    len: u64,
    before: Id, // of the event before its first
    file: Option<Arc<LogFile>>,
    memory: Vec<u8>, // its bytes, if no file has them
}

impl Part {
    fn has(&self, pos: u64) -> bool {
        (self.start..self.start + self.len).contains(&pos)
    }

    /// Makes sure that its file was not shortened, so that a reader is told before it is given the first half.
    fn check(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let len = file.file.metadata()?.len();
        if len < file.head + self.len { file.told(Err(shortened())) } else { Ok(()) }
    }

    /// Copies bytes from a position in this part on; how many. Fewer than there is room for only at its end.
    fn copy(&self, pos: u64, out: &mut [u8]) -> io::Result<usize> {
        let from = pos.saturating_sub(self.start);
        let Some(file) = &self.file else {
            return self.memory.get(from as usize..).unwrap_or_default().read(out);
        };
        let len = (out.len() as u64).min(self.len.saturating_sub(from)) as usize;
        let out = out.get_mut(..len).unwrap_or_default();
        file.told(file.file.read_exact_at(out, file.head + from))?;
        Ok(len)
    }

    /// The end of the first block that ends behind `pos`, and its id.
    fn block(&self, pos: u64) -> io::Result<Option<Mark>> {
        let mut window = [0; 4096];
        let mut at = pos.saturating_sub(ID_LINE as u64).max(self.start);
        loop {
            let len = self.copy(at, &mut window)?;
            let bytes = window.get(..len).unwrap_or_default();
            let skip = pos.saturating_sub(at + 1) as usize;
            for (_, end) in bytes.windows(2).zip(2..).skip(skip).filter(|(pair, _)| pair == b"\n\n") {
                let line = bytes.get(..end - 2).unwrap_or_default().rsplit(|&b| b == b'\n').next();
                if let Some(id) = line.and_then(Id::from_line) {
                    return Ok(Some(Mark { pos: at + end as u64, id }));
                } // else it is a gap, which belongs to what follows it
            }
            if len < window.len() {
                return Ok(None);
            }
            at += (len - ID_LINE) as u64;
        }
    }
}

/// A file of a log, if it is there, without what a crash has left in it.
fn recover(
    home: &Home, old: bool, last: &mut Id, note: &mut dyn FnMut(String),
) -> io::Result<Option<(LogFile, Found)>> {
    let Some(mut file) = home.get(old)? else { return Ok(None) };
    let found = file.told(recovery::recover(&file.file, last))?;
    if found.good < found.len {
        let kept = home.keep(&file, found.good)?;
        file.cut(found.good)?;
        note(format!("{kept} is new: it keeps what had to be cut off"));
        let what = match found.hole {
            true => "a hole that a power cut left was cut off, with what follows it",
            false => "an unfinished event was cut off",
        };
        note(format!("{what}, {} bytes", found.len - found.good));
    }
    file.head = found.head;
    Ok(Some((file, found)))
}

/// The events of one channel, newest last.
#[derive(Clone, Default)]
pub struct Log {
    limit: usize,
    found: Id, // the last event before this epoch
    hole: Id,  // behind this one some are missing that a power cut took
    /// The end of what was appended.
    pub written: Mark,
    /// The end of what readers may hear.
    pub heard: Mark,
    failed: (u64, Option<ErrorKind>), // how often something was taken back, and why the last time
    returns: VecDeque<u64>,           // to which positions, the last time first
    copy: bool,                       // of a log elsewhere, whose ids are no count
    files: bool,
    parts: VecDeque<Part>,
    held: Vec<u64>,    // the parts of these positions can be read until they are no longer held
    fallen: Vec<Part>, // of those, the ones that were dropped
    recent: Vec<u8>,   // of files: the last bytes written
    bad: Option<u64>,  // here it could not be read back
}

impl Log {
    /// An empty log in memory that keeps `limit` bytes. No two logs of a channel may have the same epoch.
    pub fn new(epoch: u64, limit: usize) -> Log {
        Log::at(Id { epoch, seq: 0 }, limit, false)
    }

    /// A copy of a log elsewhere, from behind this id on.
    pub fn copy(start: Id, limit: usize) -> Log {
        Log::at(start, limit, true)
    }

    fn at(start: Id, limit: usize, copy: bool) -> Log {
        let start = Mark { pos: 0, id: start };
        Log { limit, found: start.id, written: start, heard: start, copy, ..Log::default() }
    }

    /// The log of a channel in files, with what they hold, and what writes to it. Its epoch is greater than any in them.
    /// What a crash has left unfinished or full of holes is cut off, and kept beside it; `note` is told.
    ///
    /// # Errors
    /// If a file cannot be read, or is not as this server writes it.
    pub fn open(
        dir: &Arc<Dir>, name: &str, epoch: u64, limit: usize, sync: bool, note: &mut dyn FnMut(String),
    ) -> io::Result<(Log, Writer)> {
        let mut log = Log::new(epoch, limit.saturating_sub(2 * MAX_HEAD)); // the heads count as well
        let home = Home { dir: dir.clone(), name: name.into() };
        let mut last = Id::default();
        let mut kept = last; // all that follows this one
        let mut dropped = None;
        let mut newest = None;
        for old in [true, false] {
            let before = last;
            let Some((file, found)) = recover(&home, old, &mut last, note)? else { continue };
            if sync {
                file.sync()?; // what was heard from a file must be on the disk
            }
            dropped = found.dropped.filter(|_| !old);
            let Some(start) = found.first else { continue }; // it gives way to the next file
            if log.is_empty() {
                kept = Id { seq: start.seq.saturating_sub(1), ..start };
            } else if !before.precedes(start) {
                log.hole = before;
            }
            let output = Output::new(file, found.good);
            let (file, len) = (output.file.clone(), found.good - found.head);
            newest = Some(output).filter(|_| !old);
            log.add(before, Some(file), Vec::new(), len);
            log.written.pos += len;
        }
        // What the newest file says was dropped, if that fits what is there; files may have been taken away.
        let kept = dropped.filter(|d: &Id| log.is_empty() || d.precedes(kept.plus(1))).unwrap_or(kept);
        if let Some(front) = log.parts.front_mut() {
            front.before = kept;
        }
        log.found = last.max(kept);
        let epoch = epoch.max(log.found.epoch.saturating_add(1));
        log.written.id = Id { epoch, seq: 0 };
        log.heard = log.written;
        log.files = true;
        if sync {
            dir.sync()?;
        }
        let writer = Writer::new(home, log.limit as u64, sync, newest);
        Ok((log, writer))
    }

    /// Makes sure that nothing in front of `end` was taken back since [`End::failed`] was so much.
    ///
    /// # Errors
    /// Of the kind that made it necessary. Shortcut: also if that was more than `RETURNS` times.
    pub fn still(&self, failed: u64, end: u64) -> io::Result<()> {
        let (times, why) = self.failed;
        let since = (times - failed) as usize;
        let stays = since <= RETURNS && self.returns.iter().take(since).all(|pos| end <= *pos);
        why.filter(|_| !stays).map_or(Ok(()), |why| Err(why.into()))
    }

    /// Where the next events are appended.
    pub fn end(&self) -> End {
        let last = if self.written.id.seq == 0 && !self.copy { self.found } else { self.written.id };
        let newest = self.parts.back().map(|part| Newest { len: part.len, before: part.before });
        End { written: self.written, failed: self.failed.0, newest, last }
    }

    /// Whether there is no event in it.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// All events after this one are kept.
    pub fn kept(&self) -> Id {
        self.parts.front().map_or(self.found, |part| part.before)
    }

    /// How many bytes certainly stay when the next ones come, unless these are more than this themselves.
    pub fn slack(&self) -> u64 {
        self.limit as u64 / 4
    }

    /// Takes over a block that was written, whose last event has this id; a gap leaves the id as it is. `begun`: it is the
    /// first of a new file. `listened`: there are readers. Drops what is over the limit.
    ///
    /// Returns files that it has dropped, which are closed then.
    pub fn commit(&mut self, block: &[u8], last: Id, begun: Option<Begun>, listened: bool) -> impl Drop + use<> {
        let (len, before) = (block.len() as u64, self.end().last);
        let mut dropped = Vec::new();
        if !listened {
            self.held.clear();
            dropped.append(&mut self.fallen); // nobody stands there any more
        }
        if let Some(begun) = begun {
            while self.parts.len() > usize::from(begun.stays) {
                dropped.extend(self.drop_part());
            }
            self.add(before, Some(begun.file), Vec::new(), 0);
        } else if !self.files {
            self.remember(block, before);
        }
        if let Some(part) = self.parts.back_mut() {
            part.len += len;
        }
        self.written = Mark { pos: self.written.pos + len, id: last };
        if !self.files || !listened {
            self.recent = Vec::new();
            return dropped;
        }
        if self.recent.len() + block.len() > RECENT {
            // Half of it, so that this is not done each time; nothing beside a large block.
            let stays = if block.len() > RECENT / 2 { 0 } else { RECENT / 2 };
            self.recent.drain(..self.recent.len().saturating_sub(stays));
        }
        self.recent.extend_from_slice(block);
        dropped
    }

    /// Drops the oldest part; returns it, unless it is held. Limit: so many bytes more as the log keeps.
    fn drop_part(&mut self) -> Option<Part> {
        let part = self.parts.pop_front()?;
        let bytes: u64 = self.fallen.iter().map(|part| part.len).sum();
        if bytes + part.len > self.limit as u64 || !self.held.iter().any(|pos| part.has(*pos)) {
            return Some(part);
        }
        self.fallen.push(part);
        None
    }

    /// The parts of these positions are held: they can be read, even if they are dropped. Returns those that no longer are.
    pub fn hold(&mut self, held: Vec<u64>) -> impl Drop + use<> {
        let gone: Vec<_> = self.fallen.extract_if(.., |part| !held.iter().any(|pos| part.has(*pos))).collect();
        self.held = held;
        gone
    }

    /// Where the oldest byte stands that is kept.
    pub fn start(&self) -> u64 {
        self.parts.front().map_or(self.heard.pos, |part| part.start)
    }

    fn add(&mut self, before: Id, file: Option<Arc<LogFile>>, memory: Vec<u8>, len: u64) {
        self.parts.push_back(Part { start: self.written.pos, len, before, file, memory });
    }

    /// Puts a block into memory.
    fn remember(&mut self, block: &[u8], before: Id) {
        let part_limit = (self.limit / 16).min(PIECE);
        let fits = |part: &&mut Part| part.len as usize + block.len() <= part_limit;
        if let Some(part) = self.parts.back_mut().filter(fits) {
            return part.memory.extend_from_slice(block);
        }
        let room = self.limit.saturating_sub(part_limit.max(block.len())) as u64; // for what stays
        let mut memory = Vec::new();
        while self.parts.front().is_some_and(|part| self.written.pos - part.start > room) {
            // Its memory serves the next part, so a flood does not make the process grow.
            memory = self.drop_part().map_or(memory, |part| part.memory);
        }
        memory.clear();
        memory.shrink_to(part_limit);
        memory.extend_from_slice(block);
        self.add(before, None, memory, 0);
    }

    /// What has to be on the disk until everything written may be heard.
    pub fn unsynced(&self) -> (Mark, Option<Arc<LogFile>>) {
        (self.written, self.parts.back().and_then(|part| part.file.clone()))
    }

    /// What was written up to here may be heard.
    pub fn hear(&mut self, mark: Mark) {
        self.heard = mark;
    }

    /// Takes back everything that nobody has heard: the kernel has forgotten what it could not write, so a second try would
    /// succeed without it.
    pub fn take_back(&mut self, why: ErrorKind) {
        let unheard = self.written.pos - self.heard.pos;
        if let Some(part) = self.parts.back_mut() {
            part.len = part.len.saturating_sub(unheard);
        }
        self.recent.truncate(self.recent.len().saturating_sub(unheard as usize));
        self.written = self.heard;
        self.failed = (self.failed.0 + 1, Some(why));
        self.returns.truncate(RETURNS - 1);
        self.returns.push_front(self.heard.pos);
    }

    /// All readers that keep up were given what is in front of this position.
    pub fn given(&mut self, pos: u64) {
        if pos >= self.written.pos {
            self.recent = Vec::new();
        }
    }

    /// From here on the bytes are in memory.
    pub fn memory(&self) -> u64 {
        if self.files { self.written.pos - self.recent.len() as u64 } else { 0 }
    }

    /// A copy for those who may wait for the disk, if the log is in files.
    pub fn on_disk(&self) -> Option<Log> {
        self.files.then(|| {
            let mut log = self.clone();
            log.take_back(ErrorKind::Other); // what is not heard may be cut off meanwhile
            log
        })
    }

    /// Notes where it could not be read back. Returns whether that is new.
    pub fn note_bad(&mut self, pos: u64) -> bool {
        let new = !self.is_bad();
        self.bad = self.bad.max(Some(pos));
        new
    }

    /// Whether it could not be read back, at a place that is still kept.
    pub fn is_bad(&self) -> bool {
        self.bad.is_some_and(|bad| self.start() <= bad)
    }

    /// Appends bytes from `pos` on to `out`: at most [`PIECE`], and none if `pos` is the end of what may be heard. What is
    /// not in memory is returned as a stretch of a file.
    ///
    /// # Errors
    /// [`Trimmed`] if the byte at `pos` is no longer there.
    pub fn read(&self, pos: u64, out: &mut Vec<u8>) -> Result<Option<Stretch>, Trimmed> {
        if pos >= self.heard.pos {
            return Ok(None);
        }
        let held = || self.fallen.iter().find(|part| part.has(pos));
        let kept = self.parts.partition_point(|part| part.start <= pos);
        let part = self.parts.range(..kept).next_back().or_else(held).ok_or(Trimmed)?;
        let end = self.heard.pos.min(part.start + part.len);
        let len = end.saturating_sub(pos).min(PIECE as u64) as usize;
        let (bytes, from) = match &part.file {
            None => (&part.memory, part.start),
            Some(_) if pos >= self.memory() => (&self.recent, self.memory()),
            Some(file) => {
                return Ok(Some(Stretch { file: file.clone(), offset: file.head + pos - part.start, len }));
            }
        };
        let from = (pos - from) as usize;
        out.extend_from_slice(bytes.get(from..from + len).ok_or(Trimmed)?);
        Ok(None)
    }

    /// The place for a reader, with what it may have missed. "After" an id is the first event with a greater one.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn find(&self, from: &From) -> io::Result<Place> {
        let asked = match from {
            From::Now => return Ok(Place { pos: self.heard.pos, id: self.heard.id, gap: None }),
            From::All => None,
            From::After(text) => Id::parse(text),
        };
        self.parts.iter().try_for_each(Part::check)?;
        // Ids that are given never go back: what is above all that are there was heard, and has been lost.
        if let Some(asked) = asked.filter(|id| self.kept() <= *id && (self.copy || *id <= self.heard.id)) {
            let Mark { pos, id } = self.after(asked)?;
            let next = self.next(pos)?;
            // Between ids that are there, some can be missing that a power cut took.
            let seen = id == asked || (asked.seq == 0 && !self.copy);
            let whole = seen && self.hole <= asked && (self.copy || next.is_none_or(|next| id.precedes(next)));
            let lost = next.filter(|n| n.epoch == asked.epoch && self.hole <= asked && !self.copy);
            let lost = lost.map(|n| n.seq.saturating_sub(asked.seq.saturating_add(1)));
            let gap = if whole { None } else { Some(Gap { from: next, lost }) };
            return Ok(Place { pos, id: asked, gap });
        }
        let pos = self.start();
        let (next, kept) = (self.next(pos)?, self.kept());
        let id = match next {
            Some(id) if !self.copy => Id { seq: id.seq.saturating_sub(1), ..id },
            Some(_) => kept,
            None => self.heard.id,
        };
        // Ids of one epoch are contiguous, so within it the loss can be counted.
        let lost = asked.filter(|a| a.epoch == kept.epoch && !self.copy).and_then(|a| kept.seq.checked_sub(a.seq));
        let gap = if *from == From::All { None } else { Some(Gap { from: next, lost }) };
        Ok(Place { pos, id, gap })
    }

    /// The id of the event at this position, which is between two events; none at the end.
    fn next(&self, pos: u64) -> io::Result<Option<Id>> {
        if pos >= self.heard.pos {
            return Ok(None);
        }
        let next = self.block(pos)?.map(|mark| mark.id);
        if self.files && next.is_none_or(|next| next > self.written.id) { Err(shortened()) } else { Ok(next) }
    }

    /// The end of the first event that ends behind `pos`, and its id.
    fn block(&self, pos: u64) -> io::Result<Option<Mark>> {
        let from = self.parts.partition_point(|p| p.start + p.len <= pos);
        // A part may have only gaps there.
        self.parts.iter().skip(from).find_map(|part| part.block(pos).transpose()).transpose()
    }

    /// The end of the last event whose id is not greater than this one, which is among the kept. What is above all of them
    /// comes behind gaps that follow the last one, too.
    fn after(&self, asked: Id) -> io::Result<Mark> {
        let front = self.parts.front().filter(|_| asked <= self.heard.id);
        let Some(front) = front else { return Ok(self.heard) };
        let mut found = Mark { pos: front.start, id: front.before };
        let mut end = self.heard.pos;
        while found.pos < end {
            let middle = found.pos + (end - found.pos) / 2;
            match self.block(middle)? {
                Some(mark) if mark.id <= asked => found = mark,
                _ => end = middle, // the block in the middle begins there or before
            }
        }
        Ok(found)
    }
}
