//! A directory of logs, one process's alone: for each channel `NAME.sse`, and an older part of it, `NAME.old.sse`.
//!
//! It knows files and the disk, and nothing of what stands in them: `positions.rs` does. A file only ever grows at its end,
//! by one write an append; what such a write leaves behind when it fails is cut off again. The lock is on the directory
//! itself (flock(2)), so a process that is killed leaves none behind.
//!
//! Deliberately absent: links, further directories, and every file that is not named like a channel's.

use crate::system::limits;
use crate::system::report::visible;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, DirBuilder, DirEntry, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Channels by their names, and the names of files that are none's.
type Listed<T> = (BTreeMap<Box<str>, T>, Vec<String>);

/// The directory, locked for as long as this lives.
pub struct Dir {
    path: PathBuf,
    handle: File,
    private: bool,
    sync: bool,
    tried: OnceLock<()>, // its file system does what logs need
}

/// A channel's file.
pub const NEWEST: &str = "NAME.sse";
/// Its older part.
pub const OLD: &str = "NAME.old.sse";
/// Where a file is until it is complete.
pub const NEXT: &str = ".NAME.new";

/// Where a channel's files are.
pub struct ChannelFiles {
    /// The directory.
    pub dir: Arc<Dir>,
    /// The channel's name.
    pub name: String,
}

/// The same, but an error with words before it, in which a path cannot break the line or drive a terminal.
fn with_context<T>(done: io::Result<T>, words: impl Display) -> io::Result<T> {
    done.map_err(|error| {
        let words = visible(words.to_string());
        io::Error::new(error.kind(), format!("{words}: {error}"))
    })
}

/// An error in words of our own.
fn failure<T>(why: &str) -> io::Result<T> {
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

/// Whether both are the same file, whatever its name.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    one.dev() == other.dev() && one.ino() == other.ino()
}

/// Whether this file is what has this name now; a link to it is not.
fn is_at(path: &Path, file: &Metadata) -> bool {
    fs::symlink_metadata(path).is_ok_and(|there| is_same(&there, file))
}

impl Dir {
    /// Makes the directory if it is missing, locks it and makes sure that it can do what logs need. `private`: others
    /// than the owner may not read what stands in it. `sync`: what was synced has to be there after a power cut.
    ///
    /// # Errors
    /// If one of these fails, in words for a person.
    pub fn open(path: &Path, private: bool, sync: bool) -> io::Result<Dir> {
        let at = |why: &str| format!("--data {} {why}", path.display());
        let made = DirBuilder::new().recursive(true).mode(if private { 0o700 } else { 0o777 }).create(path);
        if let Ok(path) = path.canonicalize() {
            // If it is new its name has to be on the disk, and so on; a parent that may not be opened was there before.
            path.ancestors().skip(1).flat_map(File::open).for_each(|parent| drop(parent.sync_all()));
        }
        let why = at("is no directory that can be read; give one, with the rights to read and write it");
        let handle = with_context(made.and_then(|()| File::open(path)), why)?;
        let why = at("cannot be locked, so two servers could write there; give one on another file system");
        match handle.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let why = at("is in use by another server; give each a directory of its own");
                return Err(io::Error::new(ErrorKind::ResourceBusy, why));
            }
            locked => with_context(locked.map_err(io::Error::from), why)?,
        }
        let dir = Dir { path: path.into(), handle, private, sync, tried: OnceLock::new() };
        match dir.probe() {
            // A full disk is told to whoever publishes; what is there can be read. It is tried again when there is room.
            Err(e) if !is_full(&e) => with_context(Err(e), at("will not do; give another")),
            _ => Ok(dir),
        }
    }

    /// Makes sure that its file system does what logs need: it is tried, for the list of those that do not is long.
    fn probe(&self) -> io::Result<()> {
        if self.tried.get().is_some() {
            return Ok(());
        }
        // As long as the longest name of a log, and more.
        let [name, other, case] =
            ["can-write", "can-rename", "CAN-WRITE"].map(|what| self.path.join(format!(".tincan-{what:-<80}")));
        let done = self.try_files(&name, &other, &case);
        let _ = fs::remove_file(&name);
        let _ = fs::remove_file(&other);
        done?;
        self.sync_names().or_else(|e| {
            let remedy = if has_no_sync(&e) { " (without --sync it will do)" } else { "" };
            with_context(Err(e), format!("it cannot be synced{remedy}"))
        })?;
        self.tried.get_or_init(|| ());
        Ok(())
    }

    /// Tries a file of this name, and another in its place. `case`: the name in letters of the other case.
    fn try_files(&self, name: &Path, other: &Path, case: &Path) -> io::Result<()> {
        let file = with_context(self.create_file(name), "a log cannot be made there")?;
        let meta = file.metadata()?;
        if fs::symlink_metadata(case).is_ok() || File::open(case).is_ok() {
            return failure(
                "names that differ in case alone are one file there, so /ROOM would replace what /room keeps",
            );
        }
        if !is_at(name, &meta) {
            return failure("its file system cannot say which name is which file");
        }
        if self.private && meta.mode() & 0o077 != 0 {
            return failure("others can read the files that are made there, and reading needs a token");
        }
        with_context(file.sync_data(), "its files cannot be synced")?;
        self.create_file(other)?;
        with_context(fs::rename(name, other), "a file cannot be put there in place of another")
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
            let hidden = name.strip_prefix('.');
            let (stem, kind) = hidden.unwrap_or(&name).split_once('.').unwrap_or_default();
            let is_log = matches!(kind, "sse" | "old.sse");
            let is_kind = if hidden.is_some() { kind == "new" } else { is_log || kind.starts_with("cut-") };
            let is_ours = is_kind && is_channel(stem);
            if self.private && is_ours {
                let why = "others can read it, and reading needs a token; chmod 600 it";
                with_context(restrict(&entry), format_args!("{}: {why}", entry.path().display()))?;
            }
            if is_ours && is_log {
                stems.insert(stem.into(), T::default());
            } else if !is_ours && hidden.is_none() {
                others.push(name);
            }
        }
        Ok((stems, others))
    }

    /// Makes sure that the path still leads to this directory. Another one in its place, such as what is left after a
    /// disk is unmounted, may be another server's.
    fn check_path(&self) -> io::Result<()> {
        let own = self.handle.metadata()?;
        match fs::metadata(&self.path) {
            Ok(there) if is_same(&own, &there) => Ok(()),
            _ => failure("its directory is gone, or another has its place; put it back, or start the server again"),
        }
    }

    /// Makes a new file in place of what has the name, which may be a link to anywhere.
    fn create_file(&self, path: &Path) -> io::Result<File> {
        self.check_path()?;
        match fs::remove_file(path) {
            Err(e) if e.kind() == ErrorKind::IsADirectory => return with_context(Err(e), "move it away"),
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mode = if self.private { 0o600 } else { 0o666 };
        File::options().read(true).write(true).create_new(true).mode(mode).open(path)
    }

    /// Puts the names of the files on the disk.
    ///
    /// # Errors
    /// If that fails.
    pub fn sync(&self) -> io::Result<()> {
        with_context(self.sync_names(), self.path.display())
    }

    /// Without --sync the names are as safe as the file system makes them.
    fn sync_names(&self) -> io::Result<()> {
        self.handle.sync_all().or_else(|e| if !self.sync && has_no_sync(&e) { Ok(()) } else { Err(e) })
    }
}

