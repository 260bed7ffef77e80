//! How a subscriber's bytes are framed, chunk by chunk and frame by frame: CONTRACT sections 3, 4 and 6.
//!
//! Here the tests look at the chunks themselves. All other tests read their content (`Wire`).

use crate::support::harness::*;
use crate::support::slow_readers::slow_readers_in_memory_and_on_disk;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};
use tincan::wire::reject::CONNECTIONS;

/// The field line that a stream over HTTP/1.1 has and a stream over HTTP/1.0 has not.
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
const LAST: &str = "0\r\n\r\n";
/// Requests a stream; returns the connection with its raw bytes.
pub fn raw(server: &Tincan, version: &str, path: &str, fields: &str) -> Wire {
    let mut wire = server.connect().raw();
    wire.send(format!("GET {path} HTTP/{version}\r\nHost: localhost\r\n{fields}\r\n"));
    wire
}

/// Takes the head of a stream, which must be exactly this one except for its date.
fn head(wire: &mut Wire, last: &str) {
    wire.expect("HTTP/1.1 200 OK\r\nDate: ");
    assert_eq!(wire.until(b"\r\n").len(), "Sun, 06 Nov 1994 08:49:37 GMT\r\n".len());
    wire.expect(format!(
        "X-Content-Type-Options: nosniff\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\
         Vary: Accept\r\nCache-Control: no-store, no-transform\r\nConnection: close\r\n{last}\r\n"
    ));
}

/// Returns a chunk.
pub fn chunk(bytes: &str) -> String {
    format!("{:x}\r\n{bytes}\r\n", bytes.len())
}

/// Takes one chunk, and returns its content.
fn any_chunk(wire: &mut Wire) -> String {
    let line = wire.until(b"\r\n");
    let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
    assert_eq!(line, format!("{size:x}\r\n"));
    let bytes = String::from_utf8(wire.bytes(size)).unwrap();
    wire.expect("\r\n");
    bytes
}

/// Returns a stream's prelude.
fn prelude(name: &str, id: &str) -> String {
    format!(": connected to /{name}\nretry: 0\nid: {id}\n\n")
}

/// Takes a stream's head and prelude, and checks them; returns the prelude.
pub fn opened(wire: &mut Wire, name: &str, chunked: bool) -> String {
    head(wire, if chunked { CHUNKED } else { "" });
    let first = if chunked { any_chunk(wire) } else { wire.block() };
    assert_eq!(plain(&first), prelude(name, &id_of(&first)));
    first
}

/// Returns a client that receives `bytes` in pieces of this size.
fn client_of(bytes: &[u8], size: usize) -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut wire = Wire::to(listener.local_addr().unwrap().port());
    let mut peer = listener.accept().unwrap().0;
    peer.write_all(bytes).unwrap();
    wire.gulp = size;
    wire
}

#[test]
fn the_tests_own_reader_takes_chunks_off_and_nothing_else() {
    let response =
        format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n4\r\nsoup\r\n1\r\n\n\r\n1c\r\n0\r\n\r\n is no last chunk: 1\r\n \r\n");
    let head = format!("HTTP/1.1 200 OK\r\n{CHUNKED}\r\n");
    let body = "soup\n0\r\n\r\n is no last chunk: 1\r\n ";
    for size in [1, 2, 3, 5, 30, 1000] {
        let mut wire = client_of(format!("{response}{LAST}").as_bytes(), size);
        wire.expect(&head);
        wire.expect("so");
        assert_eq!(wire.until(b"\n0"), "up\n0");
        assert_eq!(wire.rest(), body[6..]);
        assert_eq!(wire.chunks, [4, 1, 28, 0]);
        wire.ends();
        // Without the last chunk, or cut off anywhere.
        for cut in 0..response.len() - head.len() + 3 {
            let mut wire = client_of(&format!("{response}{LAST}").as_bytes()[..head.len() + cut], size);
            wire.until(b"\r\n\r\n");
            assert!(body.starts_with(&wire.breaks_off()), "cut at {cut}");
        }
        let mut wire = client_of(format!("{response}{LAST}").as_bytes(), size);
        assert_eq!(wire.response().text(), body);
        let mut wire = client_of(response.as_bytes(), size).raw();
        assert_eq!(wire.rest(), response);
        // After other responses on the same connection.
        let before =
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
        let mut wire = client_of(format!("{before}{response}").as_bytes(), size);
        wire.expect(before);
        wire.expect(&head);
        wire.expect(body);
        for (bad, loose) in [
            ("04\r\nsoup\r\n0\r\n\r\n", true),
            ("A\r\n0123456789\r\n0\r\n\r\n", true),
            ("4\r\nsoup\r\n00\r\n\r\n", true),
            ("4;a\r\nsoup\r\n", false),
            ("4 \r\nsoup\r\n", false),
            ("4\nsoup\r\n", false),
            ("\r\nsoup\r\n", false),
            ("x\r\nsoup\r\n", false),
            ("3\r\nsoup\r\n", false),
            ("4\r\nsoup\n0\r\n\r\n", false),
            ("0\r\nA: b\r\n\r\n", false),
            ("111111111111111111111111", false),
        ] {
            let read = |wire: Wire| catch_unwind(AssertUnwindSafe(|| { wire }.response())).is_ok();
            let response = format!("{head}{bad}");
            assert!(!read(client_of(response.as_bytes(), size)), "{bad:?}");
            assert_eq!(read(client_of(response.as_bytes(), size).loose()), loose, "{bad:?}");
        }
        let mut wire = client_of(format!("{response}{LAST}0").as_bytes(), size);
        assert!(catch_unwind(AssertUnwindSafe(|| wire.rest())).is_err(), "bytes after the last chunk");
        let mut wire = client_of(response.as_bytes(), size);
        wire.expect(format!("{head}{body}"));
        assert!(catch_unwind(AssertUnwindSafe(|| wire.ends())).is_err(), "no last chunk");
    }
}

