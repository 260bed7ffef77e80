//! A directory of logs, one process's alone: for each channel `NAME.sse`, and an older part of it, `NAME.old.sse`.
//!
//! It knows files and the disk, and nothing of what stands in them: `log.rs` does. A file only ever grows at its end,
//! by one write an append; what such a write leaves behind when it fails is cut off again. The lock is on the directory
//! itself (flock(2)), so a process that is killed leaves none behind.
//!
//! Deliberately absent: links, further directories, and every file that is not named like a channel's.

use crate::limits;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directory, locked for as long as this lives.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    handle: File,
}

/// By which a change of a channel's files is seen: inode, length and times of each.
pub type Stamp = [Option<[u64; 5]>; 2];

/// The same error with words before it.
fn told(error: &io::Error, what: impl std::fmt::Display) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Whether there is no room for a write: on the device (ENOSPC), in a quota (EDQUOT) or under `ulimit -f` (EFBIG).
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

impl Dir {
    /// Makes the directory where it is missing, locks it and makes sure that files can be made in it.
    ///
    /// # Errors
    /// Where one of these fails, in words for a person.
    pub fn open(path: &Path) -> io::Result<Dir> {
        let at = format!("--data {}", path.display());
        let missing = !path.exists();
        let usable = fs::create_dir_all(path).and_then(|()| File::open(path));
        if let (true, Ok(path)) = (missing, path.canonicalize()) {
            // Its name has to be on the disk as well, and so on; a parent that may not be opened was there before.
            path.ancestors().skip(1).filter_map(|p| File::open(p).ok()).for_each(|p| drop(p.sync_all()));
        }
        let handle = usable.map_err(|e| told(&e, format!("{at} is no directory that can be used")))?;
        match handle.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                let why = format!("{at} is in use by another server; give each a directory of its own");
                return Err(io::Error::new(ErrorKind::ResourceBusy, why));
            }
            Err(fs::TryLockError::Error(e)) => return Err(told(&e, format!("{at} cannot be locked"))),
            Ok(()) => {}
        }
        let probe = path.join(".tincan-can-write");
        match File::create(&probe).and_then(|_| fs::remove_file(&probe)) {
            Err(e) if !is_full(&e) => {
                return Err(told(&e, format!("{at} cannot be written to; give another")));
            }
            _ => {} // a full disk is told to whoever publishes; what is there can be read
        }
        Ok(Dir { path: path.into(), handle })
    }

    /// The names of the channels that have files in it, and of all other files that are not hidden.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn list(&self, is_channel: impl Fn(&str) -> bool) -> io::Result<(Vec<String>, Vec<String>)> {
        let (mut stems, mut others) = (Vec::<String>::new(), Vec::new());
        let add = |to: &mut Vec<String>, name: &str| {
            if let Err(at) = to.binary_search_by(|other| other.as_str().cmp(name)) {
                to.insert(at, name.into()); // in order, and each once
            }
        };
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let stem = name.strip_suffix(".sse").map(|stem| stem.strip_suffix(".old").unwrap_or(stem));
            let kept = name.split_once(".cut-").is_some_and(|(stem, _)| is_channel(stem));
            match stem.filter(|stem| is_channel(stem)) {
                _ if kept || name.starts_with('.') => {}
                Some(stem) => add(&mut stems, stem),
                None => add(&mut others, &name),
            }
        }
        Ok((stems, others))
    }

    /// Which files a channel has now.
    pub fn stamp(&self, name: &str) -> Stamp {
        [false, true].map(|old| {
            let meta = fs::symlink_metadata(self.path(name, old)).ok()?;
            Some([meta.ino(), meta.len(), meta.mtime() as u64, meta.mtime_nsec() as u64, meta.ctime_nsec() as u64])
        })
    }

    fn path(&self, name: &str, old: bool) -> PathBuf {
        self.path.join(format!("{name}{}.sse", if old { ".old" } else { "" }))
    }

    /// Where a file is until it is complete.
    fn next(&self, name: &str) -> PathBuf {
        self.path.join(format!(".{name}.new"))
    }

    /// Opens a channel's file, or its older part, where it is there.
    ///
    /// # Errors
    /// Where it cannot be read and written, or is no file.
    pub fn get(&self, name: &str, old: bool) -> io::Result<Option<LogFile>> {
        let path = self.path(name, old);
        let open = || -> io::Result<File> {
            if !fs::metadata(&path)?.is_file() {
                // To open a pipe would be to wait for its other end.
                return Err(io::Error::new(ErrorKind::InvalidInput, "it is no file; move it away"));
            }
            File::options().read(true).write(true).open(&path)
        };
        match open() {
            Ok(file) => Ok(Some(LogFile { path, file, head: 0 })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(told(&e, path.display())),
        }
    }

    /// Makes a channel's next file, with a head and its first events, beside the one that there is; on the disk.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub fn create(&self, name: &str, head: &[u8], events: &[u8]) -> io::Result<Output> {
        let path = self.next(name);
        let file = self.make(&path).map_err(|e| told(&e, path.display()))?;
        let mut output = Output::new(LogFile { path: self.path(name, false), file, head: head.len() as u64 }, 0);
        let done = output.append(&[head, events].concat()).and_then(|()| output.file.sync());
        done.inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(output)
    }

    /// Keeps what is about to be cut off a log, from this byte on, in a file `NAME.cut-N` beside it; on the disk. Returns
    /// the file's name.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub fn keep(&self, name: &str, log: &LogFile, from: u64) -> io::Result<String> {
        let path = self.next(name);
        let save = || -> io::Result<String> {
            let mut copy = self.make(&path)?;
            let mut rest = &log.file;
            rest.seek(SeekFrom::Start(from))?;
            io::copy(&mut rest, &mut copy)?;
            copy.sync_all()?;
            let free = |n: &u64| !self.path.join(format!("{name}.cut-{n}")).exists();
            let kept = format!("{name}.cut-{}", (1..).find(free).unwrap_or(0));
            self.rename(&path, &self.path.join(&kept))?;
            self.sync()?;
            Ok(kept)
        };
        save().map_err(|e| {
            let _ = fs::remove_file(&path);
            told(&e, format!("{}: what a crash left has to be cut off, and cannot be kept first", log.path.display()))
        })
    }

    /// Makes a new file, in place of what has its name.
    fn make(&self, path: &Path) -> io::Result<File> {
        File::options().read(true).write(true).create(true).truncate(true).open(path)
    }

    /// Makes a channel's file its older part, in place of the one that it had.
    ///
    /// # Errors
    /// Where that fails; nothing has changed then.
    pub fn retire(&self, name: &str) -> io::Result<()> {
        self.rename(&self.path(name, false), &self.path(name, true))
    }

    /// Puts a channel's next file into its place.
    ///
    /// # Errors
    /// Where that fails; nothing has changed then.
    pub fn place(&self, name: &str) -> io::Result<()> {
        self.rename(&self.next(name), &self.path(name, false))
    }

    /// Drops a channel's next file.
    pub fn discard(&self, name: &str) {
        let _ = fs::remove_file(self.next(name));
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to).map_err(|e| told(&e, from.display()))
    }

    /// Drops a channel's older part.
    ///
    /// # Errors
    /// Where that fails.
    pub fn remove_old(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name, true))
    }

    /// Puts the names of the files on the disk.
    ///
    /// # Errors
    /// Where that fails.
    pub fn sync(&self) -> io::Result<()> {
        self.handle.sync_all().map_err(|e| told(&e, self.path.display()))
    }
}

