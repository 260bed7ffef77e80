//! Publishing, and polling for it: CONTRACT sections 2, 4 and 5.

use crate::support::harness::*;
use std::time::{Duration, Instant};

#[test]
fn data_is_split_at_every_line_end_and_nothing_else() {
    let server = Tincan::start(&[]);
    let (mut subscriber, _) = server.listen("/a", "");
    for (body, lines) in [
        ("", "data: \n"),
        ("one", "data: one\n"),
        ("a\nb", "data: a\ndata: b\n"),
        ("a\rb", "data: a\ndata: b\n"),
        ("a\r\nb", "data: a\ndata: b\n"),
        ("a\n\rb", "data: a\ndata: \ndata: b\n"),
        ("a\r\r\nb", "data: a\ndata: \ndata: b\n"),
        ("a\n", "data: a\ndata: \n"),
        ("\n", "data: \ndata: \n"),
        (" two spaces ", "data:  two spaces \n"),
        ("data: x\n\nid: 7\nevent: y", "data: data: x\ndata: \ndata: id: 7\ndata: event: y\n"),
        (": no comment", "data: : no comment\n"),
        ("\u{feff}\0\u{2028}\u{85}\u{b}\u{c}", "data: \u{feff}\0\u{2028}\u{85}\u{b}\u{c}\n"),
    ] {
        let id = server.post("/a", body);
        subscriber.expect(format!("{lines}id: {}\n\n", id[0]));
    }
}

#[test]
fn an_event_can_be_named_and_its_type_does_not_matter() {
    let server = Tincan::start(&[]);
    let (mut subscriber, _) = server.listen("/a", "");
    let id = server.post("/a?event=caf%C3%A9+one%20two", "x");
    subscriber.expect(format!("event: caf\u{e9} one two\ndata: x\nid: {}\n\n", id[0]));
    let name = "n".repeat(256);
    let id = server.post(&format!("/a?event={name}&event=x"), "x");
    subscriber.expect(format!("event: {name}\ndata: x\nid: {}\n\n", id[0]));
    let id = server.post("/a?event=", "an empty name counts as absent");
    subscriber.expect(format!("data: an empty name counts as absent\nid: {}\n\n", id[0]));
    for kind in [
        "application/x-www-form-urlencoded",
        "application/json",
        "text/event-stream-not",
        "",
        "multipart",
        "text/plain; charset=utf-8",
        "text/plain;charset=\"UTF-8\"",
        "text/plain; CHARSET=utf8; a=\"; charset=latin1\"",
        "text/plain; a=\"\\\"; charset=latin1\"",
        "text/plain; charset=",
        "text/plain; charset=\"\"",
        "text/plain\r\nContent-Encoding: identity",
        "text/plain\r\nContent-Encoding:",
    ] {
        let response = server.post_with("/a", &format!("Content-Type: {kind}\r\n"), "a=b");
        subscriber.expect(format!("data: a=b\nid: {}\n", response.text()));
    }
}

