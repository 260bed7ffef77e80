//! The ids of events. Pure.

use std::fmt;

/// The id of an event, `EPOCH-SEQ`. Ids only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// The time in milliseconds since 1970 at which the log was opened, or more, so that epochs only grow. The ids of a
    /// remote log may have other numbers.
    pub epoch: u64,
    /// The number of the event within its epoch. It starts at 1 and grows by one; 0 means "before the first event".
    pub seq: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl Id {
    /// Parses an id. Accepts only the form that `Display` writes: two decimal numbers without sign or leading zeros.
    pub fn parse(text: &str) -> Option<Id> {
        let (epoch, seq) = text.split_once('-')?;
        let id = Id { epoch: epoch.parse().ok()?, seq: seq.parse().ok()? };
        (id.to_string() == text).then_some(id)
    }

    /// Parses an `id` line of an event stream. `line` comes without its line end.
    pub fn from_line(line: &[u8]) -> Option<Id> {
        Id::parse(str::from_utf8(line.strip_prefix(b"id: ")?).ok()?)
    }

    /// Returns the id that comes this many events later in the same epoch.
    pub fn plus(self, events: u64) -> Id {
        Id { seq: self.seq.saturating_add(events), ..self }
    }

    /// Returns whether `next` can be the id of the next event: the following number of this epoch, or 1 in a later
    /// epoch.
    pub fn precedes(self, next: Id) -> bool {
        next == self.plus(1) || (next.epoch > self.epoch && next.seq == 1)
    }
}
