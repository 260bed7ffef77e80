//! The append-only log of one channel: the bytes of its events, exactly as they go over the wire.
//!
//! Everything a reader is given is a copy of a range of this log. A *position* counts bytes since the log was opened;
//! those that may be heard only grow and are never used twice, so a reader's place stays true when older events are
//! dropped.
//!
//! The bytes lie in parts (`part.rs`), in memory or in files (`--data`). What one POST publishes never spans two parts,
//! and the oldest part is dropped whole. In memory a part has a sixteenth of the limit, or [`PIECE`] if that is less. On
//! disk there are two: `NAME.sse`, and `NAME.old.sse`, which it becomes at half of the limit. There is no index beside
//! them: ids only grow, so [`Log::find_start`] searches in the bytes themselves, by halves.
//!
//! A log with files knows what stands in them, and does not touch them under its lock: `writer.rs` appends, and tells the
//! log ([`Log::commit`]). What was just written is in memory as well until all readers that keep up were given it, so
//! they never wait for the disk. Older bytes are read from a [`FileRange`] of a file, without the log.
//!
//! *Written* and *heard*: with `--sync` readers are given only what is on the disk. Without it a file's first event
//! alone waits for the disk, and so does an epoch's: then no id can be given out twice, whatever a power cut takes.
//!
//! The ids are *counted* here, one by one; or the log is a copy of one elsewhere, and they are *given*, with any steps.
//!
//! Limits: the bytes kept are at most the limit given (the newest POST is kept even if it alone is larger); `MAX_RECENT`.
//! Deliberately absent: who reads, and when. Shortcut: a byte that changed within the data of an event is not noticed.

use crate::log::disk::{Appender, ChannelFiles, Dir, LogFile, NEWEST, OLD};
use crate::log::part::{Boundary, FileRange, Part, shortened_error};
use crate::log::recovery::{self, MAX_HEAD, Scan};
use crate::log::writer::{NewPart, Rollback, Tail, Writer};
use crate::wire::event::{self, Event};
use crate::wire::id::Id;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::mem::take;
use std::sync::Arc;

/// Limit: the bytes that one [`Log::read`] copies.
pub const PIECE: usize = 64 << 10;
/// Limit: the bytes of a log with files that are in memory as well, unless the newest POST alone is more.
const MAX_RECENT: usize = 64 << 10;

/// Where a reader wants to start.
#[derive(PartialEq)]
pub enum Since {
    /// With the next event.
    Now,
    /// With the oldest event kept.
    All,
    /// After the event with this id, which is given as the reader sent it.
    After(String),
}

/// Where a reader does start.
pub struct Start {
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
    /// The first event after the gap, if there is one.
    pub from: Option<Id>,
    /// How many there were, if that is known.
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

/// A file of a log, if it is there, without what a crash has left in it.
fn recover(
    home: &ChannelFiles, name: &str, last: &mut Id, note: &mut dyn FnMut(String),
) -> io::Result<Option<(LogFile, Scan)>> {
    let Some(mut file) = home.open(name)? else { return Ok(None) };
    let found = file.with_path(recovery::recover(&file.file, last))?;
    file.head = found.head;
    if found.good < found.len {
        let kept = home.save_cut(&file, found.good)?;
        file.cut(found.good)?;
        note(format!("{kept} is new: it keeps what had to be cut off"));
        let what = match found.hole {
            true => "a hole that a power cut left was cut off, with what follows it",
            false => "an unfinished event was cut off",
        };
        note(format!("{what}, {} bytes", found.len - found.good));
    }
    Ok(Some((file, found)))
}

/// What ids are.
#[derive(Clone, Copy, Default, PartialEq)]
enum Ids {
    /// Counted here: within an epoch each is the next number.
    #[default]
    Counted,
    /// Given by somebody else: they only grow.
    Given,
}

/// The id before this one, if they are counted.
fn preceding(id: Id) -> Id {
    Id { seq: id.seq.saturating_sub(1), ..id }
}

/// The events of one channel, newest last.
#[derive(Clone, Default)]
pub struct Log {
    limit: u64,
    ids: Ids,
    before_epoch: Id, // the last event before this epoch
    hole_after: Id,   // behind this one some are missing that a power cut took
    /// The end of what was appended.
    pub written: Boundary,
    /// The end of what readers may hear.
    pub heard: Boundary,
    rollback: Rollback, // the next time
    parts: VecDeque<Part>,
    held: Vec<u64>,         // the parts of these positions can be read until they are no longer held
    held_parts: Vec<Part>,  // of those, the ones that were dropped
    recent: Vec<u8>,        // of files: the last bytes written
    unreadable_before: u64, // at a byte in front of this position it could not be read back
}

impl Log {
    /// An empty log in memory that keeps `limit` bytes. No two logs of a channel may have the same epoch.
    pub fn new(epoch: u64, limit: usize) -> Log {
        Log { ids: Ids::Counted, ..Log::copy(Id { epoch, seq: 0 }, limit) }
    }

