//! Hostile clients. Beside each attack runs an honest publisher with an honest subscriber, which must not notice it.
//!
//! std cannot set SO_LINGER. So a test resets a connection by closing it while bytes are unread.

use crate::core::http;
use crate::support::harness::*;
use crate::support::process::*;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, scope, sleep, spawn};
use std::time::{Duration, Instant};
use tincan::wire::reject::{self, Reject};

/// How long an honest client may have to wait during an attack; see [`in_time`].
const PATIENCE: Duration = Duration::from_secs(1);
const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
const CHUNKED: &str = "POST /attacked HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A publisher and a subscriber of /honest. Every 50 ms the publisher sends a number and the time.
struct Pair {
    publisher: JoinHandle<u64>,
    subscriber: JoinHandle<u64>,
    worst: Worst,
}

/// The longest wait, and a description of it.
type Worst = Arc<Mutex<(Duration, String)>>;

impl Pair {
    /// Starts the pair. With `newcomer`, a new client also requests /health at each message, on a connection of its
    /// own.
    fn start(server: &Tincan, newcomer: bool, over: &Arc<AtomicBool>) -> Pair {
        let (began, port, worst) = (Instant::now(), server.port, Worst::default());
        let note = |worst: &Worst| {
            let worst = worst.clone();
            move |description: &str, sent: Duration| {
                let took = began.elapsed().saturating_sub(sent);
                let mut worst = worst.lock().unwrap();
                if took > worst.0 {
                    *worst = (took, format!("{description} took {took:?}, {sent:?} after the start"));
                }
            }
        };
        let (mut wire, _) = server.listen("/honest", "");
        let soon = note(&worst);
        let subscriber = spawn(move || {
            let mut n = 0;
            loop {
                let block = wire.block();
                let (number, sent) = block.strip_prefix("data: ").unwrap().split_once(" at ").unwrap();
                assert_eq!(number, n.to_string(), "no event is lost and none comes twice");
                let Ok(sent) = sent.lines().next().unwrap().parse() else { return n }; // the last event has no time
                soon("to be received", Duration::from_micros(sent));
                n += 1;
            }
        });
        let (mut wire, ended, soon) = (server.connect(), over.clone(), note(&worst));
        let ask = move |wire: &mut Wire, description: &str, sent: Duration, request: &str| {
            wire.send(request);
            assert_eq!(wire.response().status, 200, "{description}");
            soon(description, sent);
        };
        let publisher = spawn(move || {
            let mut n = 0;
            while !ended.load(SeqCst) {
                let sent = began.elapsed();
                ask(&mut wire, "the answer to a POST", sent, &post("/honest", &format!("{n} at {}", sent.as_micros())));
                if newcomer {
                    let sent = began.elapsed(); // before the client connects
                    ask(&mut Wire::to(port), "a newcomer's answer", sent, HEALTH);
                }
                sleep(Duration::from_millis(50));
                n += 1;
            }
            ask(&mut wire, "the last answer", began.elapsed(), &post("/honest", &format!("{n} at the end")));
            n
        });
        Pair { publisher, subscriber, worst }
    }

    /// Returns how many messages there were, the longest wait, and its description.
    fn finish(self) -> (u64, Duration, String) {
        let sent = self.publisher.join().expect("the honest publisher has noticed something");
        assert_eq!(self.subscriber.join().expect("the honest subscriber has noticed something"), sent);
        let (took, description) = self.worst.lock().unwrap().clone();
        (sent + 1, took, description)
    }
}

/// Fails if an honest client had to wait too long. A server without an attack shows how long a client waits because
/// the machine is busy. The attacked server may have `work` times as much to do.
fn in_time(worst: Duration, control: Duration, work: u32, description: &str) {
    assert!(worst < PATIENCE + work * control, "{description}; without an attack it was at most {control:?}");
}

/// An honest pair beside the attack, and a second pair with a server of its own.
struct Honest {
    over: Arc<AtomicBool>,
    attacked: Pair,
    control: (Pair, Tincan),
}

impl Honest {
    fn start(server: &Tincan, newcomer: bool) -> Honest {
        let (over, unattacked) = (Arc::default(), Tincan::start(&["--quiet"]));
        let attacked = Pair::start(server, newcomer, &over);
        Honest { attacked, control: (Pair::start(&unattacked, newcomer, &over), unattacked), over }
    }

