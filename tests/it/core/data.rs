//! Logs in files, with `--data` and `--sync`: CONTRACT section 9.

use crate::support::harness::*;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tincan::wire::reject::{CHANNELS, LOG_CLOSED, LOG_FAILED, LOG_SICK, LOG_UNREADABLE, OPEN_LOGS};

const HEAD: &str = ": tincan log\n\n";
/// The epoch of logs that a test writes itself. It is long ago.
const EPOCH: u64 = 1_700_000_000_000;

/// Starts a server with this directory. Its preludes have a constant `retry`.
fn serve(dir: &Scratch, more: &[&str]) -> Tincan {
    Tincan::start(&[&["--quiet", "--retry", "0", "--data", dir.arg()], more].concat())
}

/// Returns the one line with which the server refuses to start. If it starts nevertheless, `timeout` ends it (exit
/// code 124).
fn refusal(dir: &Path) -> String {
    let mut command = Command::new("timeout");
    command.args(["10", env!("CARGO_BIN_EXE_tincan"), "--listen", "127.0.0.1:0", "--data"]).arg(dir);
    bare(&mut command);
    let out = command.output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.starts_with("tincan: "), "{text}");
    text
}

fn block(id: impl std::fmt::Display, data: &str) -> String {
    format!("data: {data}\nid: {id}\n\n")
}

/// Returns three events with ids of `EPOCH`.
fn three() -> [String; 3] {
    [1, 2, 3].map(|n| block(format!("{EPOCH}-{n}"), "soup"))
}

fn put(dir: &Scratch, file: &str, bytes: impl AsRef<[u8]>) {
    fs::write(dir.0.join(file), bytes).unwrap();
}

fn gap(asked: &str, from: &str, lost: &str) -> String {
    format!("event: gap\ndata: {{\"asked\":\"{asked}\",\"from\":{from},\"lost\":{lost}}}\n\n")
}

/// Returns the response to a poll from this position, without the prelude.
fn from(server: &Tincan, name: &str, since: &str) -> String {
    let response = server.get(&format!("/{name}?wait=0&since={since}"));
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.text();
    let (prelude, events) = text.split_once("\n\n").unwrap();
    assert!(prelude.starts_with(&format!(": connected to /{name}\nretry: 0\nid: ")), "{prelude}");
    events.into()
}

fn epoch(id: &str) -> u64 {
    id.split_once('-').unwrap().0.parse().unwrap()
}

#[test]
fn a_file_is_the_event_stream_byte_for_byte() {
    for sync in [&[][..], &["--sync"]] {
        let dir = Scratch::new();
        let server = serve(&dir, sync);
        let (mut subscriber, start_id) = server.listen("/a", "");
        server.post("/a", "one");
        server.post("/a", "\u{e9}\r\n\nid: 7");
        server.post("/a?event=order", "");
        let body = "retry: 5\ndata: x\n\n: no event\n\ndata: y\n\nevent: z\ndata: z\n\n";
        server.post_with("/a", "Content-Type: text/event-stream\r\n", body);
        let e = epoch(&start_id);
        let events = format!(
            "data: one\nid: {e}-1\n\ndata: \u{e9}\ndata: \ndata: id: 7\nid: {e}-2\n\n\
             event: order\ndata: \nid: {e}-3\n\n: one POST, 3 events, 0 NULs\nretry: 5\ndata: x\nid: {e}-4\n\n\
             data: y\nid: {e}-5\n\nevent: z\ndata: z\nid: {e}-6\n\n"
        );
        assert_eq!(dir.read("a.sse"), format!("{HEAD}{events}"));
        assert_eq!(from(&server, "a", "all"), events);
        subscriber.expect(&events);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1, "each channel has one file, and there is no other file");
    }
}

#[test]
fn after_kill_9_everything_is_there_once_and_ids_go_on_in_a_greater_epoch() {
    // The second epoch lies in the year 2100, as if the clock had been set back since.
    for last in [EPOCH, 4_102_444_800_000] {
        let dir = Scratch::new();
        let mut ids = vec![format!("{}-1", EPOCH - 1), format!("{last}-1")];
        let mut file = HEAD.to_string() + &block(&ids[0], "old") + &block(&ids[1], "old");
        put(&dir, "a.sse", &file);
        for round in 1..5 {
            let mut server = serve(&dir, if round % 2 == 0 { &[] } else { &["--sync"] });
            let before = epoch(&ids[ids.len() - 1]);
            let new: Vec<String> = (0..3).flat_map(|n| server.post("/a", format!("{n}"))).collect();
            let e = epoch(&new[0]);
            assert!(if last > EPOCH { e == before + 1 } else { e > before }, "epoch {e} after {before}");
            assert_eq!(new, [1, 2, 3].map(|n| format!("{e}-{n}")));
            file += &[0, 1, 2].map(|n| block(&new[n], &n.to_string())).concat();
            ids.extend(new);
            assert_eq!(dir.read("a.sse"), file);
            server.kill();
        }
        let server = serve(&dir, &[]);
        assert_eq!(from(&server, "a", "all"), file[HEAD.len()..]);
        for id in &ids {
            let later_events = file.split_once(&format!("id: {id}\n\n")).unwrap().1;
            assert_eq!(from(&server, "a", id), later_events, "no gap after {id}");
        }
        assert_eq!(dir.read("a.sse"), file, "a server that only reads does not change the file");
    }
}

