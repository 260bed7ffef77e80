//! WebSocket over real sockets: the table of `frames.rs` byte for byte, the refusals of handshakes, and messages in a
//! channel.

use crate::support::browser::{driver, url};
use crate::support::harness::*;
use crate::support::network::*;
use crate::support::process::descriptors;
use crate::support::process::{shell, works};
use crate::support::websocket::*;
use crate::support::wings::has;
use crate::websocket::frames::{Case, Reaction, cases, closing_reason, judge};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::scope;
use std::time::{Duration, Instant};
use tincan::wings::websocket::frames::{BINARY_DATA, TOO_LONG};
use tincan::wire::event::json;
use tincan::wire::reject::{self, Reject};

/// The number of connections at a time.
const WORKERS: usize = 8;

/// Returns whether bytes that break no rule end with a complete frame.
fn is_whole(mut bytes: &[u8]) -> bool {
    while let [_, second, rest @ ..] = bytes {
        let form = [0, 2, 8][usize::from(second % 128).saturating_sub(125)];
        let Some((long_length, rest)) = rest.split_at_checked(form) else { return false };
        let long_length = long_length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let length = if form == 0 { usize::from(second % 128) } else { long_length };
        let Some(rest) = rest.get(4 + length..) else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

/// How a client's bytes are sent.
#[derive(Debug, Clone, Copy)]
enum Sending {
    Whole,
    /// In one packet with the handshake.
    Behind,
    Cut(usize),
}

/// Plays cases one after the other on a channel of its own, which also has a subscriber to the event stream.
struct Player<'a> {
    server: &'a Tincan,
    path: String,
    subscriber: Wire,
    epoch: String,
    published: u64,
}

impl Player<'_> {
    fn new(server: &Tincan, number: usize) -> Player<'_> {
        let path = format!("/c{number}");
        let (subscriber, id) = server.listen(&path, "");
        let epoch = id.strip_suffix("-0").unwrap().into();
        Player { server, path, subscriber, epoch, published: 0 }
    }

    /// Plays a case. Pongs come in their order, and so do messages, but a pong and a message may come in any order.
    /// If the connection ends at once, some messages may have been published without coming back.
    fn play(&mut self, case: &str, client: &[u8], expected: &[Reaction], sending: Sending) {
        let case = format!("{case}, {sending:?}: {:.300}", client[..client.len().min(300)].escape_ascii().to_string());
        let mut wire = self.server.connect();
        let asked = handshake(&self.path, "").into_bytes();
        let (with, then) = match sending {
            Sending::Behind => (client, &[][..]),
            Sending::Cut(at) => (&[][..], &client[..at]),
            Sending::Whole => (&[][..], client),
        };
        wire.send([&asked, with].concat());
        let mut ws = Ws::accepted(wire, "");
        ws.send(then);
        if let Sending::Cut(at) = sending {
            ws.send(&client[at..]);
        }
        let (mut messages, mut pongs, mut close) = (Vec::new(), Vec::new(), None);
        for reaction in expected {
            match reaction {
                Reaction::Echo(text) => messages.push(lines(text)),
                Reaction::Pong(payload) => pongs.push(payload.clone()),
                Reaction::Close(code) => close = Some(code.map_or(vec![], |code| code.to_be_bytes().into())),
                Reaction::Fail(failure) => {
                    close = Some([&failure.status.to_be_bytes(), closing_reason(failure).as_bytes()].concat());
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
        let (mut received, mut ponged, mut closed) = (0, 0, None);
        loop {
            if goes_on && closed.is_none() && received == messages.len() && ponged == pongs.len() {
                ws.send(closing(1000, ""));
                close = Some(vec![3, 0xe8]);
            }
            let Some((first, payload)) = ws.frame() else { break };
            assert_eq!(closed, None, "{case}: a frame after the Close frame");
            match first {
                0x81 => {
                    assert_eq!(Some(payload.as_slice()), messages.get(received).map(String::as_bytes), "{case}");
                    received += 1;
                }
                0x8a => {
                    assert_eq!(Some(&payload), pongs.get(ponged), "{case}");
                    ponged += 1;
                }
                0x88 => closed = Some(payload),
                _ => panic!("{case}: a ping"),
            }
        }
        assert_eq!(closed.map(|c| c.escape_ascii().to_string()), close.map(|c| c.escape_ascii().to_string()), "{case}");
        assert!(ponged == pongs.len() && (received == messages.len() || !goes_on), "{case}");
        for message in messages {
            self.published += 1;
            self.subscriber.expect(block(&message, &format!("{}-{}", self.epoch, self.published)));
        }
    }
}

/// Returns how many descriptors a server has that has just started. At first it opens some for a moment. A thread
/// that has not done so yet may be waiting for a processor.
fn at_rest(server: &Tincan) -> usize {
    let sleeps = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        let stats = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default());
        stats.into_iter().all(|stat| stat.contains(") S "))
    };
    let (mut last, mut same) = (0, 0);
    eventually("its descriptors stay the same", || {
        let now = descriptors(server);
        (last, same) = (now, if now == last && sleeps() { same + 1 } else { 0 });
        same == 20
    });
    last
}

