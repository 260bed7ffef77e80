//! The directory of `--data`, which one process uses alone. For each channel it has the file `NAME.sse`, and an older
//! part of the log, `NAME.old.sse`.
//!
//! This module knows files and the disk, but not the content of the files; `positions.rs` does. A file only grows at
//! its end, by one write for each append. If that write fails, what it wrote is cut off again. The lock is on the
//! directory itself (flock(2)), so a process that is killed leaves no lock behind.
//!
//! Deliberately absent: links, subdirectories, and files whose name is not made from a channel's name.

use crate::system::limits;
use crate::system::report::visible;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{self, DirBuilder, DirEntry, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Channels by name, and the names of files that belong to no channel.
type Listed<T> = (BTreeMap<Box<str>, T>, Vec<String>);

/// The directory. It is locked as long as this value lives.
pub struct Dir {
    path: PathBuf,
    handle: File,
    private: bool,
    sync: bool,
    probed: OnceLock<()>, // the file system was found to do what logs need
}

/// The channel's newest file.
pub const NEWEST: &str = "NAME.sse";
/// The older part of the log.
pub const OLD: &str = "NAME.old.sse";
/// The name of a new file until it is complete.
pub const NEXT: &str = ".NAME.new";

/// The files of one channel, by their names in the directory.
pub struct ChannelFiles {
    /// The directory.
    pub dir: Arc<Dir>,
    /// The channel's name.
    pub name: String,
}

/// Returns the result. An error gets the context in front. A path in the context can neither break the line nor control
/// a terminal.
fn with_context<T>(result: io::Result<T>, context: impl Display) -> io::Result<T> {
    result.map_err(|error| {
        let context = visible(context.to_string());
        io::Error::new(error.kind(), format!("{context}: {error}"))
    })
}

/// Returns an error with this text.
fn failure<T>(why: &str) -> io::Result<T> {
    Err(io::Error::other(why))
}

/// Returns whether a write found no room: on the device (ENOSPC), in a quota (EDQUOT) or under `ulimit -f` (EFBIG).
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// Returns whether the error means that the file system cannot sync at all, and not that a sync has failed: EINVAL
/// (fsync(2)), ENOSYS and EOPNOTSUPP. Network file systems are known to return ENOENT, EBADF (9) or ENOTTY (25) for
/// directories.
fn has_no_sync(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::NotFound)
        || matches!(error.raw_os_error(), Some(9 | 25))
}

/// Returns whether both are the same file, even under different names.
fn is_same(first: &Metadata, second: &Metadata) -> bool {
    first.dev() == second.dev() && first.ino() == second.ino()
}

/// Returns whether this path now leads to this file. A link to the file does not count.
fn is_at(path: &Path, file: &Metadata) -> bool {
    fs::symlink_metadata(path).is_ok_and(|current| is_same(&current, file))
}