#[test]
fn a_log_of_64_mb_costs_no_memory() {
    let dir = Scratch::new();
    let (data, mut file, mut starts) = ("m".repeat(1000), HEAD.to_string(), vec![0]);
    while file.len() < 64 << 20 {
        starts.push(file.len());
        file += &block(format!("{EPOCH}-{}", starts.len() - 1), &data);
    }
    put(&dir, "a.sse", &file);
    let server = serve(&dir, &["--history", "256M"]);
    for seq in [0, 3, starts.len() / 2, starts.len() - 2] {
        let (mut subscriber, start_id) = server.listen(&format!("/a?since={EPOCH}-{seq}"), "");
        assert_eq!(start_id, format!("{EPOCH}-{seq}"));
        for piece in file.as_bytes()[starts[seq + 1]..].chunks(1 << 20) {
            subscriber.expect(piece);
        }
        let id = server.post("/a", "and on");
        subscriber.expect(block(&id[0], "and on"));
        file += &block(&id[0], "and on");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    assert!(peak.unwrap() < 8 << 10, "{peak:?} KiB");
}

#[test]
fn what_a_crash_left_unfinished_is_cut_off_wherever_it_ends() {
    let dir = Scratch::new();
    let [one, two, _] = three();
    let (one, two) = ([HEAD, &one].concat(), [HEAD, &one, &two].concat());
    let last = format!("event: order\nretry: 5\ndata: a\ndata: \nid: {EPOCH}-3\n\n");
    let (end, next) = ([&two, &*last].concat(), [HEAD, &last].concat());
    let head = |n| if n < HEAD.len() { "" } else { HEAD };
    // A name, the older part, the bytes on the disk, and the bytes that stay of them.
    let mut cuts = Vec::new();
    cuts.extend((two.len()..end.len()).map(|n| (format!("last-{n}"), "", &end[..n], &*two)));
    cuts.extend((0..one.len()).map(|n| (format!("first-{n}"), "", &one[..n], head(n))));
    cuts.extend([0, 5, HEAD.len(), HEAD.len() + 9].map(|n| (format!("rolled-{n}"), &*two, &next[..n], head(n))));
    for (name, old, torn, _) in &cuts {
        put(&dir, &format!("{name}.sse"), torn);
        if !old.is_empty() {
            put(&dir, &format!("{name}.old.sse"), old);
        }
    }
    let server = serve(&dir, &[]);
    for (name, old, torn, kept) in &cuts {
        let file = format!("{name}.sse");
        let left = fs::read_to_string(dir.0.join(&file)).unwrap_or_default(); // the file may be missing
        assert_eq!(left, *kept, "{torn:?}");
        let events = [old, *kept].map(|part| part.strip_prefix(HEAD).unwrap_or_default()).concat();
        assert_eq!(from(&server, name, "all"), events);
        let id = server.post(&format!("/{name}"), "next").remove(0);
        assert!(epoch(&id) > EPOCH && id.ends_with("-1"), "{id}");
        let next = block(&id, "next");
        assert_eq!(from(&server, name, "all"), events + &next);
        let head = if kept.is_empty() || !old.is_empty() { "\n\n" } else { *kept };
        assert!(dir.read(&file).starts_with(HEAD.trim_end()) && dir.read(&file).ends_with(&[head, &next].concat()));
    }
}

/// Returns damaged logs: the damage, the file, and the position of the first byte that is damaged.
fn damaged() -> Vec<(&'static str, String, usize)> {
    let [one, two, three] = three();
    let file = [HEAD, &one, &two, &three].concat();
    let (b2, b3) = (HEAD.len() + one.len(), HEAD.len() + one.len() + two.len());
    let with = |second: &str, third: &str| [HEAD, &one, second, third].concat();
    vec![
        ("another number", file.replace(&format!("{EPOCH}-2"), &format!("{EPOCH}-7")), b2),
        ("no number", file.replace(&format!("{EPOCH}-2"), &format!("{EPOCH}-x")), b2),
        ("a field that is none", file.replacen("data: ", "datum: ", 1), HEAD.len()),
        ("a missing blank line", with(two.trim_end_matches('\n'), &format!("\n{three}")), b2),
        ("a further blank line", with(&format!("\n{two}"), &three), b2),
        ("a block without an id", with("data: x\n\n", &two), b2),
        ("a head in the middle", with(HEAD, &two), b2),
        ("an id that repeats", with(&two, &two), b3),
        ("an id that goes back", with(&two, &one), b3),
        ("an epoch that goes back", with(&two, &block(format!("{}-1", EPOCH - 1), "x")), b3),
        ("lines that end with CR LF", file.replace('\n', "\r\n"), 0),
        ("lines that end with CR LF from the second event on", with(&two.replace('\n', "\r\n"), ""), b2),
        ("a text", "Dear diary,\n\ntoday\n".into(), 0),
        ("a word", "diary".into(), 0),
        ("another event stream", "data: x\n\n".into(), 0),
    ]
}

#[test]
fn a_damaged_log_closes_its_own_channel_and_is_left_as_it_was() {
    let dir = Scratch::new();
    let [one, two, three] = three();
    let file = [HEAD, &one, &two, &three].concat();
    let cases = damaged();
    let name = |n: usize| format!("bad-{n}");
    for (n, (_, bytes, _)) in cases.iter().enumerate() {
        put(&dir, &format!("{}.sse", name(n)), bytes);
    }
    // Ids that go back from one file to the next, and two names that belong to no regular file. (Opening a pipe would
    // wait for its other end.)
    put(&dir, "back.sse", &file);
    put(&dir, "back.old.sse", &file);
    for (command, name) in [("mkdir", "directory"), ("mkfifo", "pipe")] {
        assert!(Command::new(command).arg(dir.0.join(format!("{name}.sse"))).status().unwrap().success());
    }
    put(&dir, "good.sse", &file);
    let server = serve(&dir, &[]);
    let closed: Vec<String> =
        ["back", "directory", "pipe"].map(String::from).into_iter().chain((0..cases.len()).map(name)).collect();
    assert_eq!(from(&server, "good", "all"), [&*one, &two, &three].concat());
    server.post("/good", "goes on");
    server.post("/new", "goes on");
    let check = || {
        let health = server.get("/health");
        assert_eq!(health.status, 503);
        assert!(health.text().starts_with(LOG_SICK.line().trim_end()), "{}", health.text());
        for name in &closed {
            server.post_with(&format!("/{name}"), "", "x").refused(LOG_CLOSED);
            server.get(&format!("/{name}?since=all")).refused(LOG_CLOSED);
            assert!(health.text().contains(name), "{}", health.text());
        }
        assert!(!health.text().contains("good") && health.text().lines().count() == 1, "{}", health.text());
    };
    check();
    let messages = server.stderr();
    for (n, (damage, bytes, byte)) in cases.iter().enumerate() {
        let path = dir.0.join(format!("{}.sse", name(n)));
        let line = messages.lines().find(|line| line.contains(path.to_str().unwrap())).unwrap();
        assert!(line.contains(&format!("from byte {byte} on")) && line.contains("ove it away"), "{damage}: {line}");
        assert_eq!(fs::read_to_string(path).unwrap(), *bytes, "{damage}");
    }
    assert_eq!((dir.read("back.sse"), dir.read("back.old.sse")), (file.clone(), file.clone()));
    for name in ["directory.sse", "pipe.sse"] {
        assert!(messages.lines().any(|line| line.contains(name) && line.contains("ove it away")), "{name}: {messages}");
        assert!(!dir.0.join(name).is_file());
    }
    check();
    assert_eq!(server.stderr(), messages, "each damaged log is reported once");
    // After one file is repaired, its channel works again without a restart.
    put(&dir, "bad-0.sse", &file);
    assert_eq!(from(&server, "bad-0", "all"), [&*one, &two, &three].concat());
    assert!(!server.get("/health").text().contains("bad-0,"), "{}", server.get("/health").text());
}

#[test]
fn names_that_cannot_be_opened_leave_room_for_others() {
    let dir = Scratch::new();
    let server = serve(&dir, &["--max-channels", "5"]);
    let aside = Scratch::new();
    fs::rename(&dir.0, aside.0.join("logs")).unwrap();
    (0..10).for_each(|n| server.post_with(&format!("/a{n}"), "", "x").refused(LOG_CLOSED));
    fs::rename(aside.0.join("logs"), &dir.0).unwrap();
    (0..5).for_each(|n| drop(server.post(&format!("/b{n}"), "x")));
    assert_eq!(server.get("/health").text(), "ok\n");
}

#[test]
fn a_rename_of_two_steps_that_a_crash_cut_in_two_is_one() {
    let dir = Scratch::new();
    let file = [HEAD, &three().concat()].concat();
    put(&dir, "a.sse", &file);
    fs::hard_link(dir.0.join("a.sse"), dir.0.join("a.old.sse")).unwrap();
    for _ in 0..2 {
        let mut server = serve(&dir, &[]);
        assert_eq!(from(&server, "a", "all"), three().concat());
        assert_eq!(server.get("/health").text(), "ok\n");
        server.kill();
    }
}

#[test]
fn a_hole_is_cut_out_with_what_follows_it_and_kept_beside_the_log() {
    let dir = Scratch::new();
    let head_and = |events: &[String]| HEAD.to_string() + &events.concat();
    let small: Vec<String> = (1..=300).map(|n| block(format!("{EPOCH}-{n}"), &"s".repeat(40 + n % 50))).collect();
    let small = head_and(&small);
    let large = head_and(&[block(format!("{EPOCH}-1"), "one"), block(format!("{EPOCH}-2"), &"l".repeat(20_000))]);
    let hole = |text: &str, from: usize, to: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[from..to].fill(0);
        bytes
    };
    let first = HEAD.len() + block(format!("{EPOCH}-1"), "one").len();
    // A name, the bytes on the disk, and how many of them are in order.
    let cases = [
        ("first-page", hole(&large, first, 4096), first),
        ("middle-page", hole(&large, 8192, 12_288), first),
        ("among-many", hole(&small, 8192, 12_288), small[..8192].rfind("\n\n").unwrap() + 2),
        ("the-head", hole(&small, 0, 4096), 0),
        ("everything", vec![0; 9000], 0),
    ];
    for (name, bytes, _) in &cases {
        put(&dir, &format!("{name}.sse"), bytes);
    }
    let data = "n".repeat(10) + &"\0".repeat(4096) + "n";
    let mut server = serve(&dir, &["--sync"]);
    for (name, bytes, good) in &cases {
        let kept = String::from_utf8_lossy(&bytes[..*good]).into_owned();
        assert_eq!(from(&server, name, "all"), kept.strip_prefix(HEAD).unwrap_or_default(), "{name}");
        assert_eq!(fs::read(dir.0.join(format!("{name}.cut-1"))).unwrap(), bytes[*good..], "{name}");
        let (prefix, cut) = (format!("--data: /{name}: "), bytes.len() - good);
        let kept = format!("{prefix}{name}.cut-1 is a new file: it keeps the bytes that were cut off\n");
        let line = format!("{prefix}a hole that a power cut left was cut off, with what follows it, {cut} bytes\n");
        assert!(server.stderr().contains(&kept) && server.stderr().contains(&line), "{}", server.stderr());
        let id = server.post(&format!("/{name}"), "next").remove(0);
        assert!(from(&server, name, "all").ends_with(&block(id, "next")));
        // A block that has NULs of its own says so.
        let id = server.post(&format!("/{name}"), &data).remove(0);
        let sealed = format!(": one POST, 1 events, 4096 NULs\ndata: {data}\nid: {id}\n\n");
        assert!(from(&server, name, "all").ends_with(&sealed), "{name}");
    }
    let before = cases.clone().map(|(name, ..)| from(&server, name, "all"));
    server.kill();
    server = serve(&dir, &[]);
    assert_eq!(cases.clone().map(|(name, ..)| from(&server, name, "all")), before);
    assert!(
        !server.stderr().contains("cut"),
        "the next start does not report the kept files again: {}",
        server.stderr()
    );
    assert_eq!(server.get("/health").text(), "ok\n");
}

