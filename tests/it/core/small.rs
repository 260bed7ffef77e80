//! A small board: memory, start, address space. The figures hold for the release build, which `.ci/run` names in
//! `TINCAN_RELEASE`, and for the static release build, which it names in `TINCAN_STATIC`. Without these variables, only
//! the tests that hold for every build run.

use crate::support::harness::*;
use crate::support::process::{release, status};
use std::fs::read_to_string;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tincan::system::limits::soft_limit;
use tincan::wire::reject::TIMEOUT;

/// Returns the memory that a process needs for itself, in KiB: first the pages that it has written, then these and
/// all pages of its program in memory, as if no other process shared them. Unchanged pages of the system's libraries
/// are not counted. Their share (PSS) depends on other processes: it is 20 KiB if there are many and 300 KiB if there
/// are few.
fn own_memory(pid: u32) -> (usize, usize) {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let (mut sum, mut written, mut own) = (0, 0, false);
    for line in read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            ["Rss:", n, "kB"] if own => sum += n.parse::<usize>().unwrap(),
            ["Anonymous:", n, "kB"] => {
                let n: usize = n.parse().unwrap();
                written += n;
                sum += if own { 0 } else { n };
            }
            [range, _, _, _, inode, ..] if range.contains('-') => {
                own = inode != "0" && line.ends_with(program.to_str().unwrap());
            }
            _ => {}
        }
    }
    (written, sum)
}

#[test]
fn an_idle_server_takes_about_a_mebibyte() {
    let Some(program) = release() else { return };
    let mut command = Command::new(&program);
    command.args(["--listen", "127.0.0.1:0"]);
    let server = Tincan::run(command);
    assert_eq!(server.get("/health").text(), "ok\n");
    // The kernel chooses how much of the program is in memory; `.ci/run` has these limits for all of it.
    let most = if tincan::wings::DOORS.iter().any(|door| door.wing.is_some()) { 1045 } else { 669 };
    let (written, own) = own_memory(server.pid());
    assert!(own > 256 + written, "{own} KiB: the program's own pages are missing");
    // 180 to 200: threads, the loader and the C library write some more pages on some machines.
    assert!(written < 256, "{written} KiB written");
    assert!(own < most + 256, "{own} KiB");
}

#[test]
fn after_three_thousand_silent_clients_the_memory_is_free_again() {
    const CLIENTS: usize = 3_000;
    let Ok(program) = std::env::var("TINCAN_STATIC") else {
        return eprintln!("left out: TINCAN_STATIC names no static release build");
    };
    if soft_limit("Max open files").is_some_and(|limit| limit < 7_000) {
        return eprintln!("left out: `ulimit -n` is below 7000");
    }
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0", "--quiet"]);
    let server = Tincan::run(command);
    // Only this connection is left.
    let is_empty = || server.metric("tincan_connections") == Some(1);
    let others: Vec<Wire> = (0..20).map(|_| server.listen("/a", "").0).collect();
    server.post("/a", "x");
    drop(others);
    eventually("the first subscribers have left", is_empty);
    let threads = status(&server, "Threads:");
    let before = own_memory(server.pid());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS / 100 {
        clients.extend((0..100).map(|_| server.connect()));
        server.get("/health"); // the server has accepted those before it, so that no client has to try again
    }
    assert!(status(&server, "Threads:") > CLIENTS as u64 / 2, "most of them are there at one time");
    for mut client in clients {
        client.response().refused(TIMEOUT);
    }
    eventually("all have left", is_empty);
    eventually("their threads have ended", || status(&server, "Threads:") <= threads);
    let after = own_memory(server.pid());
    println!("KiB written, and of its own: {before:?} before the crowd, {after:?} after it");
    assert!(after.1 <= before.1 + 1024, "{after:?} KiB after the crowd, {before:?} before it");
}

#[test]
fn the_first_byte_comes_within_five_milliseconds_of_the_start() {
    let Some(program) = release() else { return };
    // The client connects before the server starts. The best of many starts counts, since other programs use the
    // machine.
    let start = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut command = Command::new(&program);
        command.args(["--listen", "-", "--quiet"]).stdin(OwnedFd::from(listener)).stderr(Stdio::null());
        let began = Instant::now();
        let _server = Ended(command.spawn().unwrap());
        client.read_exact(&mut [0]).unwrap();
        began.elapsed()
    };
    // If even a program that does nothing takes more than 1.25 ms, the machine is busy, and four times that is
    // allowed.
    let nothing = || {
        let began = Instant::now();
        assert!(Command::new(&program).arg("--version").output().unwrap().status.success());
        began.elapsed()
    };
    let (mut best, mut least) = (start(), nothing());
    eventually("the first byte of the best start comes in time", || {
        (best, least) = (best.min(start()), least.min(nothing()));
        best < Duration::from_millis(5).max(4 * least)
    });
}

#[test]
fn five_hundred_readers_fit_into_32_mib_of_address_space() {
    let program = std::env::var("TINCAN_RELEASE").unwrap_or(env!("CARGO_BIN_EXE_tincan").into());
    let mut command = Command::new("sh");
    // No subscriber is idle for so long that it gets a ping.
    command.arg("-c").arg(format!("ulimit -v 32768; exec {program} --listen 127.0.0.1:0 --heartbeat 300"));
    let server = Tincan::run(command);
    let limits = read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    assert!(limits.lines().any(|l| l.starts_with("Max address space") && l.contains(" 33554432 ")), "{limits}");
    let (mut subscribers, mut epoch) = (Vec::new(), String::new());
    for _ in 0..500 {
        let (subscriber, id) = server.listen("/a", "");
        epoch = id.split('-').next().unwrap().into();
        subscribers.push(subscriber);
    }
    for n in 1..=20 {
        let body = format!("{n}:{}", "x".repeat(10_000));
        assert_eq!(server.post("/a", &body), [format!("{epoch}-{n}")]);
        subscribers.iter_mut().for_each(|r| r.expect(format!("data: {body}\nid: {epoch}-{n}\n\n")));
    }
    assert_eq!(server.readers("a"), 500);
}