    /// A copy of a log elsewhere, from behind this id on.
    pub fn copy(start: Id, limit: usize) -> Log {
        let start = Boundary { pos: 0, id: start };
        Log {
            limit: limit as u64,
            ids: Ids::Given,
            before_epoch: start.id,
            written: start,
            heard: start,
            ..Log::default()
        }
    }

    /// The log of a channel in files, with what they hold, and what writes to it. Its epoch is greater than any in them.
    /// What a crash has left unfinished or full of holes is cut off, and kept beside it; `note` is told.
    ///
    /// # Errors
    /// If a file cannot be read, or is not as this server writes it.
    pub fn open(
        dir: &Arc<Dir>, name: &str, epoch: u64, limit: usize, sync: bool, note: &mut dyn FnMut(String),
    ) -> io::Result<(Log, Writer)> {
        let mut log = Log::new(0, limit.saturating_sub(2 * MAX_HEAD)); // the heads count as well
        let home = ChannelFiles { dir: dir.clone(), name: name.into() };
        let mut oldest = None;
        let mut dropped = None;
        let mut newest = None;
        for which in [OLD, NEWEST] {
            let before = log.before_epoch;
            let Some((file, found)) = recover(&home, which, &mut log.before_epoch, note)? else { continue };
            if sync {
                file.sync()?; // what was heard from a file must be on the disk
            }
            dropped = found.dropped.filter(|_| which == NEWEST);
            let Some(first) = found.first else { continue }; // it gives way to the next file
            if !before.precedes(first) {
                log.hole_after = before;
            }
            oldest = oldest.or(found.first);
            let output = Appender::new(file, found.good);
            log.add_part(before, Some(output.file.clone()), u64::MAX);
            log.grow(found.good - found.head);
            newest = Some(output).filter(|_| which == NEWEST);
        }
        // What the newest file says was dropped, if that fits what is there; files may have been taken away.
        let fits = |id: &Id| oldest.is_none_or(|oldest| id.precedes(oldest));
        let kept = dropped.filter(fits).or(oldest.map(preceding)).unwrap_or_default();
        if let Some(front) = log.parts.front_mut() {
            front.before = kept;
        }
        log.before_epoch = log.before_epoch.max(kept);
        log.written.id.epoch = epoch.max(log.before_epoch.epoch.saturating_add(1));
        log.heard = log.written;
        if sync {
            dir.sync()?;
        }
        let writer = Writer::new(home, log.limit, sync, newest);
        Ok((log, writer))
    }

    /// Where the next events are appended.
    pub fn tail(&self) -> Tail {
        let newest = self.parts.back();
        Tail {
            written: self.written,
            last: self.last(),
            newest: newest.map_or(0, |part| part.len),
            before: newest.map(|part| part.before).unwrap_or_default(),
            rollback: self.rollback.clone(),
        }
    }

    /// The id of the last event, of whatever epoch.
    fn last(&self) -> Id {
        let begins = self.ids == Ids::Counted && self.written.id.seq == 0;
        if begins { self.before_epoch } else { self.written.id }
    }

    /// Whether there is no event in it.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// All events after this one are kept.
    pub fn kept_after(&self) -> Id {
        self.parts.front().map_or(self.before_epoch, |part| part.before)
    }

    /// How many bytes certainly stay when the next ones come, unless these are more than this themselves.
    pub fn slack(&self) -> u64 {
        self.limit / 4
    }

    /// Takes over a block that was written, whose last event has this id; a gap leaves the id as it is. `begun`: it is the
    /// first of a new file. `listened`: there are readers. Drops what is over the limit.
    ///
    /// Returns what it has dropped. To close a file may take long.
    pub fn commit(&mut self, block: &[u8], last: Id, new_part: Option<NewPart>, listened: bool) -> Vec<Part> {
        // Without readers nobody stands there any more.
        let mut dropped = if listened { Vec::new() } else { self.hold_parts(Vec::new()) };
        if let Some(NewPart { file, keep_before }) = new_part.or_else(|| self.next_part(block.len())) {
            dropped.extend(self.add_part(self.last(), file, keep_before));
        }
        self.grow(block.len() as u64);
        self.written.id = last;
        match self.parts.back_mut() {
            Some(Part { file: None, memory, .. }) => memory.extend_from_slice(block),
            _ if listened => self.keep_recent(block),
            _ => self.recent = Vec::new(),
        }
        dropped
    }

    /// Whether so many bytes more begin the next part in memory.
    fn next_part(&self, len: usize) -> Option<NewPart> {
        let fits = |part: &Part| part.file.is_some() || part.memory.len() + len <= self.part_limit();
        let keep_before = self.limit.saturating_sub(self.part_limit().max(len) as u64);
        let begins = !self.parts.back().is_some_and(fits);
        begins.then_some(NewPart { file: None, keep_before })
    }

