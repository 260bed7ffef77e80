//! An event's id, as the log gives it out. Pure.

use std::fmt;

/// An event's id, `EPOCH-SEQ`: the millisecond in which the log was opened, and a number that grows by one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Milliseconds since 1970, made unique by whoever opens the log.
    pub epoch: u64,
    /// Starts at 1; 0 is the place before the first event.
    pub seq: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
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

    /// Reads an `id` line of an event stream, without its end.
    pub fn from_line(line: &[u8]) -> Option<Id> {
        Id::parse(str::from_utf8(line.strip_prefix(b"id: ")?).ok()?)
    }

    /// The id this many events later in its epoch.
    pub fn plus(self, events: u64) -> Id {
        Id { seq: self.seq.saturating_add(events), ..self }
    }

    /// Whether `next` can be the id of the very next event: of the same epoch, or the first of a later one.
    pub fn precedes(self, next: Id) -> bool {
        next == self.plus(1) || (next.epoch > self.epoch && next.seq == 1)
    }
}
