//! No work grows with the square of what a peer sends: each list that a peer can make long costs four times as much if it
//! is four times as long, and not sixteen times.
//!
//! What is measured is processor time: that of this thread for what is pure, and that of the server's threads for what
//! goes over a socket. Each length is measured several times, and the least counts, for others use the machine as well.

use crate::core::faults::works;
use crate::redis::nodes::{Redis, Value};
use crate::support::harness::*;
use crate::trace::lines::none;
use crate::websocket::frames::{fragments, frame, ping};
use crate::websocket::sockets::Ws;
use std::collections::HashMap;
use std::fs;
use std::hint::black_box;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread::{scope, sleep};
use std::time::Duration;
use tincan::channel::subscriber::{Slot, Subscriber};
use tincan::wings::redis::resp;
use tincan::wings::redis::stream::Entry;
use tincan::wings::trace::explain::Explainer;
use tincan::wings::websocket::frames::Parser;
use tincan::wire::chunked::Chunked;
use tincan::wire::event::{Event, parse};
use tincan::wire::http::{HeadEnd, Request};

/// How often each length is measured at most.
const RUNS: usize = 6;

/// Asserts that four times as much costs about four times as much, and by no means sixteen times.
#[track_caller]
pub fn linear(what: &str, n: usize, mut cost: impl FnMut(usize) -> Duration) {
    if fs::read_to_string("/proc/self/schedstat").map_or(true, |line| line.starts_with("0 ")) {
        return eprintln!("left out: this kernel does not count the time of a thread in nanoseconds");
    }
    let mut least = [Duration::MAX; 3];
    for run in 1..=RUNS {
        for (times, least) in [1, 2, 4].iter().zip(&mut least) {
            *least = cost(n * times).min(*least);
        }
        if run > 1 && least[2] <= 8 * least[0] {
            return eprintln!("{what}, {n} of them and twice and four times as many: {least:?}");
        }
    }
    panic!("{what}, {n} of them and twice and four times as many: {least:?}");
}

/// The times of the threads of a process, by their numbers. A thread that runs is accounted for at
/// the clock's ticks; one that sleeps, exactly.
fn times(tasks: &str) -> HashMap<String, u64> {
    let tasks = fs::read_dir(tasks).unwrap().filter_map(|task| {
        let task = task.unwrap();
        let line = fs::read_to_string(task.path().join("schedstat")).ok()?; // a thread may have ended
        Some((task.file_name().into_string().unwrap(), line.split(' ').next()?.parse().ok()?))
    });
    tasks.collect()
}

/// What this takes of this thread.
pub fn own<T>(work: impl FnOnce() -> T) -> Duration {
    let time = || {
        sleep(Duration::from_nanos(1));
        let line = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(line.split(' ').next().unwrap().parse().unwrap())
    };
    let before = time();
    black_box(work());
    time() - before
}

/// What this takes of a server's threads. The time of those that end meanwhile is lost, so no connection may close.
pub fn spent<T>(server: &Tincan, work: impl FnOnce() -> T) -> Duration {
    let tasks = format!("/proc/{}/task", server.pid());
    server.rests();
    let before = times(&tasks);
    work();
    server.rests();
    let more = times(&tasks).into_iter().map(|(task, time)| time.saturating_sub(*before.get(&task).unwrap_or(&0)));
    Duration::from_nanos(more.sum())
}

