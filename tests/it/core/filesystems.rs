//! File systems that differ from ext4, and unusual entries of a directory. Either the server works with them, or it
//! refuses to start and its message says what to do. Nothing outside of the directory changes.

use crate::support::harness::*;
use crate::support::process::works;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tincan::wire::reject::{LOG_CLOSED, LOG_FAILED};

const HEAD: &str = ": tincan log\n\n";
const SOUP: &str = "data: soup\nid: 1700000000000-1\n\n";

/// A directory, and beside it files that do not belong to the server.
struct Sandbox {
    root: Scratch,
    env: Vec<(&'static str, OsString)>,
}

impl Sandbox {
    fn new() -> Sandbox {
        let sandbox = Sandbox { root: Scratch::new(), env: Vec::new() };
        fs::create_dir(sandbox.data()).unwrap();
        sandbox
    }

    /// Returns a directory whose file system has quirks, see `filesystems.c`. Returns None if there is no compiler.
    fn odd(quirks: &[(&'static str, &str)]) -> Option<Sandbox> {
        let mut sandbox = Sandbox::new();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/core/filesystems.c");
        let library = sandbox.root.0.join("quirks.so");
        sandbox.env.push(("LD_PRELOAD", library.clone().into()));
        sandbox.env.push(("QUIRK_DIR", sandbox.data().into()));
        sandbox.env.extend(quirks.iter().map(|(name, value)| (*name, value.into())));
        works(&format!("cc -shared -fPIC -o {} {source}", library.display())).then_some(sandbox)
    }

    fn data(&self) -> PathBuf {
        self.root.0.join("data")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap()
    }

    /// Creates a file that does not belong to the server. It looks like a log with an incomplete end, so a server
    /// that opens it would change it.
    fn outside(&self) -> PathBuf {
        let path = self.root.0.join("outside");
        fs::write(&path, format!("{HEAD}{SOUP}data: unfinished")).unwrap();
        path
    }

    fn server(&self, args: &[&str]) -> Tincan {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
        command.args(["--listen", "127.0.0.1:0", "--quiet", "--data"]).arg(self.data()).args(args);
        command.envs(self.env.iter().cloned());
        Tincan::run(command)
    }

    /// Asserts that the server refuses to start with this directory; returns its one line after `--data DIR`.
    fn refusal(&self, args: &[&str]) -> String {
        let data = self.data();
        let mut line = vec![OsStr::new("--data"), data.as_os_str()];
        line.extend(args.iter().map(OsStr::new));
        let (code, text) = ended(&line, &self.env);
        assert_eq!(code, Some(1), "{text}");
        let start = format!("tincan: --data {} ", data.display());
        text.strip_prefix(&start).unwrap_or_else(|| panic!("{text}")).into()
    }

    /// Returns the files of the directory that others than their owner may read.
    fn open_to_others(&self) -> Vec<String> {
        let entries = fs::read_dir(self.data()).unwrap().map(Result::unwrap);
        let wide = entries.filter(|entry| entry.metadata().unwrap().mode() & 0o077 != 0);
        let mut names: Vec<_> = wide.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Returns the exit code and the one line of a program that does not start. If it starts nevertheless, `timeout` ends
/// it (124).
pub fn ended(args: &[&OsStr], env: &[(&'static str, OsString)]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["10", env!("CARGO_BIN_EXE_tincan")]).args(args);
    bare(&mut command);
    if !args.contains(&OsStr::new("--listen")) {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let Output { status, stderr, .. } = command.envs(env.iter().cloned()).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    (status.code(), text.trim_end().into())
}

/// Publishes so much that the files roll more than once, and reads it back.
fn is_used(server: &Tincan) {
    let ids: Vec<String> = (0..60).flat_map(|n| server.post("/a", format!("{n} {}", "x".repeat(100)))).collect();
    let all = server.get("/a?since=all&wait=0").text();
    let kept: Vec<_> = all.lines().filter_map(|line| line.strip_prefix("id: ")).skip(1).collect();
    assert!(kept.len() > 3 && ids.ends_with(&kept.iter().map(|id| id.to_string()).collect::<Vec<_>>()), "{all}");
}

const ROLLS: [&str; 2] = ["--history", "4K"];

#[test]
fn names_that_are_one_file_are_refused_at_the_start() {
    let Some(sandbox) = Sandbox::odd(&[("QUIRK_FOLD", "1")]) else { return };
    let why = "cannot be used; give another directory: names that differ in case alone are one file there, so /ROOM would replace \
        what /room keeps";
    assert_eq!(sandbox.refusal(&[]), why);
    assert_eq!(sandbox.refusal(&["--sync"]), why);
    assert_eq!(fs::read_dir(sandbox.data()).unwrap().count(), 0, "it leaves no files behind");
}

#[test]
fn names_that_are_two_files_stay_two() {
    let Some(sandbox) = Sandbox::odd(&[]) else { return };
    let server = sandbox.server(&[]);
    let ids = ["room", "ROOM", "Room"].map(|name| (name, server.post(&format!("/{name}"), name).remove(0)));
    for (name, id) in ids {
        assert_eq!(sandbox.read(&format!("{name}.sse")), format!("{HEAD}data: {name}\nid: {id}\n\n"));
    }
}

#[test]
fn names_that_are_too_long_are_refused_at_the_start() {
    for (most, refused) in [("72", true), ("87", true), ("88", false)] {
        let Some(sandbox) = Sandbox::odd(&[("QUIRK_NAMES", most)]) else { return };
        if refused {
            assert_eq!(
                sandbox.refusal(&[]),
                "cannot be used; give another directory: a log cannot be made there: File name too long (os error 36)"
            );
            continue;
        }
        let server = sandbox.server(&ROLLS);
        let longest = format!("/{}", "n".repeat(64));
        (0..60).for_each(|_| drop(server.post(&longest, "x".repeat(100))));
        assert_eq!(fs::read_dir(sandbox.data()).unwrap().count(), 2);
    }
}

#[test]
fn a_name_that_the_file_system_does_not_take_is_told_to_the_publisher() {
    let Some(sandbox) = Sandbox::odd(&[("QUIRK_RESERVED", "aux.sse")]) else { return };
    let server = sandbox.server(&["--sync"]);
    for _ in 0..2 {
        server.post_with("/aux", "", "x").refused(LOG_FAILED);
        server.post("/other", "y");
    }
    let [from, to] = [".aux.new", "aux.sse"].map(|name| sandbox.at(name).display().to_string());
    let why = format!("tincan: /aux takes no event: {from} cannot become {to}: Invalid argument (os error 22)\n");
    eventually("the error is reported", || server.stderr().contains(&why));
}

#[test]
fn a_directory_with_the_name_of_a_temporary_file_is_told_to_the_publisher() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.at(".aux.new")).unwrap();
    let server = sandbox.server(&[]);
    server.post_with("/aux", "", "x").refused(LOG_FAILED);
    let path = sandbox.at(".aux.new");
    let why = format!("tincan: /aux takes no event: {}: move it away: Is a directory (os error 21)\n", path.display());
    eventually("the error is reported", || server.stderr().contains(&why));
    fs::remove_dir(path).unwrap();
    server.post("/aux", "y");
    server.post("/other", "z");
}

#[test]
fn a_directory_that_cannot_be_synced_will_do_without_sync_alone() {
    // EINVAL, EBADF, ENOTTY, ENOSYS, EOPNOTSUPP.
    for (error, words) in [
        ("22", "Invalid argument"),
        ("9", "Bad file descriptor"),
        ("25", "Inappropriate ioctl for device"),
        ("38", "Function not implemented"),
        ("95", "Operation not supported"),
    ] {
        let Some(sandbox) = Sandbox::odd(&[("QUIRK_DIRSYNC", error)]) else { return };
        is_used(&sandbox.server(&ROLLS));
        let why = "cannot be used; give another directory: it cannot be synced (it can be used without --sync)";
        assert_eq!(sandbox.refusal(&["--sync"]), format!("{why}: {words} (os error {error})"));
    }
}

#[test]
fn a_disk_that_fails_or_has_no_sync_for_files_is_refused() {
    for (quirk, error, why) in [
        ("QUIRK_DIRSYNC", "5", "it cannot be synced: Input/output error (os error 5)"),
        ("QUIRK_SYNC", "22", "its files cannot be synced: Invalid argument (os error 22)"),
        ("QUIRK_SYNC", "5", "its files cannot be synced: Input/output error (os error 5)"),
        ("QUIRK_REPLACE", "13", "a file cannot be put there in place of another: Permission denied (os error 13)"),
        ("QUIRK_INODES", "1", "its file system does not give files stable numbers"),
    ] {
        let Some(sandbox) = Sandbox::odd(&[(quirk, error)]) else { return };
        assert_eq!(sandbox.refusal(&[]), format!("cannot be used; give another directory: {why}"));
        assert_eq!(fs::read_dir(sandbox.data()).unwrap().count(), 0, "it leaves no files behind");
    }
}

#[test]
fn a_directory_that_cannot_be_locked_is_refused() {
    for (error, words) in
        [("37", "No locks available"), ("95", "Operation not supported"), ("9", "Bad file descriptor")]
    {
        let Some(sandbox) = Sandbox::odd(&[("QUIRK_FLOCK", error)]) else { return };
        let why = "cannot be locked, so two servers could write there; give one on another file system";
        assert_eq!(sandbox.refusal(&[]), format!("{why}: {words} (os error {error})"));
    }
}

#[test]
fn links_that_have_the_names_of_its_own_files_are_replaced_and_not_followed() {
    let sandbox = Sandbox::new();
    let (outside, missing) = (sandbox.outside(), sandbox.root.0.join("missing"));
    let before = fs::read(&outside).unwrap();
    symlink(&outside, sandbox.at(".a.new")).unwrap();
    symlink(&missing, sandbox.at(".b.new")).unwrap();
    fs::hard_link(&outside, sandbox.at(".c.new")).unwrap();
    assert!(Command::new("mkfifo").arg(sandbox.at(".d.new")).status().unwrap().success());
    let _socket = UnixListener::bind(sandbox.at(".e.new")).unwrap();
    for (name, target) in [("can-write", &outside), ("can-rename", &missing)] {
        symlink(target, sandbox.at(&format!(".tincan-{name:-<80}"))).unwrap();
        symlink(target, sandbox.at(&format!(".tincan-{name}"))).unwrap();
    }
    let server = sandbox.server(&[]);
    for name in ["a", "b", "c", "d", "e"] {
        let id = server.post(&format!("/{name}"), "x").remove(0);
        assert!(fs::symlink_metadata(sandbox.at(&format!("{name}.sse"))).unwrap().is_file());
        assert_eq!(sandbox.read(&format!("{name}.sse")), format!("{HEAD}data: x\nid: {id}\n\n"));
    }
    assert_eq!((fs::read(&outside).unwrap(), missing.exists()), (before, false));
}

#[test]
fn a_log_that_is_a_link_is_not_followed() {
    let sandbox = Sandbox::new();
    let outside = sandbox.outside();
    let before = fs::read(&outside).unwrap();
    let secret = sandbox.root.0.join("tokens");
    fs::write(&secret, "read abcdefgh\n").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o644)).unwrap();
    let server = sandbox.server(&["--token-file", secret.to_str().unwrap()]);
    let fifo = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let missing = sandbox.root.0.join("missing");
    for (n, end) in [".sse", ".old.sse"].iter().enumerate() {
        let at = |name: &str| sandbox.at(&format!("{name}{n}{end}"));
        symlink(&outside, at("link")).unwrap();
        symlink(&missing, at("dangling")).unwrap();
        symlink(&sandbox.root.0, at("elsewhere")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        fifo(&at("pipe"));
        let _socket = UnixListener::bind(at("socket")).unwrap();
        for name in ["link", "dangling", "elsewhere", "directory", "pipe", "socket"] {
            server.post_with(&format!("/{name}{n}"), "", "x").refused(LOG_CLOSED);
            let why = "it is not a regular file; move it away";
            let why = format!("tincan: /{name}{n} cannot be opened: {}: {why}\n", at(name).display());
            eventually("the error is reported", || server.stderr().contains(&why));
            let kind = fs::symlink_metadata(at(name)).unwrap().file_type();
            assert!(!kind.is_file(), "the link is still there");
        }
    }
    server.post("/other", "x");
    assert_eq!((fs::read(&outside).unwrap(), missing.exists()), (before, false));
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn a_log_with_a_second_name_gives_way_to_a_copy() {
    for end in [".sse", ".old.sse"] {
        let sandbox = Sandbox::new();
        let outside = sandbox.outside();
        fs::set_permissions(&outside, PermissionsExt::from_mode(0o640)).unwrap();
        let (before, log) = (fs::read(&outside).unwrap(), sandbox.at(&format!("a{end}")));
        fs::hard_link(&outside, &log).unwrap();
        let server = sandbox.server(&[]);
        let id = server.post("/a", "more").remove(0);
        let all = server.get("/a?since=all&wait=0").text();
        assert!(all.ends_with(&format!("\n\n{SOUP}data: more\nid: {id}\n\n")), "{all}");
        assert_eq!(fs::read(&outside).unwrap(), before);
        assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o640);
    }
}

#[test]
fn the_directory_may_be_a_link_and_be_named_in_any_way() {
    let sandbox = Sandbox::new();
    symlink(sandbox.data(), sandbox.root.0.join("link")).unwrap();
    fs::create_dir(sandbox.at("inner")).unwrap();
    for (n, name) in ["link", "link/", "data/", "data/.", "data/inner/..", "./data//"].iter().enumerate() {
        let dir = format!("{}/{name}", sandbox.root.arg());
        let server = Tincan::start(&["--quiet", "--data", &dir]);
        server.post(&format!("/a{n}"), "x");
        assert!(sandbox.at(&format!("a{n}.sse")).is_file(), "{dir}");
    }
    symlink(sandbox.root.0.join("missing"), sandbox.root.0.join("dangling")).unwrap();
    fs::write(sandbox.root.0.join("file"), "").unwrap();
    for (name, words) in [("dangling", "File exists (os error 17)"), ("file", "File exists (os error 17)")] {
        let dir = sandbox.root.0.join(name);
        let (code, text) = ended(&[OsStr::new("--data"), dir.as_os_str()], &[]);
        let why = "is not a directory that can be read; give one that this user may read and write";
        assert_eq!((code, text), (Some(1), format!("tincan: --data {} {why}: {words}", dir.display())));
    }
    let (code, text) = ended(&[OsStr::new("--data"), OsStr::new("")], &[]);
    assert_eq!((code, &*text), (Some(2), "tincan: --data: \"\" is not valid; give a directory"));
}

#[test]
fn without_the_rights_to_read_write_or_enter_the_start_is_refused() {
    let sandbox = Sandbox::new();
    // Root may do everything, so another user has to try.
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let user = if root { "setpriv --reuid=65534 --regid=65534 --clear-groups" } else { "" };
    if !works(&format!("exec {user} {} --version", env!("CARGO_BIN_EXE_tincan"))) {
        return;
    }
    let read = "is not a directory that can be read; give one that this user may read and write";
    for (mode, why) in [
        (0o333, read),
        (0o555, "cannot be used; give another directory"),
        (0o666, "cannot be used; give another directory"),
    ] {
        fs::set_permissions(sandbox.data(), PermissionsExt::from_mode(mode)).unwrap();
        let line = format!("exec timeout 10 {user} \"$0\" --listen 127.0.0.1:0 --data \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &line, env!("CARGO_BIN_EXE_tincan")]).arg(sandbox.data());
        bare(&mut command);
        let out = command.output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        let at = format!("tincan: --data {} {why}: ", sandbox.data().display());
        assert!(text.starts_with(&at) && text.ends_with("Permission denied (os error 13)\n"), "{mode:o}: {text}");
        assert_eq!(out.status.code(), Some(1));
    }
    fs::set_permissions(sandbox.data(), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn a_file_system_that_is_mounted_read_only_is_refused() {
    if !works("unshare -rm mount -t tmpfs -o ro none /mnt") {
        return;
    }
    let sandbox = Sandbox::new();
    let line = "mount -t tmpfs -o ro none \"$1\" && exec timeout 10 \"$0\" --listen 127.0.0.1:0 --data \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", line, env!("CARGO_BIN_EXE_tincan")]).arg(sandbox.data());
    bare(&mut command);
    let text = String::from_utf8(command.output().unwrap().stderr).unwrap();
    let why = "cannot be used; give another directory: a log cannot be made there: Read-only file system (os error 30)";
    assert_eq!(text, format!("tincan: --data {} {why}\n", sandbox.data().display()));
}

#[test]
fn a_directory_that_is_replaced_is_written_to_no_more() {
    let sandbox = Sandbox::new();
    let server = sandbox.server(&ROLLS);
    server.post("/a", "x");
    let moved = sandbox.root.0.join("moved");
    fs::rename(sandbox.data(), &moved).unwrap();
    let why = "its directory is gone, or was replaced; put it back, or start the server again";
    for replaced in [false, true] {
        if replaced {
            fs::create_dir(sandbox.data()).unwrap();
        }
        server.post_with("/new", "", "x").refused(LOG_CLOSED);
        let message = format!("tincan: /new cannot be opened: {}: {why}\n", sandbox.at("new.old.sse").display());
        eventually("the error is reported", || server.stderr().matches(&message).count() == 1);
    }
    // The open log does not accept events either.
    server.post_with("/a", "", "x").refused(LOG_FAILED);
    let why = "another program has changed, moved or removed it; start the server again";
    let message = format!("tincan: /a takes no event: {}: {why}\n", sandbox.at("a.sse").display());
    eventually("the error is reported", || server.stderr().contains(&message));
    assert_eq!(fs::read_dir(sandbox.data()).unwrap().count(), 0);
    fs::remove_dir(sandbox.data()).unwrap();
    fs::rename(&moved, sandbox.data()).unwrap();
    is_used(&server);
    server.post("/new", "x");
}

#[test]
fn a_path_that_is_not_utf_8_is_refused_and_no_other_is_used() {
    let root = Scratch::new();
    let odd = [root.arg().as_bytes(), b"/\xff"].concat();
    let [odd, other, link] =
        [odd, format!("{}/\u{fffd}", root.arg()).into(), format!("{}/link", root.arg()).into()].map(OsString::from_vec);
    let words = |source: &str, shown: &str| {
        format!("tincan: {source}: {shown} is not UTF-8; give a path through a link that has a name in UTF-8")
    };
    let shown = format!("\"{}/\\xFF\"", root.arg());
    for option in ["--data", "--token-file", "--listen", "--nonsense"] {
        assert_eq!(ended(&[OsStr::new(option), &odd], &[]), (Some(2), words("an argument", &shown)));
        let joined = [OsStr::new(option).as_bytes(), b"=\xff"].concat();
        let why = words("an argument", &format!("\"{option}=\\xFF\""));
        assert_eq!(ended(&[OsStr::from_bytes(&joined)], &[]), (Some(2), why));
    }
    for name in ["TINCAN_DATA", "TINCAN_TOKEN_FILE", "TINCAN_HOST"] {
        assert_eq!(ended(&[], &[(name, odd.clone())]), (Some(2), words(name, &shown)));
    }
    assert_eq!(fs::read_dir(&root.0).unwrap().count(), 0, "neither directory is created");
    let secret = OsString::from_vec(b"x://:p\xff@10.0.0.5".to_vec());
    assert_eq!(ended(&[], &[("TINCAN_DATA", secret.clone())]), (Some(2), words("TINCAN_DATA", "this value")));
    assert_eq!(ended(&[OsStr::new("--data"), &secret], &[]), (Some(2), words("an argument", "this value")));
    // The advice in the message works, and other variables do not matter.
    fs::create_dir(&odd).unwrap();
    symlink(&odd, &link).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    command.args(["--listen", "127.0.0.1:0", "--quiet", "--data"]).arg(&link).env("OTHER", &odd);
    Tincan::run(command).post("/a", "x");
    assert!(Path::new(&odd).join("a.sse").is_file() && !Path::new(&other).exists());
}

#[test]
fn a_path_in_the_environment_keeps_its_spaces() {
    let root = Scratch::new();
    let dir = root.0.join("data ");
    // `run` removes tincan's variables from the tests' own environment, so a shell sets this one.
    let mut command = Command::new("sh");
    let line = "TINCAN_DATA=\"$1\" exec \"$0\" --quiet --listen 127.0.0.1:0";
    command.args(["-c", line, env!("CARGO_BIN_EXE_tincan")]).arg(&dir);
    let server = Tincan::run(command);
    server.post("/a", "x");
    assert!(dir.join("a.sse").is_file());
}

#[test]
fn a_path_cannot_break_a_line_or_drive_a_terminal() {
    let sandbox = Sandbox::new();
    let dir = sandbox.root.0.join("a\n\x1b[2J\u{202e}b");
    let shown = format!("{}/a␊␛[2J⟨U+202E⟩b", sandbox.root.arg());
    fs::write(&dir, "").unwrap();
    let why = "is not a directory that can be read; give one that this user may read and write";
    let words = format!("tincan: --data {shown} {why}: File exists (os error 17)");
    assert_eq!(ended(&[OsStr::new("--data"), dir.as_os_str()], &[]), (Some(1), words));
    let (code, text) = ended(&[OsStr::new("--token-file"), dir.as_os_str()], &[]);
    assert!(code == Some(1) && text.starts_with(&format!("tincan: --token-file {shown} ")), "{text}");
    fs::remove_file(&dir).unwrap();
    let server = Tincan::start(&["--quiet", "--data", dir.to_str().unwrap()]);
    fs::create_dir(dir.join("a.sse")).unwrap();
    server.post_with("/a", "", "x").refused(LOG_CLOSED);
    fs::create_dir(dir.join(".b.new")).unwrap();
    server.post_with("/b", "", "x").refused(LOG_FAILED);
    for line in [format!("/a cannot be opened: {shown}/a.sse: "), format!("/b takes no event: {shown}/.b.new: ")] {
        eventually("the error is reported", || server.stderr().contains(&format!("\ntincan: {line}")));
    }
    assert!(!server.stderr().contains('\x1b'), "{}", server.stderr());
}

/// Writes a token file with this line; returns its path.
fn tokens(sandbox: &Sandbox, line: &str) -> String {
    let path = sandbox.root.0.join("tokens");
    fs::write(&path, line).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn logs_are_their_owners_alone_if_reading_needs_a_token() {
    let sandbox = Sandbox::new();
    let file = tokens(&sandbox, "read abcdefgh\n");
    let private = ["--token-file", &file, "--history", "4K"];
    let outside = sandbox.outside();
    fs::set_permissions(&outside, PermissionsExt::from_mode(0o644)).unwrap();
    let log = |n: u64| format!("{HEAD}data: soup\nid: 1700000000000-{n}\n\n");
    let ours = [("a.sse", log(2)), ("a.old.sse", log(1)), (".b.new", log(1)), ("c.cut-1", "soup".into())];
    let foreign = ["notes.txt", "lab.sse", "b.new", ".hidden", "a b.cut-1"];
    for (name, text) in ours.iter().map(|(name, text)| (*name, &**text)).chain(foreign.map(|name| (name, "x"))) {
        fs::write(sandbox.at(name), text).unwrap();
        fs::set_permissions(sandbox.at(name), PermissionsExt::from_mode(0o664)).unwrap();
    }
    fs::hard_link(&outside, sandbox.at("d.sse")).unwrap();
    symlink(&outside, sandbox.at("e.cut-1")).unwrap();
    fs::write(sandbox.at("f.sse"), HEAD).unwrap();
    fs::set_permissions(sandbox.at("f.sse"), PermissionsExt::from_mode(0o400)).unwrap();
    fs::set_permissions(sandbox.data(), PermissionsExt::from_mode(0o750)).unwrap();
    let mut wide = [&foreign[..], &["e.cut-1"]].concat();
    wide.sort();
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !root {
        fs::remove_file(sandbox.at("f.sse")).unwrap(); // its owner may not write to it
    }
    let server = sandbox.server(&private);
    assert_eq!(sandbox.open_to_others(), wide);
    for _ in 0..60 {
        server.post("/a", "x".repeat(100));
        server.post("/new", "x".repeat(100));
        assert_eq!(sandbox.open_to_others(), wide);
    }
    assert!(sandbox.at("new.old.sse").is_file(), "the log has rolled");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&outside), mode(&sandbox.data())), (0o644, 0o750));
    assert!(!root || mode(&sandbox.at("f.sse")) == 0o400, "the file's mode has not been widened");
}

#[test]
fn a_directory_that_is_made_is_its_owners_alone_if_reading_needs_a_token() {
    for (line, dir_mode, mode) in [("read abcdefgh", 0o700, 0o600), ("publish abcdefgh", 0o755, 0o644)] {
        let sandbox = Sandbox::new();
        fs::remove_dir(sandbox.data()).unwrap();
        let file = tokens(&sandbox, line);
        let line = format!("umask 022; exec \"$0\" --quiet --listen 127.0.0.1:0 --data \"$1\" --token-file {file}");
        let mut command = Command::new("sh");
        command.args(["-c", &line, env!("CARGO_BIN_EXE_tincan")]).arg(sandbox.data());
        let server = Tincan::run(command);
        server.post_with("/a", "Authorization: Bearer abcdefgh\r\n", "x");
        let modes = [sandbox.data(), sandbox.at("a.sse")].map(|path| fs::metadata(path).unwrap().mode() & 0o777);
        assert_eq!(modes, [dir_mode, mode]);
    }
}

#[test]
fn a_file_system_without_modes_is_refused_if_reading_needs_a_token() {
    let Some(sandbox) = Sandbox::odd(&[("QUIRK_MODES", "1")]) else { return };
    let file = tokens(&sandbox, "read abcdefgh\n");
    let why = "others can read the files that are made there, and reading needs a token";
    assert_eq!(sandbox.refusal(&["--token-file", &file]), format!("cannot be used; give another directory: {why}"));
    sandbox.server(&[]).post("/a", "x");
}