#[test]
fn the_answer_is_one_id_a_line() {
    let server = Tincan::start(&[]);
    let response = server.post_with("/a", "", "x");
    assert_eq!(response.field("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(response.text().lines().count(), 1);
    assert!(response.text().ends_with("-1\n"), "{}", response.text());
}

#[test]
fn an_event_stream_is_published_block_by_block() {
    let server = Tincan::start(&[]);
    let (mut subscriber, place) = server.listen("/a", "");
    let epoch = place.split_once('-').unwrap().0;
    let body = "\u{feff}: a comment\r\ndata: one\r\n\r\nevent: two\rdata:no space\rdata:  two spaces\r\r\
                retry: 250\ndata\nunknown: x\nretry: not a number\n\n: nothing to fire\nevent: lost\n\n\n\ndata: last\n\n";
    // A `retry` in a block without data counts as well.
    let more = "retry: 1\n\nretry: 2\nevent: gap\n\n: x\n\ndata: five\n\nretry: 3\n\nretry: 4\ndata: six\n\n\
                data: seven\n\nretry: 5\n\nretry: 6\n\nretry: x\n\n";
    let kind = "Content-Type: Text/Event-Stream; charset=utf-8\r\n";
    let response = server.post_with("/a", kind, body);
    assert_eq!(response.text(), format!("{epoch}-1\n{epoch}-2\n{epoch}-3\n{epoch}-4\n"));
    subscriber.expect(format!(
        "data: one\nid: {epoch}-1\n\nevent: two\ndata: no space\ndata:  two spaces\nid: {epoch}-2\n\n\
         retry: 250\ndata: \nid: {epoch}-3\n\ndata: last\nid: {epoch}-4\n\n"
    ));
    server.post_with("/a", kind, more);
    subscriber.expect(format!(
        "retry: 2\ndata: five\nid: {epoch}-5\n\nretry: 4\ndata: six\nid: {epoch}-6\n\n\
         retry: 6\ndata: seven\nid: {epoch}-7\n\n"
    ));
}

#[test]
fn a_poll_gives_at_once_what_there_is() {
    let server = Tincan::start(&["--retry", "0"]);
    let ids: Vec<String> = ["one", "two"].iter().flat_map(|d| server.post("/a", d)).collect();
    let epoch = ids[0].split_once('-').unwrap().0;
    let blocks = [format!("data: one\nid: {}\n\n", ids[0]), format!("data: two\nid: {}\n\n", ids[1])];
    let prelude = |seq: u64| format!(": connected to /a\nretry: 0\nid: {epoch}-{seq}\n\n");
    let began = Instant::now();
    for (query, body) in [
        ("wait=0", prelude(2)),
        ("wait=0&since=all", prelude(0) + &blocks.concat()),
        ("wait=300&since=all", prelude(0) + &blocks.concat()),
        (&format!("wait=300&since={}", ids[0]), prelude(1) + &blocks[1]),
        ("wait=300&since=5-5", {
            let gap = format!("event: gap\ndata: {{\"asked\":\"5-5\",\"from\":\"{}\",\"lost\":null}}\n\n", ids[0]);
            prelude(0) + &gap + &blocks.concat()
        }),
    ] {
        let mut wire = server.connect();
        wire.send(format!("GET /a?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let response = wire.response();
        assert_eq!((response.status, response.field("content-type")), (200, Some("text/event-stream")));
        assert_eq!(response.field("content-length").unwrap(), body.len().to_string());
        assert_eq!(response.text(), body, "{query}");
        assert_eq!(wire.rest(), "", "the connection closes after the body");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "no poll waits");
}

/// These tests wait for timeouts of the server, so they run at the same time.
#[test]
fn a_long_poll_ends_with_the_first_events_or_its_time() {
    side_by_side(&[
        ("its time", a_poll_ends_with_its_time),
        ("the first events", polls_end_with_the_first_events),
        ("leaves", a_poll_that_leaves_is_gone_within_two_seconds),
        ("stops sending", a_client_that_only_stops_sending_still_gets_its_long_poll),
    ]);
}

fn poll(server: &Tincan, wait: u64) -> Wire {
    let mut wire = server.connect();
    wire.send(format!("GET /a?wait={wait} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    wire
}

fn a_poll_ends_with_its_time() {
    let server = Tincan::start(&[]);
    let began = Stopwatch::start();
    let response = poll(&server, 1).response();
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    began.within("a poll of a second", Duration::from_millis(1900));
    assert_eq!(response.field("transfer-encoding"), Some("chunked"));
    assert_eq!(response.text().matches('\n').count(), 4, "only the prelude: {}", response.text());
    eventually("the poll has ended", || server.readers("a") == 0);
}

fn polls_end_with_the_first_events() {
    let server = Tincan::start(&[]);
    let mut waiting = [poll(&server, 300), poll(&server, 300)];
    eventually("both polls wait", || server.readers("a") == 2);
    let id = server.post("/a", "news");
    for wire in &mut waiting {
        let text = wire.response().text();
        assert!(text.ends_with(&format!("\n\ndata: news\nid: {}\n\n", id[0])), "{text}");
        wire.ends();
    }
    eventually("the polls have ended", || server.readers("a") == 0);
}

fn a_poll_that_leaves_is_gone_within_two_seconds() {
    let server = Tincan::start(&[]);
    let left = poll(&server, 300);
    eventually("the poll waits", || server.readers("a") == 1);
    drop(left);
    let since = Stopwatch::start();
    eventually("the poll is no longer counted", || server.readers("a") == 0);
    since.within("a poll that has left is gone", Duration::from_secs(2));
}

fn a_client_that_only_stops_sending_still_gets_its_long_poll() {
    let server = Tincan::start(&[]);
    let (mut early, mut late) = (server.connect(), server.connect());
    let began = Stopwatch::start();
    early.send("GET /a?wait=300 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    late.send("GET /b?wait=2 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    early.shut();
    late.shut();
    let response = late.response();
    assert!(began.elapsed() >= Duration::from_millis(1900), "{:?}", began.elapsed());
    began.within("a poll of two seconds", Duration::from_millis(3500));
    // A ping checks whether the client is still there.
    let text = response.text().replace(PING, "");
    assert_eq!(text.matches('\n').count(), 4, "only the prelude: {text}");
    let id = server.post("/a", "x");
    let response = early.response().text();
    assert!(response.ends_with(&format!("\n\ndata: x\nid: {}\n\n", id[0])), "{response}");
}

#[test]
fn a_poll_is_whole_whatever_its_client_sends_meanwhile() {
    let server = Tincan::start(&["--history", "16M"]);
    let blocks: String = (0..200)
        .map(|_| format!("data: {}\nid: {}\n\n", "x".repeat(60_000), server.post("/a", "x".repeat(60_000))[0]))
        .collect();
    let mut wire = server.connect();
    wire.send("GET /a?wait=0&since=all HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wire.until(b"\r\n\r\n");
    wire.block();
    let read = 10_000_000;
    wire.expect(&blocks[..read]);
    eventually("the kernel has buffered the rest", || {
        server.metric("tincan_delivered_bytes_total") == Some(blocks.len() as u64)
    });
    wire.send("\r\n"); // if the server had closed its socket already, these bytes would cause a reset
    wire.expect(&blocks[read..]);
    assert_eq!(wire.rest(), "");
}

#[test]
fn one_post_larger_than_the_log_reaches_who_keeps_up() {
    let server = Tincan::start(&["--history", "64K"]);
    let (mut subscriber, place) = server.listen("/a", "");
    let mut poll = server.connect();
    poll.send("GET /a?wait=300 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the poll waits", || server.readers("a") == 2);
    let response = server.post_with("/a", "Content-Type: text/event-stream\r\n", "data\n\n".repeat(10_900));
    let epoch = place.split_once('-').unwrap().0;
    for n in 1..=10_900 {
        subscriber.expect(format!("data: \nid: {epoch}-{n}\n\n"));
    }
    assert_eq!(response.text().lines().count(), 10_900);
    assert!(poll.response().text().ends_with(&format!("id: {epoch}-10900\n\n")), "the poll has all events");
    assert_eq!(server.metric("tincan_dropped_subscribers_total"), Some(0));
}

#[test]
fn polls_after_each_other_hear_everything_once() {
    let server = Tincan::start(&[]);
    let mut place = id_of(&server.get("/a?wait=0").text());
    let expected: String = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            (0..200).map(|n| format!("data: {n}\nid: {}\n\n", server.post("/a", n.to_string())[0])).collect()
        });
        let mut received = String::new();
        while received.matches("\n\n").count() < 200 {
            let text = server.get(&format!("/a?wait=20&since={place}")).text();
            let events = text.split_once("\n\n").unwrap().1;
            assert!(events.ends_with("\n\n"), "complete events, and at least one: {text}");
            place = events.trim_end().rsplit("id: ").next().unwrap().to_string();
            received += events;
        }
        let expected: String = publisher.join().unwrap();
        assert_eq!(received, expected);
        expected
    });
    // A poll that is larger than a socket takes at once.
    assert!(server.get("/a?wait=0&since=all").text().ends_with(&expected));
    let large: String = (0..15)
        .map(|_| format!("data: {}\nid: {}\n\n", "x".repeat(60_000), server.post("/b", "x".repeat(60_000))[0]))
        .collect();
    assert!(server.get("/b?wait=0&since=all").text().ends_with(&large));
}

#[test]
fn concurrent_publishers_share_one_order() {
    let server = Tincan::start(&[]);
    let (mut one, _) = server.listen("/a", "");
    let (mut two, _) = server.listen("/a", "");
    let acknowledged: Vec<(String, String)> = std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..8)
            .map(|p| {
                let server = &server;
                scope.spawn(move || {
                    let bodies = (0..50).map(|n| format!("{p}.{n}"));
                    bodies.map(|data| (server.post("/a", &data).remove(0), data)).collect::<Vec<_>>()
                })
            })
            .collect();
        publishers.into_iter().flat_map(|p| p.join().unwrap()).collect()
    });
    let mut sorted = acknowledged;
    sorted.sort_by_key(|(id, _)| id.split_once('-').unwrap().1.parse::<u64>().unwrap());
    let expected: String = sorted.iter().map(|(id, data)| format!("data: {data}\nid: {id}\n\n")).collect();
    one.expect(&expected);
    two.expect(&expected);
}

#[test]
fn a_flood_to_readers_that_keep_up_loses_nothing() {
    // Far more than the log keeps at a time. Publishers wait for the pump, and never for a subscriber.
    let server = Tincan::start(&["--quiet", "--history", "64K"]);
    let (mut subscriber, _) = server.listen("/a", "");
    // 400 of them fit into the kernel's buffers, so a busy machine does not make the subscriber slow.
    let body = "f".repeat(6000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    server.post("/a", &body);
                }
            });
        }
        for n in 1..=400 {
            assert!(subscriber.block().ends_with(&format!("-{n}\n\n")));
        }
    });
}
