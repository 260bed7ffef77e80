//! WebSocket over real sockets: the table of `ws.rs` byte for byte, the handshake's refusals, and what a channel makes of
//! messages.

use crate::harness::*;
use crate::ws::{Case, MAX, Reaction, SMALL, cases, closing, judge, ping, random_bytes, text};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread::{available_parallelism, scope, sleep};
use std::time::{Duration, Instant};
use tincan::reject::{self, Reject};

/// Connections of the runner at a time.
const WORKERS: usize = 8;

const ASK: &str = "Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// An opening handshake.
pub fn handshake(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{ASK}{fields}\r\n")
}

/// A WebSocket, from behind its handshake on.
pub struct Ws(pub Wire);

impl Ws {
    /// Reads the answer, which must be exactly this.
    pub fn accepted(mut wire: Wire, fields: &str) -> Ws {
        wire.expect("HTTP/1.1 101 Switching Protocols\r\nDate: ");
        assert_eq!(wire.until(b"\r\n").len(), "Sun, 06 Nov 1994 08:49:37 GMT\r\n".len());
        wire.expect(format!(
            "X-Content-Type-Options: nosniff\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n{fields}\r\n"
        ));
        Ws(wire)
    }

    pub fn open(server: &Tincan, path: &str) -> Ws {
        let mut wire = server.connect();
        wire.send(handshake(path, ""));
        Ws::accepted(wire, "")
    }

    /// With the subprotocol; returns the prelude as well.
    pub fn blocks(server: &Tincan, path: &str, fields: &str) -> (Ws, String) {
        let mut wire = server.connect();
        wire.send(handshake(path, &format!("Sec-WebSocket-Protocol: event-stream\r\n{fields}")));
        let mut ws = Ws::accepted(wire, "Sec-WebSocket-Protocol: event-stream\r\n");
        let prelude = ws.message();
        (ws, prelude)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.send(bytes);
    }

    /// The next frame: its first byte and its payload; none at the end. It must be whole, not masked, and its length in
    /// the shortest form, so that these two say all of it.
    pub fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.0.bytes(2);
        let [first, length] = head[..] else {
            assert!(head.is_empty(), "half a frame: {head:?}");
            return None;
        };
        assert!([0x81, 0x88, 0x89, 0x8a].contains(&first), "first byte {first:#x}");
        let (form, least) = [(0, 0), (2, 126), (8, 1 << 16)][usize::from(length).saturating_sub(125).min(2)];
        assert!(length < 128 && (first == 0x81 || form == 0), "second byte {length:#x}");
        let told = self.0.bytes(form).iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let length = if form == 0 { length.into() } else { told };
        assert!(length >= least, "a length of {length} in {form} bytes");
        let payload = self.0.bytes(length);
        assert_eq!(payload.len(), length, "half a frame");
        Some((first, payload))
    }

    pub fn message(&mut self) -> String {
        let (first, payload) = self.frame().expect("ended before a message");
        assert_eq!(first, 0x81, "{}", payload.escape_ascii());
        String::from_utf8(payload).unwrap()
    }

    pub fn hears(&mut self, message: &str) {
        assert_eq!(self.message(), message);
    }

    /// The next frame is this one, exactly.
    pub fn gets(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        let payload = payload.as_ref();
        let got = self.frame().map(|(first, payload)| format!("{first:#x} {}", payload.escape_ascii()));
        assert_eq!(got, Some(format!("{first:#x} {}", payload.escape_ascii())));
    }

    /// A Close frame, and then the end of the connection.
    pub fn closes(&mut self, code: u16, reason: &str) {
        self.gets(0x88, [&code.to_be_bytes(), reason.as_bytes()].concat());
        assert_eq!(self.frame(), None, "the end");
    }

    /// Closes, as a browser does.
    pub fn close(mut self) {
        self.send(closing(1000, ""));
        while let Some((first, payload)) = self.frame() {
            assert!(first != 0x88 || payload == [3, 0xe8]);
        }
    }
}

/// The message of a POST as each reader hears it: with LF for each line end.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// The block of an event.
pub fn block(data: &str, id: &str) -> String {
    lines(data).split('\n').fold(String::new(), |out, line| out + "data: " + line + "\n") + &format!("id: {id}\n\n")
}