#[test]
fn what_one_post_wrote_stays_or_goes_as_a_whole() {
    let dir = Scratch::new();
    let mut server = serve(&dir, &["--sync"]);
    server.post("/a", "one");
    let before = dir.read("a.sse");
    let field = "Content-Type: text/event-stream\r\n";
    let body = format!("data: two\n\nevent: x\ndata: {}\n\ndata: four\n\n", "3".repeat(5000));
    let ids = server.post_with("/a", field, &body).text();
    let ids: Vec<&str> = ids.lines().collect();
    let after = dir.read("a.sse");
    let unit = format!(
        ": one POST, 3 events, 0 NULs\n{}event: x\n{}{}",
        block(ids[0], "two"),
        block(ids[1], &"3".repeat(5000)),
        block(ids[2], "four")
    );
    assert_eq!(after, before.clone() + &unit);
    let mut random = Random(15);
    for round in 0..30 {
        server.kill();
        // The end of the bytes is missing, or a part of them reads as NULs.
        let mut bytes = after.as_bytes().to_vec();
        let at = before.len() + random.index(unit.len() - 1) + 1;
        if round % 2 == 0 {
            bytes.truncate(at);
        } else {
            let end = bytes.len().min(at + 1 + random.index(3000));
            bytes[at - 1..end].fill(0);
        }
        put(&dir, "a.sse", bytes);
        server = serve(&dir, &[]);
        assert_eq!(dir.read("a.sse"), before, "round {round}");
        assert_eq!(from(&server, "a", "all"), before[HEAD.len()..]);
    }
}

