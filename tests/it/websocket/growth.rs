//! The cost of frames.

use crate::support::growth::*;
use crate::support::harness::*;
use crate::support::process::works;
use crate::support::websocket::*;
use std::io::Write;
use std::process::Command;
use std::thread::scope;
use tincan::wings::websocket::frames::Parser;

#[test]
fn websocket_frames() {
    for kind in FRAMES {
        for size in [1, 16 << 10] {
            linear(kind, 2000, |n| {
                let bytes = many(kind, n);
                thread_time(|| {
                    let mut parser = Parser::new(1 << 20);
                    bytes.chunks(size).for_each(|mut piece| while parser.next(&mut piece).unwrap().is_some() {});
                })
            });
        }
    }
    let server = Tincan::start(&["--quiet"]);
    for kind in FRAMES {
        linear(&format!("{kind}, over a socket"), 500, |n| {
            let bytes = many(kind, n);
            let mut ws = Ws::open(&server, "/a");
            let mut writer = ws.0.stream.try_clone().unwrap();
            spent(&server, || {
                scope(|scope| {
                    scope.spawn(move || writer.write_all(&[bytes, ping("the last one")].concat()).unwrap());
                    while ws.frame().unwrap() != (0x8a, b"the last one".into()) {}
                });
            })
        });
    }
}

/// Counts the calls that read a message which has already arrived: one fills the buffer that every request has. Then each
/// two read 16 KB: the first waits for a byte, and the second takes all.
#[test]
fn a_large_message_is_read_in_a_few_calls() {
    if !works("strace -V") {
        return;
    }
    let scratch = Scratch::new();
    let calls = scratch.0.join("calls");
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-e", "trace=recvfrom", "-o", calls.to_str().unwrap(), env!("CARGO_BIN_EXE_tincan")]);
    command.args(["--listen", "127.0.0.1:0", "--quiet", "--heartbeat", "3600"]);
    if !works(&format!("strace -D -f -o {} true", calls.display())) {
        return;
    }
    let server = Tincan::run(command);
    let mut ws = Ws::open(&server, "/a");
    // The thread that receives the channel's events uses a buffer of 8 KB.
    let of_the_client = |line: &&str| line.contains(" = ") && !line.contains(", 8192, ");
    let read = || scratch.read("calls").lines().filter(of_the_client).count();
    let before = read();
    let message = "a".repeat(60_000);
    ws.send(frame(0x81, &message));
    ws.hears(&message);
    let calls = read() - before;
    assert!(calls <= 12, "{calls}"); // bytes that are sent at once may arrive in parts
}
