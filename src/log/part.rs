//! A part of a log: the bytes of some POSTs, in memory or in a file, and the search for events in them.
//!
//! There is no index beside the bytes: a block ends with its id, so the id behind any position is found by reading on to
//! the end of the block that has it.
//!
//! Limits: a window of 4 KiB for the search. Deliberately absent: which parts there are, and who may hear what of them;
//! `positions.rs` knows.

use crate::log::disk::LogFile;
use crate::wire::id::Id;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// An id line has at most 45 bytes; this many before a blank line always hold it.
const ID_LINE: usize = 64;

/// A place between two events.
#[derive(Clone, Copy, Default)]
pub struct Boundary {
    /// The position behind the one.
    pub pos: u64,
    /// Its id.
    pub id: Id,
}

/// Bytes of a file, for those who may wait for the disk.
pub struct FileRange {
    /// The file.
    pub file: Arc<LogFile>,
    /// Where they begin in it.
    pub offset: u64,
    /// How many there are.
    pub len: usize,
}

impl FileRange {
    /// Appends what the disk gives at a time, at least one byte.
    ///
    /// # Errors
    /// If the disk fails, or has less than was written.
    pub fn read(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let before = out.len();
        out.resize(before + self.len, 0);
        let read = self.file.file.read_at(out.get_mut(before..).unwrap_or_default(), self.offset);
        out.truncate(before + read.as_ref().unwrap_or(&0));
        self.file.with_path(read.and_then(|read| if read > 0 { Ok(()) } else { Err(shortened_error()) }))
    }
}

/// The error for a file that has lost its end.
pub fn shortened_error() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "what was written to it is not there any more")
}

/// A part of a log.
#[derive(Clone)]
pub struct Part {
    /// The position of its first byte.
    pub start: u64,
    /// How many it has.
    pub len: u64,
    /// The id of the event before its first.
    pub before: Id,
    /// The file that has its bytes.
    pub file: Option<Arc<LogFile>>,
    /// They themselves, if no file has them.
    pub memory: Vec<u8>,
}

impl Part {
    /// The position behind its last byte.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Whether the byte at one of these positions is in it.
    pub fn has_any(&self, positions: &[u64]) -> bool {
        positions.iter().any(|pos| (self.start..self.end()).contains(pos))
    }

    /// Makes sure that its file was not shortened, so that a reader is told before it is given the first half.
    ///
    /// # Errors
    /// If it was, or the disk fails.
    pub fn check(&self) -> io::Result<()> {
        match &self.file {
            Some(file) if file.file.metadata()?.len() < file.head + self.len => file.with_path(Err(shortened_error())),
            _ => Ok(()),
        }
    }

    /// Copies bytes from a position in this part on; how many. Fewer than there is room for only at its end.
    fn copy(&self, pos: u64, out: &mut [u8]) -> io::Result<usize> {
        let from = pos - self.start;
        let Some(file) = &self.file else {
            return self.memory.get(from as usize..).unwrap_or_default().read(out);
        };
        let len = self.len.saturating_sub(from).min(out.len() as u64) as usize;
        let out = out.get_mut(..len).unwrap_or_default();
        file.with_path(file.file.read_exact_at(out, file.head + from))?;
        Ok(len)
    }

    /// The end of the first block that ends behind `pos`, and its id.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn block_end_after(&self, pos: u64) -> io::Result<Option<Boundary>> {
        let mut window = [0; 4096];
        let mut at = pos.saturating_sub(ID_LINE as u64).max(self.start);
        loop {
            let len = self.copy(at, &mut window)?;
            let bytes = window.get(..len).unwrap_or_default();
            let skip = pos.saturating_sub(at + 1) as usize;
            for (_, end) in bytes.windows(2).zip(2..).skip(skip).filter(|(pair, _)| pair == b"\n\n") {
                let line = bytes.get(..end - 2).unwrap_or_default().rsplit(|&b| b == b'\n').next();
                if let Some(id) = line.and_then(Id::from_line) {
                    return Ok(Some(Boundary { pos: at + end as u64, id }));
                } // else it is a gap, which belongs to what follows it
            }
            if len < window.len() {
                return Ok(None);
            }
            at += (len - ID_LINE) as u64;
        }
    }
}
