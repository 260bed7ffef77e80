//! The append-only log of one channel: the bytes of its events, exactly as they go over the wire.
//!
//! Subscribers receive copies of ranges of this log. A *position* is a number of bytes: 0 is the oldest byte kept at
//! the start. Positions that may be heard only grow, and none is used twice. So a subscriber's position stays valid
//! when older events are dropped.
//!
//! The bytes are in parts (`part.rs`), in memory or in files (`--data`). What one POST publishes is never split between
//! two parts. The oldest part is dropped as a whole. In memory, a part has at most a sixteenth of the limit, and at
//! most [`PIECE`] or a 256th of it; only a single POST can be larger. If the budget for all logs is small
//! (`memory.rs`), parts are smaller. On disk there are two parts. `NAME.sse` becomes `NAME.old.sse` when it has half of
//! the limit. There is no index: ids only grow, so [`Log::find_start`] searches the bytes themselves by bisection.
//!
//! A log with files knows what is in them, but does not touch them under its lock. `writer.rs` appends, and the
//! publisher then adds the same bytes to the log ([`Log::commit`]). New bytes are kept in memory as well, until all
//! subscribers that keep up have received them, so these subscribers never wait for the disk. Older bytes are read from
//! a [`FileRange`] of a file, without the log.
//!
//! *Written* and *heard*: with `--sync`, an event may be heard only once it is on the disk. Without it, only the first
//! event of a file and the first event of an epoch wait for the disk. So no id is given to two events, whatever a power
//! cut takes.
//!
//! Ids are *counted* by this log, one by one. If the log is a copy of a remote log, ids are *given*: they grow by
//! any amount.
//!
//! Limits: the log keeps at most `limit` bytes, but it keeps the newest POST even if that alone is larger;
//! `MAX_RECENT`. Deliberately absent: which subscribers there are, and when they receive events. Shortcut: if a byte
//! within the data of an event changes, this is not noticed.

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

/// Limit: bytes that one [`Log::read`] copies.
pub const PIECE: usize = 64 << 10;
/// Limit: bytes of a log with files that are kept in memory as well, unless the newest POST alone is larger.
const MAX_RECENT: usize = 64 << 10;

/// Where a client wants to start.
#[derive(PartialEq)]
pub enum Since {
    /// With the next event.
    Now,
    /// With the oldest event kept.
    All,
    /// After the event with this id. The text is as the client sent it.
    After(String),
}

/// Where a client's stream starts.
pub struct Start {
    /// The position of the first byte to send.
    pub pos: u64,
    /// The id of the event before it.
    pub id: Id,
    /// The events that it may have missed.
    pub gap: Option<Gap>,
}

/// Events that a client asked for and cannot receive.
#[derive(Debug, PartialEq)]
pub struct Gap {
    /// The first event after the gap, if there is one.
    pub from: Option<Id>,
    /// The number of these events, if it is known.
    pub lost: Option<u64>,
}

impl Gap {
    /// Returns the event that reports this gap to a client. `asked` is the id after which the client wanted to start.
    pub fn event(&self, asked: &str) -> Event {
        let from = self.from.map_or("null".into(), |id| format!("\"{id}\""));
        let lost = self.lost.map_or("null".into(), |n| n.to_string());
        let data = format!("{{\"asked\":{},\"from\":{from},\"lost\":{lost}}}", event::json(asked));
        Event::gap(data)
    }
}

/// The error for a position whose byte is no longer kept.
#[derive(Debug)]
pub struct Trimmed;

/// Opens a file of a log, and cuts off what a crash has left in it. Returns None if there is no such file.
fn open_part(
    files: &ChannelFiles, name: &str, last: &mut Id, note: &mut dyn FnMut(String),
) -> io::Result<Option<(LogFile, Scan)>> {
    let Some(mut file) = files.open(name)? else { return Ok(None) };
    let scan = file.with_path(recovery::recover(&file.file, last))?;
    file.head_len = scan.head_len;
    if scan.whole_len < scan.len {
        let saved = files.save_cut(&file, scan.whole_len)?;
        file.cut(scan.whole_len)?;
        note(format!("{saved} is a new file: it keeps the bytes that were cut off"));
        let description = match scan.hole {
            true => "a hole that a power cut left was cut off, with what follows it",
            false => "an unfinished event was cut off",
        };
        note(format!("{description}, {} bytes", scan.len - scan.whole_len));
    }
    Ok(Some((file, scan)))
}