    /// Fails if one of the pairs has noticed anything. Returns how many messages there were.
    fn finish(self) -> u64 {
        self.over.store(true, SeqCst);
        let (sent, worst, description) = self.attacked.finish();
        in_time(worst, self.control.0.finish().1, 3, &description);
        sent
    }
}

/// Returns the number of descriptors of a server that has started, with no connection except its listening socket.
fn descriptors_at_rest(server: &Tincan) -> usize {
    server.get("/health"); // after this response the server has read all files that its greeting needs
    let files = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let socket = |entry: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_link(entry.unwrap().path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
    };
    eventually("only its listening socket is open", || files().filter_map(|e| socket(e).then_some(())).count() == 1);
    descriptors(server)
}

/// Asserts that nothing of the attack and of the honest pair is left: the server has as many descriptors as before,
/// and only its idle threads.
fn nothing_is_left(server: &Tincan, bare: usize) {
    eventually("this request has the only connection", || server.metric("tincan_connections") == Some(1));
    assert!(!server.get("/metrics").text().lines().any(|l| l.starts_with("tincan_subscribers{") && !l.ends_with(" 0")));
    eventually("no descriptor is left", || descriptors(server) == bare);
    eventually("no thread is left", || status(server, "Threads:") <= 8);
}

/// Opens connections, and sends the first bytes on each. Never more than 128 are open at once that the server has not
/// accepted, since std's backlog is that long. The kernel drops further connections, honest or not, and their clients
/// try again a second later.
fn open(server: &Tincan, count: usize, start: impl Fn(usize) -> String) -> Vec<(Stopwatch, Wire)> {
    let open = |n| {
        if n > 0 && n % 100 == 0 {
            server.get("/health"); // after this response all earlier connections are accepted
        }
        let (began, mut wire) = (Stopwatch::start(), server.connect());
        wire.send(start(n));
        (began, wire)
    };
    (0..count).map(open).collect()
}

/// Asserts that each request is refused once its 10 seconds are over, and that its connection then ends.
fn time_out(wires: &mut [(Stopwatch, Wire)]) {
    for (began, wire) in wires {
        wire.response().refused(reject::TIMEOUT);
        assert_eq!(wire.rest(), "");
        assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
        began.within("a refusal", Duration::from_secs(12));
    }
}

/// These tests wait for the server's ten seconds, so they run at the same time.
#[test]
fn what_does_not_arrive_in_time_ends_and_harms_nobody() {
    many_descriptors();
    side_by_side(&[
        ("one byte a second", five_hundred_requests_of_one_byte_a_second_end_in_time_and_delay_nobody),
        ("silent", five_hundred_silent_connections_are_told_and_leave_nothing_behind),
        ("announced", nothing_is_reserved_for_bodies_that_are_only_announced),
        ("without end", what_has_no_end_is_ended),
        ("full", who_is_there_goes_on_while_silent_connections_fill_the_server),
        ("not finished", http::a_request_that_is_not_finished_in_ten_seconds_is_refused),
        ("slow", http::a_body_may_come_slowly_but_not_slower_than_a_least_rate),
        ("not read", http::a_client_that_does_not_read_its_answers_is_given_up),
    ]);
}

fn five_hundred_requests_of_one_byte_a_second_end_in_time_and_delay_nobody() {
    let server = Tincan::start(&["--quiet"]);
    let honest = Honest::start(&server, true);
    let began = Instant::now();
    let mut slow = open(&server, 500, |n| match n % 4 {
        0 => "GET /attacked".into(),
        1 => "GET /attacked HTTP/1.1\r\nX: ".into(),
        2 => post("/attacked", &"x".repeat(500)).trim_end_matches('x').into(),
        _ => format!("{CHUNKED}64\r\n"),
    });
    for second in 1..10 {
        slow.iter_mut().for_each(|(_, wire)| wire.send("x"));
        sleep(Duration::from_secs(second).saturating_sub(began.elapsed()));
    }
    time_out(&mut slow);
    assert_eq!(
        Some(honest.finish()),
        server.metric("tincan_events_total"),
        "none of the attacked requests was published"
    );
}

fn five_hundred_silent_connections_are_told_and_leave_nothing_behind() {
    let server = Tincan::start(&["--quiet"]);
    let bare = descriptors_at_rest(&server);
    let honest = Honest::start(&server, true);
    let mut silent = open(&server, 500, |_| String::new());
    eventually("all connections are accepted", || descriptors(&server) >= bare + 500);
    time_out(&mut silent);
    drop(silent);
    honest.finish();
    nothing_is_left(&server, bare);
}