#[test]
fn what_a_stream_says_comes_to_http_1_1_in_chunks_and_to_http_1_0_as_it_is() {
    let dir = Scratch::new();
    for args in [&["--retry", "0"][..], &["--retry", "0", "--data", dir.arg()]] {
        let server = Tincan::start(args);
        let (mut new, mut old) = (raw(&server, "1.1", "/a", ""), raw(&server, "1.0", "/a", ""));
        let id = id_of(&opened(&mut new, "a", true));
        assert_eq!(id, id_of(&opened(&mut old, "a", false)));
        // The sizes of these chunks have different numbers of digits.
        let overhead = block("", &id).len();
        let bodies = ["soup is ready", "", "two\nlines"].map(String::from);
        let sizes = [63, 64, 255, 256, 4095, 4096, 65535].map(|size| "x".repeat(size - overhead));
        for body in bodies.into_iter().chain(sizes) {
            let block = block(&body, &server.post("/a", &body)[0]);
            new.expect(chunk(&block));
            old.expect(&block);
        }
        // The events of one POST may share a chunk.
        let ids = server.post_with("/a", "Content-Type: text/event-stream\r\n", "data: one\n\ndata: two\n\n").text();
        let both = ids.lines().zip(["one", "two"]).map(|(id, data)| block(data, id)).collect::<String>();
        let note = if args.contains(&"--data") { ": one POST, 2 events, 0 NULs\n" } else { "" };
        let both = note.to_owned() + &both;
        let mut received = String::new();
        while received.len() < both.len() {
            received += &any_chunk(&mut new);
        }
        assert_eq!(received, both);
        old.expect(both);
    }
}

#[test]
fn a_gap_is_in_one_chunk_with_its_prelude() {
    let server = Tincan::start(&["--retry", "0"]);
    let id = server.post("/a", "x").remove(0);
    let gap_event = format!("event: gap\ndata: {{\"asked\":\"5-5\",\"from\":\"{id}\",\"lost\":null}}\n\n");
    let epoch = id.strip_suffix("-1").unwrap();
    let mut wire = raw(&server, "1.1", "/a", "Last-Event-ID: 5-5\r\n");
    head(&mut wire, CHUNKED);
    let first = any_chunk(&mut wire);
    assert_eq!(plain(&first), prelude("a", &format!("{epoch}-0")) + &gap_event);
    wire.expect(chunk(&block("x", &id)));
    let mut wire = raw(&server, "1.0", "/a", "Last-Event-ID: 5-5\r\n");
    head(&mut wire, "");
    assert!(plain(&wire.block()).starts_with(": connected to /a\n"));
    wire.expect(gap_event + &block("x", &id));
}