impl Dir {
    /// Creates the directory if it is missing, locks it, and tests whether its file system does what logs need.
    /// `private`: only the files' owner may read them. `sync`: after a sync, a power cut must lose nothing.
    ///
    /// # Errors
    /// If one of these steps fails; the text is for the operator.
    pub fn open(path: &Path, private: bool, sync: bool) -> io::Result<Dir> {
        let message = |why: &str| format!("--data {} {why}", path.display());
        let made = DirBuilder::new().recursive(true).mode(if private { 0o700 } else { 0o777 }).create(path);
        if let Ok(path) = path.canonicalize() {
            // If the directory is new, its name must be on the disk too, and so must the names of its parents. A parent
            // that cannot be opened is not new.
            path.ancestors().skip(1).flat_map(File::open).for_each(|parent| drop(parent.sync_all()));
        }
        let why = message("is not a directory that can be read; give one that this user may read and write");
        let handle = with_context(made.and_then(|()| File::open(path)), why)?;
        let why = message("cannot be locked, so two servers could write there; give one on another file system");
        match handle.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let why = message("is in use by another server; give each a directory of its own");
                return Err(io::Error::new(ErrorKind::ResourceBusy, why));
            }
            locked => with_context(locked.map_err(io::Error::from), why)?,
        }
        let dir = Dir { path: path.into(), handle, private, sync, probed: OnceLock::new() };
        match dir.probe() {
            // A full disk does not stop the start: what is there can be read. A publisher gets the error. `create`
            // probes again.
            Err(e) if !is_full(&e) => with_context(Err(e), message("cannot be used; give another directory")),
            _ => Ok(dir),
        }
    }

    /// Tests on real files whether the file system does what logs need. A list of file systems that do not would be
    /// long.
    fn probe(&self) -> io::Result<()> {
        if self.probed.get().is_some() {
            return Ok(());
        }
        // Longer than the longest name of a log's file.
        let [name, other, other_case] =
            ["can-write", "can-rename", "CAN-WRITE"].map(|purpose| self.path.join(format!(".tincan-{purpose:-<80}")));
        let result = self.try_files(&name, &other, &other_case);
        let _ = fs::remove_file(&name);
        let _ = fs::remove_file(&other);
        result?;
        self.sync_names().or_else(|e| {
            let remedy = if has_no_sync(&e) { " (it can be used without --sync)" } else { "" };
            with_context(Err(e), format!("it cannot be synced{remedy}"))
        })?;
        self.probed.get_or_init(|| ());
        Ok(())
    }

    /// Creates a file of this name, and puts another in its place. `other_case`: the same name in the other letter
    /// case.
    fn try_files(&self, name: &Path, other: &Path, other_case: &Path) -> io::Result<()> {
        let file = with_context(self.create_file(name), "a log cannot be made there")?;
        let meta = file.metadata()?;
        if fs::symlink_metadata(other_case).is_ok() || File::open(other_case).is_ok() {
            return failure(
                "names that differ in case alone are one file there, so /ROOM would replace what /room keeps",
            );
        }
        if !is_at(name, &meta) {
            return failure("its file system does not give files stable numbers");
        }
        if self.private && meta.mode() & 0o077 != 0 {
            return failure("others can read the files that are made there, and reading needs a token");
        }
        with_context(file.sync_data(), "its files cannot be synced")?;
        self.create_file(other)?;
        with_context(fs::rename(name, other), "a file cannot be put there in place of another")
    }

    /// Returns the channels that have files here, each with a default value that the caller fills in, and the names of
    /// all other files that are not hidden. In a private directory, each file with bytes of a log is made unreadable
    /// for other users.
    ///
    /// # Errors
    /// If the directory cannot be read, or if a file's mode cannot be changed.
    pub fn list<T: Default>(&self, is_channel: impl Fn(&str) -> bool) -> io::Result<Listed<T>> {
        let mut stems = BTreeMap::new();
        let mut others = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let hidden = name.strip_prefix('.');
            let (stem, suffix) = hidden.unwrap_or(&name).split_once('.').unwrap_or_default();
            let is_log = matches!(suffix, "sse" | "old.sse");
            let has_our_suffix = if hidden.is_some() { suffix == "new" } else { is_log || suffix.starts_with("cut-") };
            let is_ours = has_our_suffix && is_channel(stem);
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

    /// Checks that the path still leads to this directory. After a disk is unmounted it may lead to another one, which
    /// may be another server's.
    fn check_path(&self) -> io::Result<()> {
        let locked = self.handle.metadata()?;
        match fs::metadata(&self.path) {
            Ok(current) if is_same(&locked, &current) => Ok(()),
            _ => failure("its directory is gone, or was replaced; put it back, or start the server again"),
        }
    }

    /// Creates a file. If the name is in use, the old entry is removed first: it may be a link to anywhere.
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

    /// Syncs the directory, so that the names of the files are on the disk.
    ///
    /// # Errors
    /// If the sync fails.
    pub fn sync(&self) -> io::Result<()> {
        with_context(self.sync_names(), self.path.display())
    }

    /// Syncs the directory. Without `--sync`, it is no error if the file system cannot do that.
    fn sync_names(&self) -> io::Result<()> {
        self.handle.sync_all().or_else(|e| if !self.sync && has_no_sync(&e) { Ok(()) } else { Err(e) })
    }
}

impl ChannelFiles {
    /// Returns the path of one of the channel's files.
    fn path(&self, file: &str) -> PathBuf {
        self.dir.path.join(file.replace("NAME", &self.name))
    }