#[test]
fn readers_of_one_byte_a_second_cost_no_memory_and_delay_nobody() {
    let server = Tincan::start(&["--quiet", "--history", "1M"]);
    let honest = Honest::start(&server, true);
    let body = "y".repeat(60_000);
    let control = Tincan::start(&["--quiet", "--history", "1M"]);
    let mut publishers = [server.connect(), control.connect()];
    let mut worst = [Duration::ZERO; 2];
    let mut publish = |megabytes: usize| {
        for n in 0..megabytes * 17 {
            let both = if n % 4 == 0 { 2 } else { 1 };
            for (publisher, worst) in publishers.iter_mut().zip(&mut worst).take(both) {
                let sent = Instant::now();
                publisher.send(post("/attacked", &body));
                assert_eq!(publisher.response().status, 200);
                *worst = sent.elapsed().max(*worst);
            }
        }
    };
    publish(2); // until the log is full
    let before = status(&server, "VmRSS:");
    let mut slow: Vec<Wire> = (0..10).map(|_| server.listen("/attacked?since=all", "").0).collect();
    let (over, is_over) = channel::<()>();
    scope(|s| {
        let slow = &mut slow;
        s.spawn(move || {
            loop {
                slow.iter_mut().for_each(|wire| wire.stream.read_exact(&mut [0]).unwrap());
                if is_over.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        publish(20);
        drop(over);
    });
    // The server fills the sockets of ten subscribers; the control server has none of them.
    in_time(worst[0], worst[1], 10, &format!("the response to a large POST took {:?}", worst[0]));
    // They have not read 200 MB.
    let grown = status(&server, "VmHWM:").saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more at the peak");
    eventually("all ten are dropped", || server.metric("tincan_dropped_subscribers_total") == Some(10));
    honest.finish();
}

fn nothing_is_reserved_for_bodies_that_are_only_announced() {
    // A body may be a quarter of the memory, 256 MiB.
    let server = Tincan::start(&["--quiet", "--memory", "1G", "--max-body", "1G"]);
    let honest = Honest::start(&server, true);
    let (before, before_data) = (status(&server, "VmRSS:"), status(&server, "VmData:"));
    let announced = "POST /attacked HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200000000\r\n";
    let mut open = open(&server, 500, |n| match n % 3 {
        0 => format!("{announced}\r\n"),
        1 => format!("{CHUNKED}bebc200\r\nx"),
        _ => format!("{announced}Expect: 100-continue\r\n\r\n"),
    });
    for (_, wire) in open.iter_mut().skip(2).step_by(3) {
        wire.expect("HTTP/1.1 100 Continue\r\n\r\n");
    }
    let reserved = status(&server, "VmData:").saturating_sub(before_data);
    time_out(&mut open);
    let grown = status(&server, "VmHWM:").saturating_sub(before);
    // The thread of a silent connection uses 19 KiB itself in a debug build, and reserves 64 KiB for its stack.
    assert!(grown < 500 * 32, "{grown} KiB more at the peak");
    assert!(reserved < 500 * 128, "{reserved} KiB reserved");
    assert_eq!(
        Some(honest.finish()),
        server.metric("tincan_events_total"),
        "none of the attacked requests was published"
    );
}

/// Requests 20,000 channels from a server that allows 100. After each step `check` runs.
fn names(args: &[&str], check: impl Fn()) {
    let server = Tincan::start(&[&["--quiet", "--max-channels", "100"], args].concat());
    let honest = Honest::start(&server, true);
    // Channels to which nobody has published: their requests are accepted or refused, and the channels are replaced
    // when an event is published elsewhere.
    for n in 0..300 {
        let response = server.get(&format!("/asked{n}?wait=0"));
        assert!(response.status == 200 || response.text() == reject::CHANNELS.line(), "{}", response.text());
    }
    check();
    for n in 1..100 {
        eventually("there is room for a channel with an event", || {
            server.post_with(&format!("/said{n}"), "", "x").status == 200
        });
    }
    check();
    let before = status(&server, "VmRSS:");
    let mut wire = server.connect();
    for batch in 0..200 {
        let ask = |n| match n % 2 {
            0 => post(&format!("/fresh{batch}-{n}"), "x"),
            _ => format!("GET /fresh{batch}-{n} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        };
        wire.send((0..100).map(ask).collect::<String>());
        for _ in 0..100 {
            wire.response().refused(reject::CHANNELS);
        }
        check();
    }
    let grown = status(&server, "VmHWM:").saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB more at the peak");
    for n in 1..100 {
        let last = &server.post(&format!("/said{n}"), "still works")[0];
        let kept = server.get(&format!("/said{n}?wait=0&since=all")).text();
        assert!(kept.contains("\n\ndata: x\nid: ") && kept.ends_with(&format!("id: {last}\n\n")), "{kept}");
    }
    assert_eq!(server.metric("tincan_channels"), Some(100));
    honest.finish();
}

#[test]
fn twenty_thousand_channel_names_leave_room_for_those_in_use() {
    names(&[], || {});
}

#[test]
fn twenty_thousand_channel_names_make_no_files() {
    let dir = Scratch::new();
    names(&["--data", dir.arg()], || {
        let files = std::fs::read_dir(&dir.0).unwrap().count();
        assert!(files <= 100, "{files} files");
    });
}

#[test]
fn connections_reset_at_any_stage_leave_nothing_behind() {
    let server = Tincan::start(&["--quiet"]);
    let bare = descriptors_at_rest(&server);
    let honest = Honest::start(&server, true);
    let stages = [
        String::new(),
        "GET /ho".into(),
        "GET /honest HTTP/1.1\r\nHost: loc".into(),
        post("/attacked", "x").trim_end_matches('x').into(),
        format!("{CHUNKED}5\r\nxx"),
        post("/attacked", "x"),
        "GET /assets/chat.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(500),
        "GET /honest HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "GET /honest?since=all HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "GET /silent?wait=300 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
    ];
    for round in 0..40 {
        for stage in &stages {
            let mut wire = server.connect();
            if round % 2 == 0 {
                // If the response is unread, the close is a reset. If it is read, the server answers later bytes with
                // a reset.
                wire.send(HEALTH);
                wire.stream.peek(&mut [0]).unwrap();
            }
            wire.send(stage);
            if round % 4 == 0 && stage.starts_with("GET /honest") && stage.ends_with("\r\n\r\n") {
                wire.until(b": connected");
                wire.stream.peek(&mut [0]).unwrap(); // an event has come
            }
        }
    }
    honest.finish();
    nothing_is_left(&server, bare);
}

/// Each attack sends a start, and then a piece again and again until it is refused. The server never needs more than
/// 4 MB for all of them.
fn refused_in_the_end(attacks: &[(&str, &str, Reject)]) {
    let server = Tincan::start(&["--quiet"]);
    let bare = descriptors_at_rest(&server);
    let honest = Honest::start(&server, true);
    let (before, began) = (status(&server, "VmRSS:"), Stopwatch::start());
    let attack = |(start, piece, reject): &(&str, &str, Reject)| {
        let (mut wire, over) = (server.connect(), AtomicBool::new(false));
        let mut writer = wire.stream.try_clone().unwrap();
        wire.send(start);
        let pieces = piece.repeat((32 << 10) / piece.len());
        scope(|s| {
            s.spawn(|| {
                let more = |_: &i32| !over.load(SeqCst) && writer.write_all(pieces.as_bytes()).is_ok();
                (0..1000).take_while(more).for_each(|_| sleep(Duration::from_millis(20)));
            });
            let response = wire.response();
            over.store(true, SeqCst);
            assert_eq!(wire.rest(), "", "the connection ends");
            assert_eq!(response.text(), reject.line(), "{start:?} and then {piece:?} again and again");
        });
    };
    scope(|s| attacks.iter().for_each(|one| drop(s.spawn(|| attack(one)))));
    began.within("all refusals", Duration::from_secs(12));
    let grown = status(&server, "VmHWM:").saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more at the peak");
    assert_eq!(
        Some(honest.finish()),
        server.metric("tincan_events_total"),
        "none of the attacked requests was published"
    );
    nothing_is_left(&server, bare);
}

fn what_has_no_end_is_ended() {
    let field = "GET /health HTTP/1.1\r\nHost: localhost\r\nX: ";
    refused_in_the_end(&[
        ("", "\r\n", reject::TIMEOUT),
        ("", "A", reject::METHOD),
        ("GET /health HTTP/1.1", "1", reject::REQUEST_LINE), // also after the request target
        ("GET /health ", "HTTP/1.1 ", reject::REQUEST_LINE),
        ("GET /", "a", reject::LONG_TARGET),
        (field, "y", reject::LARGE_SECTION),
        (field, "y\r\nX: ", reject::LARGE_SECTION),
        (CHUNKED, "0", reject::CHUNK),
        (&format!("{CHUNKED}1;x="), "y", reject::CHUNK),
        (CHUNKED, "1\r\nx\r\n", reject::TOO_LARGE),
        (&format!("{CHUNKED}0\r\n"), "X: y\r\n", reject::LARGE_SECTION),
    ]);
}

#[test]
fn nonsense_is_answered_once_and_a_million_blank_lines_are_a_matter_of_seconds() {
    let server = Tincan::start(&["--quiet", "--max-body", "100000"]);
    let honest = Honest::start(&server, true);
    // Requests before the nonsense are answered, requests after it are not.
    let mut wire = server.connect();
    wire.send(HEALTH.repeat(300));
    wire.send(b"\x16\x03\x01\x02\x00 nonsense \xff\r\n\r\n");
    wire.send(HEALTH.repeat(300));
    for _ in 0..300 {
        assert_eq!(wire.response().text(), "ok\n");
    }
    wire.response().refused(reject::REQUEST_LINE);
    assert_eq!(wire.rest(), "");
    // The server has ten seconds of processor time, and takes one.
    let began = processor_time(&server);
    assert_eq!(server.ask("\r\n".repeat(1_000_000) + HEALTH).text(), "ok\n");
    let took = processor_time(&server) - began;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(server.ask(format!("{CHUNKED}{}0\r\n\r\n", "1\r\nx\r\n".repeat(100_000))).status, 200);
    let kept = server.get("/attacked?wait=0&since=all").text();
    assert!(kept.contains(&format!("\n\ndata: {}\nid: ", "x".repeat(100_000))));
    honest.finish();
}

fn who_is_there_goes_on_while_silent_connections_fill_the_server() {
    let server = Tincan::start(&["--quiet", "--max-connections", "50"]);
    let honest = Honest::start(&server, false);
    let mut silent = open(&server, 100, |_| String::new());
    // Some more connections get a refusal.
    server.get("/attacked").refused(reject::CONNECTIONS);
    let refused = server.ask("GET /attacked HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!(refused.status, 200);
    assert!(refused.text().starts_with(": there are too many connections"), "{}", refused.text());
    // Further connections are closed without a response.
    silent.extend(open(&server, 100, |_| String::new()));
    eventually("not all connections are accepted", || descriptors(&server) < 140);
    let responses: Vec<String> = silent.iter_mut().map(|(_, wire)| wire.rest()).collect();
    silent[0].0.within("all refusals", Duration::from_secs(13));
    let late = format!("\r\n\r\n{}", reject::TIMEOUT.line());
    let timeouts = responses.iter().filter(|a| a.starts_with("HTTP/1.1 408 ") && a.ends_with(&late)).count();
    let closed = responses.iter().filter(|a| a.is_empty()).count();
    assert!(timeouts >= 100 && closed > 0 && timeouts + closed == 200, "{timeouts} refused, {closed} closed");
    drop(silent);
    honest.finish();
    eventually("there is room again", || server.get("/health").status == 200);
    let (mut subscriber, _) = server.listen("/attacked", "");
    let id = server.post("/attacked", "x");
    subscriber.expect(format!("data: x\nid: {}\n\n", id[0]));
}

#[test]
fn silent_connections_that_come_and_go_hold_nobody_up() {
    // Each stays for a moment only, so the thread that accepts might wait for all of them one after another.
    let server = Tincan::start(&["--quiet"]);
    let port = server.port;
    let (stop, stopped) = channel::<()>();
    let attack = std::thread::spawn(move || {
        let mut open: VecDeque<Wire> = (0..100).map(|_| Wire::to(port)).collect();
        while stopped.recv_timeout(Duration::from_millis(2)) == Err(RecvTimeoutError::Timeout) {
            open.pop_front();
            open.push_back(Wire::to(port));
        }
    });
    let begin = Stopwatch::start();
    (0..100).for_each(|_| assert_eq!(server.get("/health").text(), "ok\n"));
    begin.within("a hundred responses", Duration::from_secs(8));
    drop(stop);
    attack.join().unwrap();
}
