//! Messages about Redis for the operator: each line is one write, and no client waits for it.

use crate::core::report::{greeting, line, start};
use crate::redis::server::Redis;
use crate::support::harness::*;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

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
    eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    eventually("the node is healthy", || ask("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200);
    let mut reader = Wire::to(port);
    reader.send("GET /kitchen HTTP/1.0\r\n\r\n");
    reader.until(b"\n\n");
    // From here on every write to it would block.
    for size in [4096, 1] {
        while filler.write(&vec![b'x'; size]).map_err(|e| assert_eq!(e.kind(), ErrorKind::WouldBlock)).is_ok() {}
    }
    for channel in ["one", "two", "three"] {
        redis.ask(&["SET", &format!("tincan:{channel}"), "x"]);
        assert_eq!(post(channel), 503); // and the operator would get a message
    }
    assert_eq!(post("kitchen"), 200);
    reader.until(b"data: soup\n");
    redis.kill();
    eventually("Redis is away", || post("kitchen") == 503);
    reader.until(b":ping\n\n");
    redis.again();
    eventually("Redis is back", || post("kitchen") == 200);
    reader.until(b"data: soup\n");
}
