//! The messages of a WebSocket for events of any size, also if it stops in the middle of one.

use crate::support::harness::*;
use crate::support::slow_readers::{next, slow_readers};
use crate::support::websocket::*;
use crate::support::wings::has;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// The status code for a WebSocket that has fallen off the log, or whose time is over.
const CALLED_BACK: u16 = 1013;

#[test]
fn slow_websockets_hear_exactly_what_is_for_them_wherever_they_stopped() {
    let (dir, room) = (Scratch::new(), roomy());
    // The heartbeat is long, since a WebSocket that accepts nothing for three heartbeats is dropped.
    let args = ["--quiet", "--retry", "0", "--history", &room, "--heartbeat", "60", "--data", dir.arg()];
    slow_readers(&args, 2, 3, has("address"));
}

/// Returns the frames in these bytes, and the bytes of an incomplete one.
fn frames(mut bytes: &[u8]) -> (Vec<(u8, Vec<u8>)>, &[u8]) {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let form = [0, 2, 8][usize::from(*second).saturating_sub(125)];
        let Some((long_length, rest)) = rest.split_at_checked(form) else { break };
        let long_length = long_length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let length = if form == 0 { usize::from(*second) } else { long_length };
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        frames.push((*first, payload.to_vec()));
        bytes = rest;
    }
    (frames, bytes)
}

/// Opens a WebSocket of each form.
fn both_forms(server: &Tincan, path: &str) -> [(Ws, bool); 2] {
    [(Ws::open(server, path), false), (Ws::blocks(server, path, "").0, true)]
}

/// Returns the message for an event.
fn message(body: &str, id: &str, blocks: bool) -> String {
    if blocks { block(body, id) } else { body.replace("\r\n", "\n").replace('\r', "\n") }
}

#[test]
fn messages_of_all_sizes_and_shapes_are_whole_in_both_forms() {
    let dir = Scratch::new();
    let options = ["--quiet", "--max-body", "4M", "--history", "64M"];
    let on_disk = [&options[..], &["--data", dir.arg()]].concat();
    let overhead = block("", "1763654400123-10").len();
    let mut bodies = vec!["\n".repeat(99_999), "\r\n".repeat(50_000), "y".repeat(3 << 20), "z\n".repeat(100_000)];
    for size in [0, 1, 125, 126, 65535, 65536] {
        bodies.extend((size >= overhead).then(|| "b".repeat(size - overhead))); // about the size of its block
        bodies.extend([0, 1].map(|more| "x".repeat(size + more)));
    }
    scope(|s| {
        for args in [&options[..], &on_disk] {
            let bodies = &bodies;
            s.spawn(move || {
                let server = Tincan::start(args);
                let mut all = Vec::new();
                let mut live = both_forms(&server, "/a");
                for body in bodies {
                    let id = server.post("/a", body).remove(0);
                    live.iter_mut().for_each(|(ws, blocks)| assert!(ws.message() == message(body, &id, *blocks)));
                    all.push((body, id));
                }
                for gulp in [1 << 16, 777] {
                    for (mut ws, blocks) in both_forms(&server, "/a?since=all") {
                        ws.0.gulp = gulp;
                        all.iter().for_each(|(body, id)| assert!(ws.message() == message(body, id, blocks)));
                        ws.0.gulp = 1 << 16;
                        ws.close();
                    }
                }
            });
        }
    });
}

/// Publishes messages of a megabyte, more than a socket takes, so a subscriber that does not read is stuck in one.
/// Returns them with their ids.
fn stuck(server: &Tincan, path: &str) -> Vec<(String, String)> {
    let count = more_than_a_socket_takes() / (1 << 20) + 2;
    let bodies = (0..count).map(|n| format!("{n}{}\n", "x".repeat(998)).repeat(1 << 10));
    bodies.map(|body| (body.clone(), server.post(path, &body).remove(0))).collect()
}

#[test]
fn a_websocket_that_is_stuck_within_a_message_goes_on_byte_by_byte() {
    let dir = Scratch::new();
    let room = roomy();
    let options = ["--quiet", "--max-body", "2M", "--heartbeat", "5", "--history", &room];
    let on_disk = [&options[..], &["--data", dir.arg()]].concat();
    scope(|s| {
        for args in [&options[..], &on_disk] {
            s.spawn(move || {
                let server = Tincan::start(args);
                let wss = both_forms(&server, "/a");
                let (mut honest, _) = server.listen("/a", "");
                let all = stuck(&server, "/a");
                for (body, id) in &all {
                    assert!(next(&mut honest) == block(body, id), "a subscriber that reads is not delayed");
                }
                scope(|s| {
                    for (ws, blocks) in wss {
                        let all = all.iter().map(|(body, id)| message(body, id, blocks)).collect::<Vec<_>>();
                        s.spawn(move || goes_on(ws, &all));
                    }
                });
            });
        }
    });
}