    /// Opens one of the channel's files. Returns None if there is no such file.
    ///
    /// # Errors
    /// If the file cannot be read and written, or if it is not a regular file.
    pub fn open(&self, name: &str) -> io::Result<Option<LogFile>> {
        let path = self.path(name);
        match self.open_file(name, &path) {
            Ok(file) => Ok(Some(LogFile { path, file, head_len: 0 })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => with_context(Err(e), path.display()),
        }
    }

    fn open_file(&self, name: &str, path: &Path) -> io::Result<File> {
        self.dir.check_path()?;
        let meta = fs::symlink_metadata(path)?;
        if name == OLD && is_at(&self.path(NEWEST), &meta) {
            // A crash can leave both names of a rename, if the file system renames in two steps.
            fs::remove_file(path)?;
            return Err(ErrorKind::NotFound.into());
        }
        if !meta.is_file() {
            // To open a pipe would wait for its other end. A link may lead to a file that is not this server's.
            return failure("it is not a regular file; move it away");
        }
        if meta.nlink() > 1 {
            // The file has a second name, as after a backup with `cp -al`. New events do not belong in the
            // backup, so a copy takes the place of this name.
            self.copy(&File::open(path)?, 0, name)?;
        }
        let file = File::options().read(true).write(true).open(path)?;
        if is_at(path, &file.metadata()?) { Ok(file) } else { failure("another program has replaced it") }
    }

    /// Copies a file, from this byte on, to a file of this name, and syncs both the copy and the directory.
    fn copy(&self, mut file: &File, from: u64, name: &str) -> io::Result<()> {
        let mut attempt = || {
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
        attempt().inspect_err(|_| drop(self.remove(NEXT)))
    }

    /// Copies the bytes from `from` on, which are about to be cut off a log, to a new file `NAME.cut-N`, and syncs it.
    /// Returns the name of that file.
    ///
    /// # Errors
    /// If the copy fails. The log is unchanged then.
    pub fn save_cut(&self, log: &LogFile, from: u64) -> io::Result<String> {
        let is_free = |name: &String| fs::symlink_metadata(self.path(name)).is_err();
        let name = (1u64..).map(|n| format!("NAME.cut-{n}")).find(is_free).unwrap_or_default();
        let why = "a crash left a damaged end, which must be cut off but cannot be saved first";
        log.with_path(with_context(self.copy(&log.file, from, &name), why))?;
        Ok(name.replace("NAME", &self.name))
    }

    /// Creates the channel's next file with its head and first events, under the name [`NEXT`], and syncs it.
    ///
    /// # Errors
    /// If that fails. The channel's other files are unchanged.
    pub fn create(&self, head: &[u8], events: &[u8]) -> io::Result<Appender> {
        self.dir.probe()?;
        let next = self.path(NEXT);
        let file = with_context(self.dir.create_file(&next), next.display())?;
        let mut appender = Appender::new(LogFile { path: self.path(NEWEST), file, head_len: head.len() as u64 }, 0);
        let result = appender.append(&[head, events].concat()).and_then(|()| appender.file.sync());
        result.inspect_err(|_| drop(self.remove(NEXT)))?;
        Ok(appender)
    }

    /// Renames one of the channel's files. A file that has the new name already is replaced.
    ///
    /// # Errors
    /// If that fails. Nothing has changed then.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let [from, to] = [from, to].map(|name| self.path(name));
        let renamed = self.dir.check_path().and_then(|()| fs::rename(&from, &to));
        with_context(renamed, format!("{} cannot become {}", from.display(), to.display()))
    }

    /// Removes one of the channel's files.
    ///
    /// # Errors
    /// If that fails.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.dir.check_path()?;
        fs::remove_file(self.path(name))
    }
}

/// Lets only its owner read a file. A file that is not regular, or has a second name, is left as it is;
/// [`ChannelFiles::open`] handles both.
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

/// A channel's file, for reading.
pub struct LogFile {
    path: PathBuf,
    /// The open file.
    pub file: File,
    /// The length of the head in bytes. The first event follows it.
    pub head_len: u64,
}

impl LogFile {
    /// Returns the result. An error gets the file's path in front.
    ///
    /// # Errors
    /// The error in the result.
    pub fn with_path<T>(&self, result: io::Result<T>) -> io::Result<T> {
        with_context(result, self.path.display())
    }

    /// Waits until its bytes are on the disk.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.with_path(self.file.sync_data())
    }

    /// Cuts the file to this length, and waits until that is on the disk.
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
    len: u64,     // the file's length; after a failed write or cut the file may be shorter
    max_len: u64, // how long this process may make a file, as last read
}

impl Appender {
    /// An appender to a file of this length.
    pub fn new(file: LogFile, len: u64) -> Appender {
        Appender { file: Arc::new(file), len, max_len: 0 }
    }

    /// Cuts the file to this length, if it is or may be longer, and waits until that is on the disk. Without the wait,
    /// a power cut could mix the old bytes with those that are written in their place.
    ///
    /// # Errors
    /// If that fails. The next call tries again.
    pub fn cut(&mut self, len: u64) -> io::Result<()> {
        if self.len != len {
            self.file.cut(len)?;
            self.len = len;
        }
        Ok(())
    }

    /// Appends all of these bytes, or none of them.
    ///
    /// # Errors
    /// If there is no room (see [`is_full`]), if the write fails, or if another program has changed the file.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let before = self.len;
        let metadata = self.file.file.metadata();
        let unchanged = metadata.is_ok_and(|meta| meta.len() == before && is_at(&self.file.path, &meta));
        // A new file is not checked: it still has another name.
        if before > 0 && !unchanged {
            return self
                .file
                .with_path(failure("another program has changed, moved or removed it; start the server again"));
        }
        self.len += bytes.len() as u64;
        if self.len >= self.max_len {
            self.max_len = limits::soft_limit("Max file size").unwrap_or(u64::MAX);
        }
        // A file must not reach the limit itself. The next write would then not return an error: the signal SIGXFSZ
        // would end the process (setrlimit(2)).
        let written = match self.len < self.max_len {
            true => self.file.file.write_at(bytes, before),
            false => Err(ErrorKind::FileTooLarge.into()),
        };
        // A short write means that there is no room for the rest.
        let written = written.and_then(|n| if n == bytes.len() { Ok(()) } else { Err(ErrorKind::StorageFull.into()) });
        if written.is_err() {
            let _ = self.cut(before); // if this fails too, the next `Writer::mend` tries again
        }
        self.file.with_path(written)
    }
}