/// A channel's file, as those who read it see it.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    /// Its bytes.
    pub file: File,
    /// Bytes before the first event.
    pub head: u64,
}

impl LogFile {
    /// An error with the file's name.
    pub fn told(&self, error: &io::Error) -> io::Error {
        told(error, self.path.display())
    }

    /// Waits until its bytes are on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data().map_err(|e| self.told(&e))
    }

    /// Cuts off what is behind these bytes.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn cut(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len).map_err(|e| self.told(&e))
    }
}

/// The end of a channel's file, where events are appended.
#[derive(Debug)]
pub struct Output {
    /// The file.
    pub file: Arc<LogFile>,
    len: u64,     // bytes that count
    torn: bool,   // there may be more, which have to go
    largest: u64, // what the process may make it, as far as that is known
}

impl Output {
    /// The end of a file of this length.
    pub fn new(file: LogFile, len: u64) -> Output {
        Output { file: Arc::new(file), len, torn: false, largest: 0 }
    }

    /// Cuts off what is behind so many bytes, if there is or may be anything. Returns whether there was.
    ///
    /// # Errors
    /// If that fails; the next call tries it again.
    pub fn cut(&mut self, len: u64) -> io::Result<bool> {
        self.torn |= self.len != len;
        self.len = len;
        if self.torn {
            self.file.cut(len)?;
        }
        Ok(std::mem::take(&mut self.torn))
    }

    /// Appends all of these bytes, or none.
    ///
    /// # Errors
    /// If there is no room (see [`is_full`]), if the write fails, if another program has changed the file.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let meta = self.file.file.metadata().map_err(|e| self.file.told(&e))?;
        if meta.len() != self.len || meta.nlink() == 0 {
            let why = "another program has changed or removed it; start the server again".to_string();
            return Err(self.file.told(&io::Error::other(why)));
        }
        let end = self.len.saturating_add(bytes.len() as u64);
        let written = match self.may_reach(end) {
            true => self.file.file.write_at(bytes, self.len),
            false => Err(ErrorKind::FileTooLarge.into()),
        };
        match written {
            Ok(n) if n == bytes.len() => {
                self.len = end;
                Ok(())
            }
            failed => {
                // Less than everything means that there is no room for the rest.
                let error = failed.err().unwrap_or_else(|| ErrorKind::StorageFull.into());
                self.torn = true;
                let _ = self.cut(self.len); // else before the next append
                Err(self.file.told(&error))
            }
        }
    }

    /// Whether this process may make it so large. To grow up to the limit itself would be one byte too many: the next
    /// write would be answered not with an error but with SIGXFSZ, which ends the process (setrlimit(2)).
    fn may_reach(&mut self, len: u64) -> bool {
        if len >= self.largest {
            self.largest = limits::soft("Max file size").unwrap_or(u64::MAX);
        }
        len < self.largest
    }
}