/// Sends bytes in pieces of this size, each of which the server has read before the next one comes.
fn in_pieces(server: &Tincan, wire: &mut Wire, bytes: &[u8], size: usize) {
    for piece in bytes.chunks(size) {
        wire.send(piece);
        server.rests();
    }
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn stream(path: &str, body: &str) -> String {
    post(path, body).replacen("Content-L", "Content-Type: text/event-stream\r\nContent-L", 1)
}

/// Sends many requests at once, and takes an answer to each; returns the last one.
fn pipelined(wire: &mut Wire, requests: &str, count: usize) -> Response {
    let mut writer = wire.stream.try_clone().unwrap();
    scope(|scope| {
        scope.spawn(move || writer.write_all(requests.as_bytes()).unwrap());
        (0..count).map(|_| wire.response()).last().unwrap()
    })
}

/// Looks for the end of a head after each of its bytes; returns its length.
fn head_by_bytes(head: &[u8]) -> usize {
    let mut end = HeadEnd::default();
    (1..=head.len()).find_map(|n| end.find(&head[..n]).unwrap()).unwrap()
}

#[test]
fn heads() {
    linear("bytes of a target, each by itself", 1000, |n| {
        let head = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(n));
        own(|| assert_eq!(head_by_bytes(head.as_bytes()), head.len()))
    });
    linear("bytes of a field line, each by itself", 2000, |n| {
        let head = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(n));
        own(|| assert_eq!(head_by_bytes(head.as_bytes()), head.len()))
    });
    linear("field lines, each byte by itself", 15, |n| {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", format!("A: {}\r\n", "a".repeat(100)).repeat(n));
        own(|| assert_eq!(head_by_bytes(head.as_bytes()), head.len()))
    });
    linear("field lines", 1000, |n| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(n));
        own(|| {
            let req = Request::parse(head.as_bytes()).unwrap();
            assert!(req.bytes("b").is_none() && req.keep_alive() && req.all("a").count() == n);
        })
    });
    linear("hosts", 1000, |n| {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "Host: a\r\n".repeat(n));
        own(|| assert!(Request::parse(head.as_bytes()).is_err()))
    });
    linear("blanks", 5000, |n| {
        let blanks = " \t".repeat(n);
        let head = format!("GET / HTTP/1.1\r\nHost:{blanks}a{blanks}\r\nAccept:{blanks},{blanks}\r\n\r\n");
        own(|| assert_eq!(Request::parse(head.as_bytes()).unwrap().quality("text", "html"), 0))
    });
}

#[test]
fn lists_in_a_head() {
    let request = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    linear("media ranges", 500, |n| {
        let head = request(&format!("Accept: a/b{}", ",c/d;q=0.5".repeat(n)));
        let req = Request::parse(head.as_bytes()).unwrap();
        own(|| assert!(req.quality("text", "html") == 0 && !req.is_event_source()))
    });
    linear("parameters of a media range", 500, |n| {
        let head = request(&format!("Accept: text/html{};q=0.5", ";a=b".repeat(n)));
        let req = Request::parse(head.as_bytes()).unwrap();
        own(|| assert_eq!(req.quality("text", "html"), 500))
    });
    linear("decimals of a weight", 5000, |n| {
        let head = request(&format!("Accept: text/html;q=0.{}", "5".repeat(n)));
        let req = Request::parse(head.as_bytes()).unwrap();
        own(|| assert_eq!(req.quality("text", "html"), 1000))
    });
    linear("connection options", 1000, |n| {
        let head = request(&format!("Connection: a{}", ",b".repeat(n)));
        let req = Request::parse(head.as_bytes()).unwrap();
        own(|| assert!(req.keep_alive()))
    });
    linear("transfer codings", 1000, |n| {
        let head = request(&format!("Transfer-Encoding: chunked{}", ",chunked".repeat(n)));
        own(|| assert!(Request::parse(head.as_bytes()).is_err()))
    });
    linear("lengths", 1000, |n| {
        let head = request(&format!("Content-Length: 10{}", ",10".repeat(n)));
        own(|| assert!(Request::parse(head.as_bytes()).is_ok()))
    });
    linear("digits of a length", 5000, |n| {
        let head = request(&format!("Content-Length: {}", "1".repeat(n)));
        own(|| assert!(Request::parse(head.as_bytes()).is_ok()))
    });
    linear("query parameters", 1000, |n| {
        let head = format!("GET /?a=b{} HTTP/1.1\r\nHost: a\r\n\r\n", "&c=d".repeat(n));
        own(|| {
            let req = Request::parse(head.as_bytes()).unwrap();
            assert!(["tap", "event", "to", "c"].iter().filter_map(|name| req.param(name).unwrap()).eq(["d"]));
        })
    });
    linear("encoded bytes", 2000, |n| {
        let encoded = "%41".repeat(n);
        let head = format!("GET /{encoded}?a={encoded} HTTP/1.1\r\nHost: a\r\n\r\n");
        own(|| {
            let req = Request::parse(head.as_bytes()).unwrap();
            assert!(req.path.len() == n + 1 && req.param("a").unwrap().unwrap().len() == n);
        })
    });
}