impl ChannelFiles {
    /// The path of one of the channel's files.
    fn path(&self, file: &str) -> PathBuf {
        self.dir.path.join(file.replace("NAME", &self.name))
    }

    /// Opens one of the channel's files, if it is there.
    ///
    /// # Errors
    /// If it cannot be read and written, or is no file of its own.
    pub fn open(&self, name: &str) -> io::Result<Option<LogFile>> {
        let path = self.path(name);
        match self.open_file(name, &path) {
            Ok(file) => Ok(Some(LogFile { path, file, head: 0 })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => with_context(Err(e), path.display()),
        }
    }

    fn open_file(&self, name: &str, path: &Path) -> io::Result<File> {
        self.dir.check_path()?;
        let meta = fs::symlink_metadata(path)?;
        if name == OLD && is_at(&self.path(NEWEST), &meta) {
            // A crash can leave both names of a rename, on a file system whose renames are two steps.
            fs::remove_file(path)?;
            return Err(ErrorKind::NotFound.into());
        }
        if !meta.is_file() {
            // To open a pipe would be to wait for its other end, and a link may lead to what is not ours.
            return failure("it is no file, or a link to one; move it away");
        }
        if meta.nlink() > 1 {
            // It has a second name, as a backup by `cp -al` gives it one. What is written from now on does not belong
            // there, so a copy takes its place.
            self.copy(&File::open(path)?, 0, name)?;
        }
        let file = File::options().read(true).write(true).open(path)?;
        if is_at(path, &file.metadata()?) { Ok(file) } else { failure("another program replaces it") }
    }

    /// Copies a file, from this byte on, to another that then has this name; on the disk.
    fn copy(&self, mut file: &File, from: u64, name: &str) -> io::Result<()> {
        let mut copied = || {
            let mut copy = self.dir.create_file(&self.path(NEXT))?;
            file.seek(SeekFrom::Start(from))?;
            io::copy(&mut file as &mut dyn Read, &mut copy)?; // without the system's shortcuts, which some disks lack
            if !self.dir.private {
                copy.set_permissions(file.metadata()?.permissions())?;
            }
            copy.sync_data()?;
            self.rename(NEXT, name)?;
            self.dir.sync()
        };
        copied().inspect_err(|_| drop(self.remove(NEXT)))
    }

    /// Keeps what is about to be cut off a log, from this byte on, in a file `NAME.cut-N` beside it; on the disk. Returns
    /// that file's name.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub fn save_cut(&self, log: &LogFile, from: u64) -> io::Result<String> {
        let is_free = |name: &String| fs::symlink_metadata(self.path(name)).is_err();
        let name = (1u64..).map(|n| format!("NAME.cut-{n}")).find(is_free).unwrap_or_default();
        let why = "what a crash left in it has to be cut off, and cannot be kept first";
        log.with_path(with_context(self.copy(&log.file, from, &name), why))?;
        Ok(name.replace("NAME", &self.name))
    }