/// Whether bytes that break no rule end where a frame does.
fn is_whole(mut bytes: &[u8]) -> bool {
    while let [_, second, rest @ ..] = bytes {
        let form = [0, 2, 8][usize::from(second % 128).saturating_sub(125)];
        let Some((told, rest)) = rest.split_at_checked(form) else { return false };
        let told = told.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let length = if form == 0 { usize::from(second % 128) } else { told };
        let Some(rest) = rest.get(4 + length..) else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

/// How a client's bytes are sent.
#[derive(Debug, Clone, Copy)]
enum How {
    Whole,
    /// In one packet with the handshake.
    Behind,
    Cut(usize),
}

/// Plays cases, one after the other, on a channel of its own, beside a reader of the event stream.
struct Player<'a> {
    server: &'a Tincan,
    path: String,
    reader: Wire,
    epoch: String,
    said: u64,
}

impl Player<'_> {
    fn new(server: &Tincan, number: usize) -> Player<'_> {
        let path = format!("/c{number}");
        let (reader, id) = server.listen(&path, "");
        let epoch = id.strip_suffix("-0").unwrap().into();
        Player { server, path, reader, epoch, said: 0 }
    }

    /// Pongs come in their order, and so do messages; but which of the two comes first is not said. Where the connection
    /// ends at once some messages may not have come back yet, and yet have been published.
    fn play(&mut self, what: &str, client: &[u8], expected: &[Reaction], how: How) {
        let what = format!("{what}, {how:?}: {:.300}", client.escape_ascii().to_string());
        let mut wire = self.server.connect();
        let asked = handshake(&self.path, "").into_bytes();
        let (with, then) = match how {
            How::Behind => (client, &[][..]),
            How::Cut(at) => (&[][..], &client[..at]),
            How::Whole => (&[][..], client),
        };
        wire.send([&asked, with].concat());
        let mut ws = Ws::accepted(wire, "");
        ws.send(then);
        if let How::Cut(at) = how {
            ws.send(&client[at..]);
        }
        let (mut messages, mut pongs, mut close) = (Vec::new(), Vec::new(), None);
        for reaction in expected {
            match reaction {
                Reaction::Echo(text) => messages.push(lines(text)),
                Reaction::Pong(payload) => pongs.push(payload.clone()),
                Reaction::Close(code) => close = Some(code.map_or(vec![], |code| code.to_be_bytes().into())),
                Reaction::Fail(failure) => {
                    close = Some([&failure.code.to_be_bytes(), failure.reason.as_bytes()].concat());
                }
            }
        }
        let goes_on = close.is_none() && is_whole(client);
        if goes_on {
            ws.send(ping("goes on"));
            pongs.push(b"goes on".into());
        } else if close.is_none() {
            ws.0.shut();
        }
        let (mut heard, mut ponged, mut closed) = (0, 0, None);
        loop {
            if goes_on && closed.is_none() && heard == messages.len() && ponged == pongs.len() {
                ws.send(closing(1000, ""));
                close = Some(vec![3, 0xe8]);
            }
            let Some((first, payload)) = ws.frame() else { break };
            assert_eq!(closed, None, "{what}: a frame behind the Close frame");
            match first {
                0x81 => {
                    assert_eq!(Some(payload.as_slice()), messages.get(heard).map(String::as_bytes), "{what}");
                    heard += 1;
                }
                0x8a => {
                    assert_eq!(Some(&payload), pongs.get(ponged), "{what}");
                    ponged += 1;
                }
                0x88 => closed = Some(payload),
                _ => panic!("{what}: a ping"),
            }
        }
        assert_eq!(closed.map(|c| c.escape_ascii().to_string()), close.map(|c| c.escape_ascii().to_string()), "{what}");
        assert!(ponged == pongs.len() && (heard == messages.len() || !goes_on), "{what}");
        for message in messages {
            self.said += 1;
            self.reader.expect(block(&message, &format!("{}-{}", self.epoch, self.said)));
        }
    }
}

#[test]
fn every_case_of_the_table_is_answered_over_sockets_byte_for_byte() {
    let server = Tincan::start(&["--quiet"]);
    let mut jobs = Vec::new();
    let cases = cases();
    for case in &cases {
        // A cut in the middle of a short one, at each byte; the pure test cuts all of them.
        let cuts = if case.client.len() <= 16 { 1..case.client.len() } else { 0..0 };
        jobs.extend([How::Whole, How::Behind].into_iter().chain(cuts.map(How::Cut)).map(|how| (case, how)));
    }
    let (jobs, counts) = (Mutex::new(jobs.into_iter()), Mutex::new(BTreeMap::<_, (usize, usize)>::new()));
    scope(|s| {
        for number in 0..WORKERS {
            let (server, jobs, counts) = (&server, &jobs, &counts);
            s.spawn(move || {
                let mut player = Player::new(server, number);
                let next = || jobs.lock().unwrap().next();
                while let Some((Case { group, name, client, server }, how)) = next() {
                    player.play(&format!("{group}: {name}"), client, server, how);
                    let mut counts = counts.lock().unwrap();
                    let (whole, all) = counts.entry(*group).or_default();
                    *whole += usize::from(matches!(how, How::Whole));
                    *all += 1;
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    for (group, (whole, all)) in &counts {
        println!("{group}: {whole} cases, {all} connections, all as the standard has it");
    }
    let (whole, all) = counts.values().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    println!("in all: {whole} cases, {all} connections");
    assert_eq!(whole, cases.len());
    eventually("all have left", || server.metric("tincan_connections") == Some(1));
}

#[test]
fn random_frames_over_sockets_are_answered_by_the_book() {
    let server = Tincan::start(&["--quiet", "--max-body", &SMALL.to_string()]);
    let end = Instant::now() + Duration::from_secs(10);
    let counts = scope(|s| {
        let work = |number| {
            let server = &server;
            s.spawn(move || {
                let (mut random, mut player, mut rounds) = (Random(number), Player::new(server, number as usize), 0);
                while Instant::now() < end && rounds < 600 {
                    let bytes = random_bytes(&mut random);
                    let how = match random.index(4) {
                        0 => How::Whole,
                        1 => How::Behind,
                        _ => How::Cut(random.index(bytes.len())),
                    };
                    player.play(&format!("seed {number}, round {rounds}"), &bytes, &judge(&bytes, SMALL), how);
                    rounds += 1;
                }
                rounds
            })
        };
        let works: Vec<_> = (0..WORKERS as u64).map(work).collect();
        works.into_iter().map(|work| work.join().unwrap()).sum::<u64>()
    });
    println!("{counts} connections");
    assert!(counts > 200, "{counts} connections");
    eventually("all have left", || server.metric("tincan_connections") == Some(1));
}