    /// How many bytes a part in memory has, unless one POST has more.
    fn part_limit(&self) -> usize {
        PIECE.min(self.limit as usize / 16)
    }

    /// Keeps in memory what was written to a file.
    fn keep_recent(&mut self, block: &[u8]) {
        let room = MAX_RECENT.saturating_sub(block.len());
        if self.recent.len() > room {
            // No more than half of it stays, so that this is not done each time.
            self.recent.drain(..self.recent.len() - room / 2);
        }
        self.recent.extend_from_slice(block);
    }

    /// Drops the oldest part; returns it, unless it is held. Limit: so many bytes more as the log keeps.
    fn drop_part(&mut self) -> Option<Part> {
        let part = self.parts.pop_front()?;
        let bytes: u64 = self.held_parts.iter().map(|part| part.len).sum();
        if bytes + part.len > self.limit || !part.has_any(&self.held) {
            return Some(part);
        }
        self.held_parts.push(part);
        None
    }

    /// The parts of these positions are held: they can be read, even if they are dropped. Returns those that no longer are.
    pub fn hold_parts(&mut self, held: Vec<u64>) -> Vec<Part> {
        self.held = held;
        self.held_parts.extract_if(.., |part| !part.has_any(&self.held)).collect()
    }

    /// Where the oldest byte stands that is kept.
    pub fn start(&self) -> u64 {
        self.parts.front().map_or(self.heard.pos, |part| part.start)
    }

    /// The newest file.
    fn file(&self) -> Option<&Arc<LogFile>> {
        self.parts.back()?.file.as_ref()
    }

    /// Adds a part without events; so many bytes of what is in front of it stay. Returns what it has dropped.
    fn add_part(&mut self, before: Id, file: Option<Arc<LogFile>>, stays: u64) -> Vec<Part> {
        let start = self.written.pos;
        let mut dropped = Vec::new();
        while self.parts.front().is_some_and(|part| start - part.start > stays) {
            dropped.extend(self.drop_part());
        }
        // Its memory serves this one, so a flood does not make the process grow.
        let mut memory = dropped.last_mut().map(|part| take(&mut part.memory)).unwrap_or_default();
        memory.clear();
        memory.shrink_to(self.part_limit());
        self.parts.push_back(Part { start, len: 0, before, file, memory });
        dropped
    }

    /// So many bytes more are in the newest part.
    fn grow(&mut self, len: u64) {
        if let Some(part) = self.parts.back_mut() {
            part.len += len;
        }
        self.written.pos += len;
    }

    /// What has to be on the disk until everything written may be heard.
    pub fn unsynced(&self) -> (Boundary, Option<Arc<LogFile>>) {
        (self.written, self.file().cloned())
    }

    /// What was written up to here may be heard.
    pub fn set_heard(&mut self, mark: Boundary) {
        self.heard = mark;
    }

    /// Takes back everything that nobody has heard: the kernel has forgotten what it could not write, so a second try would
    /// succeed without it. Who has written it finds out by [`Tail::check_rollback`].
    pub fn roll_back(&mut self, why: ErrorKind) {
        self.drop_unheard();
        let _ = take(&mut self.rollback).set((self.heard.pos, why));
    }

    /// Forgets everything that nobody has heard.
    fn drop_unheard(&mut self) {
        let unheard = self.written.pos - self.heard.pos;
        if let Some(part) = self.parts.back_mut() {
            part.len = part.len.saturating_sub(unheard);
        }
        self.recent.truncate(self.recent.len().saturating_sub(unheard as usize));
        self.written = self.heard;
    }

    /// All readers that keep up were given what is in front of this position.
    pub fn delivered_up_to(&mut self, pos: u64) {
        if pos >= self.written.pos {
            self.recent = Vec::new();
        }
    }

    /// From here on the bytes are in memory.
    pub fn memory_start(&self) -> u64 {
        self.file().map_or(0, |_| self.written.pos - self.recent.len() as u64)
    }

    /// A copy for those who may wait for the disk, if the log is in files.
    pub fn disk_view(&self) -> Option<Log> {
        let mut log = self.file().map(|_| self.clone())?;
        log.drop_unheard(); // what is not heard may be cut off meanwhile
        Some(log)
    }

    /// Notes where it could not be read back. Returns whether that is new.
    pub fn mark_unreadable(&mut self, pos: u64) -> bool {
        let new = !self.is_unreadable();
        self.unreadable_before = self.unreadable_before.max(pos + 1);
        new
    }

    /// Whether it could not be read back, at a place that is still kept.
    pub fn is_unreadable(&self) -> bool {
        self.start() < self.unreadable_before
    }

