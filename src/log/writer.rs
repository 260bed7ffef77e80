//! What appends to a channel's files, one publisher at a time. It waits for the disk, and holds no lock but its own.
//!
//! A block goes behind the newest file's events by one write. If that file has half of the history already, the block
//! begins the next one, in steps, each of which is on the disk before the next begins:
//!
//! 1. the next file, complete, under the name `.NAME.new`; and the newest one's last events;
//! 2. the newest becomes the older part, `NAME.old.sse`, in place of the one that there was;
//! 3. the next file becomes `NAME.sse`; an older part that leaves no room for it goes.
//!
//! So whatever a power cut takes, what was kept before is still there under one of the two names, and the block is
//! either there as a whole or not at all.
//!
//! Limits: those of the log. Deliberately absent: positions and readers; `positions.rs` has them.

use crate::log::disk::{Appender, ChannelFiles, LogFile, NEWEST, NEXT, OLD};
use crate::log::part::Boundary;
use crate::log::recovery;
use crate::wire::event;
use crate::wire::id::Id;
use std::io::{self, ErrorKind};
use std::sync::{Arc, OnceLock};

/// To which position what was not yet heard was taken back, and why; set when that happens.
pub type Rollback = Arc<OnceLock<(u64, ErrorKind)>>;

/// The end of a log, for those who append to it.
pub struct Tail {
    /// The end of what was appended.
    pub written: Boundary,
    /// The id of the last event, of whatever epoch.
    pub last: Id,
    /// Bytes of events in the newest part; 0 if there are none.
    pub newest: u64,
    /// The id before the first of them.
    pub before: Id,
    /// The first time from here on. What is still there after it was heard, and keep_before.
    pub rollback: Rollback,
}

impl Tail {
    /// Makes sure that so many bytes behind it, which were appended, were not taken back.
    ///
    /// # Errors
    /// Of the kind that made it necessary.
    pub fn check_rollback(&self, len: u64) -> io::Result<()> {
        match self.rollback.get() {
            Some((pos, why)) if *pos < self.written.pos + len => Err((*why).into()),
            _ => Ok(()),
        }
    }
}

/// What begins the next part of a log.
pub struct NewPart {
    /// Its file; none if it is in memory.
    pub file: Option<Arc<LogFile>>,
    /// How many bytes of events before it stay.
    pub keep_before: u64,
}

/// A channel's files, as who appends has them. By default there are none: the log is in memory.
#[derive(Default)]
pub struct Writer {
    /// Memory for the block that is being written.
    pub block: Vec<u8>,
    files: Option<Files>,
}

struct Files {
    files: ChannelFiles,
    sync: bool,  // --sync
    limit: u64,  // the history
    fresh: bool, // the next event is the first of an epoch
    // What others wrote to the newest file, or this process without a sync, may be lost although a later sync succeeds: the
    // kernel forgets what it could not write. Behind such a hole the first event of an epoch would not be found.
    unreliable: bool,
    newest: Option<Appender>, // of NAME.sse, if it has the newest events
}

impl Writer {
    /// A writer to a channel's files. `output`: the end of its file, unless its newest events are in the older part.
    pub fn new(home: ChannelFiles, limit: u64, sync: bool, output: Option<Appender>) -> Writer {
        let files = Files { files: home, sync, limit, fresh: true, unreliable: false, newest: output };
        Writer { block: Vec::new(), files: Some(files) }
    }

    /// Whether an event is heard only once it is on the disk.
    pub fn syncs(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.sync)
    }

    /// Cuts off what was taken back, or a write has left behind that failed.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn mend(&mut self, newest: u64) -> io::Result<()> {
        match &mut self.files {
            Some(Files { newest: Some(output), unreliable: spoiled, sync, .. }) => {
                output.cut(output.file.head + newest).inspect_err(|_| *spoiled = !*sync)
            }
            _ => Ok(()),
        }
    }

    /// Seals the block, if it is for a file. Returns whether it has to be on the disk before anything else is written.
    pub fn seal(&mut self, events: usize, newest: u64) -> bool {
        let Some(files) = &self.files else { return false };
        event::seal(events, &mut self.block);
        files.fresh || !files.fits(newest, self.block.len() as u64)
    }

    /// Writes the block behind the log's end; with `settle` it is on the disk then, with the names of the files. Returns
    /// the file that had to be begun for it.
    ///
    /// # Errors
    /// If the disk fails; see [`Appender::append`]. The log is as before then.
    pub fn write(&mut self, end: &Tail, durable: bool) -> io::Result<Option<NewPart>> {
        let Some(files) = &mut self.files else { return Ok(None) };
        let fits = files.fits(end.newest, self.block.len() as u64);
        let begun = match &mut files.newest {
            Some(output) if fits => {
                output.append(&self.block)?;
                if durable {
                    files.unreliable = !files.sync; // until it has succeeded
                    output.file.sync()?;
                    files.files.dir.sync()?;
                }
                None
            }
            _ => Some(files.begin(end, &self.block)?),
        };
        if durable {
            files.fresh = false;
            files.unreliable = false;
        }
        Ok(begun)
    }
}

impl Files {
    fn fits(&self, newest: u64, len: u64) -> bool {
        !self.unreliable && self.newest.is_some() && newest + len <= self.limit / 2
    }

    /// Begins the next file with a block. If that fails, it has no event, and gives way to the next one.
    fn begin(&mut self, end: &Tail, block: &[u8]) -> io::Result<NewPart> {
        let room = self.limit.saturating_sub((self.limit / 2).max(block.len() as u64));
        let keep_before = if end.newest <= room { end.newest } else { 0 };
        let head = recovery::head(if keep_before > 0 { end.before } else { end.last });
        let mut next = self.files.create(head.as_bytes(), block)?;
        self.place(end).inspect_err(|_| {
            let _ = next.cut(next.file.head);
            let _ = self.files.remove(NEXT);
        })?;
        if end.newest > keep_before {
            let _ = self.files.remove(OLD);
        }
        let file = Some(next.file.clone());
        self.newest = Some(next);
        Ok(NewPart { file, keep_before })
    }

    /// Puts the next file into its place.
    fn place(&mut self, end: &Tail) -> io::Result<()> {
        if let Some(output) = &self.newest {
            output.file.sync()?;
            self.files.rename(NEWEST, OLD)?;
            self.newest = None;
        }
        if end.newest > 0 {
            self.files.dir.sync()?;
        }
        self.files.rename(NEXT, NEWEST)?;
        self.files.dir.sync()
    }
}