/// Feeds a chunked body in pieces, as a connection does.
fn unchunked(body: &[u8], size: usize) -> Vec<u8> {
    let (mut chunked, mut buf) = (Chunked::default(), Vec::new());
    for piece in body.chunks(size) {
        buf.extend(piece);
        let (used, complete) = chunked.feed(&buf, 1 << 20).unwrap();
        buf.drain(..used);
        if complete {
            break;
        }
    }
    chunked.body
}

#[test]
fn chunks() {
    for size in [1, 16 << 10] {
        linear("chunks of one byte", 2000, |n| {
            let body = "1\r\na\r\n".repeat(n) + "0\r\n\r\n";
            own(|| assert_eq!(unchunked(body.as_bytes(), size).len(), n))
        });
        linear("chunk extensions", 100, |n| {
            let body = format!("1{}\r\na\r\n", ";a=b".repeat(60)).repeat(n) + "0\r\n\r\n";
            own(|| assert_eq!(unchunked(body.as_bytes(), size).len(), n))
        });
        linear("trailer fields", 350, |n| {
            let body = "1\r\na\r\n0\r\n".to_string() + &"a:b\r\n".repeat(n) + "\r\n";
            own(|| assert_eq!(unchunked(body.as_bytes(), size), b"a"))
        });
    }
}

#[test]
fn events() {
    let written = |events: &[Event]| {
        let mut block = Vec::new();
        events.iter().for_each(|event| event.write(Some("1-1"), &mut block));
        block
    };
    for (what, body, end) in [
        ("events", "data:\n\n", ""),
        ("named events", "event: a\nretry: 1\ndata: b\r\rdata\n\n", ""),
        ("data lines", "data:\n", "\n"),
        ("names", "event: a\n", "data\n\n"),
        ("comments", ":\n", "data\n\n"),
        ("empty lines", "\r\n", "data\n\n"),
    ] {
        linear(what, 1000, |n| {
            let body = body.repeat(n) + end;
            own(|| written(&parse(&body).unwrap()))
        });
    }
    linear("line ends in an event", 2000, |n| {
        let event = Event::new("\r\r\n\n".repeat(n));
        own(|| assert!(written(std::slice::from_ref(&event)).len() > n))
    });
}

/// What a WebSocket's client says.
fn frames(what: &str, n: usize) -> Vec<u8> {
    match what {
        "empty fragments" => fragments(&vec![""; n]).concat(),
        "fragments of one byte" => fragments(&vec!["a"; n]).concat(),
        "Pings within a message" => [frame(1, "a"), ping("b").repeat(n), frame(0x80, "c")].concat(),
        "messages" => frame(0x81, "a").repeat(n),
        "bytes of a message" => frame(0x81, "é".repeat(n)),
        _ => unreachable!(),
    }
}

const FRAMES: [&str; 5] =
    ["empty fragments", "fragments of one byte", "Pings within a message", "messages", "bytes of a message"];