#[test]
fn a_large_event_and_a_long_replay_are_whole() {
    let dir = Scratch::new();
    let options = ["--quiet", "--max-body", "4M", "--history", "64M"];
    let on_disk = [&options[..], &["--data", dir.arg()]].concat();
    scope(|s| {
        for args in [&options[..], &on_disk] {
            s.spawn(move || {
                let server = Tincan::start(args);
                let (mut new, mut old) = (server.listen("/a", "").0, raw(&server, "1.0", "/a", ""));
                opened_at_any_retry(&mut old);
                let mut all = String::new();
                let bodies = ["x".repeat(1 << 20), "\n".repeat(100_000), "y".repeat(7 << 19)].into_iter();
                for body in bodies.chain((0..100).map(|n| n.to_string().repeat(n * 10))) {
                    let block = block(&body, &server.post("/a", &body)[0]);
                    new.expect(&block);
                    old.expect(&block);
                    all += &block;
                }
                assert!(all.len() > 5 << 20);
                for n in 0..4 {
                    let (mut wire, _) = server.listen("/a?since=all", "");
                    wire.gulp = [1 << 16, 5000, 100_000, 777][n];
                    wire.expect(&all);
                    assert_eq!(wire.chunks.iter().skip(1).sum::<usize>(), all.len(), "the stream ends with a chunk");
                }
                let mut wire = raw(&server, "1.0", "/a?since=all", "");
                opened_at_any_retry(&mut wire);
                wire.expect(&all);
                // A poll for the whole log has a length.
                let mut poll = raw(&server, "1.1", "/a?since=all&wait=9", "");
                let head = poll.until(b"\r\n\r\n");
                let first = poll.block();
                let length = format!("Connection: close\r\nContent-Length: {}\r\n\r\n", first.len() + all.len());
                assert!(head.ends_with(&length), "{head}");
                poll.expect(&all);
                assert_eq!(poll.rest(), "");
            });
        }
    });
}

/// Takes the head and the prelude of a stream without framing, with any `retry`.
fn opened_at_any_retry(wire: &mut Wire) {
    head(wire, "");
    wire.block();
}

#[test]
fn a_restarted_server_replays_a_file_in_chunks() {
    let dir = Scratch::new();
    let args = ["--quiet", "--max-body", "2M", "--history", "16M", "--data", dir.arg()];
    let server = Tincan::start(&args);
    let bodies = (0..6).map(|n| n.to_string().repeat(1 << 20));
    let all: String = bodies.map(|body| block(&body, &server.post("/a", &body)[0])).collect();
    drop(server);
    let server = Tincan::start(&args);
    assert!(fs::read_to_string(dir.0.join("a.sse")).unwrap().len() > 5 << 20);
    scope(|s| {
        for gulp in [1 << 16, 999, 5000] {
            let (all, mut wire) = (&all, server.listen("/a?since=all", "").0);
            wire.gulp = gulp;
            s.spawn(move || wire.expect(all));
        }
    });
    let (mut wire, _) = server.listen("/a?since=all", "");
    wire.expect(&all);
    let block = block("and on", &server.post("/a", "and on")[0]);
    wire.expect(block);
}

/// These tests wait for timeouts of the server, so they run at the same time.
#[test]
fn what_ends_and_what_waits() {
    side_by_side(&[
        ("pings", a_ping_is_a_chunk_of_its_own),
        ("first event", a_waiting_poll_begins_at_once_and_ends_behind_the_first_events),
        ("its time", a_poll_ends_with_its_time),
        ("at once", a_poll_that_is_answered_at_once_has_a_length),
        ("age", at_its_age_limit_a_stream_is_whole),
        ("age, behind", a_stream_that_is_behind_is_whole_at_its_age_limit_too),
        ("full", a_full_server_sends_a_whole_answer),
        ("HEAD", a_head_has_no_body),
        ("killed", what_a_killed_server_sent_is_not_whole),
        ("falls off", who_falls_off_the_log_is_told_so_by_a_missing_last_chunk),
    ]);
}

fn a_ping_is_a_chunk_of_its_own() {
    let server = Tincan::start(&["--retry", "0", "--heartbeat", "1"]);
    let (mut new, mut old) = (raw(&server, "1.1", "/a", ""), raw(&server, "1.0", "/a", ""));
    opened(&mut new, "a", true);
    opened(&mut old, "a", false);
    new.expect("7\r\n:ping\n\n\r\n7\r\n:ping\n\n\r\n");
    old.expect(":ping\n\n:ping\n\n");
}

