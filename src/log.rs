//! The append-only log of one channel: the bytes of its events, exactly as they go over the wire.
//!
//! Everything a reader is given is a copy of a range of this log. A *position* counts bytes since the log was opened;
//! positions only grow and are never used twice, so a reader's place stays true when older events are dropped.
//!
//! The bytes lie in parts of a sixteenth of the limit, or [`PIECE`] where that is less. An event never spans two parts, and the oldest part is
//! dropped whole. There is no index beside them: the only blank line of an event is its end (`event.rs`), so counting
//! blank lines from a part's first id finds any event.
//!
//! Limits: the bytes kept are at most the limit given (the newest event is kept even where it alone is larger).
//! Deliberately absent: who reads, and when.

use std::collections::VecDeque;
use std::fmt;

/// Limit: the bytes that one [`Log::read`] copies.
pub const PIECE: usize = 64 << 10;

/// An event's id, `EPOCH-SEQ`: the millisecond in which the log was opened, and a number that grows by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Milliseconds since 1970, made unique by whoever opens the log.
    pub epoch: u64,
    /// Starts at 1; 0 is the place before the first event.
    pub seq: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl Id {
    /// Reads an id in exactly the form in which it is written: two decimal numbers, no sign, no leading zero.
    pub fn parse(text: &str) -> Option<Id> {
        let (epoch, seq) = text.split_once('-')?;
        let id = Id { epoch: epoch.parse().ok()?, seq: seq.parse().ok()? };
        (id.to_string() == text).then_some(id)
    }
}

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

/// The log was asked for bytes that it no longer keeps.
#[derive(Debug, PartialEq, Eq)]
pub struct Trimmed;

#[derive(Debug)]
struct Part {
    start: u64,  // position of its first byte
    before: u64, // SEQ of the event before its first
    bytes: Vec<u8>,
}

/// The events of one channel, newest last.
#[derive(Debug)]
pub struct Log {
    epoch: u64,
    seq: u64, // of the newest event
    end: u64, // position behind the newest event
    limit: usize,
    parts: VecDeque<Part>,
    block: Vec<u8>, // the event being written
}

impl Log {
    /// An empty log that keeps `limit` bytes. No two logs of a channel may have the same epoch.
    pub fn new(epoch: u64, limit: usize) -> Log {
        Log { epoch, seq: 0, end: 0, limit, parts: VecDeque::new(), block: Vec::new() }
    }

    /// The position behind the newest event.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The id of the newest event, `EPOCH-0` where there was none.
    pub fn last(&self) -> Id {
        self.id(self.seq)
    }

    fn id(&self, seq: u64) -> Id {
        Id { epoch: self.epoch, seq }
    }

    /// Gives the next id to `write`, which appends one event with its blank line. Drops what is over the limit.
    pub fn append(&mut self, write: impl FnOnce(Id, &mut Vec<u8>)) -> Id {
        let id = self.id(self.seq.saturating_add(1));
        write(id, &mut self.block);
        let part_limit = (self.limit / 16).min(PIECE);
        let fits = |p: &Part| p.bytes.len() + self.block.len() <= part_limit;
        if !self.parts.back().is_some_and(fits) {
            let mut bytes = Vec::new();
            let room = part_limit.max(self.block.len()) as u64;
            while self.parts.front().is_some_and(|p| self.end - p.start + room > self.limit as u64) {
                // Its memory serves the next part, so a flood does not make the process grow.
                bytes = self.parts.pop_front().map(|p| p.bytes).unwrap_or_default();
                bytes.clear();
                bytes.shrink_to(part_limit);
            }
            self.parts.push_back(Part { start: self.end, before: self.seq, bytes });
        }
        if let Some(part) = self.parts.back_mut() {
            part.bytes.extend_from_slice(&self.block);
        }
        self.end += self.block.len() as u64;
        self.block.clear();
        self.block.shrink_to(part_limit);
        self.seq = id.seq;
        id
    }

    /// Copies bytes from `pos` on into `out`: at most [`PIECE`], and none where `pos` is the end.
    ///
    /// # Errors
    /// [`Trimmed`] where the byte at `pos` is no longer kept.
    pub fn read(&self, pos: u64, out: &mut Vec<u8>) -> Result<(), Trimmed> {
        out.clear();
        if pos >= self.end {
            return Ok(());
        }
        let part = self.part(|p| p.start <= pos).ok_or(Trimmed)?;
        let from = usize::try_from(pos - part.start).unwrap_or(usize::MAX);
        let bytes = part.bytes.get(from..).unwrap_or_default();
        out.extend_from_slice(bytes.get(..PIECE).unwrap_or(bytes));
        Ok(())
    }

    /// The place for a reader, with what it may have missed. "After" an id is the first event with a greater one.
    pub fn find(&self, from: &From) -> Place {
        let now = Place { pos: self.end, id: self.last(), gap: None };
        let front = self.parts.front();
        let kept = self.id(front.map_or(self.seq, |p| p.before)); // all events after this one are kept
        let all = Place { pos: front.map_or(self.end, |p| p.start), id: kept, gap: None };
        let asked = match from {
            From::Now => return now,
            From::All => return all,
            From::After(text) => Id::parse(text),
        };
        match asked {
            Some(id) if kept <= id && id <= self.last() => Place { pos: self.after(id.seq), id, gap: None },
            _ => {
                let from = front.map(|_| self.id(kept.seq.saturating_add(1)));
                // Ids of one epoch are contiguous, so within it the loss can be counted.
                let lost = asked.filter(|a| a.epoch == self.epoch).and_then(|a| kept.seq.checked_sub(a.seq));
                Place { gap: Some(Gap { from, lost }), ..all }
            }
        }
    }

    /// The last part for which `test` holds; it holds for the parts up to some one.
    fn part(&self, test: impl Fn(&Part) -> bool) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(test).checked_sub(1)?)
    }

    /// The position behind the event with this SEQ, which is kept or just before the kept ones.
    fn after(&self, seq: u64) -> u64 {
        let Some(part) = self.part(|p| p.before <= seq) else { return self.end };
        let mut ends = part.bytes.windows(2).enumerate().filter(|(_, w)| w == b"\n\n").map(|(i, _)| i as u64 + 2);
        let skip = seq - part.before;
        part.start + if skip == 0 { 0 } else { ends.nth(skip as usize - 1).unwrap_or(part.bytes.len() as u64) }
    }
}