/// Where a log's ids come from.
#[derive(Clone, Copy, Default, PartialEq)]
enum Ids {
    /// Counted here. Within an epoch, each id is the next number.
    #[default]
    Counted,
    /// Given by a remote log. They only grow.
    Given,
}

/// Returns the id before this one, for counted ids.
fn preceding(id: Id) -> Id {
    Id { seq: id.seq.saturating_sub(1), ..id }
}

/// The events of one channel, newest last.
#[derive(Clone, Default)]
pub struct Log {
    limit: u64,
    share: u64, // the bytes from which the sizes of parts are derived
    ids: Ids,
    before_epoch: Id, // the id of the last event before this epoch
    hole_after: Id,   // a power cut took events after this id
    /// The end of what was appended.
    pub written: Boundary,
    /// The end of what may be heard.
    pub heard: Boundary,
    rollback: Rollback, // the next one
    parts: VecDeque<Part>,
    held_positions: Vec<u64>, // a part with one of these positions stays readable when it is dropped
    held_parts: Vec<Part>,    // dropped parts that are still readable
    recent: Vec<u8>,          // if the log is in files: the last bytes written
    unreadable_before: u64,   // the greatest position whose byte could not be read, plus 1
}

impl Log {
    /// Returns an empty log in memory that keeps `limit` bytes. No two logs of a channel may have the same epoch.
    pub fn new(epoch: u64, limit: usize) -> Log {
        Log { ids: Ids::Counted, ..Log::copy_of_remote(Id { epoch, seq: 0 }, limit) }
    }

    /// Returns an empty copy of a remote log, for the events after this id.
    pub fn copy_of_remote(start: Id, limit: usize) -> Log {
        let start = Boundary { pos: 0, id: start };
        Log {
            limit: limit as u64,
            share: limit as u64,
            ids: Ids::Given,
            before_epoch: start.id,
            written: start,
            heard: start,
            ..Log::default()
        }
    }

    /// Opens the log of a channel from its files. Returns the log, and what writes to it. Its epoch is at least
    /// `epoch`, and greater than any in the files. What a crash has left unfinished or with holes is cut off, and saved
    /// in a file beside the log. `note` receives lines about this for the operator.
    ///
    /// # Errors
    /// If a file cannot be read, synced or cut, or if it is damaged.
    pub fn open(
        dir: &Arc<Dir>, name: &str, epoch: u64, limit: usize, sync: bool, note: &mut dyn FnMut(String),
    ) -> io::Result<(Log, Writer)> {
        let mut log = Log::new(0, limit.saturating_sub(2 * MAX_HEAD)); // the heads of both files count too
        let files = ChannelFiles { dir: dir.clone(), name: name.into() };
        let mut oldest = None;
        let mut dropped = None;
        let mut newest = None;
        for file_name in [OLD, NEWEST] {
            let before = log.before_epoch;
            let Some((file, scan)) = open_part(&files, file_name, &mut log.before_epoch, note)? else { continue };
            if sync {
                file.sync()?; // what may be heard must be on the disk
            }
            dropped = scan.dropped.filter(|_| file_name == NEWEST);
            let Some(first) = scan.first else { continue }; // a file without events: the next file replaces it
            if !before.precedes(first) {
                log.hole_after = before;
            }
            oldest = oldest.or(scan.first);
            let appender = Appender::new(file, scan.whole_len);
            log.add_part(before, Some(appender.file.clone()), u64::MAX);
            log.grow(scan.whole_len - scan.head_len);
            newest = Some(appender).filter(|_| file_name == NEWEST);
        }
        // The id in the newest file's head counts only if it fits the oldest event. Otherwise files were removed.
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
        let writer = Writer::new(files, log.limit, sync, newest);
        Ok((log, writer))
    }

    /// Returns the end of the log, where the next events are appended.
    pub fn tail(&self) -> Tail {
        let newest = self.parts.back();
        Tail {
            written: self.written,
            last: self.last(),
            newest_len: newest.map_or(0, |part| part.len),
            before_newest: newest.map(|part| part.before).unwrap_or_default(),
            rollback: self.rollback.clone(),
        }
    }