#[test]
fn websocket_frames() {
    for what in FRAMES {
        for size in [1, 16 << 10] {
            linear(what, 2000, |n| {
                let bytes = frames(what, n);
                own(|| {
                    let mut parser = Parser::new(1 << 20);
                    bytes.chunks(size).for_each(|mut piece| while parser.next(&mut piece).unwrap().is_some() {});
                })
            });
        }
    }
    let server = Tincan::start(&["--quiet"]);
    for what in FRAMES {
        linear(&format!("{what}, over a socket"), 500, |n| {
            let bytes = frames(what, n);
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

#[test]
fn traced_lines() {
    let explained = |said: &[(bool, &str)], size: usize| {
        let mut explainer = Explainer::new(1, false, none());
        let mut out = 0;
        for (up, text) in said {
            for piece in text.as_bytes().chunks(size) {
                out += if *up { explainer.received(piece).len() } else { explainer.sent(piece).len() };
            }
        }
        out + explainer.end().len()
    };
    for (what, n, text) in [
        ("at signs", 1000, "@"),
        ("words with an at sign", 1000, " a@"),
        ("at signs in URIs", 1000, "//@"),
        ("colons", 1000, ":"),
        ("empty lines", 500, "\r\n"),
        ("field lines", 250, "A: b\r\n"),
        ("lone line ends", 500, "\r"),
        ("characters of four bytes", 500, "😀"),
        ("credentials", 100, "Cookie: a\r\n b\r\n"),
    ] {
        for (up, size) in [(true, 1), (true, 4096), (false, 1), (false, 4096)] {
            let body = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
            linear(&format!("{what}, shown to a person"), n, |n| {
                let text = text.repeat(n);
                own(|| explained(&[(up, if up { "" } else { body }), (up, &text)], size))
            });
        }
    }
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: a\r\n\r\n";
    linear("handshakes that are refused, shown to a person", 50, |n| {
        let (asked, answer) = (ask.repeat(n), "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        own(|| explained(&[&[(true, &*asked)], &vec![(false, answer); n][..]].concat(), 16 << 10))
    });
    for what in FRAMES {
        linear(&format!("{what}, shown to a person"), 500, |n| {
            let bytes = frames(what, n);
            own(|| {
                let mut explainer = Explainer::new(1, false, none());
                explainer.received(ask.as_bytes());
                explainer.sent(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
                bytes.chunks(512).map(|piece| explainer.received(piece).len()).sum::<usize>()
            })
        });
    }
}

#[test]
fn what_stands_behind_a_body() {
    let server = Tincan::start(&["--quiet", "--max-body", "1M"]);
    linear("empty lines behind a body", 15_000, |n| {
        let request = post("/health", &"a".repeat(400_000));
        let (begin, end) = request.split_at(request.len() - 1);
        let rest = format!("{end}{}GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n".repeat(n));
        let mut wire = server.connect();
        wire.send(begin);
        server.rests();
        // All the rest is there when it reads on.
        assert!(signal("STOP", server.pid()));
        wire.send(rest);
        spent(&server, || {
            assert!(signal("CONT", server.pid()));
            assert_eq!([wire.response().status, wire.response().status], [405, 200]);
        })
    });
    linear("requests behind a body", 1000, |n| {
        let requests = post("/a", &"a".repeat(30 * n)) + &"HEAD /b HTTP/1.1\r\nHost: a\r\n\r\n".repeat(n);
        let mut wire = server.connect();
        spent(&server, || pipelined(&mut wire, &requests, n + 1))
    });
}

#[test]
fn bodies_in_tiny_segments() {
    let server = Tincan::start(&["--quiet", "--max-body", "1M"]);
    linear("segments of a body", 150, |n| {
        let request = post("/a", &"a".repeat(n * 400));
        let mut wire = server.connect();
        spent(&server, || {
            in_pieces(&server, &mut wire, request.as_bytes(), 400);
            assert_eq!(wire.response().status, 200);
        })
    });
    linear("segments before a request", 150, |n| {
        let request = "\r\n".repeat(n / 2) + "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut wire = server.connect();
        spent(&server, || {
            in_pieces(&server, &mut wire, request.as_bytes(), 1);
            assert_eq!(wire.response().status, 200);
        })
    });
}

#[test]
fn events_in_one_request() {
    let scratch = Scratch::new();
    for args in [&[][..], &["--data", scratch.arg(), "--sync"], &["--trace"]] {
        let server = Tincan::start(&[&["--quiet", "--max-body", "1M", "--history", "16M"], args].concat());
        let (mut reader, _) = server.listen("/a", "");
        for (what, body, end) in [("events", "data:\n\n", ""), ("data lines", "data:\n", "\n")] {
            linear(&format!("{what} in one request, {args:?}"), 1000, |n| {
                let request = stream("/a", &(body.repeat(n) + end));
                let mut wire = server.connect();
                spent(&server, || {
                    wire.send(&request);
                    let answer = wire.response();
                    assert_eq!(answer.status, 200);
                    let last = answer.text().lines().last().unwrap().to_string();
                    reader.until(format!("id: {last}\n\n").as_bytes());
                })
            });
        }
    }
}

/// A reader that has more to read than a socket takes, and does not; with its address.
fn stalled(server: &Tincan, channel: &str) -> (Wire, String) {
    let mut wire = server.connect();
    wire.send(format!("GET {channel} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    wire.until(b"\r\n\r\n");
    let address = address_of(&wire.block());
    // A debug build looks at each character for long, so they are large ones.
    server.post(channel, "😀".repeat(more_than_a_socket_takes() / 4));
    (wire, address)
}

#[test]
fn readers_that_have_stalled() {
    let start = || Tincan::start(&["--quiet", "--history", &roomy(), "--max-body", &roomy()]);
    let server = start();
    let mut channels = 0;
    linear("what a stalled reader is to pass over", 16, |n| {
        channels += 1;
        let channel = format!("/{channels}");
        let (_reader, address) = stalled(&server, &channel);
        let pair = post(&format!("{channel}?except={address}"), "b") + &post(&channel, "c");
        let mut wire = server.connect();
        spent(&server, || assert_eq!(pipelined(&mut wire, &pair.repeat(n), 2 * n).status, 200))
    });
    let mut servers = HashMap::new();
    linear("channels with a stalled reader beside this one", 1, |n| {
        let (server, ..) = servers.entry(n).or_insert_with(|| {
            let server = start();
            let readers: Vec<_> = (0..n).map(|channel| stalled(&server, &format!("/{channel}"))).collect();
            let own = server.listen("/own", "");
            (server, readers, own)
        });
        let mut wire = server.connect();
        spent(server, || pipelined(&mut wire, &post("/own", "a").repeat(200), 200))
    });
}

#[test]
fn channels_and_taps() {
    let server = Tincan::start(&["--quiet", "--max-channels", "100000"]);
    let full = Tincan::start(&["--quiet", "--max-channels", "1"]);
    full.post("/only", "a");
    let mut count = 0;
    let mut requests = |n, request: &dyn Fn(usize) -> String| {
        count += n;
        (count - n..count).map(request).collect::<String>()
    };
    linear("channels", 100, |n| {
        let requests = requests(n, &|name| post(&format!("/{name}"), "a"));
        let mut wire = server.connect();
        spent(&server, || assert_eq!(pipelined(&mut wire, &requests, n).status, 200))
    });
    linear("channels that are too many", 100, |n| {
        let requests = requests(n, &|name| post(&format!("/{name}"), "a"));
        let mut wire = full.connect();
        spent(&full, || assert_eq!(pipelined(&mut wire, &requests, n).status, 503))
    });
    let health = |key: &str| format!("GET /health?tap={key} HTTP/1.1\r\nHost: a\r\n\r\n");
    linear("requests with one tap", 100, |n| {
        let requests = requests(n, &|_| health("one"));
        let mut wire = server.connect();
        spent(&server, || assert_eq!(pipelined(&mut wire, &requests, n).status, 200))
    });
    linear("taps", 100, |n| {
        let requests = requests(n, &|key| health(&key.to_string()));
        let mut wire = server.connect();
        spent(&server, || pipelined(&mut wire, &requests, n))
    });
}

#[test]
fn replies_of_redis() {
    for (what, begin, element) in [
        ("numbers", "", ":1\r\n"),
        ("small strings", "", "$1\r\na\r\n"),
        ("empty arrays", "", "*0\r\n"),
        ("arrays within arrays", "*1\r\n*1\r\n*1\r\n", "*1\r\n*1\r\n*1\r\n:1\r\n"),
        ("errors", "", "-ERR\r\n"),
    ] {
        linear(what, 1000, |n| {
            let reply = format!("{begin}*{n}\r\n{}", element.repeat(n));
            own(|| resp::read(&mut reply.as_bytes(), u64::MAX, 1 << 24).unwrap())
        });
    }
    linear("bytes of a string", 1 << 20, |n| {
        let reply = format!("${n}\r\n{}\r\n", "a".repeat(n));
        own(|| resp::read(&mut BufReader::with_capacity(64, reply.as_bytes()), u64::MAX, 1 << 24).unwrap())
    });
    for field in ["$1\r\na\r\n$1\r\nb\r\n", "$4\r\ndata\r\n$1\r\nb\r\n", "$5\r\nevent\r\n$1\r\nb\r\n", ":1\r\n:1\r\n"] {
        linear("fields of an entry", 1000, |n| {
            let reply = format!("*2\r\n$3\r\n1-1\r\n*{}\r\n{}", 2 * n, field.repeat(n));
            let reply = resp::read(&mut reply.as_bytes(), u64::MAX, 1 << 24).unwrap();
            own(|| assert!(Entry::read(&reply).is_some()))
        });
    }
}

#[test]
fn what_is_for_one_alone_and_is_read_bit_by_bit() {
    linear("bytes for one alone", 1 << 20, |n| {
        let (mut client, server) = UnixStream::pair().unwrap();
        let stream = TcpStream::from(OwnedFd::from(server));
        stream.set_nonblocking(true).unwrap();
        let slot = Slot::take(&Default::default()).0;
        let mut sub = Subscriber {
            stream,
            pos: 0,
            more: None,
            tried: 0,
            key: 0,
            stalls: 0,
            chunked: true,
            gone: None,
            shut: false,
            slot,
        };
        own(|| {
            sub.give_alone(vec![b'a'; n].into_iter(), 0).ok().unwrap();
            for _ in 0..n.div_ceil(4096) {
                client.read_exact(&mut [0; 4096]).unwrap();
                sub.give(b"", &mut Default::default(), 0).ok().unwrap();
            }
        })
    });
}

#[test]
fn parts_of_a_reply_for_which_there_is_no_room() {
    for element in [":1\r\n", "$1\r\na\r\n", "*1\r\n$1\r\na\r\n"] {
        linear("parts that are dropped", 1000, |n| {
            let reply = format!("*1\r\n*{n}\r\n{}", element.repeat(n));
            own(|| resp::read(&mut reply.as_bytes(), 1000, 2000).unwrap())
        });
    }
}

#[test]
fn events_through_redis() {
    let Some(redis) = Redis::start(&[]) else { return };
    let server = redis.node(&["--max-body", "1M", "--history", "16M"]);
    let (mut reader, _) = server.listen("/a", "");
    let mut hears = |id: &str| drop(reader.until(format!("id: {id}\n\n").as_bytes()));
    linear("events in one request through Redis", 2000, |n| {
        let request = stream("/a", &"data:\n\n".repeat(n));
        let mut wire = server.connect();
        spent(&server, || {
            wire.send(&request);
            let answer = wire.response();
            assert_eq!(answer.status, 200);
            hears(answer.text().lines().last().unwrap());
        })
    });
    let mut client = redis.client();
    linear("entries of another program", 2000, |n| {
        let add = ["XADD", "tincan:a", "*", "data", "b"];
        spent(&server, || {
            (0..n).for_each(|_| client.write(&add));
            let ids: Vec<Value> = (0..n).map(|_| client.read()).collect();
            hears(&ids.last().unwrap().clone().text());
        })
    });
}

/// The calls with which a message is read that is there already: one for what every request has room in, and then for 16
/// KB each.
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
    // The thread that hears the channel has room for 8 KB.
    let of_the_client = |line: &&str| line.contains(" = ") && !line.contains(", 8192, ");
    let read = || scratch.read("calls").lines().filter(of_the_client).count();
    let before = read();
    let message = "a".repeat(60_000);
    ws.send(frame(0x81, &message));
    ws.hears(&message);
    let calls = read() - before;
    assert!(calls <= 8, "{calls}"); // what is sent at once may come in parts
}
