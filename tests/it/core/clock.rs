//! A clock that is not set: boards without a battery start in 1970. `faketime` shows the server another time. Its
//! monotonic clock stays the real one.

use crate::support::harness::*;
use std::fs;
use std::process::Command;

/// A time at which no clock is set, and one at which each is.
const UNSET: &str = "1970-01-01 00:00:10";
const SET: &str = "2030-05-06 07:08:09";
/// The same in milliseconds since 1970, and as a field value.
const SET_MILLIS: u64 = 1_904_281_689_000;
const SET_DATE: &str = "Mon, 06 May 2030 07:08:09 GMT";

/// A clock that stands still, in a file that the server reads each time that it asks for the time.
struct Clock {
    library: String,
    dir: Scratch,
}

impl Clock {
    /// Returns a clock that shows this time. If faketime is missing, returns None: the test is left out, unless
    /// `TINCAN_FAKETIME` is set.
    fn at(time: &str) -> Option<Clock> {
        let mut command = Command::new("faketime");
        let out = command.args([SET, "printenv", "LD_PRELOAD"]).output().ok().filter(|out| out.status.success());
        let Some(out) = out else {
            assert!(std::env::var_os("TINCAN_FAKETIME").is_none(), "faketime is missing");
            eprintln!("left out: faketime is missing");
            return None;
        };
        let library = String::from_utf8(out.stdout).unwrap().trim().into();
        let clock = Clock { library, dir: Scratch::new() };
        clock.set(time);
        Some(clock)
    }

    /// Sets the clock, in one step.
    fn set(&self, time: &str) {
        fs::write(self.dir.0.join("next"), time).unwrap();
        fs::rename(self.dir.0.join("next"), self.dir.0.join("now")).unwrap();
    }

    fn start(&self, args: &[&str]) -> Tincan {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
        command.args(["--listen", "127.0.0.1:0", "--heartbeat", "3600"]).args(args);
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", self.dir.0.join("now"));
        command.env("FAKETIME_NO_CACHE", "1").env("TZ", "UTC0");
        // Two names of one switch: versions of faketime differ.
        command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Tincan::run(command)
    }
}

/// Returns the epoch and the number of an id.
fn parts(id: &str) -> (u64, u64) {
    let (epoch, number) = id.split_once('-').unwrap();
    (epoch.parse().unwrap(), number.parse().unwrap())
}

/// Publishes; returns the epoch and the number of the id.
fn post(server: &Tincan, path: &str) -> (u64, u64) {
    parts(&server.post(path, "x")[0])
}

/// Returns the heads of responses of each kind.
fn heads(server: &Tincan) -> Vec<String> {
    let mut stream = server.connect();
    stream.send("GET /dates HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    let mut heads = vec![stream.head().head];
    for request in [
        "GET /dates?wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /dates?wait=0 HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /assets/chat.js HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "OPTIONS /dates HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /dates HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx",
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /no/such/thing HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "DELETE /dates HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /dates HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET /dates HTTP/1.1\nHost: localhost\n\n",
    ] {
        let mut wire = server.connect();
        wire.send(request);
        heads.push(wire.head().head);
    }
    heads
}

#[test]
fn a_response_has_a_date_only_if_the_clock_is_set() {
    let Some(clock) = Clock::at(UNSET) else { return };
    let server = clock.start(&[]);
    for time in [UNSET, "2024-12-31 23:59:59"] {
        clock.set(time);
        for head in heads(&server) {
            assert!(!head.to_ascii_lowercase().contains("\r\ndate:"), "{time}: {head}");
        }
    }
    for (time, date) in [("2025-01-01 00:00:00", "Wed, 01 Jan 2025 00:00:00 GMT"), (SET, SET_DATE)] {
        clock.set(time);
        for head in heads(&server) {
            assert!(head.contains(&format!("\r\nDate: {date}\r\n")), "{time}: {head}");
        }
    }
}

#[test]
fn epochs_are_random_until_the_clock_is_set_and_ids_grow() {
    let Some(clock) = Clock::at(UNSET) else { return };
    let mut firsts = Vec::new();
    for _ in 0..2 {
        clock.set(UNSET);
        let server = clock.start(&[]);
        let (first, number) = parts(&server.listen("/a", "").1);
        assert!((1 << 20..1 << 40).contains(&first) && number == 0, "{first}-{number}");
        firsts.push(first);
        for number in 1..=3 {
            assert_eq!(post(&server, "/a"), (first, number));
        }
        let second = post(&server, "/b").0;
        assert!(second > first, "{first} and then {second}");
        // As soon as the clock is set, the next channel has the time. A channel keeps the epoch that it has.
        clock.set(SET);
        assert_eq!(post(&server, "/c"), (SET_MILLIS, 1));
        assert_eq!(post(&server, "/d"), (SET_MILLIS + 1, 1));
        assert_eq!(post(&server, "/a"), (first, 4));
        // A clock that is set back does not take epochs back.
        clock.set(UNSET);
        assert_eq!(post(&server, "/e"), (SET_MILLIS + 2, 1));
    }
    assert_ne!(firsts[0], firsts[1]);
}

#[test]
fn without_a_clock_ids_stay_above_those_in_files() {
    let Some(clock) = Clock::at(SET) else { return };
    let dir = Scratch::new();
    let start = || clock.start(&["--data", dir.arg()]);
    assert_eq!(post(&start(), "/a"), (SET_MILLIS, 1));
    clock.set(UNSET);
    let mut last = 0;
    for restart in 1..=3 {
        let server = start();
        assert_eq!(post(&server, "/a"), (SET_MILLIS + restart, 1));
        // This channel has never seen a clock that is set.
        let (epoch, number) = post(&server, "/b");
        assert!(epoch > last && epoch < SET_MILLIS && number == 1, "{epoch}-{number} after {last}");
        last = epoch;
    }
    clock.set("2031-05-06 07:08:09");
    let server = start();
    for path in ["/a", "/b"] {
        assert!(post(&server, path).0 >= SET_MILLIS + 365 * 24 * 3600 * 1000);
    }
    // A client that has heard everything misses nothing over the restarts.
    let text = server.get("/b?wait=0&since=all").text();
    let ids: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("id: ")).map(parts).collect();
    assert!(ids.len() == 5 && ids.is_sorted(), "{text}");
}