#[test]
fn a_log_that_cannot_be_read_back_is_told_and_skips_nothing() {
    let dir = Scratch::new();
    let server = serve(&dir, &["--heartbeat", "1"]);
    let (mut live, _) = server.listen("/a", "");
    let ids: Vec<String> = (0..300).flat_map(|n| server.post("/a", format!("{n} {}", "x".repeat(500)))).collect();
    for (n, id) in ids.iter().enumerate() {
        live.expect(block(id, &format!("{n} {}", "x".repeat(500))));
    }
    let all = fs::read(dir.0.join("a.sse")).unwrap();
    let file = File::options().write(true).open(dir.0.join("a.sse")).unwrap();
    let event_source = |since: &str| {
        server.ask(format!("GET /a?since={since} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"))
    };
    for len in [all.len() / 2, 0] {
        file.set_len(len as u64).unwrap();
        // A subscriber that comes back with an id that is missing, or asks for everything when nothing is there.
        let since = if len == 0 { "all" } else { &ids[250] };
        for _ in 0..3 {
            server.get(&format!("/a?wait=0&since={since}")).refused(LOG_UNREADABLE);
            let response = event_source(since);
            let text = response.text();
            assert_eq!((response.status, response.field("content-type")), (200, Some("text/event-stream")));
            assert!(text.starts_with(&format!(": {}\nretry: ", LOG_UNREADABLE.why)) && !text.contains("id:"), "{text}");
        }
        let health = server.get("/health");
        assert!(health.status == 503 && health.text().ends_with(": a\n"), "{}", health.text());
        eventually("the error is reported", || server.stderr().contains("tincan: /a cannot be read back: "));
        assert_eq!(server.stderr().matches("tincan: /a cannot be read back: ").count(), 1, "{}", server.stderr());
    }
    // The same if the requested event is still there, but a later one is missing.
    fs::write(dir.0.join("a.sse"), &all[..all.len() / 2]).unwrap();
    for since in ["all", &ids[10]] {
        server.get(&format!("/a?since={since}")).refused(LOG_UNREADABLE);
    }
    // Nothing is written to such a file. A subscriber that waits for new events goes on.
    server.post_with("/a", "", "x").refused(LOG_FAILED);
    live.expect(PING);
    server.post("/b", "another channel works");
}

