//! Subscribers that stop in the middle of something, and go on later.

use crate::support::harness::*;
use crate::support::websocket::*;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::thread::{scope, sleep};
use std::time::Duration;

/// Returns how many bytes a slow subscriber reads at a time. Now and then it is few, after a pause. Else it is many,
/// so that the test ends.
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

/// A subscriber to an event stream, or a WebSocket with the subprotocol.
enum Subscriber {
    Stream(Wire),
    Ws(Ws),
}

impl Subscriber {
    /// Opens a stream; returns it with its prelude.
    fn open(server: &Tincan, kind: usize) -> (Subscriber, String) {
        if kind == 2 {
            let (ws, prelude) = Ws::blocks(server, "/a", "");
            return (Subscriber::Ws(ws), prelude);
        }
        let mut wire = server.connect();
        wire.send(format!("GET /a HTTP/1.{kind}\r\nHost: localhost\r\n\r\n"));
        let head = wire.until(b"\r\n\r\n");
        assert_eq!(head.contains("Transfer-Encoding: chunked\r\n"), kind == 1, "{head}");
        let prelude = wire.block();
        (Subscriber::Stream(wire), prelude)
    }

    /// Returns the next block that is not a ping.
    fn hears(&mut self, random: &mut Random) -> String {
        loop {
            match self {
                Subscriber::Stream(wire) => {
                    wire.gulp = gulp(random);
                    return next(wire);
                }
                Subscriber::Ws(ws) => {
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

/// Runs [`slow_readers`] with event streams, with the log in memory and in files.
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

/// Lets subscribers of all kinds stop reading until each is stuck in the middle of something. Then they go on, at
/// times byte by byte, while more is published and pings are due. If `aimed`, some events are sent to one subscriber
/// alone, and some to all but one. With 2 `kinds` these are event streams over HTTP/1.0 and HTTP/1.1; the third kind
/// is a WebSocket.
pub fn slow_readers(args: &[&str], seed: u64, kinds: usize, aimed: bool) {
    let server = Tincan::start(args);
    let begin = AtomicBool::new(false);
    let mut random = Random(seed);
    scope(|s| {
        let (server, begin) = (&server, &begin);
        // Each subscriber's address, and a channel to its thread for the blocks that it must receive.
        let mut subscribers = Vec::new();
        let at_end = AtEnd(begin);
        for n in 0..12 {
            let (mut subscriber, prelude) = Subscriber::open(server, n % kinds);
            let address = if aimed { address_of(&prelude) } else { String::new() };
            let (sender, expected_blocks) = channel::<String>();
            subscribers.push((address, sender));
            s.spawn(move || {
                let mut random = Random(seed * 100 + n as u64);
                for (number, expected) in expected_blocks.into_iter().enumerate() {
                    while number > 40 && !begin.load(SeqCst) {
                        sleep(Duration::from_millis(5));
                    }
                    let received = subscriber.hears(&mut random);
                    assert!(received == expected, "subscriber {n}: {received:.200?} instead of {expected:.200?}");
                }
            });
        }
        let mut sum = 0;
        let mut say = |most: usize| {
            let body = ["x", "y\n", ":ping\n\n", "\r"][random.index(4)].repeat(random.index(most));
            let one = random.index(subscribers.len());
            let address = &subscribers[one].0;
            let left_out = aimed && random.below(4) == 0;
            let path = if left_out { format!("/a?except={address}") } else { "/a".into() };
            let response = server.post_with(&path, "", &body);
            if response.status == 200 {
                let block = block(&body, response.text().trim_end());
                sum += block.len();
                let mut receivers = subscribers.iter().enumerate().filter(|(n, _)| !left_out || *n != one);
                receivers.all(|(_, (_, sender))| sender.send(block.clone()).is_ok());
            } else {
                assert!(
                    left_out && response.status == 503,
                    "only a subscriber with too many ranges to skip may refuse this"
                );
            }
            if aimed && random.below(3) == 0 {
                let response = server.post_with(&format!("/a?to={address}"), "", "hush");
                assert!([200, 503].contains(&response.status), "a message to a slow subscriber: {}", response.text());
                let _ = if response.status == 200 { subscribers[one].1.send("data: hush\n\n".into()) } else { Ok(()) };
            }
            sum
        };
        (0..50).for_each(|_| assert!(say(30) > 0));
        // More than a socket takes, so that each of them stops somewhere.
        while say(9_000) < more_than_a_socket_takes() {}
        drop(at_end);
        (0..300).for_each(|_| assert!(say(2000) > 0));
        drop(subscribers);
    });
    assert_eq!(server.metric("tincan_dropped_subscribers_total"), Some(0));
}

/// Returns the next block that is not a ping.
pub fn next(wire: &mut Wire) -> String {
    loop {
        let block = wire.block();
        if block != PING {
            return block;
        }
    }
}
