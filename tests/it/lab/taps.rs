//! The wire lab's server side: taps, and their plugs.

use crate::support::browser::*;
use crate::support::harness::*;
use crate::support::websocket::Ws;
use crate::support::wings::has;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;
use tincan::wire::reject;

/// An event of a tap: `in`, `out` or `end`, the connection, and the bytes, a character for each.
#[derive(Debug, PartialEq, Eq)]
pub struct TapEvent(pub String, pub u64, pub String);

pub fn tap_event(block: &str) -> TapEvent {
    let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{block}"));
    let (name, data) = (line("event: "), line("data: "));
    let number = data.strip_prefix("{\"connection\":").and_then(|rest| rest.split(',').next()).unwrap();
    let bytes = if data.contains("\"bytes\":") { string(data, "\"bytes\":") } else { String::new() };
    TapEvent(name.into(), number.parse().unwrap(), bytes)
}

/// Takes the pieces of one direction until they have as many bytes as expected, and compares them.
pub fn expect_bytes(tap: &mut Wire, name: &str, number: u64, bytes: &str) {
    let mut all = String::new();
    while all.len() < bytes.len() {
        let TapEvent(way, n, piece) = tap_event(&tap.block());
        assert_eq!((way.as_str(), n), (name, number), "{piece}");
        all += &piece;
    }
    assert_eq!(all, bytes);
}

/// Returns the text with a character for each of its bytes.
pub fn latin(text: &str) -> String {
    text.bytes().map(char::from).collect()
}

#[test]
fn a_tap_tells_each_byte_of_a_stream_and_its_end() {
    let server = Tincan::start(&["--retry", "0"]);
    let (mut tap, _) = server.listen("/lab/k?since=all", "");
    let request = "GET /kitchen?tap=k HTTP/1.1\r\nHost: localhost\r\nX-Odd: \"\\\t\u{e9}\r\n\r\n";
    let mut wire = server.connect().raw();
    wire.send(request);
    expect_bytes(&mut tap, "in", 1, &latin(request));
    let mut sent = wire.until(b"\n\n\r\n"); // head and prelude in a chunk
    expect_bytes(&mut tap, "out", 1, &sent);
    for text in ["soup é", "\u{feff}\u{1f372}", "two\nlines"] {
        server.post("/kitchen", text);
        sent = wire.until(b"\n\n\r\n");
        expect_bytes(&mut tap, "out", 1, &latin(&sent));
    }
    drop(wire);
    // The client has stopped sending, so the server checks whether it still reads.
    expect_bytes(&mut tap, "out", 1, "7\r\n:ping\n\n\r\n");
    assert_eq!(tap_event(&tap.block()), TapEvent("end".into(), 1, String::new()));
}