#[test]
fn every_case_of_the_table_is_answered_over_sockets_byte_for_byte() {
    let server = Tincan::start(&["--quiet"]);
    let mut jobs = Vec::new();
    let cases = cases();
    for case in &cases {
        // Short cases are also cut at each byte. The test without sockets cuts all cases.
        let cuts = if case.client.len() <= 16 { 1..case.client.len() } else { 0..0 };
        jobs.extend(
            [Sending::Whole, Sending::Behind].into_iter().chain(cuts.map(Sending::Cut)).map(|sending| (case, sending)),
        );
    }
    let (jobs, counts) = (Mutex::new(jobs.into_iter()), Mutex::new(BTreeMap::<_, (usize, usize)>::new()));
    scope(|s| {
        for number in 0..WORKERS {
            let (server, jobs, counts) = (&server, &jobs, &counts);
            s.spawn(move || {
                let mut player = Player::new(server, number);
                let next = || jobs.lock().unwrap().next();
                while let Some((Case { group, name, client, server }, sending)) = next() {
                    player.play(&format!("{group}: {name}"), client, server, sending);
                    let mut counts = counts.lock().unwrap();
                    let (whole, all) = counts.entry(*group).or_default();
                    *whole += usize::from(matches!(sending, Sending::Whole));
                    *all += 1;
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    for (group, (whole, all)) in &counts {
        println!("{group}: {whole} cases, {all} connections, all as the standard says");
    }
    let (whole, all) = counts.values().fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    println!("in all: {whole} cases, {all} connections");
    assert_eq!(whole, cases.len());
    eventually("all connections have closed", || server.metric("tincan_connections") == Some(1));
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
                // A slow machine has less time for many rounds, but does this many.
                while rounds < 30 || (Instant::now() < end && rounds < 600) {
                    let bytes = random_bytes(&mut random);
                    let sending = match random.index(4) {
                        0 => Sending::Whole,
                        1 => Sending::Behind,
                        _ => Sending::Cut(random.index(bytes.len())),
                    };
                    player.play(&format!("seed {number}, round {rounds}"), &bytes, &judge(&bytes, SMALL), sending);
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
    eventually("all connections have closed", || server.metric("tincan_connections") == Some(1));
}

#[test]
fn a_handshake_is_answered_with_exactly_these_bytes() {
    let server = Tincan::start(&[]);
    for (fields, response) in [
        ("", ""),
        ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n", ""),
        ("Sec-WebSocket-Protocol: chat\r\n", ""),
        ("Sec-WebSocket-Protocol: chat, event-stream\r\n", "Sec-WebSocket-Protocol: event-stream\r\n"),
        ("Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n", ""),
        ("Accept: text/html\r\n", ""),
    ] {
        let mut wire = server.connect();
        wire.send(handshake("/kitchen", fields));
        Ws::accepted(wire, response).close();
    }
    // One byte at a time; after another request on the same connection; with a body, which is ignored.
    let mut wire = server.connect();
    wire.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(wire.response().text(), "ok\n");
    for byte in handshake("/kitchen", "Content-Length: 3\r\n").bytes().chain(*b"abc").chain(text("a")) {
        wire.send([byte]);
    }
    let mut ws = Ws::accepted(wire, "");
    ws.hears("a");
    ws.close();
    eventually("the request is logged", || server.stderr().contains(" GET /kitchen 101\n"));
}

#[test]
fn a_handshake_that_breaks_a_rule_is_refused_and_the_connection_goes_on() {
    let server = Tincan::start(&[]);
    let asked = handshake("/a", "");
    let without =
        |name: &str| asked.lines().filter(|line| !line.starts_with(name)).map(|l| format!("{l}\r\n")).collect();
    let with = |from: &str, to: &str| asked.replace(from, to);
    let cases: [(String, Reject); 18] = [
        (with("GET", "POST"), tincan::wings::websocket::handshake::HANDSHAKE_METHOD),
        (with("GET", "PUT"), tincan::wings::websocket::handshake::HANDSHAKE_METHOD),
        (with("GET", "OPTIONS"), tincan::wings::websocket::handshake::HANDSHAKE_METHOD),
        (without("Upgrade"), tincan::wings::websocket::handshake::UPGRADE),
        (with("Upgrade: websocket", "Upgrade: h2c"), tincan::wings::websocket::handshake::UPGRADE),
        (without("Connection"), tincan::wings::websocket::handshake::UPGRADE_OPTION),
        (with("Connection: Upgrade", "Connection: keep-alive"), tincan::wings::websocket::handshake::UPGRADE_OPTION),
        (without("Sec-WebSocket-Version"), tincan::wings::websocket::handshake::WS_VERSION),
        (with("Version: 13", "Version: 8"), tincan::wings::websocket::handshake::WS_VERSION),
        (
            with("Version: 13\r\n", "Version: 13\r\nSec-WebSocket-Version: 8\r\n"),
            tincan::wings::websocket::handshake::WS_VERSION,
        ),
        (without("Sec-WebSocket-Key"), tincan::wings::websocket::handshake::WS_KEY),
        (with("ZQ==", "ZQ="), tincan::wings::websocket::handshake::WS_KEY),
        (
            with("ZQ==\r\n", "ZQ==\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            tincan::wings::websocket::handshake::WS_KEY,
        ),
        (handshake("/a", "Sec-WebSocket-Protocol: a b\r\n"), tincan::wings::websocket::handshake::SUBPROTOCOL),
        (handshake("/a?since=x", ""), reject::SINCE),
        (handshake("/a?event=%0a", ""), reject::EVENT_NAME),
        (handshake("/nothing/here", ""), reject::NOT_FOUND),
        (with("Host: localhost", "Host: evil.example"), reject::MISDIRECTED),
    ];
    let mut wire = server.connect();
    for (request, reject) in cases {
        wire.send(&request);
        let response = wire.response();
        assert_eq!(response.text(), reject.line(), "{request:?}");
        response.refused(reject);
        let field = |name: &str| response.field(name);
        match reject.status {
            426 => assert_eq!(
                [field("upgrade"), field("connection"), field("sec-websocket-version")],
                [Some("websocket"), Some("Upgrade"), Some("13")]
            ),
            405 => assert_eq!(field("allow"), Some("GET")),
            _ => assert_eq!(field("upgrade"), None),
        }
        assert_eq!(field("sec-websocket-accept"), None, "{request:?}");
    }
    // HTTP/1.0 has no upgrade. The response to a HEAD has no body.
    server.ask(with("HTTP/1.1", "HTTP/1.0")).refused(tincan::wings::websocket::handshake::UPGRADE);
    wire.send(with("GET", "HEAD"));
    assert!(wire.until(b"\r\n\r\n").starts_with("HTTP/1.1 405 "));
    // A path that is not a channel accepts no WebSocket (§4.2.2), whatever the rest of the handshake is.
    let lab = if has("lab") { &["/lab", "/lab/key"][..] } else { &[] };
    let lessons = if has("lessons") { &["/lessons", "/lessons/fields", "/lessons/fields.txt"][..] } else { &[] };
    for path in ["/health", "/", "/metrics", "/assets/chat.js"].iter().chain(lab).chain(lessons) {
        wire.send(handshake(path, ""));
        wire.response().refused(tincan::wings::websocket::handshake::NO_SOCKET);
        wire.send(handshake(path, "Accept: text/event-stream\r\n"));
        wire.response().refused(tincan::wings::websocket::handshake::NO_SOCKET);
    }
    for path in ["/health"].iter().chain(&lab[..lab.len().min(1)]) {
        wire.send(handshake(path, "").replace("Version: 13", "Version: 8"));
        wire.response().refused(tincan::wings::websocket::handshake::NO_SOCKET);
    }
    // A request for another protocol is served as usual.
    wire.send(handshake("/health", "").replace("websocket", "h2c").replace("Sec-WebSocket-Key", "X-Key"));
    assert_eq!(wire.response().text(), "ok\n");
    wire.send(handshake("/a?event=gap", ""));
    wire.response().refused(reject::RESERVED);
    wire.send(handshake("/a", ""));
    Ws::accepted(wire, "").close();
}

#[test]
fn a_handshake_from_another_site_is_refused() {
    let server = Tincan::start(&[]);
    let origin = |origin: &str| format!("Origin: {origin}\r\n");
    let other = [origin("http://evil.example"), origin("null"), origin("http://localhost:1"), origin("")];
    for fields in other.into_iter().chain(["Sec-Fetch-Site: cross-site\r\n".into()]) {
        server.ask(handshake("/a", &fields)).refused(reject::CROSS_SITE);
        // The same if the handshake is wrong: a page of another site must not learn that.
        let wrong = handshake("/a", &fields).replace("Version: 13", "Version: 8");
        server.ask(wrong).refused(reject::CROSS_SITE);
    }
    assert_eq!(server.metric("tincan_channels"), Some(0));
    let allows = Tincan::start(&["--allow-origin", "https://app.example"]);
    let fields = "Origin: https://app.example\r\nSec-Fetch-Site: cross-site\r\n";
    let mut wire = allows.connect();
    wire.send(handshake("/a", fields));
    Ws::accepted(wire, "").close();
    allows.ask(handshake("/a", &origin("https://b.example"))).refused(reject::CROSS_SITE);
}

#[test]
fn a_websocket_needs_the_token_for_reading_and_a_message_the_one_for_publishing() {
    let dir = Scratch::new();
    let path = dir.0.join("tokens");
    std::fs::write(&path, "read r3ad\npublish p0st\nread b0th\npublish b0th\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = Tincan::start(&["--token-file", path.to_str().unwrap()]);
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let wrong = [reject::READ_UNKNOWN, reject::READ_RIGHT];
    for (fields, reject) in
        [(String::new(), reject::READ_TOKEN), (bearer("wrong"), wrong[0]), (bearer("p0st"), wrong[1])]
    {
        let response = server.ask(handshake("/a", &fields));
        response.refused(reject);
        assert_eq!(response.field("www-authenticate"), Some("Basic realm=\"tincan: read\", charset=\"UTF-8\""));
    }
    let open = |token: &str| {
        let mut wire = server.connect();
        wire.send(handshake("/a", &bearer(token)));
        Ws::accepted(wire, "")
    };
    let (mut both, mut reads) = (open("b0th"), open("r3ad"));
    both.send(text("from one who may"));
    both.hears("from one who may");
    reads.hears("from one who may");
    reads.send([ping("still here"), text("from one who may not"), text("nor this")].concat());
    reads.gets(0x8a, "still here");
    reads.closes(1008, reject::PUBLISH_RIGHT.why);
    both.send(text("next"));
    both.hears("next");
}

#[test]
fn a_websocket_counts_as_two_connections_and_a_full_server_says_503() {
    let server = Tincan::start(&["--max-connections", "3"]);
    let bare = at_rest(&server);
    let first = Ws::open(&server, "/a");
    assert_eq!(server.metric("tincan_connections"), Some(3));
    eventually("the server has two more descriptors", || descriptors(&server) == bare + 2);
    let response = server.ask(handshake("/a", "Connection: close\r\n"));
    response.refused(reject::CONNECTIONS);
    assert_eq!(response.field("retry-after"), Some("5"));
    eventually("the WebSocket is a subscriber", || server.readers("a") == 1);
    first.close();
    eventually("there is room again", || server.metric("tincan_connections") == Some(1));
    Ws::open(&server, "/a").close();
    eventually("no connection is left", || server.metric("tincan_connections") == Some(1));
    eventually("no descriptor is left", || descriptors(&server) == bare);
    let server = Tincan::start(&["--max-channels", "1"]);
    server.post("/a", "x");
    server.ask(handshake("/b", "")).refused(reject::CHANNELS);
}

#[test]
fn websockets_of_one_address_leave_the_places_of_others() {
    if !has_network(module_path!(), "websockets_of_one_address_leave_the_places_of_others") {
        return;
    }
    let server = everywhere(&["--max-connections", "20"]);
    let mut sockets = Vec::new();
    let refused = loop {
        let mut wire = connect(&server, ONE);
        wire.send(handshake("/a", ""));
        let head = wire.head();
        if head.status != 101 {
            break wire.body(head);
        }
        sockets.push(Ws(wire));
    };
    assert_eq!(sockets.len(), 5, "each takes two places of ten");
    refused.refused(reject::CONNECTIONS);
    let others: Vec<_> = (0..10).filter_map(|_| subscribe(&server, OTHER).ok()).collect();
    assert_eq!(others.len(), 10, "the others have their places");
    sockets.into_iter().for_each(Ws::close);
    drop(others);
    eventually("no connection is left", || server.metric("tincan_connections") == Some(1));
    assert_eq!(subscribe_to_the_limit(&server, ONE).len(), 10);
}

/// Checks the first message of a subscriber with the subprotocol; returns its id.
fn prelude(text: &str, channel: &str) -> String {
    let (address, id) = (address_of(text), id_of(text));
    assert_eq!(text, format!(": connected to /{channel} as {address}\nretry: 0\nid: {id}\n\n"));
    assert!(address.len() == 32 && address.bytes().all(|b| b.is_ascii_hexdigit()), "{address}");
    id
}

#[test]
fn everyone_hears_what_anyone_says_in_the_same_order() {
    let server = Tincan::start(&["--retry", "0"]);
    let (mut stream, first) = server.listen("/a", "");
    let (mut blocks, text_of_prelude) = Ws::blocks(&server, "/a", "");
    assert_eq!(prelude(&text_of_prelude, "a"), first);
    let mut plain = Ws::open(&server, "/a");
    let mut named = Ws::open(&server, "/a?event=order");
    let mut bodies: Vec<String> =
        ["one", "", "two\nlines", "\n", "a\r\nb\rc", " begins with a space", ": data: x", "\u{feff}\0", "event: x\n\n"]
            .map(String::from)
            .into();
    bodies.extend([125, 126, 65535, 65536].map(|n| "x".repeat(n)));
    let epoch = first.strip_suffix("-0").unwrap();
    let mut number = 0;
    for body in bodies {
        let data = lines(&body);
        for from in ["plain", "blocks", "named", "POST"] {
            number += 1;
            let id = format!("{epoch}-{number}");
            match from {
                "plain" => plain.send(text(&body)),
                "blocks" => blocks.send(text(&body)),
                "named" => named.send(text(&body)),
                _ => assert_eq!(server.post("/a", &body), [id.as_str()]),
            }
            let event = if from == "named" { "event: order\n" } else { "" };
            let block = event.to_owned() + &block(&body, &id);
            stream.expect(&block);
            blocks.hears(&block);
            plain.hears(&data);
            named.hears(&data);
        }
    }
    // Many messages at once, from all of them: each WebSocket receives all in the order of the ids.
    for n in 0..300 {
        [&mut plain, &mut named, &mut blocks][n % 3].send(text(n.to_string()));
    }
    let mut numbers = Vec::new();
    for _ in 0..300 {
        number += 1;
        let block = stream.block();
        assert_eq!(id_of(&block), format!("{epoch}-{number}"));
        blocks.hears(&block);
        let data = block.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        plain.hears(data);
        named.hears(data);
        numbers.push(data.parse::<usize>().unwrap());
    }
    for sender in 0..3 {
        let mine: Vec<_> = numbers.iter().copied().filter(|n| n % 3 == sender).collect();
        assert_eq!(
            mine,
            (0..300).filter(|n| n % 3 == sender).collect::<Vec<_>>(),
            "the messages of one sender keep their order"
        );
    }
    assert_eq!(server.metric("tincan_events_total"), Some(number));
    assert_eq!(server.readers("a"), 4);
    for ws in [plain, named, blocks] {
        ws.close();
    }
    stream.shut();
    eventually("the WebSockets have left", || server.readers("a") == 1);
}

#[test]
fn a_websocket_comes_back_to_where_it_was_and_is_told_what_it_missed() {
    let server = Tincan::start(&["--retry", "0", "--history", "1K"]);
    let ids: Vec<String> = (1..=9).map(|n| server.post("/a", n.to_string()).remove(0)).collect();
    let events = |from: usize| (from..=9).map(|n| (n.to_string(), block(&n.to_string(), &ids[n - 1])));
    // After an id in the query, or in the field, which takes precedence; everything that is kept; and from now on.
    let last = format!("Last-Event-ID: {}\r\n", ids[6]);
    for (query, field, from) in [
        (format!("?since={}", ids[3]), "", 5),
        (format!("?since={}", ids[3]), last.as_str(), 8),
        ("?since=all".into(), "", 1),
        (String::new(), last.as_str(), 8),
        (String::new(), "", 10),
    ] {
        let (mut ws, first) = Ws::blocks(&server, &format!("/a{query}"), field);
        let id = prelude(&first, "a");
        assert_eq!(id.rsplit('-').next(), Some((from - 1).to_string().as_str()), "{query} {field}");
        events(from).for_each(|(_, block)| ws.hears(&block));
        ws.close();
        let mut wire = server.connect();
        wire.send(handshake(&format!("/a{query}"), field));
        let mut plain = Ws::accepted(wire, "");
        events(from).for_each(|(data, _)| plain.hears(&data));
        plain.close();
    }
    // From an id that is no longer kept.
    (0..9).for_each(|_| drop(server.post("/a", "x".repeat(200))));
    let (mut ws, first) = Ws::blocks(&server, &format!("/a?since={}", ids[0]), "");
    prelude(&first, "a");
    let gap = ws.message();
    let (kept, _) = server.listen("/a?since=all", "");
    drop(kept);
    let from = id_of(&ws.message());
    let number = |id: &str| id.rsplit('-').next().unwrap().parse::<u64>().unwrap();
    let lost = number(&from) - 2;
    let data = format!("{{\"asked\":\"{}\",\"from\":\"{from}\",\"lost\":{lost}}}", ids[0]);
    assert_eq!(gap, format!("event: gap\ndata: {data}\n\n"));
    // Without blocks there is no event name, but the text is there.
    let mut plain = Ws::open(&server, &format!("/a?since={}", ids[0]));
    plain.hears(&data);
    plain.hears(&"x".repeat(200));
}

#[test]
fn what_a_websocket_says_is_on_the_disk_and_what_does_not_get_there_closes_it() {
    let dir = Scratch::new();
    let server = Tincan::start(&["--data", dir.arg(), "--sync"]);
    let mut ws = Ws::open(&server, "/a?event=soup");
    for n in 0..20 {
        ws.send(text(n.to_string()));
        ws.hears(&n.to_string());
    }
    let kept = server.get("/a?since=all&wait=0").text();
    assert!(
        kept.contains("\n\nevent: soup\ndata: 0\nid: ")
            && dir.read("a.sse").contains(&kept[kept.find("event").unwrap()..])
    );
    // Another program changes the file, so this is an error of the server.
    let mut file = std::fs::OpenOptions::new().append(true).open(dir.0.join("a.sse")).unwrap();
    std::io::Write::write_all(&mut file, b"data: mine\n\n").unwrap();
    ws.send(text("not kept"));
    ws.closes(1011, reject::LOG_FAILED.why);
    drop(server);
    // The disk is full, so the client should come back.
    if !works("prlimit") {
        return;
    }
    let dir = Scratch::new();
    let server = shell("ulimit -S -f 64; exec", &["--heartbeat", "3600", "--data", dir.arg()]);
    let mut ws = Ws::open(&server, "/a");
    let body = "x".repeat(5000);
    while server.post_with("/a", "", &body).status == 200 {
        ws.hears(&body);
    }
    ws.send(text(&body));
    ws.closes(1013, reject::DISK_FULL.why);
}

const CALLED_BACK: &str = "you have fallen behind, or your time is over; come back with ?since=ID";

#[test]
fn a_websocket_is_pinged_each_heartbeat_and_closed_when_two_pings_go_unanswered() {
    let server = Tincan::start(&["--heartbeat", "1"]);
    scope(|s| {
        // Any Pong counts, even an unsolicited one (§5.5.3). A message does not.
        for (path, pong) in [("b", ""), ("c", "odd")] {
            let (server, mut answers) = (&server, Ws::open(&server, &format!("/{path}")));
            s.spawn(move || {
                for _ in 0..4 {
                    answers.gets(0x89, "");
                    answers.send(frame(0x8a, pong));
                }
                answers.send(text("still here"));
                let frames = std::iter::repeat_with(|| answers.frame().unwrap());
                let received = frames.into_iter().find(|frame| *frame != (0x89, vec![]));
                assert_eq!(received, Some((0x81, b"still here".into())));
                assert_eq!(server.readers(path), 1);
            });
        }
        let began = Stopwatch::start();
        let mut silent = Ws::open(&server, "/a");
        silent.gets(0x89, "");
        assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
        silent.gets(0x89, "");
        assert_eq!(silent.frame(), None, "the connection ends");
        assert!(began.elapsed() > Duration::from_millis(2800), "{:?}", began.elapsed());
        began.within("the end", Duration::from_secs(5));
        eventually("the WebSocket is no longer counted", || server.readers("a") == 0);
    });
}

#[test]
fn pings_are_answered_while_the_stream_is_busy() {
    let server = Tincan::start(&["--quiet"]);
    let (mut ws, over) = (Ws::open(&server, "/a"), AtomicBool::new(false));
    scope(|s| {
        s.spawn(|| {
            let mut wire = server.connect();
            let body = "x".repeat(10_000);
            while !over.load(SeqCst) {
                wire.send(format!("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000\r\n\r\n{body}"));
                assert_eq!(wire.response().status, 200);
            }
        });
        let _over = AtEnd(&over);
        let mut between = 0; // messages before a pong
        for n in 0.. {
            if between > 100 {
                break;
            }
            let began = Instant::now();
            ws.send(ping(n.to_string()));
            loop {
                match ws.frame().unwrap() {
                    (0x81, data) => assert_eq!(data.len(), 10_000),
                    pong => {
                        assert_eq!(pong, (0x8a, n.to_string().into_bytes()));
                        break;
                    }
                }
                between += 1;
                assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
            }
        }
    });
}

#[test]
fn at_its_age_limit_a_websocket_is_called_back_and_ends() {
    let server = Tincan::start(&["--max-age", "1"]);
    server.post("/a", "x");
    let began = Stopwatch::start();
    let open = || Ws::open(&server, "/a?since=all");
    let (mut silent, mut answers) = (open(), open());
    scope(|s| {
        s.spawn(|| {
            called_back(&mut answers, &began);
            // Messages after the server's Close frame and before the client's are still published; but the server
            // sends nothing more.
            let since_close = Stopwatch::start();
            answers.send([text("one more"), ping("a"), closing(1013, "")].concat());
            assert_eq!(answers.frame(), None);
            since_close.within("a client's Close frame ends the connection", Duration::from_secs(1));
        });
        called_back(&mut silent, &began);
        let since_close = Stopwatch::start();
        assert_eq!(silent.frame(), None);
        since_close.within("the server does not wait for a client that does not answer", Duration::from_secs(4));
    });
    assert_eq!(server.get("/a?since=all&wait=0").text().matches("data: one more\n").count(), 1);
    eventually("no connection is left", || server.metric("tincan_connections") == Some(1));
}

/// Asserts that the kept event comes, and then, at the age limit of a second, a Close frame. New messages of other
/// clients do not come.
fn called_back(ws: &mut Ws, began: &Stopwatch) {
    ws.hears("x");
    while let Some((first, payload)) = ws.frame() {
        if (first, &payload[..]) == (0x81, b"one more") {
            continue; // a message of the client that was closed a little earlier
        }
        assert_eq!((first, payload), (0x88, [&1013u16.to_be_bytes(), CALLED_BACK.as_bytes()].concat()));
        assert!(began.elapsed() > Duration::from_millis(850), "{:?}", began.elapsed());
        began.within("the age limit", Duration::from_secs(3));
        return;
    }
    panic!("the connection ends without a Close frame");
}

#[test]
fn a_websocket_that_leaves_is_gone_from_the_metrics_within_two_seconds() {
    let server = Tincan::start(&[]);
    let bare = at_rest(&server);
    let kept = scope(|s| {
        let leaves = |ending: &'static str| {
            let (server, path) = (&server, format!("/{ending}"));
            move || {
                let mut ws = Ws::open(server, &path);
                assert_eq!(server.readers(ending), 1);
                let mut kept = None;
                let began = match ending {
                    "close" => {
                        let began = Stopwatch::start();
                        ws.close();
                        began
                    }
                    "end" => {
                        drop(ws);
                        Stopwatch::start()
                    }
                    "reset" => {
                        server.post(&path, "x");
                        ws.0.stream.peek(&mut [0]).unwrap(); // a close while bytes are unread is a reset
                        drop(ws);
                        Stopwatch::start()
                    }
                    // A WebSocket cannot go on in one direction: without a Close frame it is over (§7.1.4).
                    _ => {
                        ws.0.shut();
                        let began = Stopwatch::start();
                        assert_eq!(ws.frame(), None);
                        kept = Some(ws);
                        began
                    }
                };
                eventually("the WebSocket is no longer counted", || server.readers(ending) == 0);
                began.within(ending, Duration::from_secs(2));
                kept
            }
        };
        let all = ["close", "end", "reset", "shut"].map(|ending| s.spawn(leaves(ending)));
        all.map(|one| one.join().unwrap())
    });
    drop(kept);
    eventually("no connection is counted", || server.metric("tincan_connections") == Some(1));
    eventually("no descriptor is left", || descriptors(&server) == bare);
    eventually("no thread is left", || crate::support::process::status(&server, "Threads:") <= 8);
}

#[test]
fn a_stalled_websocket_keeps_its_place_and_falls_off_the_log_in_the_end() {
    scope(|s| {
        s.spawn(keeps_its_place);
        falls_off_the_log();
    });
}

/// Returns a large message.
fn large(n: usize) -> String {
    format!("{n} {}", "x".repeat(60_000))
}

/// As long as its position is kept, it goes on from there.
fn keeps_its_place() {
    let server = Tincan::start(&["--quiet", "--history", &roomy()]);
    let (mut ws, _) = Ws::blocks(&server, "/a", "");
    let (mut subscriber, _) = server.listen("/a", "");
    let mut expected = Vec::new();
    for n in 0..=more_than_a_socket_takes() / large(0).len() {
        expected.push(block(&large(n), &server.post("/a", large(n))[0]));
        subscriber.expect(&expected[n]);
    }
    expected.iter().for_each(|block| ws.hears(block));
    ws.send(text("end"));
    assert!(ws.message().starts_with("data: end\n"));
    assert_eq!(server.metric("tincan_dropped_subscribers_total"), Some(0));
}

/// After that it is asked to come back, after complete messages.
fn falls_off_the_log() {
    let server = Tincan::start(&["--quiet", "--history", "256K"]);
    let ((mut ws, _), mut count) = (Ws::blocks(&server, "/a", ""), 0);
    let mut expected = Vec::new();
    while server.metric("tincan_dropped_subscribers_total") == Some(0) {
        assert!(count < 1000, "the WebSocket is not dropped");
        expected.push(block(&large(count), &server.post("/a", large(count))[0]));
        count += 1;
    }
    assert_eq!(server.metric("tincan_dropped_subscribers_total"), Some(1));
    assert_eq!(server.readers("a"), 0);
    let mut received = 0;
    let close = loop {
        match ws.frame().unwrap() {
            (0x81, block) => assert!(block == expected[received].as_bytes(), "message {received}"),
            (first, payload) => break (first, payload),
        }
        received += 1;
    };
    assert_eq!(close, (0x88, [&1013u16.to_be_bytes(), CALLED_BACK.as_bytes()].concat()));
    assert!(received > 3 && received < count, "{received} of {count}");
    ws.send(closing(1013, ""));
    assert_eq!(ws.frame(), None);
    eventually("no connection is left", || server.metric("tincan_connections") == Some(1));
    let last = id_of(&expected[received - 1]);
    let (mut again, _) = Ws::blocks(&server, &format!("/a?since={last}"), "");
    assert!(again.message().starts_with("event: gap\ndata: {"));
}

#[test]
fn a_websocket_that_never_reads_is_gone_after_some_heartbeats() {
    let server = Tincan::start(&["--quiet", "--heartbeat", "1", "--max-body", &roomy(), "--history", &roomy()]);
    let began = Stopwatch::start();
    let stalled = Ws::open(&server, "/a");
    assert_eq!(server.readers("a"), 1);
    server.post("/a", "x".repeat(more_than_a_socket_takes()));
    eventually("the WebSocket is no longer counted", || server.readers("a") == 0);
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
    began.within("the drop of the WebSocket", Duration::from_secs(8));
    eventually("no connection is left", || server.metric("tincan_connections") == Some(1));
    drop(stalled);
}

#[test]
fn a_hundred_stalled_websockets_delay_no_honest_reader_and_cost_little_memory() {
    // Two servers, of which one has stalled WebSockets. Both have equal subscribers, which are asked in turn.
    let servers = [(); 2].map(|()| Tincan::start(&["--quiet", "--max-body", &roomy(), "--history", &roomy()]));
    // Few of them are without blocks, since taking the data out of each event costs time.
    let open = |n| if n % 10 == 0 { Ws::open(&servers[1], "/a") } else { Ws::blocks(&servers[1], "/a", "").0 };
    let stalled: Vec<Ws> = (0..100).map(open).collect();
    let body = "x".repeat(60_000);
    for server in &servers {
        (0..=more_than_a_socket_takes() / body.len()).for_each(|_| drop(server.post("/a", &body)));
    }
    assert_eq!(servers[1].readers("a"), 100, "they are behind, but still subscribed");
    // As many as the system allows.
    let count = tincan::system::limits::soft_limit("Max open files").map_or(1000, |n| 1000.min(n / 4));
    let mut subscribers =
        servers.each_ref().map(|server| (0..count).map(|_| server.listen("/a", "").0).collect::<Vec<_>>());
    let [without, with] = servers.each_ref().map(|server| pss(server.pid()));
    assert!(with < without + 100 * 256, "{without} KiB without and {with} KiB with 100 stalled WebSockets");
    let mut times = [vec![], vec![]];
    for n in 0..25 {
        for (which, server) in servers.iter().enumerate() {
            let began = Instant::now();
            let id = server.post("/a", n.to_string()).remove(0);
            subscribers[which].iter_mut().for_each(|subscriber| subscriber.expect(block(&n.to_string(), &id)));
            times[which].push(began.elapsed());
        }
    }
    times.iter_mut().for_each(|times| times.sort());
    let [without, with] = [times[0][12], times[1][12]];
    println!(
        "time until {count} subscribers have received it: {without:?} without, {with:?} with 100 stalled WebSockets"
    );
    assert!(with < without * 2 + Duration::from_millis(20), "{without:?} without, {with:?} with");
    assert_eq!(servers[1].readers("a"), count + 100);
    drop(stalled);
}

#[test]
fn chromiums_websocket_speaks_with_the_server() {
    let Some(driver) = driver() else { return };
    let server = Tincan::start(&["--retry", "0"]);
    let at = if has("lab") { "/lab" } else { "/health" }; // a page that has the policy of all pages, if there is one
    let page = driver.page(&url(&server, at));
    let open = |path: &str, protocols: &str| {
        let at = json(&format!("ws://127.0.0.1:{}{path}", server.port));
        page.js(&format!(
            "(window.ws = new WebSocket({at}, {protocols}), window.heard = [], window.end = '',
             ws.onmessage = e => heard.push(e.data), ws.onerror = () => end += 'error ',
             ws.onclose = e => end += [e.code, e.reason, e.wasClean].join('|'))"
        ));
    };
    let ready = |protocol: &str| {
        page.becomes("ws.readyState", "1");
        assert_eq!(page.js("[ws.protocol, ws.extensions].join('|')"), format!("{protocol}|"));
    };
    open("/a", "[]");
    ready("");
    page.js("['', 'κόσμε 🍲', 'two\\nlines', '\\0', 'x'.repeat(65536)].forEach(text => ws.send(text))");
    let received = "heard.map(text => text.length > 99 ? text.length : text).join('|')";
    page.becomes(received, "|κόσμε 🍲|two\nlines|\0|65536");
    page.js("ws.close(4321, 'Auf Wiederhören')");
    page.becomes("end", "4321||true"); // the server answers with the code (§5.5.1)
    // With blocks, from the beginning.
    open("/a?since=all&event=soup", "['chat', 'event-stream']");
    ready("event-stream");
    page.becomes("heard.length", "6");
    page.js("ws.send('hot')");
    page.becomes("heard.length", "7");
    prelude(&page.js("heard[0]"), "a");
    let kept = server.get("/a?since=all&wait=0").text();
    assert_eq!(page.js("heard.slice(1).join('')"), kept[kept.find("\n\n").unwrap() + 2..]);
    assert!(kept.contains("\n\nevent: soup\ndata: hot\nid: "), "{kept}");
    // A broken rule is reported with its reason.
    let close_event = |failure: Reject| format!("{}|{}|true", failure.status, closing_reason(failure));
    page.js("ws.send(new Uint8Array([1]))");
    page.becomes("end", &close_event(BINARY_DATA));
    open("/a", "[]");
    ready("");
    page.js("ws.send('x'.repeat(65537))");
    page.becomes("end", &close_event(TOO_LONG));
    // A refused handshake leads to an error without a reason. The same holds for a page of another site.
    open("/nothing/here", "[]");
    page.becomes("end", "error 1006||false");
    let other = Tincan::start(&[]);
    page.open(&url(&other, "/health")); // this page has no policy that would forbid the request
    open("/a", "[]");
    page.becomes("end", "error 1006||false");
    eventually("the request is logged", || server.stderr().contains(" GET /a 403\n"));
}

#[test]
fn a_client_in_python_speaks_with_the_server() {
    if !works("/usr/bin/python3 -c 'import websockets'") {
        return;
    }
    let server = Tincan::start(&["--retry", "0", "--max-body", "1K"]);
    let script = r#"
import asyncio, sys, websockets
async def main(base):
    async with websockets.connect(base) as ws:
        print(ws.subprotocol, ws.extensions)
        for text in ["", "κόσμε 🍲", "two\nlines", "x" * 1024]:
            await ws.send(text)
            assert await ws.recv() == text
        await ws.send(["so", "", "up ", "is ready"])
        print(await ws.recv())
        await (await ws.ping(b"\xff" * 125))
        await ws.pong(b"unasked")
        await ws.close(3001, "bye")
        print(ws.close_code, ws.close_reason)
    async with websockets.connect(base + "?since=all&event=e", subprotocols=["event-stream"]) as ws:
        print(ws.subprotocol, (await ws.recv()).split(" as ")[0])
        for n in range(5): await ws.recv()
        await ws.send("named")
        print((await ws.recv()).split("id")[0])
    for bad in [b"binary", "x" * 1025, ["x" * 1024, "", "x"]]:
        async with websockets.connect(base) as ws:
            await ws.send(bad)
            try: await ws.recv()
            except websockets.ConnectionClosedError as e: print(e.rcvd.code, e.rcvd.reason)
    for path, origin in [("/a/b", None), ("", "http://evil.example")]:
        try: await websockets.connect(base + path, origin=origin)
        except websockets.InvalidStatusCode as e: print(e.status_code)
    # Many at once: all hear all.
    many = [await websockets.connect(base + "?many") for _ in range(20)]
    for n, ws in enumerate(many): await ws.send(str(n))
    heard = [[await ws.recv() for _ in many] for ws in many]
    assert all(h == heard[0] for h in heard) and sorted(heard[0], key=int) == [str(n) for n in range(20)]
    for ws in many: await ws.close()
    print("all")
asyncio.run(asyncio.wait_for(main(sys.argv[1]), 100))
"#;
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script, &format!("ws://127.0.0.1:{}/a", server.port)]).env("PYTHONUTF8", "1");
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let output = String::from_utf8(out.stdout).unwrap(); // standard error may have warnings of Python
    let (binary, long) = (closing_reason(BINARY_DATA), closing_reason(TOO_LONG));
    let expected = format!(
        "None []\nsoup is ready\n3001 \nevent-stream : connected to /a\nevent: e\ndata: named\n\n\
         1003 {binary}\n1009 {long}\n1009 {long}\n404\n403\nall\n"
    );
    assert_eq!(output, expected);
}
