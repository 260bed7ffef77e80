//! The append-only log of one channel: the bytes of its events, exactly as they go over the wire.
//!
//! Everything a reader is given is a copy of a range of this log. A *position* counts bytes since the log was opened;
//! positions only grow and are never used twice, so a reader's place stays true when older events are dropped.
//!
//! The bytes lie in parts, in memory or in files (`--data`). What one POST publishes never spans two parts, and the
//! oldest part is dropped whole. In memory a part has a sixteenth of the limit, or [`PIECE`] where that is less. On disk
//! there are two: `NAME.sse`, and `NAME.old.sse`, which it becomes at half of the limit. There is no index beside them:
//! ids only grow, so [`Log::find`] searches in the bytes themselves, by halves.
//!
//! *Written* and *heard*: with `--sync` readers are given only what is on the disk. Without it a file's first event
//! alone waits for the disk, and so does an epoch's: then no id can be given out twice, whatever a power cut takes.
//!
//! Limits: the bytes kept are at most the limit given (the newest POST is kept even where it alone is larger).
//! Deliberately absent: who reads, and when. Shortcut: a byte that changed within the data of an event is not noticed.

use crate::disk::{Dir, LogFile};
use crate::event::{self, Event};
use crate::id::Id;
use crate::recovery::{self, MAX_HEAD};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::sync::Arc;

/// Limit: the bytes that one [`Log::read`] copies.
pub const PIECE: usize = 64 << 10;
/// An id line has at most 45 bytes; this many before a blank line always hold it.
const ID_LINE: usize = 64;

/// Where a reader wants to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// With the next event.
    Now,
    /// With the oldest event kept.
    All,
    /// After the event with this id, which is given as the reader sent it.
    After(String),
}

/// Where a reader does start.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The position of the first byte to send.
    pub pos: u64,
    /// The id of the event before it.
    pub id: Id,
    /// What the reader may have missed.
    pub gap: Option<Gap>,
}

/// Events that a reader asked for and cannot have.
#[derive(Debug, PartialEq, Eq)]
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
        Event::new(data).named("gap").unwrap_or_default()
    }
}

/// The log was asked for bytes that are no longer there.
#[derive(Debug, PartialEq, Eq)]
pub struct Trimmed;

/// A place between two events.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// The position behind the one.
    pub pos: u64,
    /// Its id.
    pub id: Id,
}

#[derive(Debug)]
enum Bytes {
    Memory(Vec<u8>),
    File(LogFile),
}

#[derive(Debug)]
struct Part {
    start: u64, // position of its first byte
    before: Id, // of the event before its first
    bytes: Bytes,
}

impl Part {
    fn len(&self) -> u64 {
        match &self.bytes {
            Bytes::Memory(bytes) => bytes.len() as u64,
            Bytes::File(file) => file.len - file.head,
        }
    }

    /// Copies bytes from a position in this part on; how many. Fewer than there is room for only at its end.
    fn copy(&self, pos: u64, out: &mut [u8]) -> io::Result<usize> {
        let from = pos.saturating_sub(self.start);
        match &self.bytes {
            Bytes::File(file) => file.read(file.head + from, out),
            Bytes::Memory(bytes) => {
                usize::try_from(from).ok().and_then(|n| bytes.get(n..)).unwrap_or_default().read(out)
            }
        }
    }

