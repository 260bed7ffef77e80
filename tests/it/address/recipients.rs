//! `?to=` and `?except=`: events for one subscriber, and for all others.

use crate::core::tokens;
use crate::support::harness::*;
use crate::support::websocket::Ws;
use crate::support::websocket::frame;
use crate::support::wings::has;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{scope, sleep};
use std::time::Duration;
use tincan::wings::address::{BEHIND, NOBODY};
use tincan::wire::reject::{self};

/// Opens a stream; returns it after its prelude, with its address and the prelude's id.
fn listen(server: &Tincan, path: &str) -> (Wire, String, String) {
    let mut wire = server.connect();
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    wire.until(b"\r\n\r\n");
    let prelude = wire.block();
    (wire, address_of(&prelude), id_of(&prelude))
}

fn to(server: &Tincan, channel: &str, address: &str, body: &str) -> Response {
    server.post_with(&format!("{channel}?to={address}"), "", body)
}

fn except(server: &Tincan, channel: &str, address: &str, body: &str) -> String {
    server.post(&format!("{channel}?except={address}"), body).remove(0)
}

/// Runs a test at the same time on a server that keeps its channels in memory, and on one with files.
fn in_memory_and_on_the_disk(args: &[&str], test: impl Fn(&Tincan) + Sync) {
    let dir = Scratch::new();
    scope(|s| {
        s.spawn(|| test(&Tincan::start(args)));
        test(&Tincan::start(&[args, &["--data", dir.arg(), "--sync"]].concat()));
    });
}

#[test]
fn what_is_said_to_one_reader_is_heard_by_it_alone_and_not_kept() {
    in_memory_and_on_the_disk(&[], |server| {
        let (mut one, address, start) = listen(server, "/a");
        let (mut other, ..) = listen(server, "/a");
        let mut blocks = has("websocket").then(|| Ws::blocks(server, "/a", ""));
        let mut plain = has("websocket").then(|| Ws::open(server, "/a"));
        let (before, given) = (server.post("/a", "before").remove(0), "given to that subscriber; not kept\n");
        assert_eq!(to(server, "/a", &address, "two\nlines").text(), given);
        assert_eq!(to(server, "/a", &format!("{address}&event=soup"), "").text(), given);
        let fields = "Content-Type: text/event-stream\r\n";
        let response =
            server.post_with(&format!("/a?to={address}"), fields, "data: x\n\nevent: e\nretry: 9\ndata: y\n\n");
        assert_eq!((response.status, response.text().as_str()), (200, given));
        if let Some((_, prelude)) = &blocks {
            assert_eq!(to(server, "/a", &address_of(prelude), "hush").text(), given);
        }
        let after = server.post("/a", "after").remove(0);
        let (before, after) = (block("before", &before), block("after", &after));
        // This subscriber receives its own events in their order and without ids.
        let private = "data: two\ndata: lines\n\nevent: soup\ndata: \n\ndata: x\n\nevent: e\nretry: 9\ndata: y\n\n";
        one.expect(format!("{before}{private}{after}"));
        other.expect(format!("{before}{after}"));
        if let Some((blocks, _)) = &mut blocks {
            [&before, "data: hush\n\n", &after].iter().for_each(|block| blocks.hears(block));
        }
        if let Some(plain) = &mut plain {
            ["before", "after"].iter().for_each(|data| plain.hears(data));
        }
        assert_eq!(server.metric("tincan_events_total"), Some(2));
        let kept = server.get("/a?since=all&wait=0").text();
        assert!(kept.ends_with(&format!("id: {start}\n\n{before}{after}")), "{kept}");
        assert!(after.contains(&format!("id: {}-2\n", start.strip_suffix("-0").unwrap())), "{after}");
    });
}

