//! The writer: appends to a channel's files, for one publisher at a time. It may wait for the disk. The only lock that
//! is held meanwhile is its own, `Channel::writer`.
//!
//! A unit (what one POST writes) is appended to the newest file by one write. If the events of that file would then be
//! more than half of the history, the unit begins the next file instead. This takes three steps. Each is on the disk
//! before the next one begins:
//!
//! 1. The next file is written as `.NAME.new`, complete with the unit, and the newest file is synced.
//! 2. The newest file is renamed to `NAME.old.sse`, and so becomes the older part. It replaces the older part before
//!    it.
//! 3. The next file is renamed to `NAME.sse`. If the older part leaves no room for it, the older part is removed.
//!
//! So after a power cut at any time, the events of the newest file are still there, under one of the two names. The
//! unit is there as a whole or not at all.
//!
//! Limits: those of the log. Deliberately absent: positions and subscribers; `positions.rs` has the positions.

use crate::log::disk::{Appender, ChannelFiles, LogFile, NEWEST, NEXT, OLD};
use crate::log::part::Boundary;
use crate::log::recovery;
use crate::wire::event;
use crate::wire::id::Id;
use std::io::{self, ErrorKind};
use std::sync::{Arc, OnceLock};

/// The next rollback of a log: the position to which the log was cut back, and the kind of the error. It is empty until
/// the rollback happens.
pub type Rollback = Arc<OnceLock<(u64, ErrorKind)>>;

/// The end of a log, as a publisher finds it.
pub struct Tail {
    /// The end of what was appended.
    pub written: Boundary,
    /// The id of the last event, even if that is of an earlier epoch.
    pub last: Id,
    /// Bytes of events in the newest part; 0 if there is no part.
    pub newest_len: u64,
    /// The id of the event before the newest part.
    pub before_newest: Id,
    /// The first rollback after this tail was read. Events before its position were heard, and stay.
    pub rollback: Rollback,
}

impl Tail {
    /// Checks that the `len` bytes that were appended after this tail were not rolled back.
    ///
    /// # Errors
    /// If they were: an error of the kind that caused the rollback.
    pub fn check_rollback(&self, len: u64) -> io::Result<()> {
        match self.rollback.get() {
            Some((pos, why)) if *pos < self.written.pos + len => Err((*why).into()),
            _ => Ok(()),
        }
    }
}

/// The beginning of a log's next part.
pub struct NewPart {
    /// Its file. None: the part is in memory.
    pub file: Option<Arc<LogFile>>,
    /// Bytes of earlier events that the log keeps, at most.
    pub keep_before: u64,
}

/// What appends to a channel's log. By default there are no files: the log is in memory.
#[derive(Default)]
pub struct Writer {
    /// The unit that is being written.
    pub unit: Vec<u8>,
    files: Option<Files>,
}

struct Files {
    channel_files: ChannelFiles,
    sync: bool,         // --sync
    limit: u64,         // bytes of events kept (`--history`)
    epoch_begins: bool, // the next event is the first of an epoch
    // A cut or a sync of the newest file has failed, and without `--sync` earlier bytes of the file may not be on the
    // disk either. The kernel has forgotten what it could not write, so a later sync succeeds, but leaves a hole.
    // Recovery would cut off what follows the hole, perhaps the first event of an epoch. So the next unit begins a new
    // file.
    unreliable: bool,
    newest: Option<Appender>, // the end of `NAME.sse`; None if there is no such file, or no event in it
}

impl Writer {
    /// Returns a writer to a channel's files. `newest` is the end of `NAME.sse`, if that file has events.
    pub fn new(channel_files: ChannelFiles, limit: u64, sync: bool, newest: Option<Appender>) -> Writer {
        let files = Files { channel_files, sync, limit, epoch_begins: true, unreliable: false, newest };
        Writer { unit: Vec::new(), files: Some(files) }
    }

    /// Returns whether an event may be heard only once it is on the disk.
    pub fn syncs(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.sync)
    }

    /// Cuts off what was rolled back, and what a failed write has left. The newest file then has `newest_len` bytes of
    /// events.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn mend(&mut self, newest_len: u64) -> io::Result<()> {
        match &mut self.files {
            Some(Files { newest: Some(appender), unreliable, sync, .. }) => {
                appender.cut(appender.file.head_len + newest_len).inspect_err(|_| *unreliable = !*sync)
            }
            _ => Ok(()),
        }
    }

    /// Seals the unit, if it is for a file. Returns whether the unit must be durable before anything else is written,
    /// because it begins a file or an epoch.
    pub fn seal(&mut self, events: usize, newest_len: u64) -> bool {
        let Some(files) = &self.files else { return false };
        event::seal(events, &mut self.unit);
        files.epoch_begins || !files.fits(newest_len, self.unit.len() as u64)
    }

    /// Appends the unit to the log's files. `durable`: the unit and the names of the files are on the disk when this
    /// returns. Returns the new part, if the unit begins one.
    ///
    /// # Errors
    /// If the disk fails; see [`Appender::append`]. The log is then as it was before.
    pub fn write(&mut self, tail: &Tail, durable: bool) -> io::Result<Option<NewPart>> {
        let Some(files) = &mut self.files else { return Ok(None) };
        let fits = files.fits(tail.newest_len, self.unit.len() as u64);
        let new_part = match &mut files.newest {
            Some(appender) if fits => {
                appender.append(&self.unit)?;
                if durable {
                    files.unreliable = !files.sync; // until both syncs have succeeded
                    appender.file.sync()?;
                    files.channel_files.dir.sync()?;
                }
                None
            }
            _ => Some(files.begin_file(tail, &self.unit)?),
        };
        if durable {
            files.epoch_begins = false;
            files.unreliable = false;
        }
        Ok(new_part)
    }
}

impl Files {
    /// Returns whether the newest file has room for `len` bytes more.
    fn fits(&self, newest_len: u64, len: u64) -> bool {
        !self.unreliable && self.newest.is_some() && newest_len + len <= self.limit / 2
    }

    /// Begins the next file with a unit. If that fails, the unit is cut off that file again, and the next attempt
    /// replaces the file.
    fn begin_file(&mut self, tail: &Tail, unit: &[u8]) -> io::Result<NewPart> {
        let room = self.limit.saturating_sub((self.limit / 2).max(unit.len() as u64));
        let keep_before = if tail.newest_len <= room { tail.newest_len } else { 0 };
        let head = recovery::head(if keep_before > 0 { tail.before_newest } else { tail.last });
        let mut next = self.channel_files.create(head.as_bytes(), unit)?;
        self.put_in_place(tail).inspect_err(|_| {
            let _ = next.cut(next.file.head_len);
            let _ = self.channel_files.remove(NEXT);
        })?;
        if tail.newest_len > keep_before {
            let _ = self.channel_files.remove(OLD);
        }
        let file = Some(next.file.clone());
        self.newest = Some(next);
        Ok(NewPart { file, keep_before })
    }

    /// Renames the newest file to the older part, and the next file to the newest.
    fn put_in_place(&mut self, tail: &Tail) -> io::Result<()> {
        if let Some(appender) = &self.newest {
            appender.file.sync()?;
            self.channel_files.rename(NEWEST, OLD)?;
            self.newest = None;
        }
        if tail.newest_len > 0 {
            self.channel_files.dir.sync()?;
        }
        self.channel_files.rename(NEXT, NEWEST)?;
        self.channel_files.dir.sync()
    }
}
