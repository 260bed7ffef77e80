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
//! Limits: those of the log. Deliberately absent: positions and readers; `log.rs` has them.

use crate::disk::{Dir, LogFile, Output};
use crate::id::Id;
use crate::recovery;
use std::io;
use std::sync::Arc;

/// The newest events of a log, as a writer has to know them.
#[derive(Debug, Clone, Copy)]
pub struct Newest {
    /// Bytes of events in the newest file.
    pub len: u64,
    /// The id before its first event.
    pub before: Id,
}

/// A file that was begun.
#[derive(Debug)]
pub struct Begun {
    /// The file.
    pub file: Arc<LogFile>,
    /// Whether the one before it stays.
    pub stays: bool,
}

/// A channel's files, as who appends has them. By default there are none: the log is in memory.
#[derive(Debug, Default)]
pub struct Writer {
    /// Memory for the block that is being written.
    pub block: Vec<u8>,
    /// The files.
    pub files: Option<Files>,
}

/// What a log with files has beside them.
#[derive(Debug)]
pub struct Files {
    /// Where they are.
    pub dir: Arc<Dir>,
    /// The channel's name.
    pub name: String,
    /// `--sync`.
    pub sync: bool,
    /// The history.
    pub limit: u64,
    /// The next event has to be on the disk before it is heard, for it is the first of an epoch, or takes an id that an
    /// event had which was taken back.
    pub fresh: bool,
    /// The newest file is `NAME.old.sse`.
    pub retired: bool,
    /// The newest file.
    pub output: Option<Output>,
}

impl Files {
    /// The files of a channel, which has none yet.
    pub fn new(dir: &Arc<Dir>, name: &str, limit: u64, sync: bool) -> Files {
        Files { dir: dir.clone(), name: name.into(), sync, limit, fresh: true, retired: false, output: None }
    }

    /// Cuts off what was taken back, or a write has left behind that failed.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn mend(&mut self, newest: Option<Newest>) -> io::Result<()> {
        if let (Some(output), Some(newest)) = (&mut self.output, newest) {
            self.fresh |= output.cut(output.file.head + newest.len)?;
        }
        Ok(())
    }

    /// Whether a block of so many bytes goes into the newest file.
    pub fn fits(&self, newest: Option<Newest>, len: u64) -> bool {
        let small = |newest: Newest| newest.len == 0 || newest.len + len <= self.limit / 2;
        !self.retired && self.output.is_some() && newest.is_some_and(small)
    }

    /// Appends to the newest file; with `settle` it is on the disk then, with the names of the files.
    ///
    /// # Errors
    /// If the disk fails; see [`Output::append`].
    pub fn append(&mut self, block: &[u8], settle: bool) -> io::Result<()> {
        let Some(output) = &mut self.output else { return Ok(()) };
        output.append(block)?;
        if settle {
            output.file.sync()?;
            self.dir.sync()?;
            self.fresh = false;
        }
        Ok(())
    }

    /// Begins the next file with a block; `last` is the id before it. Returns the file as soon as it has its place, also
    /// if its name is not on the disk: then the block is not in it.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin(&mut self, newest: Option<Newest>, last: Id, block: &[u8]) -> (Option<Begun>, io::Result<()>) {
        let room = self.limit.saturating_sub((self.limit / 2).max(block.len() as u64));
        let stays = newest.filter(|newest| newest.len <= room);
        let head = recovery::head(stays.map_or(last, |newest| newest.before));
        let mut output = match self.place(&head, block) {
            Ok(output) => output,
            Err(e) => {
                self.dir.discard(&self.name);
                return (None, Err(e));
            }
        };
        let done = self.dir.sync();
        match &done {
            Ok(()) if newest.is_some() && stays.is_none() => drop(self.dir.remove_old(&self.name)),
            Ok(()) => {}
            Err(_) => drop(output.cut(head.len() as u64)), // else before the next append
        }
        self.fresh = done.is_err();
        let begun = Begun { file: output.file.clone(), stays: stays.is_some() };
        self.output = Some(output);
        (Some(begun), done)
    }

    /// Makes the next file, and puts it into its place.
    fn place(&mut self, head: &str, block: &[u8]) -> io::Result<Output> {
        let next = self.dir.create(&self.name, head.as_bytes(), block)?;
        if let Some(output) = self.output.as_ref().filter(|_| !self.retired) {
            output.file.sync()?;
            self.dir.retire(&self.name)?;
            self.retired = true;
            self.dir.sync()?;
        }
        self.dir.place(&self.name)?;
        self.retired = false;
        Ok(next)
    }
}