    /// Makes a channel's next file, with a head and its first events, beside the one that there is; on the disk.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub fn create(&self, head: &[u8], events: &[u8]) -> io::Result<Appender> {
        self.dir.probe()?;
        let next = self.path(NEXT);
        let file = with_context(self.dir.create_file(&next), next.display())?;
        let mut output = Appender::new(LogFile { path: self.path(NEWEST), file, head: head.len() as u64 }, 0);
        let done = output.append(&[head, events].concat()).and_then(|()| output.file.sync());
        done.inspect_err(|_| drop(self.remove(NEXT)))?;
        Ok(output)
    }

    /// Gives one of the channel's files another name, in place of what had that.
    ///
    /// # Errors
    /// If that fails; nothing has changed then.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let [from, to] = [from, to].map(|name| self.path(name));
        let moved = self.dir.check_path().and_then(|()| fs::rename(&from, &to));
        with_context(moved, format!("{} cannot become {}", from.display(), to.display()))
    }

    /// Drops one of the channel's files.
    ///
    /// # Errors
    /// If that fails.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.check_path()?;
        fs::remove_file(self.path(name))
    }
}

/// Leaves a file to its owner alone. What is no file, or has a second name, is not ours to change; see [`ChannelFiles::open`].
fn restrict(entry: &DirEntry) -> io::Result<()> {
    let meta = entry.metadata()?;
    if meta.is_file() && meta.nlink() == 1 && meta.mode() & 0o077 != 0 {
        let file = File::open(entry.path())?;
        if is_same(&meta, &file.metadata()?) {
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
    pub fn with_path<T>(&self, done: io::Result<T>) -> io::Result<T> {
        with_context(done, self.path.display())
    }

    /// Waits until its bytes are on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.with_path(self.file.sync_data())
    }

    /// Cuts off what is behind these bytes, and waits until that is on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn cut(&self, len: u64) -> io::Result<()> {
        self.with_path(self.file.set_len(len))?;
        self.sync()
    }
}

/// The end of a channel's file, where events are appended.
pub struct Appender {
    /// The file.
    pub file: Arc<LogFile>,
    len: u64,     // its bytes; after a write or a cut that failed, there may be fewer
    largest: u64, // what the process may make it, as far as that is known
}

impl Appender {
    /// The end of a file of this length.
    pub fn new(file: LogFile, len: u64) -> Appender {
        Appender { file: Arc::new(file), len, largest: 0 }
    }

    /// Cuts off what is behind so many bytes, if there is or may be anything. It is on the disk then: else a power cut could
    /// mix what was cut off with what is written in its place.
    ///
    /// # Errors
    /// If that fails; the next call tries it again.
    pub fn cut(&mut self, len: u64) -> io::Result<()> {
        if self.len != len {
            self.file.cut(len)?;
            self.len = len;
        }
        Ok(())
    }

    /// Appends all of these bytes, or none.
    ///
    /// # Errors
    /// If there is no room (see [`is_full`]), if the write fails, if another program has changed the file.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.len;
        let ours = self.file.file.metadata();
        let whole = ours.is_ok_and(|meta| meta.len() == before && is_at(&self.file.path, &meta));
        // A new one has another name at first.
        if before > 0 && !whole {
            return self
                .file
                .with_path(failure("another program has changed, moved or removed it; start the server again"));
        }
        self.len += bytes.len() as u64;
        if self.len >= self.largest {
            self.largest = limits::soft_limit("Max file size").unwrap_or(u64::MAX);
        }
        // To grow up to the limit itself would be one byte too many: the next write would be answered not with an error
        // but with SIGXFSZ, which ends the process (setrlimit(2)).
        let done = match self.len < self.largest {
            true => self.file.file.write_at(bytes, before),
            false => Err(ErrorKind::FileTooLarge.into()),
        };
        // Less than everything means that there is no room for the rest.
        let done = done.and_then(|n| if n == bytes.len() { Ok(()) } else { Err(ErrorKind::StorageFull.into()) });
        if done.is_err() {
            let _ = self.cut(before); // else before the next append
        }
        self.file.with_path(done)
    }
}
