//! The stream: CONTRACT section 3.

use crate::support::harness::*;
use std::time::{Duration, Instant};

/// Returns the sequence number of an "EPOCH-SEQ".
fn seq(id: &str) -> u64 {
    id.split_once('-').unwrap().1.parse().unwrap()
}

#[test]
fn head_and_prelude_are_exactly_these_bytes() {
    let server = Tincan::start(&["--retry", "0"]);
    let mut wire = server.connect();
    wire.send("GET /kitchen HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wire.expect("HTTP/1.1 200 OK\r\nDate: ");
    assert_eq!(wire.until(b"\r\n").len(), "Sun, 06 Nov 1994 08:49:37 GMT\r\n".len());
    wire.expect(
        "X-Content-Type-Options: nosniff\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\n\
         Vary: Accept\r\nCache-Control: no-store, no-transform\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         : connected to /kitchen",
    );
    wire.until(b"\n"); // the tests of the wings check what these add to this line
    wire.expect("retry: 0\nid: ");
    let id = wire.until(b"\n\n");
    assert_eq!(seq(id.trim_end()), 0);
    let ids = server.post("/kitchen", "soup is ready");
    wire.expect(format!("data: soup is ready\nid: {}\n\n", ids[0]));
}

#[test]
fn a_polyfill_may_say_its_last_event_id_in_the_query() {
    let server = Tincan::start(&["--retry", "0"]);
    let ids: Vec<_> = ["one", "two", "three"].map(|data| server.post("/a", data).remove(0)).into();
    let received_data = |query: &str, fields: &str| {
        let text = server.ask(format!("GET /a?wait=0&{query} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).text();
        text.lines().filter_map(|line| line.strip_prefix("data: ")).collect::<Vec<_>>().join(" ")
    };
    for name in ["lastEventId", "lasteventid", "LASTEVENTID", "LastEventID"] {
        assert_eq!(received_data(&format!("{name}={}", ids[1]), ""), "three");
        assert_eq!(
            received_data(&format!("since=all&{name}={}&r=0.1234", ids[1]), ""),
            "three",
            "the last event ID is newer than since"
        );
        assert_eq!(received_data(&format!("since={}&{name}=", ids[1]), ""), "three", "an empty value counts as absent");
        let field = format!("Last-Event-ID: {}\r\n", ids[1]);
        assert_eq!(received_data(&format!("{name}={}", ids[0]), &field), "three", "the field takes precedence");
        // A malformed id leads to a gap, as in the field.
        let gap = format!("{{\"asked\":\"a\\nb c\",\"from\":\"{}\",\"lost\":null}} one two three", ids[0]);
        assert_eq!(received_data(&format!("{name}=a%0Ab+c"), ""), gap);
    }
    // Some polyfills add another parameter each time, with an empty one at first. A value that is not UTF-8 is
    // malformed like any other.
    assert_eq!(received_data(&format!("lastEventId=&lastEventId={}", ids[0]), ""), "two three");
    assert_eq!(received_data(&format!("lastEventId={}&lastEventId={}&LASTEVENTID=", ids[0], ids[1]), ""), "three");
    for broken in ["%zz", "%ff", "%"] {
        let gap = format!("{{\"asked\":\"{broken}\",\"from\":\"{}\",\"lost\":null}} one two three", ids[0]);
        assert_eq!(received_data(&format!("lastEventId={broken}"), ""), gap);
    }
}

#[test]
fn a_reader_that_said_much_behind_its_request_is_missed_as_soon_as_others() {
    let server = Tincan::start(&[]); // the heartbeat's period is an hour
    for (n, size) in [100 << 10, 1 << 20].into_iter().enumerate() {
        let (mut subscriber, _) = server.listen("/a", "");
        subscriber.send(vec![b'x'; size]);
        eventually("the subscriber is counted", || server.readers("a") == 1);
        std::thread::sleep(Duration::from_millis(600)); // the server has checked its sockets once
        let left = Stopwatch::start();
        drop(subscriber);
        eventually("the subscriber is no longer counted", || server.readers("a") == 0);
        // A megabyte is dropped in four checks.
        left.within("the subscriber that has left", Duration::from_secs(2 + 2 * n as u64));
    }
}

#[test]
fn retry_is_drawn_within_half_of_what_was_asked() {
    let server = Tincan::start(&["--retry", "2000"]);
    let mut drawn = Vec::new();
    for _ in 0..20 {
        let text = server.get("/a?wait=0").text();
        let line = text.lines().nth(1).unwrap();
        drawn.push(line.strip_prefix("retry: ").unwrap().parse::<u64>().unwrap());
    }
    assert!(drawn.iter().all(|ms| (1000..=3000).contains(ms)), "{drawn:?}");
    drawn.dedup();
    assert!(drawn.len() > 1, "all values are equal: {drawn:?}");
}

#[test]
fn ids_begin_at_1_and_grow_by_one() {
    let server = Tincan::start(&[]);
    let (_, before) = server.listen("/a", "");
    let epoch = before.split_once('-').unwrap().0;
    assert_eq!(before, format!("{epoch}-0"));
    for n in 1..=5 {
        assert_eq!(server.post("/a", "x"), [format!("{epoch}-{n}")]);
    }
    assert_ne!(server.post("/b", "x")[0].split_once('-').unwrap().0, epoch, "each log has an epoch of its own");
}

#[test]
fn last_event_id_resumes_and_wins_over_since() {
    let server = Tincan::start(&[]);
    let ids: Vec<String> = (0..5).flat_map(|n| server.post("/a", n.to_string())).collect();
    let from = |wire: &mut Wire, first: usize| {
        for (n, id) in ids.iter().enumerate().skip(first) {
            wire.expect(format!("data: {n}\nid: {id}\n\n"));
        }
    };
    let (mut wire, start_id) = server.listen("/a", &format!("Last-Event-ID: {}\r\n", ids[2]));
    assert_eq!(start_id, ids[2]);
    from(&mut wire, 3);
    let (mut wire, start_id) = server.listen(&format!("/a?since={}", ids[0]), "");
    assert_eq!(start_id, ids[0]);
    from(&mut wire, 1);
    let (mut wire, start_id) = server.listen("/a?since=all", "");
    assert_eq!(seq(&start_id), 0);
    from(&mut wire, 0);
    let (mut wire, _) = server.listen("/a?since=all", &format!("Last-Event-ID: {}\r\n", ids[3]));
    from(&mut wire, 4);
    let (mut wire, start_id) = server.listen("/a?since=all", "Last-Event-ID: \r\n");
    assert_eq!(seq(&start_id), 0, "an empty field counts as absent");
    from(&mut wire, 0);
    // A subscriber that resumes at the end receives new events, and nothing else.
    let (mut wire, _) = server.listen(&format!("/a?since={}", ids[4]), "");
    let id = server.post("/a", "new");
    wire.expect(format!("data: new\nid: {}\n\n", id[0]));
}

#[test]
fn the_preludes_id_alone_is_enough_to_resume() {
    let server = Tincan::start(&[]);
    let (wire, start_id) = server.listen("/a", "");
    drop(wire);
    let id = server.post("/a", "missed");
    let (mut wire, _) = server.listen("/a", &format!("Last-Event-ID: {start_id}\r\n"));
    wire.expect(format!("data: missed\nid: {}\n\n", id[0]));
}

#[test]
fn a_gap_is_told_where_the_log_was_trimmed() {
    let server = Tincan::start(&["--history", "2K"]);
    let ids: Vec<String> = (0..100).flat_map(|_| server.post("/a", "x".repeat(50))).collect();
    let kept = server.get("/a?wait=0&since=all").text();
    assert!(kept.len() <= 2048 + 200, "{} bytes kept", kept.len());
    let start_id = id_of(&kept);
    let events = kept.split_once("\n\n").unwrap().1;
    let first = id_of(events);
    assert_eq!(seq(&first), seq(&start_id) + 1, "the prelude has the id before the first kept event");
    assert!(seq(&first) > 50, "{first}");
    let (mut wire, now) = server.listen("/a", &format!("Last-Event-ID: {}\r\n", ids[9]));
    assert_eq!(now, start_id);
    let lost = seq(&first) - 11;
    let asked = &ids[9];
    wire.expect(format!("event: gap\ndata: {{\"asked\":\"{asked}\",\"from\":\"{first}\",\"lost\":{lost}}}\n\n"));
    wire.expect(events);
    // A client whose last event is the one before the first kept event has missed nothing, so it gets no gap.
    let (mut wire, _) = server.listen("/a", &format!("Last-Event-ID: {start_id}\r\n"));
    wire.expect(events);
    let (mut wire, _) = server.listen("/a", &format!("Last-Event-ID: {}\r\n", ids[seq(&start_id) as usize - 2]));
    assert!(wire.block().ends_with("\"lost\":1}\n\n"));
}

#[test]
fn a_gap_is_told_where_the_id_is_of_another_time_or_malformed() {
    let server = Tincan::start(&[]);
    let gap =
        |asked: &str, from: &str| format!("event: gap\ndata: {{\"asked\":{asked},\"from\":{from},\"lost\":null}}\n\n");
    let (mut wire, start_id) = server.listen("/a", "Last-Event-ID: 5-5\r\n");
    wire.expect(gap("\"5-5\"", "null"));
    let epoch = start_id.split_once('-').unwrap().0;
    let first = server.post("/a", "one");
    wire.expect(format!("data: one\nid: {}\n\n", first[0]));
    let from = format!("\"{}\"", first[0]);
    let beyond = format!("{epoch}-2");
    let late = format!("{}-1", u64::MAX);
    for asked in ["5-5", &beyond, &late, "nonsense", "1-2-3", "+1-1", "01-1", "-", "1-", "99999999999999999999-1"] {
        let (mut wire, start_id) = server.listen("/a", &format!("Last-Event-ID: {asked}\r\n"));
        assert_eq!(start_id, format!("{epoch}-0"));
        wire.expect(gap(&format!("\"{asked}\""), &from));
        wire.expect(format!("data: one\nid: {}\n\n", first[0]));
    }
    // The data of a gap is JSON, whatever the client sent.
    let (mut wire, _) = server.listen("/a", "Last-Event-ID: \"\\\u{e9}\t<\r\n");
    wire.expect(gap("\"\\\"\\\\\u{e9}\\u0009<\"", &from));
    // `?since=` with an id of another time does the same. Here too the field takes precedence.
    let (mut wire, _) = server.listen("/a?since=5-5", "");
    wire.expect(gap("\"5-5\"", &from));
}

/// These tests wait for timeouts of the server, so they run at the same time.
#[test]
fn what_takes_its_time() {
    side_by_side(&[
        ("sleeps", a_server_sleeps_before_anybody_came),
        ("idle", idle_readers_wake_a_server_twice_a_second_until_they_have_left),
        ("pinged", an_idle_reader_is_pinged_only_between_events),
        ("leaves", a_reader_that_leaves_is_gone_from_the_metrics_within_two_seconds),
        ("stays", a_reader_that_only_stops_sending_stays),
        ("max-age", max_age_ends_a_stream_and_the_client_resumes),
        ("full", a_full_server_keeps_an_eventsource_alive),
        ("silent", silent_connections_do_not_keep_a_full_server_from_saying_so),
        ("channels", too_many_channels_are_refused),
    ]);
}

fn an_idle_reader_is_pinged_only_between_events() {
    let server = Tincan::start(&["--heartbeat", "1"]);
    let began = Stopwatch::start();
    let (mut wire, _) = server.listen("/a", "");
    wire.expect(PING);
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    wire.expect(PING);
    began.within("two pings", Duration::from_secs(4));
    let id = server.post("/a", "x").remove(0);
    let event = format!("data: x\nid: {id}\n\n");
    // If the event took a second to arrive, there may be further pings before it, but nothing else.
    while let block = wire.block()
        && block != event
    {
        assert_eq!(block, PING);
    }
    wire.expect(PING);
}

fn a_reader_that_leaves_is_gone_from_the_metrics_within_two_seconds() {
    const PROMISED: Duration = Duration::from_secs(2);
    let server = Tincan::start(&[]); // its first heartbeat comes too late for this
    let (wire, _) = server.listen("/a", "");
    let (stays, _) = server.listen("/a", "");
    assert_eq!(server.readers("a"), 2);
    drop(wire);
    let left = Stopwatch::start();
    eventually("one subscriber is left", || server.readers("a") == 1);
    left.within("a subscriber that has left is gone", PROMISED);
    // A close while bytes are unread is a reset.
    server.post("/a", "never read");
    drop(stays);
    let left = Stopwatch::start();
    eventually("no subscriber is left", || server.readers("a") == 0);
    left.within("a subscriber that has left is gone", PROMISED);
    eventually("its connection is no longer counted", || server.metric("tincan_connections") == Some(1));
}

fn a_reader_that_only_stops_sending_stays() {
    let server = Tincan::start(&[]);
    let (mut wire, _) = server.listen("/a", "");
    // The same check of the server finds a client that has closed.
    let closes = |wire: &mut Wire| {
        let (closed, _) = server.listen("/a", "");
        wire.shut();
        drop(closed);
        eventually("the subscriber that has closed is gone", || server.readers("a") < 2);
        assert_eq!(server.readers("a"), 1, "the other subscriber stays");
    };
    closes(&mut wire);
    wire.expect(PING); // with this ping the server finds out whether the client is still there
    closes(&mut wire); // the same for later checks
    let id = server.post("/a", "x");
    wire.expect(format!("data: x\nid: {}\n\n", id[0]));
}

#[test]
fn what_a_reader_sends_behind_its_request_is_ignored() {
    let server = Tincan::start(&[]);
    let (mut wire, _) = server.listen("/a", "");
    wire.send("GET /b HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let id = server.post("/a", "x");
    wire.expect(format!("data: x\nid: {}\n\n", id[0]));
    assert_eq!(server.metric("tincan_channels"), Some(1));
}

fn max_age_ends_a_stream_and_the_client_resumes() {
    let server = Tincan::start(&["--max-age", "1"]);
    let began = Stopwatch::start();
    let (mut wire, start_id) = server.listen("/a", "");
    wire.ends();
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    began.within("the age limit", Duration::from_millis(2500));
    let id = server.post("/a", "meanwhile");
    let (mut wire, _) = server.listen("/a", &format!("Last-Event-ID: {start_id}\r\n"));
    wire.expect(format!("data: meanwhile\nid: {}\n\n", id[0]));
}

/// Returns how often a server's threads got the processor during a time without requests.
fn wakes(server: &Tincan, span: Duration) -> u64 {
    let count = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
        let statuses = tasks.filter_map(|t| std::fs::read_to_string(t.unwrap().path().join("status")).ok());
        statuses.map(|s| number_of(&s, "voluntary_ctxt_switches:")).sum()
    };
    let before = count();
    std::thread::sleep(span);
    count().saturating_sub(before)
}

fn a_server_sleeps_before_anybody_came() {
    let server = Tincan::start(&["--quiet"]);
    eventually("the server sleeps before the first client", || wakes(&server, Duration::from_millis(1200)) == 0);
}

fn idle_readers_wake_a_server_twice_a_second_until_they_have_left() {
    let server = Tincan::start(&["--quiet"]);
    let subscribers: Vec<Wire> = (0..50).map(|_| server.listen("/a", "").0).collect();
    eventually("50 subscribers cost two checks a second", || {
        let began = Instant::now();
        let wakes = wakes(&server, Duration::from_secs(2));
        assert!(wakes > 0, "the server must find out which clients have closed");
        wakes <= began.elapsed().as_millis() as u64 / 500 + 1 // the measured time may be longer
    });
    drop(subscribers);
    eventually("the subscribers have left", || server.readers("a") == 0);
    eventually("the server sleeps again", || wakes(&server, Duration::from_millis(1200)) == 0);
}

/// Returns the number after a name in a file of /proc.
fn number_of(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
    line.trim().split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn what_is_drawn_lies_within_its_share() {
    let drawn: Vec<u64> = (0..200).map(|_| tincan::system::time::jitter(10_000, 10)).collect();
    assert!(drawn.iter().all(|n| (9_000..=11_000).contains(n)), "{drawn:?}");
    assert!(drawn.iter().any(|n| *n < 9_700) && drawn.iter().any(|n| *n > 10_300), "{drawn:?}");
}

#[test]
fn stalled_readers_cost_no_memory() {
    let server = Tincan::start(&["--quiet"]);
    let resident = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
        number_of(&status, "VmRSS:")
    };
    let body = "s".repeat(60_000);
    let (mut subscriber, _) = server.listen("/a", "");
    let mut fill = || {
        for _ in 0..100 {
            let id = server.post("/a", &body);
            assert!(
                subscriber.block().ends_with(&format!("id: {}\n\n", id[0])),
                "a subscriber that reads receives everything"
            );
        }
    };
    fill();
    let before = resident();
    let stalled: Vec<Wire> = (0..100).map(|_| server.listen("/a", "").0).collect();
    fill();
    let grown = resident().saturating_sub(before);
    // The 100 subscribers have not read 600 MB.
    assert!(grown < 4096, "{grown} KiB more with {} stalled subscribers", stalled.len());
}

#[test]
fn a_stalled_reader_keeps_its_place_and_delays_nobody() {
    let server = Tincan::start(&["--history", "64M"]);
    let (mut stalled, _) = server.listen("/a", "");
    let (mut subscriber, _) = server.listen("/a", "");
    let body = "y".repeat(60_000);
    let mut expected = String::new();
    for _ in 0..300 {
        // 18 MB is several times as much as the kernel buffers for a socket that is not read.
        let block = format!("data: {body}\nid: {}\n\n", server.post("/a", &body)[0]);
        subscriber.expect(&block);
        expected.push_str(&block);
    }
    assert_eq!(server.readers("a"), 2);
    stalled.expect(&expected);
    let id = server.post("/a", "end");
    stalled.expect(format!("data: end\nid: {}\n\n", id[0]));
    assert_eq!(server.metric("tincan_dropped_subscribers_total"), Some(0));
}

#[test]
fn a_stalled_reader_whose_place_is_trimmed_is_cut_off_and_hears_the_gap() {
    let server = Tincan::start(&["--history", "256K"]);
    let (mut stalled, _) = server.listen("/a", "");
    let body = "z".repeat(60_000);
    eventually("the subscriber is dropped", || {
        server.post("/a", &body);
        server.metric("tincan_dropped_subscribers_total") == Some(1)
    });
    let received = stalled.breaks_off();
    let whole = &received[..received.rfind("\n\n").unwrap() + 2];
    let last = whole.trim_end().lines().last().unwrap().strip_prefix("id: ").unwrap();
    let (mut again, _) = server.listen("/a", &format!("Last-Event-ID: {last}\r\n"));
    let gap = again.block();
    let first = id_of(&again.block());
    let lost = seq(&first) - seq(last) - 1;
    assert!(lost > 0);
    assert_eq!(gap, format!("event: gap\ndata: {{\"asked\":\"{last}\",\"from\":\"{first}\",\"lost\":{lost}}}\n\n"));
}

fn a_full_server_keeps_an_eventsource_alive() {
    let server = Tincan::start(&["--max-connections", "2"]);
    let (mut subscriber, _) = server.listen("/a", "");
    let (other, _) = server.listen("/a", "");
    let mut refused = server.connect();
    refused.send("GET /a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    let response = refused.response();
    assert_eq!((response.status, response.field("content-type")), (200, Some("text/event-stream")));
    let text = response.text();
    let retry = text.strip_prefix(": there are too many connections; come back later\nretry: ").unwrap();
    // There is only one line end. A blank line would commit an empty last event ID, and the subscriber would lose its
    // position.
    let retry: u64 = retry.strip_suffix('\n').unwrap().parse().unwrap();
    assert!((2500..=7500).contains(&retry), "{retry}");
    refused.ends();
    let response = server.get("/a");
    response.refused(tincan::wire::reject::CONNECTIONS);
    assert_eq!(response.field("retry-after"), Some("5"));
    // There is room again once a subscriber leaves. The other subscribers were not disturbed.
    drop(other);
    let mut ids = Vec::new();
    eventually("there is room again", || {
        let response = server.post_with("/a", "", "x");
        ids.extend(response.text().lines().filter(|_| response.status == 200).map(String::from));
        response.status == 200
    });
    subscriber.expect(format!("data: x\nid: {}\n\n", ids[0]));
}

fn silent_connections_do_not_keep_a_full_server_from_saying_so() {
    let server = Tincan::start(&["--max-connections", "1"]);
    let (_reader, _) = server.listen("/a", "");
    let mut silent: Vec<Wire> = (0..60).map(|_| server.connect()).collect();
    let began = Stopwatch::start();
    silent.iter_mut().for_each(|wire| wire.response().refused(tincan::wire::reject::TIMEOUT));
    server.get("/a").refused(tincan::wire::reject::CONNECTIONS);
    began.within("all refusals", Duration::from_secs(8));
}

fn too_many_channels_are_refused() {
    let server = Tincan::start(&["--max-channels", "2"]);
    server.post("/a", "x");
    server.post("/b", "x");
    let response = server.post_with("/c", "", "x");
    response.refused(tincan::wire::reject::CHANNELS);
    assert_eq!(response.field("retry-after"), Some("5"));
    let response = server.ask("GET /c HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!(response.status, 200);
    assert!(response.text().starts_with(": there are too many channels"), "{}", response.text());
    server.get("/c").refused(tincan::wire::reject::CHANNELS);
    server.post("/a", "existing channels work");
    // A client that only requests names cannot use them up: a channel without events is replaced.
    let server = Tincan::start(&["--max-channels", "6"]);
    let (_reader, _) = server.listen("/read", "");
    for round in 0..3 {
        for n in 0..5 {
            assert_eq!(server.get(&format!("/asked{round}-{n}?wait=0")).status, 200);
        }
        eventually("the polls have ended", || (0..5).all(|n| server.readers(&format!("asked{round}-{n}")) == 0));
        assert_eq!(server.metric("tincan_channels"), Some(6));
    }
    for n in 0..5 {
        server.post(&format!("/said{n}"), "x");
    }
    server.get("/one-more").refused(tincan::wire::reject::CHANNELS);
    assert_eq!((server.readers("read"), server.metric("tincan_channels")), (1, Some(6)));
}

#[test]
fn two_hundred_readers_hear_a_thousand_events_each_once_and_in_order() {
    let server = Tincan::start(&["--quiet"]);
    let mut subscribers: Vec<Wire> = (0..200).map(|_| server.listen("/a", "").0).collect();
    let mut expected = String::new();
    let mut publisher = server.connect();
    for n in 0..1000 {
        let body = format!("event {n}");
        let length = body.len();
        publisher.send(format!("POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"));
        expected += &format!("data: {body}\nid: {}\n\n", publisher.response().text().trim_end());
    }
    for subscriber in &mut subscribers {
        subscriber.expect(&expected);
    }
}

#[test]
fn what_several_cores_write_is_whole_and_in_order() {
    // More sockets than one core serves alone (`MIN_SHARE` in `turn.rs`). With a single core this is a list like any
    // other.
    many_descriptors();
    // No subscriber is idle for so long that it gets a ping while the others come.
    let server = Tincan::start(&["--quiet", "--heartbeat", "300"]);
    let mut subscribers: Vec<Wire> = (0..700).map(|_| server.listen("/a", "").0).collect();
    let mut polls: Vec<Wire> = (0..100).map(|_| server.connect()).collect();
    polls.iter_mut().for_each(|p| p.send("GET /a?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    eventually("all subscribers are counted", || server.readers("a") == 800);
    let leaver = subscribers.pop();
    let mut blocks = String::new();
    for n in 0..40 {
        let body = format!("{n}: {}", "x".repeat(n * 50));
        let id = server.post("/a", &body).remove(0);
        blocks += &format!("data: {body}\nid: {id}\n\n");
        if n == 0 {
            polls
                .iter_mut()
                .for_each(|p| assert!(p.response().text().ends_with(&blocks), "a poll has the first event"));
        }
    }
    subscribers.iter_mut().for_each(|r| r.expect(&blocks));
    drop(leaver);
    eventually("a subscriber that has left is gone", || server.readers("a") == 699);
    assert_eq!(server.metric("tincan_dropped_subscribers_total"), Some(0));
}
