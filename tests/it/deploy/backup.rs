//! Backups as `static/deploy/README.md` describes them: `backup.sh` and plain copies, both while events are
//! published, and a server that starts with the copy.

use crate::support::harness::*;
use std::fs::{copy, create_dir, read_dir, read_to_string, remove_file};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::scope;
use std::time::Instant;
use tincan::wire::id::Id;

const CHANNELS: [&str; 2] = ["kitchen", "bar"];
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/static/deploy/backup.sh");
const OLD: &str = "kitchen.old.sse";
const NEWEST: &str = "kitchen.sse";

/// So small that a file turns over after some dozens of the events.
const ARGS: [&str; 3] = ["--quiet", "--history", "32K"];

fn start(dir: &Path) -> Tincan {
    Tincan::start(&[&ARGS[..], &["--data", dir.to_str().unwrap()]].concat())
}

/// Returns the ids and data of the events that a channel keeps. There must be no gap among them.
fn kept(server: &Tincan, channel: &str) -> Vec<(Id, String)> {
    let text = server.get(&format!("/{channel}?wait=0&since=all")).text();
    let (_, events) = text.split_once("\n\n").unwrap();
    let events = events.split_terminator("\n\n").map(|block| {
        let (data, id) = block.strip_prefix("data: ").and_then(|block| block.split_once("\nid: ")).expect(block);
        (Id::parse(id).unwrap(), data.to_string())
    });
    let events: Vec<_> = events.collect();
    assert!(events.is_sorted_by(|a, b| a.0.precedes(b.0)), "events of /{channel} are missing");
    events
}

/// Publishes until a new file begins. The new file's first line differs from that of the file before.
fn turn_over(server: &Tincan, dir: &Scratch) {
    let head = || read_to_string(dir.0.join(NEWEST)).ok().and_then(|text| text.lines().next().map(String::from));
    server.post("/kitchen", "first");
    let before = head();
    while head() == before {
        server.post("/kitchen", "x".repeat(300));
    }
}

/// Publishes to each channel while a check runs, and for some time before; notes the acknowledged events.
fn while_published(server: &Tincan, acknowledged: &[Acknowledged; 2], check: impl FnOnce()) {
    let stop = &AtomicBool::new(false);
    let began = Instant::now();
    let enough = counts(acknowledged).map(|count| count + 150);
    scope(|threads| {
        for (channel, acknowledged) in CHANNELS.iter().zip(acknowledged) {
            threads.spawn(move || {
                while !stop.load(SeqCst) && began.elapsed() < 2 * SOON {
                    let n = acknowledged.lock().unwrap().len();
                    let data = format!("{n} {}", "x".repeat(n % 300));
                    let id = server.post(&format!("/{channel}"), &data).remove(0);
                    acknowledged.lock().unwrap().push((Id::parse(&id).unwrap(), data));
                }
            });
        }
        eventually("enough is published", || counts(acknowledged).iter().zip(enough).all(|(n, enough)| *n >= enough));
        check();
        stop.store(true, SeqCst);
    });
}

/// The acknowledged events of a channel: ids and data.
type Acknowledged = Mutex<Vec<(Id, String)>>;

fn counts(acknowledged: &[Acknowledged; 2]) -> [usize; 2] {
    acknowledged.each_ref().map(|list| list.lock().unwrap().len())
}

#[test]
fn a_backup_while_events_are_published_has_all_that_was_acknowledged_before() {
    let (dir, copies) = (Scratch::new(), Scratch::new());
    let server = start(&dir.0);
    let acknowledged = CHANNELS.map(|_| Mutex::default());
    for n in 0..10 {
        let backup = copies.0.join(n.to_string());
        let mut before = [0; 2];
        while_published(&server, &acknowledged, || {
            before = counts(&acknowledged);
            let out = Command::new("sh").args([Path::new(SCRIPT), &dir.0, &backup]).output().unwrap();
            assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        });
        let restored = start(&backup);
        for ((channel, acknowledged), before) in CHANNELS.iter().zip(&acknowledged).zip(before) {
            let events = kept(&restored, channel);
            let acknowledged = acknowledged.lock().unwrap();
            let first = acknowledged.binary_search(&events[0]).expect("the first event was acknowledged");
            assert!(acknowledged[first..].starts_with(&events), "/{channel}: the events differ");
            let end = first + events.len();
            assert!(end >= before, "/{channel} ends early, at {end}, not {before}");
            // Only events that the server itself has dropped may be missing.
            assert!(events[0] <= kept(&server, channel)[0], "/{channel} begins late");
        }
        let messages = restored.stderr();
        assert!(!messages.contains("cannot be opened") && !messages.contains("hole"), "{messages}");
        for entry in read_dir(&backup).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.contains(".cut-") {
                assert!(!read_to_string(backup.join(&name)).unwrap().contains("\n\n"), "{name} has a complete event");
            }
        }
    }
    assert!(dir.0.join(OLD).exists(), "no file has turned over");
}