#[test]
fn files_of_other_names_are_told_and_left_alone() {
    let dir = Scratch::new();
    let names = ["a b.sse", "lab.old.sse", "lab.sse", "notes.txt"];
    let all = [&names[..], &[".hidden", ".hidden.sse"]].concat();
    all.iter().for_each(|name| put(&dir, name, name));
    let mut server = serve(&dir, &[]);
    server.post("/a", "x");
    eventually("all are reported", || {
        server.stderr().lines().filter(|l| l.contains("left alone")).count() == names.len()
    });
    let text = server.stderr();
    let greeting = text.find("/kitchen\n").unwrap();
    for name in names {
        assert!(text.find(&format!("{name:?}")).is_some_and(|at| at > greeting), "{name}: {text}");
    }
    assert!(!text.contains("hidden"), "{text}");
    server.kill();
    all.iter().for_each(|name| assert_eq!(dir.read(name), *name));
}

#[test]
fn a_directory_is_made_has_one_server_and_is_told_where_it_will_not_do() {
    let root = Scratch::new();
    let dir = Scratch(root.0.join("x/y")); // even its parent is missing
    let mut first = serve(&dir, &[]);
    first.post("/a", "x");
    assert!(refusal(&dir.0).contains(&format!("--data {} is in use", dir.arg())));
    first.kill();
    assert!(from(&serve(&dir, &[]), "a", "all").starts_with("data: x\n"));
    // Not even root can create a file in the directory of a process in /proc.
    for path in [dir.0.join("a.sse").as_path(), Path::new("/proc/x/y"), Path::new("/proc/self")] {
        assert!(refusal(path).contains(&format!("--data {} ", path.display())));
    }
    let mut command = Command::new("timeout");
    command.args(["10", env!("CARGO_BIN_EXE_tincan"), "--sync"]);
    bare(&mut command);
    let out = command.output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    assert!(text.contains("--data"), "{text}");
}

#[test]
fn the_history_bounds_the_files_and_what_it_takes_is_told() {
    for sync in [&["--history", "8K"][..], &["--history", "8K", "--sync"]] {
        let dir = Scratch::new();
        let mut server = serve(&dir, sync);
        let (mut subscriber, _) = server.listen("/a", "");
        let size = |file| fs::metadata(dir.0.join(file)).map_or(0, |meta| meta.len());
        let total = || size("a.sse") + size("a.old.sse");
        let (mut ids, mut most) = (Vec::new(), 0);
        for n in 0..400 {
            let data = format!("{n} {}", "h".repeat(n % 500));
            ids.extend(server.post("/a", &data));
            let bytes = total();
            assert!(bytes <= 8192, "{bytes} after {n}");
            most = most.max(bytes);
            // A subscriber that keeps up receives everything once and in order.
            subscriber.expect(block(&ids[n], &data));
        }
        assert!(most > 7000, "the files use the history: {most} bytes");
        for _ in 0..2 {
            let kept = from(&server, "a", "all");
            let first = ids.iter().position(|id| *id == id_of(&kept)).unwrap();
            let events = |file| dir.read(file).split_once("\n\n").unwrap().1.to_string();
            assert_eq!(kept, events("a.old.sse") + &events("a.sse"));
            let head = format!("{}; no longer kept: everything up to {}\n\n", HEAD.trim_end(), ids[first - 1]);
            assert!(dir.read("a.sse").starts_with(&head), "{}", dir.read("a.sse"));
            for asked in [0, 1, first - 2] {
                let gap_event = gap(&ids[asked], &format!("\"{}\"", ids[first]), &(first - 1 - asked).to_string());
                assert_eq!(from(&server, "a", &ids[asked]), gap_event + &kept);
            }
            assert_eq!(from(&server, "a", &ids[first - 1]), kept, "no gap after the newest dropped event");
            server.kill();
            server = serve(&dir, sync);
        }
        // An event that is larger than the history is kept alone.
        let huge = "H".repeat(20_000);
        let id = server.post("/a", &huge);
        assert_eq!(from(&server, "a", "all"), block(&id[0], &huge));
        assert_eq!(size("a.old.sse"), 0);
        server.post("/a", "small");
        assert!(total() <= 8192);
    }
}

