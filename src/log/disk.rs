//! A directory of logs, one process's alone: for each channel `NAME.sse`, and an older part of it, `NAME.old.sse`.
//!
//! It knows files and the disk, and nothing of what stands in them: `log.rs` does. A file only ever grows at its end,
//! by one write an append; what such a write leaves behind when it fails is cut off again. The lock is on the directory
//! itself (flock(2)), so a process that is killed leaves none behind.
//!
//! Deliberately absent: links, further directories, and every file that is not named like a channel's.

use crate::system::limits;
use crate::system::report::visible;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, DirBuilder, DirEntry, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Channels by their names, and the names of files that are none's.
type Listed<T> = (BTreeMap<Box<str>, T>, Vec<String>);

/// The directory, locked for as long as this lives.
pub struct Dir {
    path: PathBuf,
    handle: File,
    private: bool,
    sync: bool,
    tried: AtomicBool, // its file system does what logs need
}

/// Where a channel's files are.
pub struct Home {
    /// The directory.
    pub dir: Arc<Dir>,
    /// The channel's name.
    pub name: String,
}

/// The same, but an error with words before it, in which a path cannot break the line or drive a terminal.
fn told<T>(done: io::Result<T>, what: &dyn Display) -> io::Result<T> {
    done.map_err(|error| {
        let what = visible(what.to_string());
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

/// An error in words of our own.
fn no<T>(why: &str) -> io::Result<T> {
    Err(io::Error::other(why))
}

/// Whether there is no room for a write: on the device (ENOSPC), in a quota (EDQUOT) or under `ulimit -f` (EFBIG).
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Whether a file system says that it has no sync, and not that one has failed: EINVAL (fsync(2)), ENOSYS, EOPNOTSUPP,
/// and as others have met it on directories of network file systems, ENOENT, EBADF (9) and ENOTTY (25).
fn has_no_sync(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::NotFound)
        || matches!(error.raw_os_error(), Some(9 | 25))
}

/// By which a file is known, whatever its name.
fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Whether this file is what has this name now; a link to it is not.
fn is_at(path: &Path, file: &Metadata) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| identity(&there) == identity(file))
}

impl Dir {
    /// Makes the directory if it is missing, locks it and makes sure that it can do what logs need. `private`: others
    /// than the owner may not read what stands in it. `sync`: what was synced has to be there after a power cut.
    ///
    /// # Errors
    /// If one of these fails, in words for a person.
    pub fn open(path: &Path, private: bool, sync: bool) -> io::Result<Dir> {
        let at = format!("--data {}", path.display());
        let made = DirBuilder::new().recursive(true).mode(if private { 0o700 } else { 0o777 }).create(path);
        if let Ok(path) = path.canonicalize() {
            // If it is new its name has to be on the disk, and so on; a parent that may not be opened was there before.
            path.ancestors().skip(1).filter_map(|p| File::open(p).ok()).for_each(|p| drop(p.sync_all()));
        }
        let why = "is no directory that can be read; give one, with the rights to read and write it";
        let handle = told(made.and_then(|()| File::open(path)), &format!("{at} {why}"))?;
        let locked = handle.try_lock();
        if let Err(fs::TryLockError::WouldBlock) = locked {
            let why = format!("{at} is in use by another server; give each a directory of its own");
            return Err(io::Error::new(ErrorKind::ResourceBusy, why));
        }
        let why = "cannot be locked, so two servers could write there; give one on another file system";
        told(locked.map_err(io::Error::from), &format!("{at} {why}"))?;
        let dir = Dir { path: path.into(), handle, private, sync, tried: AtomicBool::new(false) };
        match dir.probe() {
            // A full disk is told to whoever publishes; what is there can be read. It is tried again when there is room.
            Err(e) if !is_full(&e) => told(Err(e), &format!("{at} will not do; give another")),
            _ => Ok(dir),
        }
    }

    /// Makes sure that its file system does what logs need: it is tried, for the list of those that do not is long.
    fn probe(&self) -> io::Result<()> {
        if self.tried.load(Relaxed) {
            return Ok(());
        }
        // As long as the longest name of a log, and more.
        let [name, other, case] =
            ["can-write", "can-rename", "CAN-WRITE"].map(|what| self.path.join(format!(".tincan-{what:-<80}")));
        let tried = || {
            let file = told(self.make(&name), &"a log cannot be made there")?;
            let meta = file.metadata()?;
            if fs::symlink_metadata(&case).is_ok() || File::open(&case).is_ok() {
                return no(
                    "names that differ in case alone are one file there, so /ROOM would replace what /room keeps",
                );
            }
            if !is_at(&name, &meta) {
                return no("its file system cannot say which name is which file");
            }
            if self.private && meta.mode() & 0o077 != 0 {
                return no("others can read the files that are made there, and reading needs a token");
            }
            told(file.sync_data(), &"its files cannot be synced")?;
            self.make(&other)?;
            told(fs::rename(&name, &other), &"a file cannot be put there in place of another")
        };
        let done = tried();
        let _ = fs::remove_file(&name);
        let _ = fs::remove_file(&other);
        done?;
        self.sync_names().or_else(|e| {
            let remedy = if has_no_sync(&e) { " (without --sync it will do)" } else { "" };
            told(Err(e), &format!("it cannot be synced{remedy}"))
        })?;
        self.tried.store(true, Relaxed);
        Ok(())
    }

