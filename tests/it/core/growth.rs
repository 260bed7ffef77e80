//! No work grows with the square of what a client sends. If a list that a client can make long is four times as long,
//! it costs four times as much, and not sixteen times.
//!
//! The tests measure processor time: of this thread for pure functions, of the server's threads for requests over a
//! socket. Each length is measured several times, and the least counts, since other programs use the machine as well.

use crate::support::growth::*;
use crate::support::harness::*;
use std::collections::HashMap;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tincan::channel::subscriber::{Client, Subscriber};
use tincan::system::limits::Places;
use tincan::wire::chunked::Chunked;
use tincan::wire::event::{Event, parse};
use tincan::wire::http::{HeadEnd, Request};

/// Searches for the end of a head after each of its bytes; returns its length.
fn head_by_bytes(head: &[u8]) -> usize {
    let mut end = HeadEnd::default();
    (1..=head.len()).find_map(|n| end.find(&head[..n]).unwrap()).unwrap()
}

#[test]
fn heads() {
    linear("bytes of a target, each by itself", 1000, |n| {
        let head = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(n));
        thread_time(|| assert_eq!(head_by_bytes(head.as_bytes()), head.len()))
    });
    linear("bytes of a field line, each by itself", 2000, |n| {
        let head = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(n));
        thread_time(|| assert_eq!(head_by_bytes(head.as_bytes()), head.len()))
    });
    linear("field lines, each byte by itself", 15, |n| {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", format!("A: {}\r\n", "a".repeat(100)).repeat(n));
        thread_time(|| assert_eq!(head_by_bytes(head.as_bytes()), head.len()))
    });
    linear("field lines", 1000, |n| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(n));
        thread_time(|| {
            let req = Request::parse(head.as_bytes()).unwrap();
            assert!(req.field_bytes("b").is_none() && req.keep_alive() && req.field_values("a").count() == n);
        })
    });
    linear("hosts", 1000, |n| {
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "Host: a\r\n".repeat(n));
        thread_time(|| assert!(Request::parse(head.as_bytes()).is_err()))
    });
    linear("blanks", 5000, |n| {
        let blanks = " \t".repeat(n);
        let head = format!("GET / HTTP/1.1\r\nHost:{blanks}a{blanks}\r\nAccept:{blanks},{blanks}\r\n\r\n");
        thread_time(|| assert_eq!(Request::parse(head.as_bytes()).unwrap().type_weight("text", "html"), 0))
    });
}

#[test]
fn lists_in_a_head() {
    let request = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    linear("media ranges", 500, |n| {
        let head = request(&format!("Accept: a/b{}", ",c/d;q=0.5".repeat(n)));
        let req = Request::parse(head.as_bytes()).unwrap();
        thread_time(|| assert!(req.type_weight("text", "html") == 0 && !req.is_event_source()))
    });
    linear("parameters of a media range", 500, |n| {
        let head = request(&format!("Accept: text/html{};q=0.5", ";a=b".repeat(n)));
        let req = Request::parse(head.as_bytes()).unwrap();
        thread_time(|| assert_eq!(req.type_weight("text", "html"), 500))
    });
    linear("decimals of a weight", 5000, |n| {
        let head = request(&format!("Accept: text/html;q=0.{}", "5".repeat(n)));
        let req = Request::parse(head.as_bytes()).unwrap();
        thread_time(|| assert_eq!(req.type_weight("text", "html"), 1000))
    });
    linear("connection options", 1000, |n| {
        let head = request(&format!("Connection: a{}", ",b".repeat(n)));
        let req = Request::parse(head.as_bytes()).unwrap();
        thread_time(|| assert!(req.keep_alive()))
    });
    linear("transfer codings", 1000, |n| {
        let head = request(&format!("Transfer-Encoding: chunked{}", ",chunked".repeat(n)));
        thread_time(|| assert!(Request::parse(head.as_bytes()).is_err()))
    });
    linear("lengths", 1000, |n| {
        let head = request(&format!("Content-Length: 10{}", ",10".repeat(n)));
        thread_time(|| assert!(Request::parse(head.as_bytes()).is_ok()))
    });
    linear("digits of a length", 5000, |n| {
        let head = request(&format!("Content-Length: {}", "1".repeat(n)));
        thread_time(|| assert!(Request::parse(head.as_bytes()).is_ok()))
    });
    linear("query parameters", 1000, |n| {
        let head = format!("GET /?a=b{} HTTP/1.1\r\nHost: a\r\n\r\n", "&c=d".repeat(n));
        thread_time(|| {
            let req = Request::parse(head.as_bytes()).unwrap();
            assert!(["tap", "event", "to", "c"].iter().filter_map(|name| req.param(name).unwrap()).eq(["d"]));
        })
    });
    linear("encoded bytes", 2000, |n| {
        let encoded = "%41".repeat(n);
        let head = format!("GET /{encoded}?a={encoded} HTTP/1.1\r\nHost: a\r\n\r\n");
        thread_time(|| {
            let req = Request::parse(head.as_bytes()).unwrap();
            assert!(req.path.len() == n + 1 && req.param("a").unwrap().unwrap().len() == n);
        })
    });
}