fn a_waiting_poll_begins_at_once_and_ends_behind_the_first_events() {
    let server = Tincan::start(&["--retry", "0", "--heartbeat", "1"]);
    let (mut new, mut old) = (raw(&server, "1.1", "/a?wait=300", ""), raw(&server, "1.0", "/a?wait=300", ""));
    // Before anything is published.
    head(&mut new, CHUNKED);
    let first = any_chunk(&mut new);
    let id = id_of(&first);
    assert_eq!(first, prelude("a", &id));
    new.expect(chunk(PING));
    new.expect(chunk(PING));
    eventually("both polls wait", || server.readers("a") == 2);
    let event = block("news", &server.post("/a", "news")[0]);
    while let more = any_chunk(&mut new)
        && more != event
    {
        assert_eq!(more, PING);
    }
    new.expect(LAST);
    assert_eq!(new.rest(), "");
    // Over HTTP/1.0 the body is the same, and ends with the connection.
    head(&mut old, "");
    let body = old.rest().replace(PING, "");
    assert_eq!(body, prelude("a", &id) + &event);
    eventually("both polls have ended", || server.readers("a") == 0);
    // Several polls receive an event at the same time, whether it is large or small.
    let server = Tincan::start(&["--max-body", "2M", "--history", "8M"]);
    let mut polls = [(); 3].map(|()| server.connect());
    polls.iter_mut().for_each(|poll| poll.send("GET /a?wait=300 HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    eventually("all polls wait", || server.readers("a") == 3);
    let (one, two) = ("x".repeat(1 << 20), "y".repeat(600_000));
    let stream = format!("data: {one}\n\ndata: {two}\n\n");
    let ids = server.post_with("/a", "Content-Type: text/event-stream\r\n", stream).text();
    let (first, second) = ids.trim_end().split_once('\n').unwrap();
    for (poll, gulp) in polls.iter_mut().zip([1 << 16, 5000, 100]) {
        poll.gulp = gulp;
        let response = poll.response();
        assert!(response.head.ends_with(&format!("\r\nConnection: close\r\n{CHUNKED}\r\n")), "{}", response.head);
        assert!(response.text().ends_with(&format!("\n\n{}{}", block(&one, first), block(&two, second))));
        poll.ends();
    }
}

fn a_poll_ends_with_its_time() {
    let server = Tincan::start(&["--retry", "0"]);
    let began = Stopwatch::start();
    let (mut new, mut old) = (raw(&server, "1.1", "/a?wait=1", ""), raw(&server, "1.0", "/a?wait=1", ""));
    head(&mut new, CHUNKED);
    let first = any_chunk(&mut new);
    assert_eq!(first, prelude("a", &id_of(&first)));
    began.within("the head of a poll comes at once", Duration::from_millis(400));
    new.expect(LAST);
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    assert_eq!(new.rest(), "");
    head(&mut old, "");
    assert_eq!(old.rest(), first);
    began.within("a poll of a second", Duration::from_millis(1900));
}

fn a_poll_that_is_answered_at_once_has_a_length() {
    let server = Tincan::start(&["--retry", "0"]);
    let id = server.post("/a", "x").remove(0);
    let epoch = id.strip_suffix("-1").unwrap();
    let all = prelude("a", &format!("{epoch}-0")) + &block("x", &id);
    for version in ["1.1", "1.0"] {
        for (query, body) in [("wait=0", &prelude("a", &id)), ("wait=0&since=all", &all), ("wait=300&since=all", &all)]
        {
            let mut wire = raw(&server, version, &format!("/a?{query}"), "");
            head(&mut wire, &format!("Content-Length: {}\r\n", body.len()));
            assert_eq!(wire.rest(), *body);
        }
    }
}

fn at_its_age_limit_a_stream_is_whole() {
    let server = Tincan::start(&["--retry", "0", "--max-age", "1"]);
    let (mut new, mut old) = (raw(&server, "1.1", "/a", ""), raw(&server, "1.0", "/a", ""));
    opened(&mut new, "a", true);
    opened(&mut old, "a", false);
    let event = block("x", &server.post("/a", "x")[0]);
    assert_eq!(new.rest(), chunk(&event) + LAST);
    assert_eq!(old.rest(), event);
    eventually("the streams have ended", || server.readers("a") == 0);
}

fn a_stream_that_is_behind_is_whole_at_its_age_limit_too() {
    let server = Tincan::start(&["--quiet", "--max-age", "3", "--max-body", "2M", "--history", &roomy()]);
    let opened = Instant::now();
    let (mut wire, _) = server.listen("/a", "");
    let body = "x".repeat(1 << 20);
    let count = more_than_a_socket_takes() / body.len() + 2;
    let all: String = (0..count).map(|_| block(&body, &server.post("/a", &body)[0])).collect();
    let given = server.metric("tincan_delivered_bytes_total").unwrap();
    assert!(given < all.len() as u64, "the subscriber is behind");
    // Its age limit is between 2.7 and 3.3 seconds. The server sees that up to half a second later, and then gives it
    // two seconds.
    sleep(Duration::from_millis(3900).saturating_sub(opened.elapsed()));
    let received = wire.rest();
    assert!(all.starts_with(&received) && received.len() < all.len(), "{} of {}", received.len(), all.len());
    assert!(wire.is_whole() || opened.elapsed() > Duration::from_millis(4600), "the last chunk has come");
    eventually("the stream has ended", || server.metric("tincan_connections") == Some(1));
}

fn a_full_server_sends_a_whole_answer() {
    let server = Tincan::start(&["--max-connections", "1"]);
    let _reader = server.listen("/a", "");
    let comment = format!(": {}\nretry: ", CONNECTIONS.why);
    let accept = "Accept: text/event-stream\r\n";
    let mut wire = raw(&server, "1.1", "/a", accept);
    head(&mut wire, CHUNKED);
    let body = any_chunk(&mut wire);
    let retry = body.strip_prefix(&comment).unwrap().strip_suffix('\n').unwrap();
    assert!((2500..=7500).contains(&retry.parse::<u64>().unwrap()), "{retry}");
    wire.expect(LAST);
    assert_eq!(wire.rest(), "");
    // Over HTTP/1.0 the response has a length.
    let mut wire = raw(&server, "1.0", "/a", accept);
    head(&mut wire, &format!("Content-Length: {}\r\n", comment.len() + "5000\n".len()));
    assert!(wire.rest().starts_with(&comment));
    // A client that does not ask for an event stream gets a refusal with a length.
    let response = server.get("/a");
    response.refused(CONNECTIONS);
    assert_eq!(response.field("transfer-encoding"), None);
}

fn a_head_has_no_body() {
    let server = Tincan::start(&[]);
    for path in ["/a", "/a?wait=0", "/a?wait=300"] {
        let mut wire = server.connect().raw();
        wire.send(format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        let head = wire.rest();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/event-stream"), "{head}");
        assert_eq!(head.find("\r\n\r\n"), Some(head.len() - 4), "{head}");
    }
    let server = Tincan::start(&["--max-connections", "1"]);
    let _reader = server.listen("/a", "");
    let mut wire = server.connect().raw();
    wire.send("HEAD /a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    let head = wire.rest();
    assert_eq!(head.find("\r\n\r\n"), Some(head.len() - 4), "{head}");
}

fn what_a_killed_server_sent_is_not_whole() {
    let mut server = Tincan::start(&["--retry", "0"]);
    let (mut subscriber, _) = server.listen("/a", "");
    let mut poll = server.connect();
    poll.send("GET /b?wait=300 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    poll.until(b"\r\n\r\n");
    let event = block("x", &server.post("/a", "x")[0]);
    subscriber.expect(event);
    poll.block();
    server.kill();
    assert_eq!([subscriber.breaks_off(), poll.breaks_off()], ["", ""]);
}

fn who_falls_off_the_log_is_told_so_by_a_missing_last_chunk() {
    let server = Tincan::start(&["--quiet", "--history", "256K"]);
    let (mut stalled, _) = server.listen("/a", "");
    let (mut old, _) = opened_old(&server);
    let (body, mut all) = ("z".repeat(60_000), String::new());
    let mut published = 0;
    while server.metric("tincan_dropped_subscribers_total") != Some(2) {
        assert!(published < 2000, "both subscribers are dropped");
        (0..10).for_each(|_| all += &block(&body, &server.post("/a", &body)[0]));
        published += 10;
    }
    for (received, framing) in [(stalled.breaks_off(), "chunks"), (old.rest(), "no framing")] {
        assert!(
            all.starts_with(&received) && received.len() < all.len(),
            "{framing}: {} of {}",
            received.len(),
            all.len()
        );
        // The client remembers the id of the last event that it received up to its blank line.
        let whole = &received[..received.rfind("\n\n").unwrap() + 2];
        let (mut again, _) = server.listen("/a", &format!("Last-Event-ID: {}\r\n", last_id(whole)));
        let gap = again.block();
        assert!(gap.starts_with(&format!("event: gap\ndata: {{\"asked\":\"{}\"", last_id(whole))), "{gap}");
    }
}

/// Opens a stream without framing; returns it after its prelude, together with the prelude.
fn opened_old(server: &Tincan) -> (Wire, String) {
    let mut wire = raw(server, "1.0", "/a", "");
    head(&mut wire, "");
    let prelude = wire.block();
    (wire, prelude)
}

fn last_id(blocks: &str) -> &str {
    blocks.trim_end().rsplit("\nid: ").next().unwrap()
}

/// Subscribers of all kinds stop reading until each is stuck in the middle of something. Then they go on, at times
/// byte by byte, while more is published and pings are due.
#[test]
fn slow_readers_hear_exactly_what_is_for_them_wherever_they_stopped() {
    slow_readers_in_memory_and_on_disk(false);
}