    /// The channels that have files in it, by the names of these, each with room for what its owner knows of it; and all
    /// other files that are not hidden. If the directory is private, takes from others the right to read what holds bytes of
    /// a log.
    ///
    /// # Errors
    /// If it cannot be read, or a file's mode not be changed.
    pub fn list<T: Default>(&self, is_channel: impl Fn(&str) -> bool) -> io::Result<Listed<T>> {
        let mut stems = BTreeMap::new();
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let stem = name.strip_suffix(".old.sse").or(name.strip_suffix(".sse"));
            let next = name.strip_prefix('.').and_then(|name| name.strip_suffix(".new"));
            let rest = name.split_once(".cut-").map(|(stem, _)| stem);
            if self.private && stem.or(next).or(rest).is_some_and(&is_channel) {
                let why = "others can read it, and reading needs a token; chmod 600 it";
                told(narrow(&entry), &format_args!("{}: {why}", entry.path().display()))?;
            }
            match stem.filter(|stem| is_channel(stem)) {
                _ if rest.is_some_and(&is_channel) || name.starts_with('.') => {}
                Some(stem) => drop(stems.insert(stem.into(), T::default())),
                None => others.push(name),
            }
        }
        Ok((stems, others))
    }

    /// Makes sure that the path still leads to this directory. Another one in its place, such as what is left after a
    /// disk is unmounted, may be another server's.
    fn check(&self) -> io::Result<()> {
        let own = self.handle.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) if identity(&own) == identity(&there) => Ok(()),
            _ => no("its directory is gone, or another has its place; put it back, or start the server again"),
        }
    }

    /// Makes a new file in place of what has the name, which may be a link to anywhere.
    fn make(&self, path: &Path) -> io::Result<File> {
        self.check()?;
        match fs::remove_file(path) {
            Err(e) if e.kind() == ErrorKind::IsADirectory => return told(Err(e), &"move it away"),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mode = if self.private { 0o600 } else { 0o666 };
        File::options().read(true).write(true).create_new(true).mode(mode).open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = self.check().and_then(|()| fs::rename(from, to));
        told(moved, &format!("{} cannot become {}", from.display(), to.display()))
    }

    /// Puts the names of the files on the disk.
    ///
    /// # Errors
    /// If that fails.
    pub fn sync(&self) -> io::Result<()> {
        told(self.sync_names(), &self.path.display())
    }

    /// Without --sync the names are as safe as the file system makes them.
    fn sync_names(&self) -> io::Result<()> {
        self.handle.sync_all().or_else(|e| if !self.sync && has_no_sync(&e) { Ok(()) } else { Err(e) })
    }
}

impl Home {
    fn path(&self, old: bool) -> PathBuf {
        self.dir.path.join(format!("{}{}.sse", self.name, if old { ".old" } else { "" }))
    }

    /// Where a file is until it is complete.
    fn next(&self) -> PathBuf {
        self.dir.path.join(format!(".{}.new", self.name))
    }

    /// Opens a channel's file, or its older part, if it is there.
    ///
    /// # Errors
    /// If it cannot be read and written, or is no file of its own.
    pub fn get(&self, old: bool) -> io::Result<Option<LogFile>> {
        let path = self.path(old);
        let open = || -> io::Result<File> {
            self.dir.check()?;
            let meta = fs::symlink_metadata(&path)?;
            if old && is_at(&self.path(false), &meta) {
                // A crash can leave both names of a rename, on a file system whose renames are two steps.
                fs::remove_file(&path)?;
                return Err(ErrorKind::NotFound.into());
            }
            if !meta.is_file() {
                // To open a pipe would be to wait for its other end, and a link may lead to what is not ours.
                return no("it is no file, or a link to one; move it away");
            }
            if meta.nlink() > 1 {
                // It has a second name, as a backup by `cp -al` gives it one. What is written from now on does not belong
                // there, so a copy takes its place.
                self.copy(&File::open(&path)?, 0, &path)?;
            }
            let file = File::options().read(true).write(true).open(&path)?;
            if is_at(&path, &file.metadata()?) { Ok(file) } else { no("another program replaces it") }
        };
        match open() {
            Ok(file) => Ok(Some(LogFile { path, file, head: 0 })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => told(Err(e), &path.display()),
        }
    }

    /// Copies a file, from this byte on, to another that then has this path; on the disk.
    fn copy(&self, mut file: &File, from: u64, to: &Path) -> io::Result<()> {
        let next = self.next();
        let mut copied = || {
            let mut copy = self.dir.make(&next)?;
            file.seek(SeekFrom::Start(from))?;
            io::copy(&mut file as &mut dyn Read, &mut copy)?; // without the system's shortcuts, which some disks lack
            if !self.dir.private {
                copy.set_permissions(file.metadata()?.permissions())?;
            }
            copy.sync_data()?;
            self.dir.rename(&next, to)?;
            self.dir.sync()
        };
        copied().inspect_err(|_| self.discard())
    }

    /// Keeps what is about to be cut off a log, from this byte on, in a file `NAME.cut-N` beside it; on the disk. Returns
    /// the file's name.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub fn keep(&self, log: &LogFile, from: u64) -> io::Result<String> {
        let free = |kept: &String| fs::symlink_metadata(self.dir.path.join(kept)).is_err();
        let kept = (1u64..).map(|n| format!("{}.cut-{n}", self.name)).find(free).unwrap_or_default();
        let why = "what a crash left in it has to be cut off, and cannot be kept first";
        log.told(told(self.copy(&log.file, from, &self.dir.path.join(&kept)), &why))?;
        Ok(kept)
    }