/// Asserts that these messages come, that Pings are answered between them, and that nothing else comes but pings.
fn goes_on(mut ws: Ws, all: &[String]) {
    let mut random = Random(all[0].len() as u64);
    let (mut received, mut asked, mut answered) = (0, 0, 0);
    while received < all.len() || answered < asked {
        if received < all.len() {
            asked += 1;
            ws.send(ping(asked.to_string()));
        }
        ws.0.sips = if received == 1 { 200_000 } else { random.index(2000) };
        match ws.frame().expect("the connection goes on") {
            (0x81, payload) => {
                assert!(payload == all[received].as_bytes(), "message {received}");
                received += 1;
            }
            (0x89, _) => ws.send(frame(0x8a, "")),
            // The newest Ping is always answered; others need not be (RFC 6455 §5.5.3).
            (0x8a, payload) => {
                let number = String::from_utf8(payload).unwrap().parse().unwrap();
                assert!(answered < number && number <= asked, "{number} after {answered}");
                answered = number;
            }
            (first, payload) => panic!("{first:x} {}", payload.escape_ascii()),
        }
    }
}

/// Whatever ends the connection, the client has received the first messages, in complete frames. Then comes the Close
/// frame, or the connection ends, possibly within a frame.
#[test]
fn a_websocket_that_is_stuck_within_a_message_is_never_closed_inside_it() {
    side_by_side(&[
        ("client closes", || ends_stuck(&[], 1000, |ws, _, _, _| sends(ws, closing(1000, "")))),
        ("bad frame", || ends_stuck(&[], 1002, |ws, _, _, _| sends(ws, vec![0xff, 0xff]))),
        ("binary", || ends_stuck(&[], 1003, |ws, _, _, _| sends(ws, frame(0x82, "b")))),
        ("age", || {
            ends_stuck(&["--max-age", "3"], CALLED_BACK, |_, _, _, opened| {
                // Its age limit is between 2.7 and 3.3 seconds. The server sees that up to half a second later.
                sleep(Duration::from_millis(3900).saturating_sub(opened.elapsed()));
                opened + Duration::from_millis(3500)
            });
        }),
        ("falls off", || {
            ends_stuck(&["--history", "4M"], CALLED_BACK, |_, server, path, _| {
                stuck(server, path);
                Instant::now()
            });
        }),
    ]);
}

/// Sends these bytes; returns when.
fn sends(ws: &mut Ws, bytes: Vec<u8>) -> Instant {
    ws.send(bytes);
    Instant::now()
}

/// Ends a WebSocket with `end`. This returns the moment from which on the client has two seconds to take the rest of
/// the message. The test takes one second at least.
fn ends_stuck(args: &[&str], code: u16, end: fn(&mut Ws, &Tincan, &str, Instant) -> Instant) {
    let room = roomy();
    let history = if args.contains(&"--history") { vec![] } else { vec!["--history", &room] };
    let server = Tincan::start(&[&["--quiet", "--max-body", "2M"], &history[..], args].concat());
    for (path, blocks) in [("/plain", false), ("/blocks", true)] {
        let opened = Instant::now();
        let mut ws = if blocks { Ws::blocks(&server, path, "").0 } else { Ws::open(&server, path) };
        let all = stuck(&server, path);
        let from = end(&mut ws, &server, path, opened);
        ws.0.sips = 5000;
        let bytes = ws.0.bytes(usize::MAX);
        let (frames, rest) = frames(&bytes);
        let (last, messages) = frames.split_last().unwrap();
        let closed = last.0 == 0x88;
        assert!(closed || from.elapsed() > Duration::from_secs(1), "there is no Close frame");
        assert!(!closed || rest.is_empty() && last.1[..2] == code.to_be_bytes(), "{:?}", last.1.escape_ascii());
        let messages = if closed { messages } else { &frames[..] };
        for (n, (first, payload)) in messages.iter().enumerate() {
            let (body, id) = &all[n];
            assert_eq!(*first, 0x81);
            assert!(*payload == message(body, id, blocks).into_bytes(), "message {n}");
        }
    }
}