/// Feeds a chunked body in pieces, as a connection does; returns the data.
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
            thread_time(|| assert_eq!(unchunked(body.as_bytes(), size).len(), n))
        });
        linear("chunk extensions", 100, |n| {
            let body = format!("1{}\r\na\r\n", ";a=b".repeat(60)).repeat(n) + "0\r\n\r\n";
            thread_time(|| assert_eq!(unchunked(body.as_bytes(), size).len(), n))
        });
        linear("trailer fields", 350, |n| {
            let body = "1\r\na\r\n0\r\n".to_string() + &"a:b\r\n".repeat(n) + "\r\n";
            thread_time(|| assert_eq!(unchunked(body.as_bytes(), size), b"a"))
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
    for (name, body, end) in [
        ("events", "data:\n\n", ""),
        ("named events", "event: a\nretry: 1\ndata: b\r\rdata\n\n", ""),
        ("data lines", "data:\n", "\n"),
        ("names", "event: a\n", "data\n\n"),
        ("comments", ":\n", "data\n\n"),
        ("empty lines", "\r\n", "data\n\n"),
    ] {
        linear(name, 1000, |n| {
            let body = body.repeat(n) + end;
            thread_time(|| written(&parse(&body).unwrap()))
        });
    }
    linear("line ends in an event", 2000, |n| {
        let event = Event::new("\r\r\n\n".repeat(n));
        thread_time(|| assert!(written(std::slice::from_ref(&event)).len() > n))
    });
}

#[test]
fn what_stands_behind_a_body() {
    let server = Tincan::start(&["--quiet", "--max-body", "1M"]);
    linear("empty lines after a body", 15_000, |n| {
        let request = post("/health", &"a".repeat(400_000));
        let (begin, end) = request.split_at(request.len() - 1);
        let rest = format!("{end}{}GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n".repeat(n));
        let mut wire = server.connect();
        wire.send(begin);
        server.rests();
        // The server finds all the rest when it reads on.
        server.stop();
        wire.send(rest);
        spent(&server, || {
            assert!(signal("CONT", server.pid()));
            assert_eq!([wire.response().status, wire.response().status], [405, 200]);
        })
    });
    linear("requests after a body", 1000, |n| {
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
    for args in [&[][..], &["--data", scratch.arg(), "--sync"]] {
        events_with(args);
    }
}

/// Measures the events of one request, in a server with these options.
pub fn events_with(args: &[&str]) {
    {
        let server = Tincan::start(&[&["--quiet", "--max-body", "1M", "--history", "16M"], args].concat());
        let (mut subscriber, _) = server.listen("/a", "");
        for (name, body, end) in [("events", "data:\n\n", ""), ("data lines", "data:\n", "\n")] {
            linear(&format!("{name} in one request, {args:?}"), 1000, |n| {
                let request = stream("/a", &(body.repeat(n) + end));
                let mut wire = server.connect();
                spent(&server, || {
                    wire.send(&request);
                    let response = wire.response();
                    assert_eq!(response.status, 200);
                    let last = response.text().lines().last().unwrap().to_string();
                    subscriber.until(format!("id: {last}\n\n").as_bytes());
                })
            });
        }
    }
}

/// Opens a stream, publishes more than a socket takes, and does not read it. Returns the connection and the prelude.
pub fn stalled(server: &Tincan, channel: &str) -> (Wire, String) {
    let mut wire = server.connect();
    wire.send(format!("GET {channel} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    wire.until(b"\r\n\r\n");
    let prelude = wire.block();
    // The characters are large, since a debug build takes long for each of them.
    server.post(channel, "😀".repeat(more_than_a_socket_takes() / 4));
    (wire, prelude)
}

#[test]
fn readers_that_have_stalled() {
    let start = || Tincan::start(&["--quiet", "--history", &roomy(), "--max-body", &roomy()]);
    let mut servers = HashMap::new();
    linear("channels with a stalled subscriber beside this one", 1, |n| {
        let (server, ..) = servers.entry(n).or_insert_with(|| {
            let server = start();
            let subscribers: Vec<_> = (0..n).map(|channel| stalled(&server, &format!("/{channel}"))).collect();
            let thread_time = server.listen("/own", "");
            (server, subscribers, thread_time)
        });
        let mut wire = server.connect();
        spent(server, || pipelined(&mut wire, &post("/own", "a").repeat(200), 200))
    });
}

#[test]
fn channels() {
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
}

#[test]
fn what_is_for_one_alone_and_is_read_bit_by_bit() {
    linear("bytes for one subscriber alone", 1 << 20, |n| {
        let (mut client, server) = UnixStream::pair().unwrap();
        let stream = TcpStream::from(OwnedFd::from(server));
        stream.set_nonblocking(true).unwrap();
        let slot = Arc::<Places>::default().claim(Ipv4Addr::LOCALHOST.into()).0;
        let mut sub = Subscriber {
            stream,
            pos: 0,
            extras: None,
            last_write: 0,
            key: 0,
            stalls: 0,
            chunked: true,
            drop_reason: None,
            client: Client::Quiet,
            slot,
        };
        thread_time(|| {
            sub.write_direct(vec![b'a'; n].into_iter(), 0).ok().unwrap();
            for _ in 0..n.div_ceil(4096) {
                client.read_exact(&mut [0; 4096]).unwrap();
                sub.deliver(b"", &mut Default::default(), 0).ok().unwrap();
            }
        })
    });
}