#[test]
fn a_tap_tells_of_one_exchange_and_not_of_the_next_on_the_same_connection() {
    let server = Tincan::start(&[]);
    let (mut tap, _) = server.listen("/lab/k?since=all", "");
    let mut wire = server.connect();
    let mut exchange = |request: &str, body: &str| {
        wire.send(request);
        wire.send(body);
        let response = wire.response();
        assert_eq!(response.status, 200);
        response
    };
    let post = |query: &str| format!("POST /a{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n");
    exchange(&post(""), "soup");
    exchange(&post("?tap=k"), "stew");
    exchange(&post("?tap=other"), "cake");
    exchange("GET /health?tap=k HTTP/1.1\r\nHost: localhost\r\n\r\n", "");
    expect_bytes(&mut tap, "in", 1, &(post("?tap=k") + "stew"));
    let TapEvent(way, 1, response) = tap_event(&tap.block()) else { panic!() };
    assert!(
        way == "out" && response.starts_with("HTTP/1.1 200 OK\r\nDate: ") && response.ends_with("-2\n"),
        "{response}"
    );
    assert_eq!(tap_event(&tap.block()), TapEvent("end".into(), 1, String::new()));
    expect_bytes(&mut tap, "in", 3, "GET /health?tap=k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(tap_event(&tap.block()).2.ends_with("\r\n\r\nok\n"));
}

#[test]
fn polls_lessons_and_chunks_are_told_as_they_pass() {
    let server = Tincan::start(&[]);
    let (mut tap, _) = server.listen("/lab/k?since=all", "");
    let request = "GET /a?tap=k&wait=0 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut poll = server.connect();
    poll.send(request);
    expect_bytes(&mut tap, "in", 1, request);
    expect_bytes(&mut tap, "out", 1, &poll.rest());
    drop(poll);
    assert_eq!(tap_event(&tap.block()).0, "end");
    let request = "GET /lessons/cut-id?tap=k HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut lesson = server.connect().raw();
    lesson.send(request);
    let all = lesson.rest();
    drop(lesson); // otherwise the server waits for a while
    expect_bytes(&mut tap, "in", 2, request);
    expect_bytes(&mut tap, "out", 2, &latin(&all));
    assert_eq!(tap_event(&tap.block()), TapEvent("end".into(), 2, String::new()));
    // The tap has the body as it came: with its chunks, and with bytes that were read before the tap was known.
    let head = "POST /a?tap=k HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut chunked = server.connect();
    chunked.send(format!("{head}4\r\nso"));
    expect_bytes(&mut tap, "in", 3, &format!("{head}4\r\nso"));
    chunked.send("up\r\n0\r\n\r\n");
    expect_bytes(&mut tap, "in", 3, "up\r\n0\r\n\r\n");
}

#[test]
fn a_tap_does_not_tell_of_a_request_that_came_together_with_its_own() {
    let server = Tincan::start(&[]);
    let (mut tap, _) = server.listen("/lab/k?since=all", "");
    let next = "GET /health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3same\r\n\r\n";
    let head = "POST /a?tap=k HTTP/1.1\r\nHost: localhost\r\n";
    for (n, request) in [
        "GET /health?tap=k HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        format!("{head}Content-Length: 4\r\n\r\nsoup"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n4\r\nsoup\r\n0\r\n\r\n"),
    ]
    .iter()
    .enumerate()
    {
        let mut wire = server.connect();
        wire.send(format!("{request}{next}"));
        assert_eq!((wire.response().status, wire.response().text().as_str()), (200, "ok\n"));
        expect_bytes(&mut tap, "in", n as u64 + 1, request);
        assert_eq!(tap_event(&tap.block()).0, "out");
        assert_eq!(tap_event(&tap.block()).0, "end");
    }
}

#[test]
fn a_tap_is_not_tapped_itself() {
    let server = Tincan::start(&[]);
    server.get("/lab/k?tap=k").refused(tincan::wings::lab::taps::TAP); // it would report its own reports, for ever
}