    /// Makes a channel's next file, with a head and its first events, beside the one that there is; on the disk.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub fn create(&self, head: &[u8], events: &[u8]) -> io::Result<Output> {
        self.dir.probe()?;
        let path = self.next();
        let file = told(self.dir.make(&path), &path.display())?;
        let mut output = Output::new(LogFile { path: self.path(false), file, head: head.len() as u64 }, 0);
        let done = output.append(&[head, events].concat()).and_then(|()| output.file.sync());
        done.inspect_err(|_| self.discard())?;
        Ok(output)
    }

    /// Makes a channel's file its older part, in place of the one that it had.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub fn retire(&self) -> io::Result<()> {
        self.dir.rename(&self.path(false), &self.path(true))
    }

    /// Puts a channel's next file into its place.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub fn place(&self) -> io::Result<()> {
        self.dir.rename(&self.next(), &self.path(false))
    }

    /// Drops a channel's next file.
    pub fn discard(&self) {
        let _ = fs::remove_file(self.next());
    }

    /// Drops a channel's older part.
    ///
    /// # Errors
    /// If that fails.
    pub fn remove_old(&self) -> io::Result<()> {
        self.dir.check()?;
        fs::remove_file(self.path(true))
    }
}

/// Leaves a file to its owner alone. What is no file, or has a second name, is not ours to change; see [`Home::get`].
fn narrow(entry: &DirEntry) -> io::Result<()> {
    let meta = entry.metadata()?;
    if meta.is_file() && meta.nlink() == 1 && meta.mode() & 0o077 != 0 {
        let file = File::open(entry.path())?;
        if identity(&meta) == identity(&file.metadata()?) {
            file.set_permissions(Permissions::from_mode(meta.mode() & 0o700))?;
        }
    }
    Ok(())
}

/// A channel's file, as those who read it see it.
pub struct LogFile {
    path: PathBuf,
    /// Its bytes.
    pub file: File,
    /// Bytes before the first event.
    pub head: u64,
}

impl LogFile {
    /// The same, but an error with the file's name.
    ///
    /// # Errors
    /// That one.
    pub fn told<T>(&self, done: io::Result<T>) -> io::Result<T> {
        told(done, &self.path.display())
    }

    /// Waits until its bytes are on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.told(self.file.sync_data())
    }

    /// Cuts off what is behind these bytes, and waits until that is on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn cut(&self, len: u64) -> io::Result<()> {
        self.told(self.file.set_len(len))?;
        self.sync()
    }
}

/// The end of a channel's file, where events are appended.
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

    /// Cuts off what is behind so many bytes, if there is or may be anything. It is on the disk then: else a power cut could
    /// mix what was cut off with what is written in its place.
    ///
    /// # Errors
    /// If that fails; the next call tries it again.
    pub fn cut(&mut self, len: u64) -> io::Result<()> {
        self.torn |= self.len != len;
        self.len = len;
        if self.torn {
            self.file.cut(len)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Appends all of these bytes, or none.
    ///
    /// # Errors
    /// If there is no room (see [`is_full`]), if the write fails, if another program has changed the file.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let ours = self.file.file.metadata();
        let whole = ours.is_ok_and(|meta| meta.len() == self.len && is_at(&self.file.path, &meta));
        // A new one has another name at first.
        if self.len > 0 && !whole {
            let why = "another program has changed, moved or removed it; start the server again";
            return self.file.told(no(why));
        }
        let end = self.len.saturating_add(bytes.len() as u64);
        if end >= self.largest {
            self.largest = limits::soft("Max file size").unwrap_or(u64::MAX);
        }
        // To grow up to the limit itself would be one byte too many: the next write would be answered not with an error
        // but with SIGXFSZ, which ends the process (setrlimit(2)).
        let may_grow = end < self.largest;
        let written =
            if may_grow { self.file.file.write_at(bytes, self.len) } else { Err(ErrorKind::FileTooLarge.into()) };
        // Less than everything means that there is no room for the rest.
        let done = written.and_then(|n| if n == bytes.len() { Ok(()) } else { Err(ErrorKind::StorageFull.into()) });
        if done.is_ok() {
            self.len = end;
        } else {
            self.torn = true;
            let _ = self.cut(self.len); // else before the next append
        }
        self.file.told(done)
    }
}