    /// Returns the id of the last event, even if that is of an earlier epoch.
    fn last(&self) -> Id {
        let is_new_epoch = self.ids == Ids::Counted && self.written.id.seq == 0;
        if is_new_epoch { self.before_epoch } else { self.written.id }
    }

    /// Returns whether no event is kept.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Returns the id after which all events are kept.
    pub fn kept_after(&self) -> Id {
        self.parts.front().map_or(self.before_epoch, |part| part.before)
    }

    /// Returns how far the pump may be behind before a publisher waits. A commit of at most this many bytes usually
    /// keeps as many before it. Exceptions: a part with one very large POST, and a new file after a failed sync.
    pub fn slack(&self) -> u64 {
        self.share / 4
    }

    /// Adds a unit that was written. `last_id` is the id of its last event; for a gap, which has no id, it is the last
    /// id so far. `new_part`: the unit begins this part. `has_subscribers`: the unit is kept in memory for them.
    ///
    /// Drops the oldest parts, if the log would be over its limit, and returns them. To close a file may take long, so
    /// the caller does that after it has released the lock of the log.
    pub fn commit(&mut self, unit: &[u8], last_id: Id, new_part: Option<NewPart>, has_subscribers: bool) -> Vec<Part> {
        // Without subscribers, no dropped part has to stay readable.
        let mut dropped = if has_subscribers { Vec::new() } else { self.hold_parts(Vec::new()) };
        if let Some(NewPart { file, keep_before }) = new_part.or_else(|| self.next_part(unit.len())) {
            dropped.extend(self.add_part(self.last(), file, keep_before));
        }
        self.grow(unit.len() as u64);
        self.written.id = last_id;
        let part_limit = self.part_limit();
        let is_alone = self.parts.len() == 1;
        match self.parts.back_mut() {
            Some(Part { file: None, memory, .. }) => {
                if !is_alone {
                    // Parts of the same size leave no small holes in the heap when they are dropped.
                    memory.reserve_exact(part_limit.max(unit.len()).saturating_sub(memory.len()));
                }
                memory.extend_from_slice(unit);
            }
            _ if has_subscribers => self.keep_recent(unit),
            _ => self.recent = Vec::new(),
        }
        dropped
    }

    /// Returns this empty log in memory with smaller parts, if the budget for all logs has only `max` bytes. Then
    /// several logs fit into it, each with many parts.
    pub fn within(self, max: usize) -> Log {
        Log { share: self.limit.min(max as u64 / 64), ..self }
    }

    /// Returns the bytes of memory that the log takes. Those in files do not count.
    pub fn memory(&self) -> usize {
        self.parts.iter().chain(&self.held_parts).map(|part| part.memory.capacity()).sum()
    }

    fn held_bytes(&self) -> u64 {
        self.held_parts.iter().map(|part| part.len).sum()
    }

    /// Drops the oldest part of a log in memory, even if that is the only one, and the parts that should stay readable.
    pub fn give_way(&mut self) {
        self.held_parts.clear();
        self.parts.pop_front();
        if self.parts.is_empty() {
            self.add_part(self.last(), None, 0); // it has the id after which events are kept
        }
    }

    /// Returns the next part, if `len` bytes more need one. It is in memory.
    fn next_part(&self, len: usize) -> Option<NewPart> {
        let fits = |part: &Part| part.file.is_some() || part.memory.len() + len <= self.part_limit();
        let keep_before = self.limit.saturating_sub(self.part_limit().max(len) as u64);
        let is_needed = !self.parts.back().is_some_and(fits);
        is_needed.then_some(NewPart { file: None, keep_before })
    }

    /// Returns the size of a part in memory. Only a part with a single larger POST exceeds it. A log has at most 256
    /// full parts.
    fn part_limit(&self) -> usize {
        let share = self.share as usize;
        PIECE.max(share / 256).min(share / 16)
    }

    /// Keeps in memory what was also written to a file.
    fn keep_recent(&mut self, unit: &[u8]) {
        let room = MAX_RECENT.saturating_sub(unit.len());
        if self.recent.len() > room {
            // Keeps at most half of the room, so that the bytes are not moved at every call.
            self.recent.drain(..self.recent.len() - room / 2);
        }
        self.recent.extend_from_slice(unit);
    }

