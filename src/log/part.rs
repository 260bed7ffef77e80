//! A part of a log: the bytes of some POSTs, in memory or in a file, and the search for events in them.
//!
//! There is no index. Each block ends with its id. So the id at a position is found by reading from there to the end of
//! the block.
//!
//! Limits: the search reads 4 KiB at a time. Deliberately absent: which parts a log has, and which bytes may be heard;
//! both are in `positions.rs`.

use crate::log::disk::LogFile;
use crate::wire::id::Id;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// An id line has at most 45 bytes. This many bytes before a blank line always contain it.
const ID_LINE: usize = 64;

/// The end of an event in a log.
#[derive(Clone, Copy, Default)]
pub struct Boundary {
    /// The position after the event.
    pub pos: u64,
    /// The id of the event.
    pub id: Id,
}

/// A range of bytes in a file, for a thread that may wait for the disk.
pub struct FileRange {
    /// The file.
    pub file: Arc<LogFile>,
    /// The offset of the first byte in the file.
    pub offset: u64,
    /// The number of bytes.
    pub len: usize,
}

impl FileRange {
    /// Reads from the disk once, and appends the bytes to `out`. There is at least one.
    ///
    /// # Errors
    /// If the disk fails, or if the file is shorter than what was written to it.
    pub fn read(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let before = out.len();
        out.resize(before + self.len, 0);
        let read = self.file.file.read_at(out.get_mut(before..).unwrap_or_default(), self.offset);
        out.truncate(before + read.as_ref().unwrap_or(&0));
        self.file.with_path(read.and_then(|read| if read > 0 { Ok(()) } else { Err(shortened_error()) }))
    }
}

/// Returns the error for a file that has lost its end.
pub fn shortened_error() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "what was written to it is not there any more")
}

/// A part of a log.
#[derive(Clone)]
pub struct Part {
    /// The position of its first byte.
    pub start: u64,
    /// The number of its bytes.
    pub len: u64,
    /// The id of the event before its first event.
    pub before: Id,
    /// The file with its bytes, if they are in a file.
    pub file: Option<Arc<LogFile>>,
    /// The bytes, if they are in memory.
    pub memory: Vec<u8>,
}

impl Part {
    /// Returns the position after its last byte.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Returns whether the byte at one of these positions is in this part.
    pub fn has_any(&self, positions: &[u64]) -> bool {
        positions.iter().any(|pos| (self.start..self.end()).contains(pos))
    }

    /// Checks that the file was not shortened. So a client gets an error, not only some of the events.
    ///
    /// # Errors
    /// If the file was shortened, or if the disk fails.
    pub fn check(&self) -> io::Result<()> {
        match &self.file {
            Some(file) if file.file.metadata()?.len() < file.head_len + self.len => {
                file.with_path(Err(shortened_error()))
            }
            _ => Ok(()),
        }
    }

    /// Copies bytes from a position in this part, and returns their number. Only at the end of the part is that less
    /// than the length of `out`.
    fn copy(&self, pos: u64, out: &mut [u8]) -> io::Result<usize> {
        let from = pos - self.start;
        let Some(file) = &self.file else {
            return self.memory.get(from as usize..).unwrap_or_default().read(out);
        };
        let len = self.len.saturating_sub(from).min(out.len() as u64) as usize;
        let out = out.get_mut(..len).unwrap_or_default();
        file.with_path(file.file.read_exact_at(out, file.head_len + from))?;
        Ok(len)
    }

    /// Returns the end and the id of the first event that ends after `pos`. Returns None if no event of this part does.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn block_end_after(&self, pos: u64) -> io::Result<Option<Boundary>> {
        let mut window = [0; 4096];
        let mut window_start = pos.saturating_sub(ID_LINE as u64).max(self.start);
        loop {
            let len = self.copy(window_start, &mut window)?;
            let bytes = window.get(..len).unwrap_or_default();
            let skip = pos.saturating_sub(window_start + 1) as usize;
            for (_, end) in bytes.windows(2).zip(2..).skip(skip).filter(|(pair, _)| pair == b"\n\n") {
                let line = bytes.get(..end - 2).unwrap_or_default().rsplit(|&b| b == b'\n').next();
                if let Some(id) = line.and_then(Id::from_line) {
                    return Ok(Some(Boundary { pos: window_start + end as u64, id }));
                } // else it is a gap: it has no id, and counts as the beginning of the next event
            }
            if len < window.len() {
                return Ok(None);
            }
            window_start += (len - ID_LINE) as u64;
        }
    }
}