#[test]
fn what_is_said_to_the_others_is_kept_and_not_heard_by_this_one() {
    if !has("websocket") {
        return;
    }
    in_memory_and_on_the_disk(&[], |server| {
        let (mut one, address, start) = listen(server, "/a");
        let (mut other, ..) = listen(server, "/a");
        let (mut blocks, prelude) = Ws::blocks(server, "/a", "");
        let (mut all, mut for_one, mut for_blocks) = (vec![], vec![], vec![]);
        for n in 0..30 {
            let body = n.to_string();
            let id = match n % 3 {
                0 => server.post("/a", &body).remove(0),
                1 => except(server, "/a", &address, &body),
                _ => except(server, "/a", &address_of(&prelude), &body),
            };
            all.push(block(&body, &id));
            for_one.extend((n % 3 != 1).then(|| all[n].clone()));
            for_blocks.extend((n % 3 != 2).then(|| all[n].clone()));
        }
        one.expect(for_one.concat());
        other.expect(all.concat());
        for_blocks.iter().for_each(|block| blocks.hears(block));
        // Several blocks in one POST, and an event with a name.
        let fields = "Content-Type: text/event-stream\r\n";
        server.post_with(&format!("/a?except={address}"), fields, "data: x\n\ndata: y\n\n");
        except(server, "/a", &format!("{address}&event=e"), "z");
        let end = server.post("/a", "end").remove(0);
        one.expect(block("end", &end));
        assert!(other.until(format!("id: {end}\n\n").as_bytes()).contains("event: e\ndata: z\n"));
        // A client that comes back is a new subscriber. It receives everything after its last event ID.
        drop(one);
        let (mut again, new, _) = listen(server, &format!("/a?since={start}"));
        assert_ne!(new, address);
        again.expect(all.concat());
    });
}

/// Opens a stream that is stopped in the middle of an event. Returns it with its address and the events that it has
/// still to receive.
fn stalled(server: &Tincan) -> (Wire, String, String) {
    let (wire, address, _) = listen(server, "/a");
    let body = "x".repeat(60_000);
    let count = more_than_a_socket_takes() / body.len() + 1;
    let expected = (0..count).map(|_| block(&body, &server.post("/a", &body)[0])).collect();
    (wire, address, expected)
}

#[test]
fn a_reader_that_is_behind_passes_over_what_is_not_for_it() {
    in_memory_and_on_the_disk(&["--quiet", "--history", &roomy()], |server| {
        let (mut one, address, mut expected) = stalled(server);
        let (mut other, ..) = listen(server, "/a");
        let mut received = String::new();
        for n in 0..100 {
            let body = format!("{n} {}", "y".repeat(n * 97));
            // One event alone, several in a row, and single ones between others.
            let out = n % 2 == 0 && n < 100 || n == 51;
            let id = if out { except(server, "/a", &address, &body) } else { server.post("/a", &body).remove(0) };
            received += &block(&body, &id);
            expected += if out { "" } else { &received[received.len() - block(&body, &id).len()..] };
        }
        other.expect(&received);
        one.expect(&expected);
        // The subscriber keeps up again, and its address works as before.
        let (left_out, id) = (except(server, "/a", &address, "not for it"), server.post("/a", "end").remove(0));
        one.expect(block("end", &id));
        other.expect(block("not for it", &left_out) + &block("end", &id));
        assert_eq!(to(server, "/a", &address, "hush").status, 200);
        one.expect("data: hush\n\n");
        assert_eq!(server.metric("tincan_dropped_subscribers_total"), Some(0));
    });
}