    /// Drops the oldest part. Returns it, unless it has to stay readable. Limit: such parts have at most as many bytes
    /// as the log keeps.
    fn drop_part(&mut self) -> Option<Part> {
        let part = self.parts.pop_front()?;
        if self.held_bytes() + part.len > self.limit || !part.has_any(&self.held_positions) {
            return Some(part);
        }
        self.held_parts.push(part);
        None
    }

    /// Keeps the parts with these positions readable, even when they are dropped. Returns the dropped parts that no
    /// longer have to be.
    pub fn hold_parts(&mut self, positions: Vec<u64>) -> Vec<Part> {
        self.held_positions = positions;
        self.held_parts.extract_if(.., |part| !part.has_any(&self.held_positions)).collect()
    }

    /// Returns the position of the oldest byte kept.
    pub fn start(&self) -> u64 {
        self.parts.front().map_or(self.heard.pos, |part| part.start)
    }

    /// Returns the newest part's file.
    fn file(&self) -> Option<&Arc<LogFile>> {
        self.parts.back()?.file.as_ref()
    }

    /// Adds an empty part, and drops the oldest parts until at most `keep_before` bytes precede it. Returns these.
    fn add_part(&mut self, before: Id, file: Option<Arc<LogFile>>, keep_before: u64) -> Vec<Part> {
        let start = self.written.pos;
        let mut dropped = Vec::new();
        while self.parts.front().is_some_and(|part| start - part.start > keep_before) {
            dropped.extend(self.drop_part());
        }
        // The new part uses the memory of a dropped one, so that a flood does not make the process grow.
        let mut memory = dropped.last_mut().map(|part| take(&mut part.memory)).unwrap_or_default();
        memory.clear();
        memory.shrink_to(self.part_limit());
        self.parts.push_back(Part { start, len: 0, before, file, memory });
        dropped
    }

    /// Adds `len` bytes to the newest part.
    fn grow(&mut self, len: u64) {
        if let Some(part) = self.parts.back_mut() {
            part.len += len;
        }
        self.written.pos += len;
    }

    /// Returns the end of what was written, and the file that has to be synced before all of that may be heard.
    pub fn unsynced(&self) -> (Boundary, Option<Arc<LogFile>>) {
        (self.written, self.file().cloned())
    }

    /// Lets everything up to this boundary be heard.
    pub fn set_heard(&mut self, boundary: Boundary) {
        self.heard = boundary;
    }

    /// Removes everything that may not yet be heard, after a sync has failed. A second sync would succeed without those
    /// bytes, because the kernel has forgotten what it could not write. The publishers notice by
    /// [`Tail::check_rollback`].
    pub fn roll_back(&mut self, why: ErrorKind) {
        self.drop_unheard();
        let _ = take(&mut self.rollback).set((self.heard.pos, why));
    }

    /// Removes everything that may not yet be heard.
    fn drop_unheard(&mut self) {
        let unheard = self.written.pos - self.heard.pos;
        if let Some(part) = self.parts.back_mut() {
            part.len = part.len.saturating_sub(unheard);
        }
        self.recent.truncate((self.recent.len() as u64).saturating_sub(unheard) as usize);
        self.written = self.heard;
    }

    /// Notes that all subscribers that keep up have received everything before this position.
    pub fn delivered_up_to(&mut self, pos: u64) {
        if pos >= self.written.pos {
            self.recent = Vec::new();
        }
    }

    /// Returns the position from which on all bytes are in memory.
    pub fn memory_start(&self) -> u64 {
        self.file().map_or(0, |_| self.written.pos - self.recent.len() as u64)
    }

    /// Returns a copy for a thread that may wait for the disk. Returns None if the log is in memory.
    pub fn disk_view(&self) -> Option<Log> {
        let mut log = self.file().map(|_| self.clone())?;
        log.drop_unheard(); // those bytes may be cut off the file at any time
        Some(log)
    }

    /// Notes a position whose byte could not be read. Returns whether the log was readable until now.
    pub fn mark_unreadable(&mut self, pos: u64) -> bool {
        let new = !self.is_unreadable();
        self.unreadable_before = self.unreadable_before.max(pos + 1);
        new
    }

