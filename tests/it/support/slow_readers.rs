//! Readers that stop in the middle of something, and go on.

use crate::support::harness::*;
use crate::support::websocket::*;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread::{scope, sleep};
use std::time::Duration;

/// How many bytes a slow reader takes at a time: now and then few, with a pause, and else many, for they have to get there.
fn gulp(random: &mut Random) -> usize {
    if random.below(20) == 0 {
        sleep(Duration::from_millis(random.below(20)));
    }
    match random.below(100) {
        0..5 => 1,
        5..10 => [2, 3, 7, 8, 100][random.index(5)],
        10..40 => 1 + random.index(5000),
        _ => 1 << 16,
    }
}

/// A reader of an event stream, or a WebSocket with the subprotocol.
enum Reader {
    Stream(Wire),
    Ws(Ws),
}

impl Reader {
    /// Opens one; returns it with its prelude.
    fn open(server: &Tincan, kind: usize) -> (Reader, String) {
        if kind == 2 {
            let (ws, prelude) = Ws::blocks(server, "/a", "");
            return (Reader::Ws(ws), prelude);
        }
        let mut wire = server.connect();
        wire.send(format!("GET /a HTTP/1.{kind}\r\nHost: localhost\r\n\r\n"));
        let head = wire.until(b"\r\n\r\n");
        assert_eq!(head.contains("Transfer-Encoding: chunked\r\n"), kind == 1, "{head}");
        let prelude = wire.block();
        (Reader::Stream(wire), prelude)
    }

    /// The next block that is no ping.
    fn hears(&mut self, random: &mut Random) -> String {
        loop {
            match self {
                Reader::Stream(wire) => {
                    wire.gulp = gulp(random);
                    return next(wire);
                }
                Reader::Ws(ws) => {
                    ws.0.gulp = gulp(random);
                    match ws.frame().expect("it ended") {
                        (0x89, _) => ws.send(frame(0x8a, "")),
                        (0x81, block) => return String::from_utf8(block).unwrap(),
                        (first, payload) => panic!("{first:x} {}", payload.escape_ascii()),
                    }
                }
            }
        }
    }
}

/// [`slow_readers`] of event streams, with the log in memory and in files.
pub fn slow_readers_in_memory_and_on_disk(aimed: bool) {
    let dir = Scratch::new();
    let room = roomy();
    let options = ["--quiet", "--retry", "0", "--history", &room];
    let in_memory = [&options[..], &["--heartbeat", "1"]].concat();
    let on_disk = [&options[..], &["--heartbeat", "60", "--data", dir.arg()]].concat();
    scope(|s| {
        s.spawn(|| slow_readers(&in_memory, 1, 2, aimed));
        s.spawn(|| slow_readers(&on_disk, 2, 2, aimed));
    });
}

/// Readers of all kinds stop reading until each is stuck in the middle of something, and then go on, at times byte by
/// byte, while more is said to all, and pings are due. If it is `aimed`, some is said to one alone, and to all but one.
/// `kinds`: 2 are event streams to HTTP/1.0 and 1.1; the third is a WebSocket.
pub fn slow_readers(args: &[&str], seed: u64, kinds: usize, aimed: bool) {
    let server = Tincan::start(args);
    let begin = AtomicBool::new(false);
    let mut random = Random(seed);
    scope(|s| {
        let (server, begin) = (&server, &begin);
        // Whom it is said to, and where to tell what is heard.
        let mut readers = Vec::new();
        let at_end = AtEnd(begin);
        for n in 0..12 {
            let (mut reader, prelude) = Reader::open(server, n % kinds);
            let address = if aimed { address_of(&prelude) } else { String::new() };
            let (tell, told) = channel::<String>();
            readers.push((address, tell));
            s.spawn(move || {
                let mut random = Random(seed * 100 + n as u64);
                for (number, expected) in told.into_iter().enumerate() {
                    while number > 40 && !begin.load(SeqCst) {
                        sleep(Duration::from_millis(5));
                    }
                    let heard = reader.hears(&mut random);
                    assert!(heard == expected, "reader {n}: {heard:.200?} and not {expected:.200?}");
                }
            });
        }
        let mut sum = 0;
        let mut say = |most: usize| {
            let body = ["x", "y\n", ":ping\n\n", "\r"][random.index(4)].repeat(random.index(most));
            let one = random.index(readers.len());
            let address = &readers[one].0;
            let left_out = aimed && random.below(4) == 0;
            let path = if left_out { format!("/a?except={address}") } else { "/a".into() };
            let answer = server.post_with(&path, "", &body);
            if answer.status == 200 {
                let block = block(&body, answer.text().trim_end());
                sum += block.len();
                let mut hear = readers.iter().enumerate().filter(|(n, _)| !left_out || *n != one);
                hear.all(|(_, (_, tell))| tell.send(block.clone()).is_ok());
            } else {
                assert!(left_out && answer.status == 503, "it has too much to pass over");
            }
            if aimed && random.below(3) == 0 {
                let answer = server.post_with(&format!("/a?to={address}"), "", "hush");
                assert!([200, 503].contains(&answer.status), "who is behind is not spoken to: {}", answer.text());
                let _ = if answer.status == 200 { readers[one].1.send("data: hush\n\n".into()) } else { Ok(()) };
            }
            sum
        };
        (0..50).for_each(|_| assert!(say(30) > 0));
        // More than a socket takes: each of them stops somewhere.
        while say(9_000) < more_than_a_socket_takes() {}
        drop(at_end);
        (0..300).for_each(|_| assert!(say(2000) > 0));
        drop(readers);
    });
    assert_eq!(server.metric("tincan_dropped_subscribers_total"), Some(0));
}

/// The next block that is no ping.
pub fn next(wire: &mut Wire) -> String {
    loop {
        let block = wire.block();
        if block != PING {
            return block;
        }
    }
}