#[test]
fn who_does_not_keep_up_is_not_spoken_to_and_has_only_so_much_to_pass_over() {
    let server = Tincan::start(&["--quiet", "--history", &roomy()]);
    let (mut one, address, expected) = stalled(&server);
    let response = to(&server, "/a", &address, "x");
    response.refused(BEHIND);
    assert_eq!(response.field("retry-after"), Some("5"));
    let mut others = String::new();
    for _ in 0..64 {
        // Adjacent events that are left out count as one.
        (0..2).for_each(|n| drop(except(&server, "/a", &address, &n.to_string())));
        others += &block("but this", &server.post("/a", "but this")[0]);
    }
    let before = server.metric("tincan_events_total");
    for _ in 0..3 {
        server.post_with(&format!("/a?except={address}"), "", "one too many").refused(BEHIND);
    }
    assert_eq!(server.metric("tincan_events_total"), before, "nothing of the refused POSTs is kept");
    one.expect(expected);
    one.expect(others);
    eventually("the subscriber keeps up again", || to(&server, "/a", &address, "now").status == 200);
    one.expect("data: now\n\n");
    let (_, id) = (except(&server, "/a", &address, "not this"), server.post("/a", "but this").remove(0));
    one.expect(block("but this", &id));
    // A subscriber that stalls in the middle of its own event gets the rest of it first. Until then it accepts no
    // further event of its own.
    let (mut deaf, address, _) = listen(&server, "/b");
    let (body, mut taken) = ("z".repeat(60_000), 0);
    while to(&server, "/b", &address, &body).status == 200 {
        taken += 1;
        assert!(taken < 1000, "a subscriber that does not read must get a refusal in the end");
    }
    let id = server.post("/b", "after").remove(0);
    to(&server, "/b", &address, &body).refused(BEHIND);
    deaf.expect(format!("data: {body}\n\n").repeat(taken) + &block("after", &id));
    eventually("the subscriber keeps up again", || to(&server, "/b", &address, "now").status == 200);
    deaf.expect("data: now\n\n");
}

/// Returns the next message; pings before it are answered. The payload is read once `begins` is set. It is read in
/// small pieces, with a pause after each piece until `fast` is set.
fn hears(ws: &mut Ws, begins: &AtomicBool, fast: &AtomicBool) -> String {
    loop {
        let head = ws.0.bytes(2);
        if head == [0x89, 0] {
            ws.send(frame(0x8a, ""));
            continue;
        }
        assert_eq!(head[0], 0x81);
        let form = [0, 2, 8][usize::from(head[1]).saturating_sub(125)];
        let long_length = ws.0.bytes(form).iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let (length, mut payload) = (if form == 0 { head[1].into() } else { long_length }, Vec::new());
        while !begins.load(SeqCst) {
            sleep(Duration::from_millis(20));
        }
        while payload.len() < length {
            let piece = ws.0.bytes(4096.min(length - payload.len()));
            assert!(!piece.is_empty(), "half a message");
            payload.extend(piece);
            if !fast.load(SeqCst) {
                sleep(Duration::from_millis(20));
            }
        }
        return String::from_utf8(payload).unwrap();
    }
}

#[test]
fn what_is_said_to_one_may_be_larger_than_its_socket() {
    if !has("websocket") {
        return;
    }
    let server = Tincan::start(&["--quiet", "--max-body", &roomy(), "--history", &roomy(), "--heartbeat", "2"]);
    // A slow machine may need so long that a ping comes. A ping within a block would be detected.
    let next = |wire: &mut Wire| loop {
        let block = wire.block();
        if block != ":ping\n\n" {
            break block;
        }
    };
    let (mut one, address, _) = listen(&server, "/a");
    let (mut other, ..) = listen(&server, "/a");
    let (body, begins, fast) = ("x".repeat(more_than_a_socket_takes()), AtomicBool::new(false), AtomicBool::new(false));
    let long_event = format!("data: {body}\n\n");
    assert_eq!(to(&server, "/a", &address, &body).status, 200);
    to(&server, "/a", &address, "too soon").refused(BEHIND);
    let (mut blocks, prelude) = Ws::blocks(&server, "/a", "");
    let after = scope(|s| {
        // A WebSocket that accepts nothing for three heartbeats is dropped. This one reads a little, and so stays
        // behind.
        let received = s.spawn(|| hears(&mut blocks, &begins, &fast));
        let (_begins, at_end) = (AtEnd(&begins), AtEnd(&fast));
        assert_eq!(to(&server, "/a", &address_of(&prelude), &body).status, 200);
        to(&server, "/a", &address_of(&prelude), "too soon").refused(BEHIND);
        begins.store(true, SeqCst);
        let after = block("after", &server.post("/a", "after")[0]);
        assert_eq!(next(&mut other), after);
        other.expect(":ping\n\n"); // pings never come in the middle of an event
        drop(at_end);
        assert!(received.join().unwrap() == long_event, "the event is complete");
        after
    });
    assert_eq!(hears(&mut blocks, &begins, &fast), after);
    assert!(next(&mut one) == long_event, "the event is complete");
    assert_eq!(next(&mut one), after);
    // The same if nothing else is published.
    assert_eq!(to(&server, "/a", &address, &body).status, 200);
    assert!(next(&mut one) == long_event, "the event is complete");
}