    /// Returns whether a byte that is still kept could not be read.
    pub fn is_unreadable(&self) -> bool {
        self.start() < self.unreadable_before
    }

    /// Appends bytes from `pos` on to `out`: at most [`PIECE`], and none if `pos` is the end of what may be heard. If
    /// they are not in memory, it appends none, and returns their range in a file.
    ///
    /// # Errors
    /// [`Trimmed`] if the byte at `pos` is no longer kept.
    pub fn read(&self, pos: u64, out: &mut Vec<u8>) -> Result<Option<FileRange>, Trimmed> {
        if pos >= self.heard.pos {
            return Ok(None);
        }
        let kept = self.parts.get(self.index(pos)).filter(|part| part.start <= pos);
        let held = || self.held_parts.iter().find(|part| part.has_any(&[pos]));
        let part = kept.or_else(held).ok_or(Trimmed)?;
        let len = (part.end().min(self.heard.pos) - pos).min(PIECE as u64) as usize;
        let (bytes, start) = match &part.file {
            Some(file) if pos < self.memory_start() => {
                return Ok(Some(FileRange { file: file.clone(), offset: file.head_len + pos - part.start, len }));
            }
            Some(_) => (&self.recent, self.memory_start()),
            None => (&part.memory, part.start),
        };
        let from = (pos - start) as usize;
        out.extend_from_slice(bytes.get(from..from + len).ok_or(Trimmed)?);
        Ok(None)
    }

    /// Returns the index of the part with this position, or of the first part after it.
    fn index(&self, pos: u64) -> usize {
        self.parts.partition_point(|part| part.end() <= pos)
    }

    /// Returns where a client starts, and what it may have missed. "After" an id means: at the first event with a
    /// greater id.
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
        let kept_after = self.kept_after();
        // Counted ids within an epoch are consecutive, so the number of lost events is known.
        let lost = |to: Id| {
            let asked = asked.filter(|asked| counted && asked.epoch == to.epoch)?;
            to.seq.checked_sub(asked.seq)
        };
        // If `asked` is within the log, its position is searched. Given ids never go back. So if `asked` is above all
        // of them, the log has lost events that the client has received, and the client starts at the end.
        if let Some(asked) = asked.filter(|id| kept_after <= *id && (!counted || *id <= self.heard.id)) {
            let Boundary { pos, id } = self.last_up_to(asked)?;
            let next = self.id_at(pos)?;
            // Even between two counted ids there may be a hole that a power cut left.
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
            Some(_) => kept_after,
        };
        let gap = if *since == Since::All { None } else { Some(Gap { from: next, lost: lost(kept_after) }) };
        Ok(Start { pos, id, gap })
    }

    /// Returns the id of the event that begins at this position, or None at the end.
    fn id_at(&self, pos: u64) -> io::Result<Option<Id>> {
        if pos >= self.heard.pos {
            return Ok(None);
        }
        let next = self.block_end_after(pos)?.map(|boundary| boundary.id);
        if self.file().is_some() && next.is_none_or(|next| next > self.written.id) {
            return Err(shortened_error());
        }
        Ok(next)
    }

    /// Returns the end and the id of the first event that ends after `pos`.
    fn block_end_after(&self, pos: u64) -> io::Result<Option<Boundary>> {
        // A part may have only gaps after `pos`, so later parts are searched too.
        self.parts.iter().skip(self.index(pos)).find_map(|part| part.block_end_after(pos).transpose()).transpose()
    }

    /// Returns the end of the last event whose id is not greater than `asked`, which must not be less than
    /// [`Log::kept_after`]. If `asked` is above all ids, that is the end of the log, after any gaps there.
    fn last_up_to(&self, asked: Id) -> io::Result<Boundary> {
        let front = self.parts.front().filter(|_| asked <= self.heard.id);
        let Some(front) = front else { return Ok(self.heard) };
        let mut found = Boundary { pos: front.start, id: front.before };
        let mut end = self.heard.pos;
        while found.pos < end {
            let middle = found.pos + (end - found.pos) / 2;
            match self.block_end_after(middle)? {
                Some(block_end) if block_end.id <= asked => found = block_end,
                _ => end = middle, // the block with the byte at `middle` begins there or before
            }
        }
        Ok(found)
    }
}