#[test]
fn a_subscriber_that_is_ahead_of_a_restored_copy_is_told_by_a_gap() {
    let (dir, copies) = (Scratch::new(), Scratch::new());
    let mut server = start(&dir.0);
    let first = server.post("/kitchen", "one").remove(0);
    copy(dir.0.join(NEWEST), copies.0.join(NEWEST)).unwrap();
    let ahead = server.post("/kitchen", "two").remove(0);
    server.kill();
    let restored = start(&copies.0);
    let last = restored.post("/kitchen", "three").remove(0);
    assert!(Id::parse(&last) > Id::parse(&ahead), "{last} is not above {ahead}");
    let replay = |since: &str| restored.get(&format!("/kitchen?wait=0&since={since}")).text();
    assert!(replay(&first).ends_with(&block("three", &last)) && !replay(&first).contains("event: gap"));
    let gap = format!("event: gap\ndata: {{\"asked\":\"{ahead}\",\"from\":\"{last}\",\"lost\":null}}\n\n");
    assert!(replay(&ahead).ends_with(&(gap + &block("three", &last))), "{}", replay(&ahead));
}

/// A copy in the order of names, as `cp`, `rsync` and `tar --sort=name` make it. A file turns over meanwhile.
#[test]
fn a_plain_copy_of_the_older_file_first_can_lack_a_file_and_tells_so() {
    let (dir, copies) = (Scratch::new(), Scratch::new());
    let server = start(&dir.0);
    (0..2).for_each(|_| turn_over(&server, &dir));
    let asked = server.post("/kitchen", "soup is ready").remove(0);
    let take = |name| copy(dir.0.join(name), copies.0.join(name)).unwrap();
    take(OLD);
    turn_over(&server, &dir);
    take(NEWEST);
    let restored = start(&copies.0);
    assert_eq!(restored.get("/health").text(), "ok\n");
    let all = restored.get("/kitchen?wait=0&since=all").text();
    assert!(!all.contains("soup is ready"), "the copy has the file");
    let replay = restored.get(&format!("/kitchen?wait=0&since={asked}")).text();
    assert!(replay.contains(&format!("event: gap\ndata: {{\"asked\":\"{asked}\",")), "{replay}");
}

#[test]
fn a_plain_copy_of_the_newer_file_first_can_have_a_file_twice_and_needs_one_removed() {
    let (dir, copies) = (Scratch::new(), Scratch::new());
    let server = start(&dir.0);
    (0..2).for_each(|_| turn_over(&server, &dir));
    let last = server.post("/kitchen", "soup is ready").remove(0);
    let take = |name| copy(dir.0.join(name), copies.0.join(name)).unwrap();
    take(NEWEST);
    turn_over(&server, &dir);
    take(OLD);
    let restored = start(&copies.0);
    let health = restored.get("/health");
    assert_eq!((health.status, restored.get("/kitchen?wait=0").status), (503, 503));
    assert!(restored.stderr().contains("/kitchen: it cannot be opened: "), "{}", restored.stderr());
    remove_file(copies.0.join(NEWEST)).unwrap();
    let events = kept(&restored, "kitchen");
    assert!(events.contains(&(Id::parse(&last).unwrap(), "soup is ready".into())), "an event is missing");
    assert_eq!(restored.get("/health").text(), "ok\n");
}

/// The script does not add to a directory that exists, and fails if there is nothing to copy.
#[test]
fn the_backup_script_fails_if_it_cannot_copy() {
    let dir = Scratch::new();
    let out = Command::new("sh").arg(SCRIPT).output().unwrap();
    assert_eq!((out.status.code(), &*out.stderr), (Some(2), &b"usage: sh backup.sh DIR COPY\n"[..]));
    create_dir(dir.0.join("taken")).unwrap();
    for (from, to) in [(dir.0.clone(), dir.0.join("taken")), (dir.0.join("missing"), dir.0.join("new"))] {
        let out = Command::new("sh").args([Path::new(SCRIPT), &from, &to]).output().unwrap();
        assert!(!out.status.success() && !out.stderr.is_empty() && !dir.0.join("new").exists());
    }
}