#[test]
fn who_has_heard_all_that_was_dropped_hears_no_gap() {
    let dir = Scratch::new();
    let large = "l".repeat(1500);
    let events = [1, 2, 3].map(|n| block(format!("{EPOCH}-{n}"), &large));
    put(&dir, "a.sse", HEAD.to_string() + &events.concat());
    let mut server = serve(&dir, &["--history", "8K"]);
    let kept = block(&server.post("/a", &large)[0], &large); // the three others are dropped for this one
    for _ in 0..2 {
        assert_eq!(from(&server, "a", "all"), kept);
        assert!(from(&server, "a", &format!("{EPOCH}-2")).starts_with("event: gap\n"));
        assert_eq!(from(&server, "a", &format!("{EPOCH}-3")), kept);
        server.kill();
        server = serve(&dir, &["--history", "8K"]);
    }
}

#[test]
fn what_a_power_cut_took_is_told_as_a_gap() {
    let dir = Scratch::new();
    put(&dir, "a.sse", [HEAD, &three().concat()].concat()); // -4 and -5 were received by clients, and are missing
    let server = serve(&dir, &[]);
    let [last, lost, end] = [3, 4, 5].map(|n| format!("{EPOCH}-{n}"));
    assert_eq!(from(&server, "a", &end), gap(&end, "null", "null"));
    assert_eq!(from(&server, "a", &last), "");
    let next = server.post("/a", "next").remove(0);
    let more = block(&next, "next");
    for id in [&lost, &end] {
        assert_eq!(from(&server, "a", id), gap(id, &format!("\"{next}\""), "null") + &more);
    }
    assert_eq!(from(&server, "a", &last), more, "no gap after the last event in the file");
    let (mut subscriber, _) = server.listen("/a", &format!("Last-Event-ID: {end}\r\n"));
    subscriber.expect(gap(&end, &format!("\"{next}\""), "null") + &more);
    subscriber.expect(block(&server.post("/a", "live")[0], "live"));
}

#[test]
fn an_epoch_that_left_no_event_leaves_no_gap() {
    let dir = Scratch::new();
    let (mut starts, mut events) = (Vec::new(), String::new());
    for round in 0..6 {
        let mut server = serve(&dir, &[]);
        let (_reader, start_id) = server.listen("/a", "");
        starts.push((start_id, events.len())); // the events that are published from here on
        if round % 2 == 1 {
            events += &block(&server.post("/a", "x")[0], "x");
        }
        for (start_id, start) in &starts {
            assert_eq!(from(&server, "a", start_id), events[*start..], "round {round}, {start_id}");
        }
        server.kill();
    }
}

#[test]
fn channels_count_with_their_files_and_without_an_event_there_is_none() {
    let dir = Scratch::new();
    let file = [HEAD, &three().concat()].concat();
    ["a.sse", "b.sse", "c.sse"].iter().for_each(|name| put(&dir, name, &file));
    let server = serve(&dir, &["--max-channels", "3"]);
    for _ in 0..2 {
        server.post_with("/d", "", "x").refused(CHANNELS);
        server.get("/d").refused(CHANNELS);
        for name in ["a", "b", "c"] {
            server.post(&format!("/{name}"), "x");
            assert!(from(&server, name, "all").starts_with(&three().concat()));
        }
    }
    let dir = Scratch::new();
    let server = serve(&dir, &[]);
    let subscribers: Vec<_> = (0..20).map(|n| server.listen(&format!("/e{}", n % 5), "")).collect();
    for n in 0..20 {
        assert_eq!(from(&server, &format!("e{n}"), "all"), "");
    }
    drop(subscribers);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
}

#[test]
fn names_whose_files_are_removed_are_free_without_a_restart() {
    let dir = Scratch::new();
    let file = [HEAD, &three().concat()].concat();
    ["a.sse", "b.old.sse", "c.sse", "d.sse"].iter().for_each(|name| put(&dir, name, &file));
    let server = serve(&dir, &["--max-channels", "4"]);
    let taken = || server.post_with("/e", "", "x").refused(CHANNELS);
    let freed = |name: &str| {
        eventually("the name is free", || server.post_with(&format!("/{name}"), "", "x").status == 200);
    };
    let remove = |name: &str| fs::remove_file(dir.0.join(name)).unwrap();
    taken();
    // A file that a crash left behind belongs to no channel.
    put(&dir, "e.cut-1", "x");
    taken();
    // A channel that was not used since the start, and has only the older part.
    remove("b.old.sse");
    freed("e");
    // A channel whose file is open. It begins a new log with greater ids, and subscribers that know the old one get a
    // gap.
    let old = server.post("/c", "old").remove(0);
    remove("c.sse");
    freed("f");
    server.post_with("/c", "", "x").refused(CHANNELS);
    remove("d.sse");
    freed("c");
    let new = id_of(&from(&server, "c", "all"));
    let epoch = |id: &str| id.split('-').next().unwrap().parse::<u64>().unwrap();
    assert!(epoch(&new) > epoch(&old), "{new} {old}");
    assert_eq!(from(&server, "c", &old), gap(&old, &format!("\"{new}\""), "null") + &block(&new, "x"));
    // A channel with a subscriber is left as it is.
    let (_reader, _) = server.listen("/f", "");
    remove("f.sse");
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(120)); // after this time the server checks again
        server.post_with("/g", "", "x").refused(CHANNELS);
    }
    assert_eq!(server.readers("f"), 1);
    server.post("/a", "existing channels go on");
}

