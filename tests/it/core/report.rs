//! Output on standard error: each line, or a group of lines that belong together, is one write.

use crate::support::harness::*;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

/// Starts tincan on a port with a datagram socket as standard error: each datagram is one write.
pub fn start(port: u16, args: &[&str]) -> (Ended, UnixDatagram) {
    let (writes, stderr) = UnixDatagram::pair().unwrap();
    writes.set_read_timeout(Some(SOON)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    command.args(["--listen", &format!("127.0.0.1:{port}")]).args(args);
    let child = command.stdout(Stdio::null()).stderr(OwnedFd::from(stderr)).spawn().unwrap();
    (Ended(child), writes)
}

/// Returns the next write, which must consist of whole lines.
pub fn write(writes: &UnixDatagram) -> String {
    let mut bytes = vec![0; 64 << 10];
    let n = writes.recv(&mut bytes).expect("another write");
    bytes.truncate(n);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.ends_with('\n'), "{text:?} does not end a line");
    text
}

/// Returns the port and the first write of a server that has started.
pub fn greeting(writes: &UnixDatagram) -> (u16, String) {
    let text = write(writes);
    let first = text.lines().next().unwrap();
    let port = first.strip_prefix("tincan: http://localhost:").unwrap().trim_end_matches('/').parse().unwrap();
    (port, text)
}

/// Asserts that the next write is one line that contains this.
pub fn line(writes: &UnixDatagram, part: &str) {
    let text = write(writes);
    assert!(text.lines().count() == 1 && text.contains(part), "{text:?} instead of {part:?}");
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