#[test]
fn credentials_are_masked() {
    let server = Tincan::start(&[]);
    let (mut tap, _) = server.listen("/lab/k?since=all", "");
    let fields = "aUTHORIZATION: Basic czNzYW1l\r\nCookie:a=s3same\r\nProxy-Authorization:  Bearer s3same\r\nX: y\r\n";
    server.ask(format!("GET /health?tap=k HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
    let masked = "aUTHORIZATION: (not shown)\r\nCookie: (not shown)\r\nProxy-Authorization: (not shown)\r\nX: y\r\n";
    expect_bytes(&mut tap, "in", 1, &format!("GET /health?tap=k HTTP/1.1\r\nHost: localhost\r\n{masked}\r\n"));
}

#[test]
fn the_plug_ends_the_connections_of_its_tap_in_the_middle_of_what_they_say() {
    let server = Tincan::start(&[]);
    let (mut tap, _) = server.listen("/lab/k?since=all", "");
    let (mut pulled, _) = server.listen("/a?tap=k", "");
    let (mut other, _) = server.listen("/a?tap=other", "");
    let mut lesson = server.connect();
    lesson.send("GET /lessons/six-connections?tap=k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    lesson.until(b"data: open\n\n");
    assert_eq!(server.post("/lab/none", ""), ["connections cut: 0"]);
    let began = Stopwatch::start();
    assert_eq!(server.post("/lab/k", "pull the plug"), ["connections cut: 2"]);
    assert_eq!((pulled.rest(), lesson.rest()), (String::new(), String::new()));
    began.within("the ends", Duration::from_secs(2));
    while tap_event(&tap.block()).0 != "end" {}
    while tap_event(&tap.block()).0 != "end" {}
    eventually("the server has noticed", || server.readers("a") == 1);
    let id = server.post("/a", "still here");
    other.expect(format!("data: still here\nid: {}\n\n", id[0]));
    eventually("the connections are forgotten", || server.post("/lab/k", "") == ["connections cut: 0"]);
}

#[test]
fn a_tap_that_nobody_reads_holds_up_nobody_and_is_bounded() {
    let server = Tincan::start(&["--quiet", "--history", "64K"]);
    let (_unread, _) = server.listen("/lab/k?since=all", "");
    let (mut tapped, _) = server.listen("/a?tap=k", "");
    let (mut other, _) = server.listen("/a", "");
    let before = pss(server.pid());
    let text = "x".repeat(60_000);
    for _ in 0..200 {
        let id = server.post("/a", &text);
        for wire in [&mut tapped, &mut other] {
            wire.expect(format!("data: {text}\nid: {}\n\n", id[0]));
        }
    }
    let grown = pss(server.pid()).saturating_sub(before);
    assert!(grown < 3000, "{grown} KB more for 12 MB in the tap");
}

#[test]
fn a_channel_of_the_lab_is_kept_in_memory_is_not_listed_and_does_not_count() {
    let dir = Scratch::new();
    let server = Tincan::start(&["--data", dir.arg(), "--max-channels", "1", "--max-connections", "4"]);
    server.post("/a", "x");
    let (_tap, _) = server.listen("/lab/k?since=all", "");
    let (tapped, _) = server.listen("/a?tap=k", "");
    // Four connections leave no room while the one before is still closing.
    let listed = |path: &str| {
        let mut response = server.get(path);
        eventually("there is room", || {
            response = server.get(path);
            response.status == 200
        });
        response.text().lines().filter_map(|line| line.strip_prefix("tincan_subscribers")).collect::<String>()
    };
    assert_eq!(listed("/metrics"), "{channel=\"a\"} 1");
    assert_eq!(listed("/metrics?channel=lab/k"), "{channel=\"lab/k\"} 1");
    assert_eq!(dir.read("a.sse").matches("data: x\n").count(), 1);
    assert!(std::fs::read_dir(&dir.0).unwrap().all(|file| !file.unwrap().file_name().to_string_lossy().contains('k')));
    // The tap, its connection counted twice, and this request: one more would be too many.
    server.ask("GET /a?wait=0&tap=k HTTP/1.1\r\nHost: localhost\r\n\r\n").refused(reject::CONNECTIONS);
    server.ask("GET /health?tap=two HTTP/1.1\r\nHost: localhost\r\n\r\n").refused(reject::CONNECTIONS);
    drop(tapped);
    eventually("the connection has closed", || server.metric("tincan_connections") == Some(2));
    assert_eq!(server.get("/health?tap=two").status, 200);
    eventually("those connections have closed", || server.metric("tincan_connections") == Some(2));
    server.post_with("/b", "", "x").refused(reject::CHANNELS);
}

#[test]
fn who_may_not_read_or_publish_may_not_tap_or_pull() {
    let dir = Scratch::new();
    let server = crate::support::browser::guarded(&dir, 0, "publish p0ppy\nread s3same\n");
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let ask = |line: &str, fields: &str| server.ask(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"));
    ask("GET /lab/k?wait=0", "").refused(reject::READ_TOKEN);
    ask("GET /a?wait=0&tap=k", "").refused(reject::READ_TOKEN);
    ask("POST /lab/k", &bearer("s3same")).refused(reject::PUBLISH_RIGHT);
    ask("POST /lab/k", "Origin: http://other.example\r\n").refused(reject::CROSS_SITE);
    // The tap has no bytes of these requests.
    let received = ask("GET /lab/k?wait=0&since=all", &bearer("s3same")).text();
    assert!(received.ends_with("-0\n\n"), "{received}");
    assert_eq!(ask("POST /lab/k", &bearer("p0ppy")).status, 200);
}

/// Fills a channel with `count` events of 64 KB.
fn fill(server: &Tincan, path: &str, count: usize) {
    let body = format!("data: {}\n\n", "y".repeat(65_000));
    for _ in 0..count {
        let response = server.post_with(path, "Content-Type: text/event-stream\r\n", &body);
        assert_eq!(response.status, 200, "{}", response.text());
    }
}

#[test]
fn a_tap_that_cannot_keep_up_says_how_much_it_lost_and_holds_up_nobody() {
    let server = Tincan::start(&["--quiet", "--history", "16M", "--max-body", "1M"]);
    fill(&server, "/a", 128);
    let (mut tap, _) = server.listen("/lab/k?since=all", "");
    let blocks = std::thread::spawn(move || {
        let mut blocks = Vec::new();
        while blocks.last().is_none_or(|block: &String| !block.starts_with("event: end\n")) {
            blocks.push(tap.block());
        }
        blocks
    });
    let mut tapped = server.connect().raw();
    tapped.send("GET /a?since=all&tap=k HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let received = tapped.until(b"\r\n\r\n").len() + tapped.block().len();
    let bytes =
        (0..128).map(|_| tapped.block()).inspect(|block| assert!(block.len() > 65_000)).map(|block| block.len());
    let received = received + bytes.sum::<usize>() + tapped.bytes(2).len(); // the CRLF of the last chunk
    drop(tapped);
    let mut sums = [0, 0];
    for block in blocks.join().unwrap() {
        assert!(!block.starts_with("event: gap"), "{block}");
        let data = block.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        assert!(data.starts_with("{\"connection\":1,\"at\":"), "{data:.100}");
        if block.starts_with("event: lost\n") {
            let lost = data.rsplit("\"bytes\":").next().unwrap().trim_end_matches('}');
            sums[1] += lost.parse::<usize>().unwrap();
        } else if let TapEvent(way, 1, bytes) = self::tap_event(&block)
            && way == "out"
        {
            // Pings do not count. The client has left, so the server checks whether it still reads.
            sums[0] += bytes.len() - bytes.matches("7\r\n:ping\n\n\r\n").count() * 12;
        }
    }
    assert!(sums[1] > 1 << 20, "{sums:?}");
    let all = sums[0] + sums[1];
    assert!(all == received || all == received + 12, "{sums:?} and {received}; the ping may be among the lost bytes");
}

#[test]
fn a_thousand_taps_take_a_few_megabytes() {
    let dir = Scratch::new();
    for args in [&["--quiet"][..], &["--quiet", "--data", dir.arg()]] {
        let server = Tincan::start(args);
        fill(&server, "/a", 16);
        let before = pss(server.pid());
        let mut taps = Vec::new();
        for n in 0..1000 {
            let mut wire = server.connect();
            wire.send(format!("GET /a?tap=k{}&since=all HTTP/1.1\r\nHost: localhost\r\n\r\n", n % 200));
            if wire.until(b"\r\n").contains(" 200 ") {
                taps.push(wire);
            }
        }
        assert!((64..=128).contains(&taps.len()), "{}", taps.len());
        let grown = pss(server.pid()).saturating_sub(before);
        assert!(grown < 16_000, "{args:?}: {grown} KB more for {} taps", taps.len());
    }
}

#[test]
fn more_taps_than_there_are_places_are_told_so() {
    let server = Tincan::start(&["--quiet"]);
    let tapped = |key: &str| server.ask(format!("GET /a?tap={key} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    let mut taps: Vec<_> = (0..128).map(|_| server.listen("/a?tap=k", "").0).collect();
    tapped("k").refused(tincan::wings::lab::taps::TAPS);
    let mut stream = server.connect();
    stream.send("GET /a?tap=k HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    assert!(stream.until(b"\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"), "an EventSource is kept alive");
    stream.expect(format!(": {}\nretry: ", tincan::wings::lab::taps::TAPS.why));
    assert_eq!(server.get("/health").status, 200);
    taps.pop();
    eventually("a place is free again", || server.get("/health?tap=k").status == 200);
}

#[test]
fn a_key_that_nobody_uses_gives_way_to_another() {
    let server = Tincan::start(&["--quiet", "--max-channels", "1"]);
    server.post("/a", "x");
    for n in 0..200 {
        // The tap before may still be in use.
        eventually("a place is free", || server.get(&format!("/health?tap=k{n}")).status == 200);
    }
    let (mut first, _) = server.listen("/lab/first?since=all", "");
    eventually("no other key is used", || server.get("/health?tap=first").status == 200);
    let mut pages: Vec<_> = Vec::new();
    eventually("all other keys are used", || {
        let response = server.get(&format!("/lab/page{}?wait=0", pages.len()));
        if response.status == 200 {
            pages.push(server.listen(&format!("/lab/page{}", pages.len()), "").0);
        }
        pages.len() == 63
    });
    server.get("/lab/other").refused(tincan::wings::lab::taps::TAPS);
    server.get("/health?tap=other").refused(tincan::wings::lab::taps::TAPS);
    assert!(first.block().contains("GET /health?tap=first "));
    pages.pop();
    eventually("a place is free again", || server.get("/health?tap=other").status == 200);
}

#[test]
fn a_tap_does_not_slow_its_publishers_though_nobody_can_keep_up_with_it() {
    let server = Tincan::start(&["--quiet"]);
    let (_unread, _) = server.listen("/lab/k?since=all", "");
    let (mut tapped, _) = server.listen("/a?tap=k", "");
    let text = "\u{1}".repeat(60_000); // each takes six bytes in the tap
    let began = Stopwatch::start();
    for _ in 0..100 {
        let id = server.post("/a", &text);
        tapped.expect(format!("data: {text}\nid: {}\n\n", id[0]));
    }
    began.within("100 events of 60 KB", Duration::from_secs(4));
}

/// Returns all events of a tap so far.
fn all_events(server: &Tincan, key: &str) -> Vec<TapEvent> {
    let text = server.get(&format!("/lab/{key}?wait=0&since=all")).text();
    text.split_inclusive("\n\n").skip(1).map(tap_event).collect()
}

#[test]
fn a_connection_that_is_cut_has_ended_in_its_tap_before_the_next_one_begins() {
    let server = Tincan::start(&[]);
    let streams = ["/a?tap=k", "/a?wait=300&tap=k", "/lessons/six-connections?tap=k", "/lessons/buffering?tap=k"];
    let mut wires: Vec<Wire> = streams
        .iter()
        .map(|path| {
            let mut wire = server.connect().raw();
            wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
            wire.until(b"\r\n\r\n");
            wire
        })
        .collect();
    wires.extend(has("websocket").then(|| Ws::open(&server, "/a?tap=k").0));
    // Half a body, so the server waits for the rest.
    let mut post = server.connect();
    post.send("POST /a?tap=k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nsoup");
    wires.push(post);
    let last = wires.len() as u64;
    eventually("all connections are in the tap", || {
        let events = all_events(&server, "k");
        (1..=last).all(|n| events.iter().any(|t| t.1 == n)) && events.iter().any(|t| t.2 == "soup")
    });
    for round in 1..3 {
        assert_eq!(server.post("/lab/k", ""), [format!("connections cut: {}", if round == 1 { last } else { 0 })]);
    }
    server.get("/health?tap=k"); // the next connection of this tap
    eventually("the next connection is in the tap", || all_events(&server, "k").iter().any(|t| t.1 == last + 1));
    let before: Vec<TapEvent> = all_events(&server, "k").into_iter().take_while(|t| t.1 != last + 1).collect();
    for n in 1..=last {
        assert_eq!(before.iter().rfind(|t| t.1 == n).map(|t| t.0.as_str()), Some("end"), "{n}: {before:?}");
    }
    // The clients see the end, and receive nothing more.
    wires.iter_mut().for_each(|wire| drop(wire.rest()));
    drop(wires);
    eventually("only this request's connection is left", || server.metric("tincan_connections") == Some(1));
    let events = all_events(&server, "k");
    for n in 1..=last + 1 {
        assert_eq!(events.iter().filter(|t| t.1 == n && t.0 == "end").count(), 1, "{n}");
    }
    assert!(events.iter().skip(before.len()).all(|t| t.1 == last + 1), "{events:?}");
}

#[test]
fn a_tap_tells_just_the_bytes_that_were_sent_up_to_the_cut() {
    let server = Tincan::start(&["--quiet"]);
    for round in 0..8 {
        let mut wire = server.connect().raw();
        wire.send(format!("GET /a?tap=k{round} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        let mut received = wire.until(b"\n\n\r\n");
        let (stop, text) = (AtomicBool::new(false), "x".repeat(100 * round));
        std::thread::scope(|scope| {
            let _end = AtEnd(&stop);
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(SeqCst) {
                        server.post("/a", &text);
                    }
                });
            }
            received += &wire.until(b"\n\n\r\n");
            assert_eq!(server.post(&format!("/lab/k{round}"), ""), ["connections cut: 1"]);
        });
        received += &wire.rest();
        let mut events = Vec::new();
        eventually("the end is in the tap", || {
            events = all_events(&server, &format!("k{round}"));
            events.iter().any(|t| t.0 == "end")
        });
        let sent: String = events.iter().filter(|t| t.0 == "out").map(|t| t.2.as_str()).collect();
        assert!(sent == received, "{round}: {} bytes in the tap, {} received", sent.len(), received.len());
        assert_eq!(events.last().map(|t| t.0.as_str()), Some("end"));
    }
}

#[test]
fn a_stream_that_ends_in_order_has_ended_in_its_tap_before_the_client_knows() {
    let server = Tincan::start(&["--max-age", "1"]);
    for (n, path) in ["/a?tap=k", "/a?wait=1&tap=k", "/lessons/cut-id?since=2&tap=k"].iter().enumerate() {
        let mut wire = server.connect();
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        wire.head();
        wire.rest(); // the client does not close
        server.get("/health?tap=k");
        let next = 2 * n as u64 + 2;
        eventually("the next connection is in the tap", || all_events(&server, "k").iter().any(|t| t.1 == next));
        let before: Vec<TapEvent> = all_events(&server, "k").into_iter().take_while(|t| t.1 != next).collect();
        assert_eq!(before.last(), Some(&TapEvent("end".into(), next - 1, String::new())), "{path}");
    }
}

#[test]
fn an_eventsource_comes_back_after_a_pulled_plug() {
    let Some(driver) = driver() else { return };
    let mut server = Tincan::start(&["--retry", "100"]);
    let page = driver.page(&url(&server, "/health"));
    page.js(&listening("/kitchen?tap=plug"));
    assert_eq!(heard(&page, &server, 1), "1");
    assert_eq!(server.post("/lab/plug", ""), ["connections cut: 1"]);
    assert_eq!(heard(&page, &server, 2), "1,2");
    assert_eq!(page.js("told.filter(text => text.startsWith('error')).join()"), "error 0");
    let lines = page.console().into_iter().filter(|line| line.contains("/kitchen")); // a missing icon does not count
    let console: Vec<_> = lines.collect();
    assert!(console.len() == 1 && console[0].contains("ERR_INCOMPLETE_CHUNKED_ENCODING"), "{console:?}");
    server.kill();
    page.becomes("told.filter(text => text === 'error 0').length >= 2", "true");
    server = again(server.port);
    assert_eq!(heard(&page, &server, 3), "1,2,3");
}