#[test]
fn a_damaged_log_keeps_its_name_also_if_all_names_are_used() {
    let dir = Scratch::new();
    put(&dir, "bad.sse", "this is no log\n\n");
    put(&dir, "good.sse", [HEAD, &three().concat()].concat());
    let server = serve(&dir, &["--max-channels", "2"]);
    for _ in 0..3 {
        server.post_with("/new", "", "x").refused(CHANNELS);
        server.post_with("/bad", "", "x").refused(LOG_CLOSED);
        assert_eq!(server.get("/health").status, 503);
        std::thread::sleep(Duration::from_millis(120)); // after this time the server checks for free names again
    }
    fs::remove_file(dir.0.join("bad.sse")).unwrap();
    eventually("its name is free", || server.post_with("/new", "", "x").status == 200);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_disk_that_fails_while_nobody_reads_the_terminal_holds_up_nobody_else() {
    fails_while_nobody_reads(|_| String::new(), |_| None);
}

/// Lets the disk fail while nobody reads the terminal. `first` returns the query of the first message. `last` returns
/// the query of the last message, which only the subscriber with this prelude receives.
pub fn fails_while_nobody_reads(first: fn(&str) -> String, last: fn(&str) -> Option<String>) {
    let dir = Scratch::new();
    let port = free_port();
    let (unread, stderr) = UnixStream::pair().unwrap();
    let mut filler = stderr.try_clone().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    command.args(["--listen", &format!("127.0.0.1:{port}"), "--quiet", "--heartbeat", "1", "--data", dir.arg()]);
    bare(&mut command);
    let _server = Ended(command.stdout(Stdio::null()).stderr(OwnedFd::from(stderr)).spawn().unwrap());
    eventually("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    eventually("the terminal is full", || {
        filler.set_nonblocking(true).unwrap();
        let full = filler.write_all(&[b'x'; 4096]).is_err();
        filler.set_nonblocking(false).unwrap();
        full
    });
    let ask = |request: String| {
        let mut wire = Wire::to(port);
        wire.send(request);
        wire
    };
    let post = |path: &str| ask(format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"));
    assert_eq!(post("/a").response().status, 200);
    let mut subscriber = ask("GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n".into());
    subscriber.until(b"\r\n\r\n");
    let prelude = subscriber.block();
    fs::rename(dir.0.join("a.sse"), dir.0.join("moved")).unwrap();
    let mut waits = vec![post(&format!("/a{}", first(&prelude)))];
    eventually("the disk fails", || {
        let mut next = post("/a");
        next.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let answered = next.stream.peek(&mut [0]).is_ok();
        next.stream.set_read_timeout(Some(SOON)).unwrap();
        if !answered {
            waits.push(next); // it waits for the terminal; the first one does not
            return false;
        }
        next.response().text() == LOG_FAILED.line()
    });
    assert!(waits.len() <= 2, "{} requests wait for the terminal", waits.len());
    assert_eq!(post("/b").response().status, 200);
    put(&dir, "damaged.sse", "no log\n\n");
    let _waits = post("/damaged");
    eventually("its log cannot be opened", || {
        ask("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".into()).response().status == 503
    });
    assert_eq!(post("/damaged").response().text(), LOG_CLOSED.line());
    assert_eq!(ask("GET /a?wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n".into()).response().status, 200);
    if let Some(query) = last(&prelude) {
        assert_eq!(post(&format!("/a{query}")).response().status, 200);
        subscriber.until(b"data: x\n\n");
    }
    subscriber.until(PING.as_bytes());
    drop(unread);
}

fn with_64_descriptors(dir: &Scratch) -> Tincan {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tincan"), "--listen", "127.0.0.1:0"]);
    command.args(["--quiet", "--retry", "0", "--data", dir.arg()]);
    Tincan::run(command)
}

#[test]
fn channels_in_use_beyond_the_descriptors_are_refused() {
    let dir = Scratch::new();
    let server = with_64_descriptors(&dir);
    let mut subscribers: Vec<Wire> = (0..8).map(|n| server.listen(&format!("/a{n}"), "").0).collect();
    server.post_with("/a8", "", "x").refused(OPEN_LOGS);
    let id = server.post("/a7", "existing channels go on").remove(0);
    subscribers.pop().unwrap().expect(block(&id, "existing channels go on"));
    eventually("one channel is no longer in use", || server.post_with("/a8", "", "x").status == 200);
}

#[test]
fn tail_follows_a_log_into_its_next_files() {
    let dir = Scratch::new();
    let server = serve(&dir, &["--history", "2K"]);
    let mut ids = server.post("/a", "so that there is a file");
    let out = Scratch::new();
    let mut tail = Command::new("tail");
    tail.args(["-n", "+1", "-s", "0.1", "-F", "a.sse", "--pid", &server.pid().to_string()])
        .current_dir(&dir.0)
        .stderr(Stdio::null());
    let mut tail = tail.stdout(File::create(out.0.join("shown")).unwrap()).spawn().unwrap();
    let all = |ids: &[String]| ids.iter().all(|id| out.read("shown").matches(&format!("id: {id}\n")).count() == 1);
    for n in 0..60 {
        eventually("tail shows the event, once", || all(&ids));
        ids.extend(server.post("/a", format!("{n} {}", "x".repeat(100))));
    }
    eventually("tail shows all events, once", || all(&ids));
    tail.kill().unwrap();
    tail.wait().unwrap();
    assert!(out.read("shown").matches(HEAD.trim_end()).count() > 4, "{} files", out.read("shown"));
}

#[test]
fn with_few_descriptors_logs_are_closed_and_opened_again() {
    let dir = Scratch::new();
    let server = with_64_descriptors(&dir);
    let (mut subscriber, _) = server.listen("/a0", "");
    let mut ids = vec![Vec::new(); 20];
    for n in (0..20).cycle().take(60) {
        ids[n].extend(server.post(&format!("/a{n}"), "x"));
        let open = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let open = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).filter(|path| path.starts_with(&dir.0));
        assert!(open.count() <= 1 + 16, "only the directory, and two files for each of an eighth of the descriptors");
    }
    for (n, ids) in ids.iter().enumerate() {
        let events: String = ids.iter().map(|id| block(id, "x")).collect();
        assert_eq!(dir.read(&format!("a{n}.sse")), HEAD.to_string() + &events);
        if n < 4 {
            // Not all of them: a client that has just polled counts as a user of its channel.
            assert_eq!(from(&server, &format!("a{n}"), "all"), events);
        }
        // The channel that has a subscriber stays open; the others come back with a greater epoch.
        assert_eq!(epoch(&ids[0]) == epoch(&ids[1]), n == 0, "{ids:?}");
    }
    subscriber.expect(from(&server, "a0", "all"));
}