#[test]
fn an_address_is_a_readers_own_and_ends_with_it() {
    if !has("websocket") {
        return;
    }
    let server = Tincan::start(&["--retry", "0"]);
    let mut subscribers: Vec<_> = (0..50).map(|_| listen(&server, "/a")).collect();
    let (mut elsewhere, foreign, _) = listen(&server, "/b");
    let (_ws, prelude) = Ws::blocks(&server, "/a", "");
    let mut addresses: Vec<String> = subscribers.iter().map(|subscriber| subscriber.1.clone()).collect();
    addresses.extend([foreign.clone(), address_of(&prelude)]);
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    assert!(addresses.iter().all(|address| address.len() == 32 && digits(address)), "{addresses:?}");
    // Neither half of an address occurs in another address.
    let halves = |at: usize| addresses.iter().map(|a| &a[at..at + 16]).collect::<BTreeSet<_>>().len();
    assert_eq!([halves(0), halves(16)], [52, 52]);
    let metrics = server.get("/metrics").text() + &server.stderr();
    assert!(addresses.iter().all(|a| !metrics.contains(&a[..16]) && !metrics.contains(&a[16..])), "{metrics}");
    // An address of another channel, an unknown one, and texts that only look like an address.
    let (address, other) = (&addresses[0], &addresses[1]);
    let mixed = address[..16].to_string() + &other[16..];
    for wrong in [
        &foreign,
        &mixed,
        &address.to_uppercase(),
        &address[..31],
        &format!("{address}0"),
        &format!("%20{address}"),
        "",
        "x",
    ] {
        if wrong != address {
            to(&server, "/a", wrong, "x").refused(NOBODY);
            server.post_with(&format!("/a?except={wrong}"), "", "x").refused(NOBODY);
        }
    }
    server.post_with(&format!("/a?to={address}&except={other}"), "", "x").refused(tincan::wings::address::TO_EXCEPT);
    assert_eq!(server.metric("tincan_events_total"), Some(0), "nothing was published");
    // A poll has no address, whether it has ended or waits.
    let polled = server.get("/a?wait=0").text();
    assert!(polled.starts_with(": connected to /a\nretry: 0\n"), "{polled}");
    // The address of a subscriber that has left.
    let (leaving, address, _) = subscribers.remove(0);
    drop(leaving);
    eventually("the subscriber is no longer counted", || server.readers("a") == 50);
    to(&server, "/a", &address, "x").refused(NOBODY);
    server.post_with(&format!("/a?except={address}"), "", "x").refused(NOBODY);
    assert_eq!(to(&server, "/b", &foreign, "x").status, 200);
    elsewhere.expect("data: x\n\n");
}

#[test]
fn an_address_gives_no_right_that_a_post_needs() {
    let dir = Scratch::new();
    let server = tokens::guarded(&dir, "publish p0st", &[]);
    let (mut wire, address, _) = listen(&server, "/a");
    for query in ["to", "except"] {
        let path = format!("/a?{query}={address}");
        server.post_with(&path, "", "x").refused(reject::PUBLISH_TOKEN);
        let bearer = "Authorization: Bearer p0st\r\n";
        let foreign = format!("{bearer}Origin: http://evil.example\r\n");
        server.post_with(&path, &foreign, "x").refused(reject::CROSS_SITE);
        assert_eq!(server.post_with(&path, bearer, query).status, 200);
    }
    wire.expect("data: to\n\n");
    // Outside of a POST these parameters have no meaning.
    let (_reader, ..) = listen(&server, &format!("/a?to={address}&except={address}"));
}