    /// The end of the first block that ends behind `pos`, and its id.
    fn block(&self, pos: u64) -> io::Result<Option<Mark>> {
        let mut window = [0; 1024];
        let mut at = pos.saturating_sub(ID_LINE as u64).max(self.start);
        loop {
            let len = self.copy(at, &mut window)?;
            let bytes = window.get(..len).unwrap_or_default();
            let skip = usize::try_from((pos + 1).saturating_sub(at + 2)).unwrap_or(len);
            for end in bytes.windows(2).zip(2..).skip(skip).filter(|(pair, _)| pair == b"\n\n").map(|(_, end)| end) {
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

/// What a log with files has beside them.
#[derive(Debug)]
struct Disk {
    dir: Arc<Dir>,
    name: String,
    sync: bool,    // --sync
    fresh: bool,   // the first event of an epoch, or of a file, or the file's name, is not yet on the disk
    retired: bool, // the newest part is NAME.old.sse
}

/// What has to be put on the disk before readers hear it.
#[derive(Debug)]
pub struct Unsynced {
    mark: Mark,
    files: Vec<Arc<File>>,
    dir: Option<Arc<Dir>>,
}

impl Unsynced {
    /// Waits until it is on the disk.
    ///
    /// # Errors
    /// Where the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.sync_data())?;
        self.dir.iter().try_for_each(|dir| dir.sync())
    }
}

/// The events of one channel, newest last.
#[derive(Debug)]
pub struct Log {
    limit: usize,
    found: Id, // the last event before this epoch
    hole: Id,  // behind this one some are missing that a power cut took
    written: Mark,
    heard: Mark,
    failed: (u64, ErrorKind),
    cut: u64,   // bytes, when it was opened
    copy: bool, // of a log elsewhere, whose ids are no count
    parts: VecDeque<Part>,
    block: Vec<u8>, // what is being written
    disk: Option<Disk>,
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
        let (written, heard, parts, block) = (start, start, VecDeque::new(), Vec::new());
        Log {
            limit,
            found: start.id,
            hole: Id::default(),
            written,
            heard,
            failed: (0, ErrorKind::Other),
            cut: 0,
            copy,
            parts,
            block,
            disk: None,
        }
    }

    /// The log of a channel in files, with what they hold. Its epoch is greater than any in them.
    ///
    /// # Errors
    /// Where a file cannot be read, or is not as this server writes it.
    pub fn open(dir: &Arc<Dir>, name: &str, epoch: u64, limit: usize, sync: bool) -> io::Result<Log> {
        let mut log = Log::new(epoch, limit.saturating_sub(2 * MAX_HEAD)); // the heads count as well
        let (mut last, mut first, mut dropped) = (Id::default(), None, None);
        let (mut retired, mut pos) = (false, 0);
        for old in [true, false] {
            let Some(mut file) = dir.get(name, old)? else { continue };
            let before = last;
            let found = recovery::recover(&file.file, &mut last).map_err(|e| file.told(&e))?;
            file.head = found.head;
            if found.good < found.len {
                file.cut(found.good)?;
            }
            if sync {
                file.file.sync_data()?; // what was heard from a file must be on the disk
            }
            log.cut += found.len - found.good;
            dropped = found.dropped.filter(|_| !old);
            let Some(start) = found.first else { continue }; // it gives way to the next file
            if first.is_some() && !before.precedes(start) {
                log.hole = before;
            }
            first = first.or(Some(start));
            retired = old;
            let part = Part { start: pos, before, bytes: Bytes::File(file) };
            pos += part.len();
            log.parts.push_back(part);
        }
        // What the newest file says was dropped, where that fits what is there; files may have been taken away.
        let kept = match first {
            Some(first) => {
                dropped.filter(|d| d.precedes(first)).unwrap_or(Id { seq: first.seq.saturating_sub(1), ..first })
            }
            None => dropped.unwrap_or_default(),
        };
        if let Some(front) = log.parts.front_mut() {
            front.before = kept;
        }
        log.found = last.max(kept);
        let epoch = epoch.max(log.found.epoch.saturating_add(1));
        log.written = Mark { pos, id: Id { epoch, seq: 0 } };
        log.heard = log.written;
        if sync {
            dir.sync()?;
        }
        log.disk = Some(Disk { dir: dir.clone(), name: name.into(), sync, fresh: true, retired });
        Ok(log)
    }

    /// The end of what readers may hear.
    pub fn heard(&self) -> Mark {
        self.heard
    }

    /// The end of what was appended.
    pub fn written(&self) -> Mark {
        self.written
    }

    /// How often what was appended and not yet heard had to be taken back, and why the last time.
    pub fn failed(&self) -> (u64, ErrorKind) {
        self.failed
    }

    /// Bytes of an unfinished event that were cut off when it was opened.
    pub fn cut(&self) -> u64 {
        self.cut
    }

    /// Whether a file was begun that is not yet on the disk. Nothing should be appended before it is: with two such files
    /// no older one would be left, and a power cut could take everything.
    pub fn is_unsettled(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.fresh) && self.heard.pos < self.written.pos
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

    fn part_limit(&self) -> usize {
        if self.disk.is_some() { self.limit / 2 } else { (self.limit / 16).min(PIECE) }
    }

    /// Appends `count` events in one step: all or none. `write` is given the id of the first, and writes all blocks.
    /// Drops what is over the limit. Returns the first id.
    ///
    /// # Errors
    /// Where the disk does not take them; see [`LogFile::append`].
    pub fn append(&mut self, count: u64, write: impl FnOnce(Id, &mut Vec<u8>)) -> io::Result<Id> {
        let first = self.written.id.plus(1);
        self.push(self.written.id.plus(count), |block| write(first, block)).map(|()| first)
    }

    /// Appends what ends with this id, or where it is that of the last event, a gap. See [`Log::append`].
    ///
    /// # Errors
    /// As there.
    pub fn push(&mut self, last: Id, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut block = std::mem::take(&mut self.block);
        write(&mut block);
        let kept = self.keep(&block);
        let len = block.len() as u64;
        block.clear();
        block.shrink_to(PIECE);
        self.block = block;
        kept?;
        self.written = Mark { pos: self.written.pos + len, id: last };
        if self.disk.as_ref().is_none_or(|disk| !disk.sync && !disk.fresh) {
            self.heard = self.written;
        }
        Ok(())
    }

    fn keep(&mut self, block: &[u8]) -> io::Result<()> {
        let (part_limit, len, start) = (self.part_limit() as u64, block.len() as u64, self.written.pos);
        let retired = self.disk.as_ref().is_some_and(|disk| disk.retired);
        let fits = |part: &&mut Part| !retired && (part.len() == 0 || part.len() + len <= part_limit);
        match self.parts.back_mut().filter(fits).map(|part| &mut part.bytes) {
            Some(Bytes::File(file)) => return file.append(block),
            Some(Bytes::Memory(bytes)) => {
                bytes.extend_from_slice(block);
                return Ok(());
            }
            None => {}
        }
        let before = if self.written.id.seq == 0 && !self.copy { self.found } else { self.written.id };
        let room = (self.limit as u64).saturating_sub(part_limit.max(len)); // for what stays
        let bytes = match &mut self.disk {
            None => {
                let mut memory = Vec::new();
                while self.parts.front().is_some_and(|p| start - p.start > room) {
                    // Its memory serves the next part, so a flood does not make the process grow.
                    if let Some(Part { bytes: Bytes::Memory(bytes), .. }) = self.parts.pop_front() {
                        memory = bytes;
                    }
                }
                memory.clear();
                memory.shrink_to(part_limit as usize);
                memory.extend_from_slice(block);
                Bytes::Memory(memory)
            }
            Some(disk) => {
                // The new file is complete before an older one gives way to it.
                let stays = self.parts.back().filter(|part| part.len() <= room);
                let head = recovery::head(stays.map_or(before, |part| part.before));
                let file = disk.dir.create(&disk.name, head.as_bytes(), block)?;
                if !retired && !self.parts.is_empty() {
                    disk.dir.retire(&disk.name)?;
                    (disk.retired, disk.fresh) = (true, true);
                    while self.parts.len() > 1 {
                        self.parts.pop_front();
                    }
                }
                disk.dir.place(&disk.name)?;
                (disk.retired, disk.fresh) = (false, true);
                Bytes::File(file)
            }
        };
        self.parts.push_back(Part { start, before, bytes });
        Ok(())
    }

    /// What has to be put on the disk until everything written may be heard: with a new file also the one before it.
    pub fn unsynced(&self) -> Unsynced {
        let fresh = self.disk.as_ref().filter(|disk| disk.fresh);
        let behind = |p: &&Part| fresh.is_some() || p.start + p.len() > self.heard.pos;
        let file = |p: &Part| if let Bytes::File(f) = &p.bytes { Some(f.file.clone()) } else { None };
        let files = self.parts.iter().filter(behind).filter_map(file).collect();
        Unsynced { mark: self.written, files, dir: fresh.map(|disk| disk.dir.clone()) }
    }

    /// What came of [`Unsynced::sync`]. Where it failed, everything that nobody has heard is taken back: the kernel has
    /// forgotten what it could not write, so a second try would succeed without it.
    ///
    /// # Errors
    /// That it failed.
    pub fn synced(&mut self, unsynced: &Unsynced, done: io::Result<()>) -> io::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        if let Err(e) = done {
            for part in &mut self.parts {
                let keep = self.heard.pos.saturating_sub(part.start).min(part.len());
                if let Bytes::File(file) = &mut part.bytes
                    && file.head + keep < file.len
                {
                    let _ = file.cut(file.head + keep); // else before the next append
                }
                if part.start > self.heard.pos {
                    (part.start, part.before) = (self.heard.pos, self.heard.id);
                }
            }
            self.written = self.heard;
            self.failed = (self.failed.0 + 1, e.kind());
            return Err(e);
        }
        // Others may have written meanwhile, and even begun a new file.
        let rolled = self.parts.back().is_some_and(|part| part.start >= unsynced.mark.pos);
        self.heard = if disk.sync || rolled { unsynced.mark } else { self.written };
        if !rolled {
            disk.fresh = false;
            // An older part that leaves no room for the newest goes now that the newest is on the disk.
            if let [old, new] = &*self.parts.make_contiguous()
                && old.len() + new.len().max(self.limit as u64 / 2) > self.limit as u64
                && disk.dir.remove_old(&disk.name).is_ok()
            {
                self.parts.pop_front();
            }
        }
        Ok(())
    }

    /// Copies bytes from `pos` on into `out`: at most [`PIECE`], and none where `pos` is the end of what may be heard.
    ///
    /// # Errors
    /// [`Trimmed`] where the byte at `pos` is no longer there.
    pub fn read(&self, pos: u64, out: &mut Vec<u8>) -> Result<(), Trimmed> {
        out.clear();
        if pos >= self.heard.pos {
            return Ok(());
        }
        let part = self.part(|p| p.start <= pos).ok_or(Trimmed)?;
        let end = self.heard.pos.min(part.start + part.len());
        out.resize(end.saturating_sub(pos).min(PIECE as u64) as usize, 0);
        match part.copy(pos, out) {
            Ok(n) if n == out.len() && n > 0 => Ok(()),
            _ => {
                out.clear();
                Err(Trimmed)
            }
        }
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
        if let Some(asked) = asked.filter(|id| self.kept() <= *id && *id <= self.heard.id) {
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
        let pos = self.parts.front().map_or(self.heard.pos, |p| p.start);
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

    /// The last part for which `test` holds; it holds for the parts up to some one.
    fn part(&self, test: impl Fn(&Part) -> bool) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(test).checked_sub(1)?)
    }

    /// The id of the event at this position, which is between two events; none at the end.
    fn next(&self, pos: u64) -> io::Result<Option<Id>> {
        if pos < self.heard.pos { Ok(self.block(pos)?.map(|mark| mark.id)) } else { Ok(None) }
    }

    /// The end of the first event that ends behind `pos`, and its id.
    fn block(&self, pos: u64) -> io::Result<Option<Mark>> {
        let from = self.parts.partition_point(|p| p.start + p.len() <= pos);
        let mut marks = self.parts.iter().skip(from).map(|part| part.block(pos));
        marks.find(|mark| !matches!(mark, Ok(None))).unwrap_or(Ok(None)) // a part may have only gaps
    }

    /// The end of the last event whose id is not greater than this one, which is among the kept.
    fn after(&self, asked: Id) -> io::Result<Mark> {
        let Some(part) = self.part(|p| p.before <= asked) else { return Ok(self.heard) };
        // Behind the event before it, gaps may stand in the part that has this event, and fill further ones.
        let first = self.part(|p| p.before < part.before).or(self.parts.front()).unwrap_or(part);
        let mut found = Mark { pos: first.start, id: first.before };
        let mut end = self.heard.pos.min(part.start + part.len());
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
