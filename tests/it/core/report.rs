//! What goes to standard error: each line, or lines that belong together, in one write.

use crate::redis::nodes::Redis;
use crate::support::harness::*;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write, pipe};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

/// Runs tincan on a port with a socket of datagrams as standard error: each datagram is one write.
fn start(port: u16, args: &[&str]) -> (Ended, UnixDatagram) {
    let (writes, stderr) = UnixDatagram::pair().unwrap();
    writes.set_read_timeout(Some(SOON)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    command.args(["--listen", &format!("127.0.0.1:{port}")]).args(args);
    let child = command.stdout(Stdio::null()).stderr(OwnedFd::from(stderr)).spawn().unwrap();
    (Ended(child), writes)
}

/// The next write; it is whole lines.
fn write(writes: &UnixDatagram) -> String {
    let mut bytes = vec![0; 64 << 10];
    let n = writes.recv(&mut bytes).expect("a write");
    bytes.truncate(n);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with('\n'), "{text:?} is no line");
    text
}

/// The first write of a server that runs, and its port.
fn greeting(writes: &UnixDatagram) -> (u16, String) {
    let text = write(writes);
    let first = text.lines().next().unwrap();
    let port = first.strip_prefix("tincan: http://localhost:").unwrap().trim_end_matches('/').parse().unwrap();
    (port, text)
}

/// The next write is one line that contains this.
fn line(writes: &UnixDatagram, part: &str) {
    let text = write(writes);
    assert!(text.lines().count() == 1 && text.contains(part), "{text:?}, and not {part:?}");
}

#[test]
fn each_line_is_one_write() {
    let (_server, writes) = start(0, &[]);
    let (port, greeting) = greeting(&writes);
    assert!(greeting.lines().count() > 3, "{greeting}");
    for (request, logged) in [
        ("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", " GET /health 200\n"),
        ("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsoup", " POST /a 200\n"),
        ("GET /a?wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n", " GET /a?wait=0 200\n"),
        ("nonsense\r\n\r\n", " - 400\n"),
    ] {
        Wire::to(port).send(request);
        line(&writes, logged);
    }
}

#[test]
fn what_the_disk_does_is_one_write_a_line() {
    let dir = Scratch::new();
    let (_server, writes) = start(0, &["--quiet", "--data", dir.arg()]);
    let (port, _) = greeting(&writes);
    let post = |status: &str| {
        let mut wire = Wire::to(port);
        wire.send("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsoup");
        assert_eq!(wire.response().status.to_string(), status);
    };
    post("200");
    std::fs::remove_file(dir.0.join("a.sse")).unwrap();
    post("500");
    line(&writes, "tincan: /a takes no event: ");
}

#[test]
fn each_reason_why_it_does_not_start_is_one_write() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    for (args, part) in [(&[][..], " is taken; "), (&["--no-such-option"], "--no-such-option")] {
        let (_server, writes) = start(taken.local_addr().unwrap().port(), args);
        line(&writes, part);
    }
}

#[test]
fn the_lines_of_a_trace_come_a_piece_of_the_wire_in_one_write() {
    let (_server, writes) = start(0, &["--trace", "--quiet"]);
    let (port, greeting) = greeting(&writes);
    assert!(greeting.contains("trace: from here on"), "{greeting}");
    Wire::to(port).send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let request = write(&writes);
    assert!(request.contains("GET /health HTTP/1.1") && request.contains("Host: localhost"), "{request}");
    let answer = write(&writes);
    assert!(answer.contains("HTTP/1.1 200 OK") && answer.contains("X-Content-Type-Options: nosniff"), "{answer}");
}

#[test]
fn news_of_redis_is_one_write_a_line() {
    let nobody = free_port();
    let (_server, writes) = start(0, &["--redis", &format!("127.0.0.1:{nobody}")]);
    greeting(&writes);
    line(&writes, &format!("tincan: redis: 127.0.0.1:{nobody}: away: "));
}

/// `O_NONBLOCK` (open(2)).
const NON_BLOCKING: i32 = 0o4000;

#[test]
fn nobody_waits_for_a_terminal_to_be_told_of_redis() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let port = free_port();
    let (_unread, stderr) = pipe().unwrap();
    let path = format!("/proc/self/fd/{}", stderr.as_raw_fd());
    let mut filler = OpenOptions::new().write(true).custom_flags(NON_BLOCKING).open(path).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    command.args(["--quiet", "--heartbeat", "1", "--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--redis", &format!("127.0.0.1:{}", redis.port)]).stdout(Stdio::null()).stderr(stderr);
    let _server = Ended(command.spawn().unwrap());
    let ask = |request: &str| {
        let mut wire = Wire::to(port);
        wire.send(request);
        wire.response().status
    };
    let post = |name: &str| ask(&format!("POST /{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nsoup"));
    eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    eventually("it is well", || ask("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200);
    let mut reader = Wire::to(port);
    reader.send("GET /kitchen HTTP/1.0\r\n\r\n");
    reader.until(b"\n\n");
    // From here on nobody can write a byte to it without waiting.
    for size in [4096, 1] {
        while filler.write(&vec![b'x'; size]).map_err(|e| assert_eq!(e.kind(), ErrorKind::WouldBlock)).is_ok() {}
    }
    for channel in ["one", "two", "three"] {
        redis.ask(&["SET", &format!("tincan:{channel}"), "x"]);
        assert_eq!(post(channel), 503); // and its owner would be told
    }
    assert_eq!(post("kitchen"), 200);
    reader.until(b"data: soup\n");
    redis.kill();
    eventually("it is away", || post("kitchen") == 503);
    reader.until(b":ping\n\n");
    redis.again();
    eventually("it is back", || post("kitchen") == 200);
    reader.until(b"data: soup\n");
}