#[test]
fn an_address_is_good_as_soon_as_it_is_told() {
    let server = Tincan::start(&["--quiet"]);
    let over = AtomicBool::new(false);
    scope(|s| {
        // Meanwhile other subscribers come and leave, and the channel is busy.
        for _ in 0..3 {
            s.spawn(|| {
                while !over.load(SeqCst) {
                    let (subscriber, ..) = listen(&server, "/a");
                    server.post("/a", "busy");
                    drop(subscriber);
                }
            });
        }
        let _over = AtEnd(&over);
        let mut post = server.connect();
        let mut say = |query: &str, address: &str| {
            post.send(format!(
                "POST /a?{query}={address} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nhush"
            ));
            let response = post.response();
            (response.status, response.text())
        };
        let failed = (0..400).find_map(|n| {
            let (mut wire, address, _) = listen(&server, "/a");
            let outcome = say(["to", "except"][n % 2], &address);
            if n % 2 == 0 && outcome.0 == 200 {
                while wire.block() != "data: hush\n\n" {}
            }
            (outcome.0 != 200).then_some((n, outcome))
        });
        assert_eq!(failed, None);
    });
}

#[test]
fn each_reader_hears_exactly_what_is_for_it_while_many_speak_and_come_and_go() {
    if !has("websocket") {
        return;
    }
    in_memory_and_on_the_disk(&["--quiet", "--history", &roomy()], |server| {
        let subscribers: Vec<_> = (0..6).map(|_| listen(server, "/a")).collect();
        let sockets: Vec<_> = (0..2).map(|_| Ws::blocks(server, "/a", "")).collect();
        let mut addresses: Vec<String> = subscribers.iter().map(|r| r.1.clone()).collect();
        addresses.extend(sockets.iter().map(|s| address_of(&s.1)));
        // For each subscriber: the ids of events that left it out, and the events that each publisher sent to it
        // alone, in order.
        let left_out = Mutex::new(BTreeSet::<(usize, String)>::new());
        let private_events = Mutex::new(BTreeMap::<(usize, usize), Vec<String>>::new());
        let refused = AtomicUsize::new(0);
        let (over, leavers, speakers) = (AtomicBool::new(false), AtomicUsize::new(0), 4);
        scope(|s| {
            let _over = AtEnd(&over);
            let speak = |speaker: usize| {
                let (addresses, left_out, private_events, refused, leavers) =
                    (&addresses, &left_out, &private_events, &refused, &leavers);
                s.spawn(move || {
                    let (mut random, mut wire) = (Random(speaker as u64), server.connect());
                    // At least this many, and until some subscribers have come and left.
                    for n in (0..100_000).take_while(|n| *n < 250 || leavers.load(SeqCst) <= 3) {
                        let (which, body) = (random.index(addresses.len()), format!("{speaker}.{n}"));
                        let query = match random.index(3) {
                            0 => String::new(),
                            1 => format!("?to={}", addresses[which]),
                            _ => format!("?except={}", addresses[which]),
                        };
                        wire.send(format!(
                            "POST /a{query} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        ));
                        let response = wire.response();
                        if response.status == 503 {
                            refused.fetch_add(1, SeqCst); // the subscriber was behind
                            continue;
                        }
                        assert_eq!(response.status, 200, "{query}: {}", response.text());
                        if query.starts_with("?to") {
                            private_events.lock().unwrap().entry((which, speaker)).or_default().push(body);
                        } else if !query.is_empty() {
                            left_out.lock().unwrap().insert((which, response.text().trim_end().into()));
                        }
                    }
                })
            };
            let spoken: Vec<_> = (0..speakers).map(speak).collect();
            let comers = s.spawn(|| {
                while !over.load(SeqCst) {
                    let (mut subscriber, address, _) = listen(server, "/a?since=all");
                    if leavers.load(SeqCst) % 3 == 0 && to(server, "/a", &address, "hello").status == 200 {
                        while subscriber.block() != "data: hello\n\n" {}
                    }
                    leavers.fetch_add(1, SeqCst);
                }
            });
            let hears = |which: usize, mut next: Box<dyn FnMut() -> String + Send>| {
                move || {
                    let (mut ids, mut private_events) = (Vec::new(), BTreeMap::<usize, Vec<String>>::new());
                    loop {
                        let block = next();
                        if block == "data: over\n\n" {
                            return (which, ids, private_events);
                        }
                        match block.lines().collect::<Vec<_>>()[..] {
                            [data, id, ""] => {
                                ids.push((id["id: ".len()..].to_string(), data["data: ".len()..].to_string()))
                            }
                            [data, ""] => {
                                let body = &data["data: ".len()..];
                                let speaker = body.split('.').next().unwrap().parse().unwrap();
                                private_events.entry(speaker).or_default().push(body.into());
                            }
                            _ => panic!("{block:?}"),
                        }
                    }
                }
            };
            let mut ears = Vec::new();
            for (which, (mut wire, ..)) in subscribers.into_iter().enumerate() {
                ears.push(s.spawn(hears(which, Box::new(move || wire.block()))));
            }
            for (which, (mut ws, _)) in sockets.into_iter().enumerate() {
                ears.push(s.spawn(hears(which + 6, Box::new(move || ws.message()))));
            }
            spoken.into_iter().for_each(|speaker| speaker.join().unwrap());
            over.store(true, SeqCst);
            comers.join().unwrap();
            assert!(leavers.load(SeqCst) > 3);
            for address in &addresses {
                eventually("the event for one subscriber is accepted", || {
                    to(server, "/a", address, "over").status == 200
                });
            }
            let kept = server.get("/a?since=all&wait=0").text();
            let log: Vec<(String, String)> = kept
                .split("\n\n")
                .skip(1)
                .filter_map(|block| block.split_once("\nid: "))
                .map(|(data, id)| (id.to_string(), data["data: ".len()..].to_string()))
                .collect();
            assert!(log.len() > 400, "{}", log.len());
            let (left_out, private_events) = (left_out.lock().unwrap(), private_events.lock().unwrap());
            for ear in ears {
                let (which, ids, received_private) = ear.join().unwrap();
                let for_it: Vec<_> =
                    log.iter().filter(|(id, _)| !left_out.contains(&(which, id.clone()))).cloned().collect();
                assert!(ids == for_it, "subscriber {which} received {} of {}", ids.len(), for_it.len());
                for speaker in 0..speakers {
                    assert_eq!(
                        received_private.get(&speaker),
                        private_events.get(&(which, speaker)),
                        "subscriber {which}, publisher {speaker}"
                    );
                }
            }
            assert_eq!(refused.load(SeqCst), 0, "all subscribers keep up");
        });
    });
}

#[test]
fn many_who_leave_one_reader_out_at_once_push_nobody_off_the_log() {
    // All of it is more than the log keeps, but less than the socket of a late subscriber takes.
    let server = Tincan::start(&["--quiet", "--history", "128K"]);
    let (_one, address, _) = listen(&server, "/a");
    let (mut other, ..) = listen(&server, "/a");
    let (mut wires, body) = (Vec::new(), "x".repeat(5_000));
    for _ in 0..100 {
        let mut wire = server.connect();
        let head = "HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5001\r\n\r\n";
        wire.send(format!("POST /a?except={address} {head}{body}"));
        wires.push(wire);
    }
    scope(|s| {
        s.spawn(|| wires.iter_mut().for_each(|wire| wire.send("x"))); // the last byte of each body
        let block = |id: &str| block(&format!("{body}x"), id);
        let epoch = server.get("/a?wait=0").text();
        let epoch = epoch.split_once("id: ").unwrap().1.split_once('-').unwrap().0.to_string();
        (1..=100).for_each(|n| other.expect(block(&format!("{epoch}-{n}"))));
    });
    assert_eq!(server.metric("tincan_dropped_subscribers_total"), Some(0));
}