    /// Appends bytes from `pos` on to `out`: at most [`PIECE`], and none if `pos` is the end of what may be heard. What is
    /// not in memory is returned as a stretch of a file.
    ///
    /// # Errors
    /// [`Trimmed`] if the byte at `pos` is no longer there.
    pub fn read(&self, pos: u64, out: &mut Vec<u8>) -> Result<Option<FileRange>, Trimmed> {
        if pos >= self.heard.pos {
            return Ok(None);
        }
        let kept = self.parts.get(self.index(pos)).filter(|part| part.start <= pos);
        let held = || self.held_parts.iter().find(|part| part.has_any(&[pos]));
        let part = kept.or_else(held).ok_or(Trimmed)?;
        let len = (part.end().min(self.heard.pos) - pos).min(PIECE as u64) as usize;
        let (bytes, from) = match &part.file {
            Some(file) if pos < self.memory_start() => {
                return Ok(Some(FileRange { file: file.clone(), offset: file.head + pos - part.start, len }));
            }
            Some(_) => (&self.recent, self.memory_start()),
            None => (&part.memory, part.start),
        };
        let from = (pos - from) as usize;
        out.extend_from_slice(bytes.get(from..from + len).ok_or(Trimmed)?);
        Ok(None)
    }

    /// The index of the part that has this position, unless it is in front of all.
    fn index(&self, pos: u64) -> usize {
        self.parts.partition_point(|part| part.end() <= pos)
    }

    /// The place for a reader, with what it may have missed. "After" an id is the first event with a greater one.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn find_start(&self, since: &Since) -> io::Result<Start> {
        let asked = match since {
            Since::Now => return Ok(Start { pos: self.heard.pos, id: self.heard.id, gap: None }),
            Since::All => None,
            Since::After(text) => Id::parse(text),
        };
        self.parts.iter().try_for_each(Part::check)?;
        let counted = self.ids == Ids::Counted;
        let kept = self.kept_after();
        // Counted ids of one epoch have no steps, so within it the loss is known.
        let lost = |to: Id| {
            let asked = asked.filter(|asked| counted && asked.epoch == to.epoch)?;
            to.seq.checked_sub(asked.seq)
        };
        // Ids that are given never go back: what is above all that are there was heard, and has been lost.
        if let Some(asked) = asked.filter(|id| kept <= *id && (!counted || *id <= self.heard.id)) {
            let Boundary { pos, id } = self.last_up_to(asked)?;
            let next = self.id_at(pos)?;
            // Between counted ids that are there, some can be missing that a power cut took.
            let is_whole = match self.ids {
                Ids::Given => id == asked,
                Ids::Counted if id != asked && asked.seq > 0 => false,
                Ids::Counted => self.hole_after <= asked && next.is_none_or(|next| id.precedes(next)),
            };
            let lost = next.filter(|_| self.hole_after <= asked).and_then(|next| lost(preceding(next)));
            let gap = if is_whole { None } else { Some(Gap { from: next, lost }) };
            return Ok(Start { pos, id: asked, gap });
        }
        let pos = self.start();
        let next = self.id_at(pos)?;
        let id = match next {
            None => self.heard.id,
            Some(next) if counted => preceding(next),
            Some(_) => kept,
        };
        let gap = if *since == Since::All { None } else { Some(Gap { from: next, lost: lost(kept) }) };
        Ok(Start { pos, id, gap })
    }

    /// The id of the event at this position, which is between two events; none at the end.
    fn id_at(&self, pos: u64) -> io::Result<Option<Id>> {
        if pos >= self.heard.pos {
            return Ok(None);
        }
        let next = self.block_end_after(pos)?.map(|mark| mark.id);
        if self.file().is_some() && next.is_none_or(|next| next > self.written.id) {
            return Err(shortened_error());
        }
        Ok(next)
    }

    /// The end of the first event that ends behind `pos`, and its id.
    fn block_end_after(&self, pos: u64) -> io::Result<Option<Boundary>> {
        // A part may have only gaps there.
        self.parts.iter().skip(self.index(pos)).find_map(|part| part.block_end_after(pos).transpose()).transpose()
    }

    /// The end of the last event whose id is not greater than this one, which is among the kept. What is above all of them
    /// comes behind gaps that follow the last one, too.
    fn last_up_to(&self, asked: Id) -> io::Result<Boundary> {
        let front = self.parts.front().filter(|_| asked <= self.heard.id);
        let Some(front) = front else { return Ok(self.heard) };
        let mut found = Boundary { pos: front.start, id: front.before };
        let mut end = self.heard.pos;
        while found.pos < end {
            let middle = found.pos + (end - found.pos) / 2;
            match self.block_end_after(middle)? {
                Some(mark) if mark.id <= asked => found = mark,
                _ => end = middle, // the block in the middle begins there or before
            }
        }
        Ok(found)
    }
}