#[test]
fn a_file_that_others_change_takes_no_event_and_is_read_on() {
    let dir = Scratch::new();
    let server = serve(&dir, &["--heartbeat", "1"]);
    let check = |name: &str| {
        let (channel, path) = (format!("/{name}"), dir.0.join(format!("{name}.sse")));
        let (mut subscriber, _) = server.listen(&channel, "");
        let mut hears = |block: &str| eventually("the subscriber receives the block", || subscriber.block() == block);
        let one = block(&server.post(&channel, "one")[0], "one");
        let mut file = File::options().append(true).open(&path).unwrap();
        match name {
            "changed" => file.write_all(b"data: mine\n\n").unwrap(),
            "moved" => fs::rename(&path, dir.0.join(format!("{name}.elsewhere"))).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        for _ in 0..3 {
            server.post_with(&channel, "", "two").refused(LOG_FAILED);
        }
        let count = || server.stderr().matches(&format!("tincan: {channel} ")).count();
        eventually("the error is reported", || count() > 0);
        assert_eq!(from(&server, name, "all"), one);
        hears(&one);
        hears(":ping\n\n");
        assert_eq!(count(), 1, "once: {}", server.stderr());
        assert!(server.stderr().contains(path.to_str().unwrap()), "{}", server.stderr());
        if name != "removed" {
            file.set_len((HEAD.len() + one.len()) as u64).unwrap();
            let _ = fs::rename(dir.0.join(format!("{name}.elsewhere")), &path);
            let id = server.post(&channel, "three").remove(0);
            assert!(id.ends_with("-2"), "nothing was kept of the refused POSTs: {id}");
            hears(&block(&id, "three"));
        }
    };
    std::thread::scope(|scope| {
        ["changed", "moved", "removed"].iter().for_each(|name| drop(scope.spawn(|| check(name))))
    });
}

#[test]
fn a_log_that_cannot_be_opened_refuses_until_it_can() {
    let dir = Scratch::new();
    let file = [HEAD, &three().concat()].concat();
    let damaged = file.replacen("data", "dada", 1);
    put(&dir, "a.sse", &file);
    let server = serve(&dir, &[]);
    put(&dir, "a.sse", &damaged);
    let response = server.post_with("/a", "", "x");
    response.refused(LOG_CLOSED);
    assert!(response.field("retry-after").is_some(), "{}", response.head);
    let response = server.ask("GET /a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!((response.status, response.field("content-type")), (200, Some("text/event-stream")));
    let text = response.text();
    let retry = text.strip_prefix(&format!(": {}\nretry: ", LOG_CLOSED.why)).and_then(|t| t.strip_suffix('\n'));
    assert!(retry.is_some_and(|ms| (2500..=7500).contains(&ms.parse().unwrap())), "{text}");
    eventually("the error is reported", || server.stderr().contains(dir.0.join("a.sse").to_str().unwrap()));
    assert_eq!(dir.read("a.sse"), damaged);
    put(&dir, "a.sse", &file);
    let id = server.post("/a", "x").remove(0);
    assert_eq!(dir.read("a.sse"), file + &block(&id, "x"));
}
