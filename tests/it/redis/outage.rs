//! Failures between nodes and their Redis: it is killed, hangs, loses data, is replaced, or refuses; a reply is lost.

use crate::redis::cluster::{poll, post_stream};
use crate::redis::server::*;
use crate::support::harness::*;
use crate::support::websocket::{Ws, text};
use crate::support::wings::has;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::scope;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tincan::wings::redis::node::{REDIS_AWAY, REDIS_LOST, REDIS_REFUSES};
use tincan::wings::redis::pipe::REPLY_TIME;
use tincan::wire::id::Id;
use tincan::wire::reject::Reject;

const STREAM: &str = "Accept: text/event-stream\r\n"; // as EventSource sends it
/// The least time for which a node tries to carry out a publisher's command (`cluster.rs`).
const PATIENCE: Duration = Duration::from_secs(2);

/// The response to a publisher.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Kept(Vec<String>),
    /// Nothing was kept, and this is final: Redis is away.
    Nothing,
    /// Nothing was kept, since Redis refuses it.
    Refused,
    /// It is unknown whether the event was kept.
    Unknown,
}

/// Interprets the response to a POST. It must be one of these.
pub fn outcome(status: u16, text: &str, retry_after: bool) -> Outcome {
    let of = |reject: Reject| retry_after && (status, text) == (reject.status, &reject.line());
    match status {
        200 => Outcome::Kept(text.lines().map(String::from).collect()),
        _ if of(REDIS_AWAY) => Outcome::Nothing,
        _ if of(REDIS_REFUSES) => Outcome::Refused,
        _ if of(REDIS_LOST) => Outcome::Unknown,
        _ => panic!("{status} {text:?}, Retry-After: {retry_after}"),
    }
}

pub fn outcome_of(outcome_of: &Response) -> Outcome {
    outcome(outcome_of.status, &outcome_of.text(), outcome_of.field("retry-after").is_some())
}

fn post_data(node: &Tincan, data: &str) -> Outcome {
    outcome_of(&node.post_with("/kitchen", "", data))
}

/// The events of one POST, and the response to it.
type Posted = (Vec<String>, Outcome);

/// Asserts that the stream has the published events as the responses say. No two events may have the same data.
fn settled(entries: &[Entry], posted: &[Posted]) {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    entries.iter().enumerate().for_each(|(n, entry)| places.entry(entry.data()).or_default().push(n));
    for (data, outcome) in posted {
        let found: Vec<usize> =
            data.iter().flat_map(|data| places.get(data.as_str()).into_iter().flatten().copied()).collect();
        let ids: Vec<&str> = found.iter().map(|at| &*entries[*at].id).collect();
        let whole = found.len() == data.len() && found.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let right = match outcome {
            Outcome::Kept(kept_ids) => whole && *kept_ids == ids,
            Outcome::Nothing | Outcome::Refused => ids.is_empty(),
            Outcome::Unknown => whole || ids.is_empty(),
        };
        assert!(right, "{data:?}: the response was {outcome:?}, and the stream has {ids:?}");
    }
}

/// Returns whether the Redis on this port is still loading its data.
fn is_loading(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return true }; // Redis does not listen yet
    stream.write_all(b"PING\r\n").unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).unwrap();
    word == *b"-LOA"
}

/// Asserts that a node cannot publish, and reports this everywhere.
fn is_away(node: &Tincan) {
    eventually("/health reports that Redis is away", || node.get("/health").status == 503);
    assert_eq!(post_data(node, "in vain"), Outcome::Nothing);
    eventually("the metrics report it", || node.metric("tincan_redis_connected") == Some(0));
}

/// Asserts that all blocks but the last are gaps; returns their number.
fn gaps(received: &[String]) -> usize {
    let (_, gaps) = received.split_last().unwrap();
    assert!(gaps.iter().all(|block| block.starts_with("event: gap\n")), "{received:?}");
    gaps.len()
}

fn rising(entries: &[Entry]) {
    assert!(entries.windows(2).all(|pair| Id::parse(&pair[0].id) < Id::parse(&pair[1].id)));
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Waits until the clock has passed this id. Otherwise a Redis that has lost its data could use the id again.
fn passed(id: &str) {
    let epoch = Id::parse(id).unwrap().epoch;
    eventually("the clock passes the id", || now() > epoch + 1);
}

#[test]
fn while_redis_is_away_readers_stay_publishers_are_told_and_then_all_goes_on() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let nodes = [redis.node(&["--heartbeat", "1"]), redis.node(&["--heartbeat", "1"])];
    let quiet = redis.node(&[]); // its heartbeat is every 15 seconds
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    nodes.iter().for_each(|node| drop(node.post("/kitchen", "before")));
    let before = redis.entries("kitchen");
    readers.iter_mut().for_each(|reader| reader.hears(&before));
    for round in 1..=3 {
        let entries = redis.entries("kitchen");
        let speaker = has("websocket").then(|| Ws::open(&quiet, "/kitchen"));
        redis.kill();
        nodes.iter().chain([&quiet]).for_each(is_away);
        if let Some(mut speaker) = speaker {
            speaker.send(text("in vain"));
            speaker.closes(1013, REDIS_AWAY.why);
        }
        scope(|scope| {
            // Each subscriber still gets its pings. The subscribers are checked at the same time.
            for reader in &mut readers {
                scope.spawn(|| (0..2).for_each(|_| assert_eq!(reader.wire.block(), ":ping\n\n")));
            }
        });
        for node in &nodes {
            assert_eq!(poll(node, "kitchen", "all"), blocks(&entries), "the node serves its own copy");
            let mut late = Reader::back(node, "kitchen", &entries[0].id);
            late.hears(&entries[1..]);
            // The node does not know where an unknown channel ends. An EventSource reconnects.
            let stranger = node.ask(format!("GET /new-{round} HTTP/1.1\r\nHost: localhost\r\n{STREAM}\r\n"));
            assert_eq!(stranger.field("content-type"), Some("text/event-stream"), "{}", stranger.head);
            assert_eq!(stranger.status, 200);
            let program = node.get(&format!("/new-{round}?wait=0"));
            assert!(program.status == 503 && program.field("retry-after").is_some(), "{}", program.head);
        }
        redis.again();
        nodes.iter().chain([&quiet]).for_each(is_well);
        for node in &nodes {
            node.post("/kitchen", format!("after {round}"));
            eventually("the node follows again", || node.metric("tincan_redis_connected") == Some(1));
            assert!(node.metric("tincan_redis_reconnections_total") >= Some(round));
        }
        let now = redis.entries("kitchen");
        assert_eq!(now.len(), entries.len() + 2);
        readers.iter_mut().for_each(|reader| reader.hears(&now[entries.len()..]));
        // A subscriber that came while Redis was away has nothing to catch up with.
        assert_eq!(poll(&nodes[0], "kitchen", &entries.last().unwrap().id), blocks(&now[entries.len()..]));
    }
    for node in &nodes {
        // Each change is one line, and no line comes twice in a row.
        let (stderr, at) = (node.stderr(), format!("tincan: redis: 127.0.0.1:{}: ", redis.port));
        let lines: Vec<&str> = stderr.lines().filter_map(|line| line.strip_prefix(&at)).collect();
        assert!(lines.windows(2).all(|pair| pair[0] != pair[1]), "{stderr}");
        assert!(lines.iter().all(|line| *line == "connected" || line.starts_with("away: ")), "{stderr}");
        assert_eq!(lines.iter().filter(|line| **line == "connected").count(), 4, "{stderr}");
        assert!(lines[0] == "connected" && lines.last() == Some(&"connected") && lines.len() <= 12, "{stderr}");
    }
}

#[test]
fn a_stream_of_a_channel_that_is_not_known_while_redis_is_away_is_a_comment_a_retry_and_the_end() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let id = redis.add("kitchen", "before");
    redis.kill();
    let node = Tincan::start(&["--redis", &format!("127.0.0.1:{}", redis.port)]);
    is_away(&node);
    let response = node.ask(format!("GET /kitchen HTTP/1.1\r\nHost: localhost\r\n{STREAM}\r\n"));
    assert_eq!((response.status, response.field("content-type")), (200, Some("text/event-stream")));
    let body = response.text();
    let (comment, retry) = body.split_once("\nretry: ").unwrap_or_else(|| panic!("no retry in {body:?}"));
    assert!(comment.starts_with(": ") && !comment.contains('\n'), "{body:?}");
    assert!((1000..60_000).contains(&retry.trim_end().parse::<u32>().unwrap()), "{body:?}");
    redis.again();
    is_well(&node);
    assert_eq!(poll(&node, "kitchen", "all"), format!("data: before\nid: {id}\n\n"));
}

/// The error that Redis sends unasked before it closes a connection that it does not accept.
#[test]
fn a_redis_that_turns_nodes_away_is_tried_in_growing_pauses_and_its_reason_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tries, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    scope(|scope| {
        scope.spawn(|| {
            listener.set_nonblocking(true).unwrap();
            while !over.load(SeqCst) {
                let Ok((mut stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                };
                tries.fetch_add(1, SeqCst);
                let _ = stream.write_all(b"-DENIED this Redis is not for you\r\n");
                // Reads the request first. Otherwise a reset could overtake the error.
                let _ = stream.set_nonblocking(false).map(|()| stream.read(&mut [0; 1000]));
            }
        });
        let _over = AtEnd(&over);
        let began = Instant::now(); // before its first attempt, since the node may be quicker than this test
        let node = Tincan::start(&["--quiet", "--redis", &format!("127.0.0.1:{port}")]);
        // The pauses are 100, 200, 400, 800 and 1,600 ms, and then 3 s. Each is shortened to half of that at most.
        let is_patient = || {
            let (tries, took) = (tries.load(SeqCst), began.elapsed());
            let pauses = [50, 100, 200, 400, 800].into_iter().chain(std::iter::repeat(1500)).take(tries - 1);
            assert!(took >= Duration::from_millis(pauses.sum()), "{tries} tries within {took:?}");
        };
        eventually("the node has tried four times", || tries.load(SeqCst) >= 4);
        is_patient();
        eventually("the reason is printed", || node.stderr().contains("away: DENIED this Redis is not for you"));
        eventually("the node has tried six times", || tries.load(SeqCst) >= 6);
        is_patient();
        let lines = node.stderr().matches("tincan: redis: ").count();
        assert!(lines <= 3, "{}", node.stderr());
    });
}

#[test]
fn a_redis_that_still_loads_what_it_had_kept_is_away_and_has_lost_nothing() {
    let Some(mut redis) = Redis::start(&["--key-load-delay", "100"]) else { return };
    let nodes = [(); 3].map(|()| redis.node(&["--heartbeat", "1"]));
    let (port, mut client) = (redis.port, redis.client());
    (0..15_000).for_each(|_| client.write(&["INCR", "other"]));
    (1..=15_000).for_each(|n| assert_eq!(client.read(), Value::Number(n)));
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    nodes.iter().for_each(|node| drop(node.post("/kitchen", "before")));
    redis.kill();
    let (loaded, mut posted, mut in_vain) = (AtomicBool::new(false), Vec::new(), 0);
    scope(|scope| {
        scope.spawn(|| {
            let _loaded = AtEnd(&loaded);
            redis.again();
        });
        while !loaded.load(SeqCst) {
            let answers = nodes.each_ref().map(|node| {
                let data = format!("meanwhile {}", posted.len());
                posted.push((vec![data.clone()], post_data(node, &data)));
                posted.last().unwrap().1.clone()
            });
            // A client that waited for the end of the loading may have been served.
            if !loaded.load(SeqCst) && is_loading(port) {
                assert!(
                    answers.iter().all(|outcome| [Outcome::Nothing, Outcome::Refused].contains(outcome)),
                    "{answers:?}"
                );
                in_vain += 1;
            }
        }
    });
    assert!(in_vain >= 3, "the loading was too short to be seen");
    nodes.iter().for_each(is_well);
    let fresh = nodes[0].post("/kitchen", "fresh");
    let entries = redis.entries("kitchen");
    settled(&entries, &posted);
    let others: Vec<&str> = entries.iter().map(Entry::data).filter(|data| !data.starts_with("meanwhile")).collect();
    assert_eq!(others, ["before", "before", "before", "fresh"]);
    assert_eq!(entries.last().unwrap().id, fresh[0]);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
}

#[test]
fn a_redis_that_is_killed_and_back_at_once_again_and_again_has_no_gap() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let nodes = [(); 3].map(|()| redis.node(&["--heartbeat", "1", "--history", "8M"]));
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    let over = AtomicBool::new(false);
    let posted = scope(|scope| {
        let _over = AtEnd(&over);
        let publish = |node: &Tincan, n: usize| {
            let (mut posted, mut k) = (Vec::new(), 0);
            while !over.load(SeqCst) {
                k += 1;
                let data = format!("{n} {k}");
                let outcome = post_data(node, &data);
                posted.push((vec![data], outcome));
            }
            posted
        };
        let publishers: Vec<_> =
            (0..3).map(|n| (&nodes[n], n)).map(|(node, n)| scope.spawn(move || publish(node, n))).collect();
        for _ in 0..20 {
            redis.kill();
            redis.again();
            for node in &nodes {
                eventually("the node follows", || node.metric("tincan_redis_connected") == Some(1));
            }
        }
        over.store(true, SeqCst);
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect::<Vec<_>>()
    });
    nodes[0].post("/kitchen", "the last one");
    let entries = redis.entries("kitchen");
    let gap_entries: Vec<_> = entries.windows(3).filter(|part| part[1].is_gap()).collect();
    assert!(gap_entries.is_empty(), "{gap_entries:#?}\n{}", nodes[0].stderr());
    settled(&entries, &posted);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
}

/// While Redis loads, one command may get an error, and the next one no longer.
#[test]
fn an_error_is_not_taken_for_a_stream_that_is_gone() {
    let Some(redis) = Redis::start(&[]) else { return };
    scope(|scope| {
        scope.spawn(|| an_error_when_it_is_back(&redis));
        scope.spawn(|| an_error_in_passing(&redis));
    });
}

/// Asserts that the channel has no gap, since nothing is missing.
fn has_no_gap(redis: &Redis, channel: &str, reader: &mut Reader) {
    let entries = redis.entries(channel);
    assert!(!entries.iter().any(Entry::is_gap), "{entries:#?}");
    reader.hears(&entries);
}

fn an_error_when_it_is_back(redis: &Redis) {
    let between = Between::new(redis.port);
    let node = node(between.port, &["--heartbeat", "1"]);
    let mut reader = Reader::of(&node, "kitchen");
    let post = |data| eventually("the node accepts events", || node.post_with("/kitchen", "", data).status == 200);
    post("before");
    for words in [&["XRANGE"][..], &["XRANGE", "XINFO"], &["XINFO"], &["XADD", "XINFO"], &["XREAD"]] {
        between.cut();
        words.iter().for_each(|word| between.lose(word, Lost::Loading));
        between.mend();
        is_well(&node);
        post("after");
        eventually("the node follows", || node.metric("tincan_redis_connected") == Some(1));
        between.forgive();
    }
    post("the last one");
    has_no_gap(redis, "kitchen", &mut reader);
}

/// The error comes when the node checks a stream some time after the last check.
fn an_error_in_passing(redis: &Redis) {
    let between = Between::new(redis.port);
    let node = node(between.port, &["--heartbeat", "1"]);
    let mut reader = Reader::of(&node, "cellar");
    let post = |data| eventually("the node accepts events", || node.post_with("/cellar", "", data).status == 200);
    post("before");
    let mut other = Reader::of(&node, "other");
    for _ in 0..2 {
        (0..2).for_each(|_| assert_eq!(other.wire.block(), ":ping\n\n"));
        between.lose("XRANGE", Lost::Loading);
        redis.add("cellar", "from elsewhere");
    }
    post("the last one");
    has_no_gap(redis, "cellar", &mut reader);
}

#[test]
fn a_redis_that_hangs_holds_up_no_reader_and_nothing_is_said_twice() {
    // One hang ends before anything gives up, the other one after everything has.
    scope(|scope| [false, true].map(|long| scope.spawn(move || hangs(long))).map(|hangs| hangs.join().unwrap()));
}

fn hangs(long: bool) {
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [redis.node(&["--heartbeat", "1"]), redis.node(&["--heartbeat", "1"])];
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    let mut kept = 0;
    for round in 0..if long { 1 } else { 2 } {
        redis.hangs(true);
        let began = Instant::now();
        let (posted, hung) = scope(|scope| {
            let posts: Vec<_> = (0..8)
                .map(|n| {
                    let node = &nodes[n % 2];
                    let data: Vec<String> = (0..1 + n / 4 * 2).map(|k| format!("{round} {n} {k}")).collect();
                    scope.spawn(move || {
                        let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
                        let outcome = outcome_of(&post_stream(node, "kitchen", &body));
                        (data, outcome)
                    })
                })
                .collect();
            let pings = if long { 4 } else { 1 };
            let listen = move |reader: &mut Reader| {
                (0..pings).for_each(|_| assert_eq!(reader.wire.block(), ":ping\n\n"));
            };
            let listeners = readers.each_mut().map(|reader| scope.spawn(move || listen(reader)));
            listeners.into_iter().for_each(|listener| listener.join().unwrap());
            if long {
                nodes.iter().for_each(|node| eventually("/health reports it", || node.get("/health").status == 503));
                eventually("all POSTs have a response", || posts.iter().all(|post| post.is_finished()));
            }
            redis.hangs(false);
            let hung = began.elapsed();
            (posts.into_iter().map(|post| post.join().unwrap()).collect::<Vec<Posted>>(), hung)
        });
        nodes.iter().for_each(is_well);
        let last = nodes[0].post("/kitchen", format!("end of {round}"));
        let entries = redis.entries("kitchen");
        assert_eq!(entries.last().unwrap().id, last[0]);
        settled(&entries, &posted);
        // Nothing gives up before [`REPLY_TIME`], unless this test itself was delayed for so long.
        let in_time = !long && hung + Duration::from_millis(500) < REPLY_TIME;
        for (data, outcome) in &posted {
            assert!(!in_time || matches!(outcome, Outcome::Kept(_)), "{data:?}: {outcome:?}");
            assert!(!long || !matches!(outcome, Outcome::Kept(_)), "{data:?}: {outcome:?}");
        }
        readers.iter_mut().for_each(|reader| reader.hears(&entries[kept..]));
        kept = entries.len();
    }
}

#[test]
fn a_command_that_is_lost_or_whose_answer_is_lost_is_done_exactly_once() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (between, other) = (Between::new(redis.port), redis.node(&[]));
    let node = node(between.port, &[]);
    let mut readers = [&node, &other].map(|node| Reader::of(node, "kitchen"));
    let (mut posted, mut losses, mut given_up) = (Vec::new(), 0, 0);
    for round in 0..6 {
        for loss in [Lost::Answer, Lost::Command, Lost::Half, Lost::Late] {
            let data: Vec<String> = (0..1 + round % 2 * 2).map(|k| format!("{loss:?} {round} {k}")).collect();
            let word = if data.len() > 1 { "EXEC" } else { "XADD" };
            // In each third round the second attempt is lost as well.
            let again = round >= 4 && [Lost::Command, Lost::Half].contains(&loss);
            let times = if again { 2 } else { 1 };
            (0..times).for_each(|_| between.lose(word, loss));
            losses += times;
            let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
            let began = Instant::now();
            let outcome = outcome_of(&post_stream(&node, "kitchen", &body));
            let took = began.elapsed();
            assert!(between.losses() == losses || !matches!(outcome, Outcome::Kept(_)), "{loss:?}");
            losses = between.losses();
            // On a machine so busy that the time runs out, a node may give up, but not always.
            let gave_up = !matches!(outcome, Outcome::Kept(_));
            assert!(!gave_up || took >= PATIENCE, "{data:?}: {outcome:?} after {took:?}");
            given_up += usize::from(gave_up);
            if loss == Lost::Late {
                let done = between.deliver();
                assert!(gave_up || !done, "Redis has carried out a command that came late on a closed connection");
            }
            between.forgive(); // losses that were planned for a second attempt, which did not happen
            posted.push((data, outcome));
        }
    }
    let entries = redis.entries("kitchen");
    settled(&entries, &posted);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
    let is_there =
        |(data, outcome): &&Posted| matches!(outcome, Outcome::Kept(_)) || entries.iter().any(|e| e.data() == data[0]);
    assert_eq!(entries.len(), posted.iter().filter(is_there).map(|(data, _)| data.len()).sum::<usize>());
    assert!(given_up <= posted.len() / 8, "{posted:?}");
}

#[test]
fn a_connection_that_falls_silent_or_ends_within_an_answer_is_replaced_and_nothing_is_missing() {
    let Some(redis) = Redis::start(&[]) else { return };
    scope(|scope| {
        for (channel, word) in [("kitchen", "XREAD"), ("cellar", "EXEC"), ("attic", "XADD")] {
            scope.spawn(|| is_replaced(&redis, channel, word));
        }
    });
}

/// Loses commands with this word, in each way. The word must not occur in names or data, or another command is lost.
fn is_replaced(redis: &Redis, channel: &str, word: &str) {
    let (between, other) = (Between::new(redis.port), redis.node(&[]));
    let node = node(between.port, &["--heartbeat", "1"]);
    let mut reader = Reader::of(&node, channel);
    let (mut posted, mut losses) = (Vec::new(), 0);
    for loss in [Lost::Silence, Lost::HalfAnswer, Lost::Answer, Lost::Half] {
        losses += 1;
        between.lose(word, loss);
        let until = Instant::now() + SOON;
        for n in 0.. {
            let data: Vec<String> = (0..1 + n % 2).map(|k| format!("{loss:?} {n} {k}")).collect();
            let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
            let outcome = outcome_of(&post_stream(&node, channel, &body));
            posted.push((data, outcome));
            other.post(&format!("/{channel}"), "from elsewhere");
            if between.losses() == losses {
                break;
            }
            assert!(Instant::now() < until, "no {word} has come");
            std::thread::sleep(Duration::from_millis(50)); // the next XREAD may be a second away
        }
        is_well(&node);
    }
    let last = other.post(&format!("/{channel}"), "the last one");
    let entries = redis.entries(channel);
    assert_eq!(entries.last().unwrap().id, last[0]);
    settled(&entries, &posted);
    reader.hears(&entries);
}

#[test]
fn where_it_cannot_be_known_whether_an_event_was_kept_that_is_said_and_it_is_there_once() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (between, other) = (Between::new(redis.port), redis.node(&[]));
    let node = node(between.port, &[]);
    let mut readers = [&node, &other].map(|node| Reader::of(node, "kitchen"));
    for data in ["soup", "salad"] {
        between.lose("XADD", Lost::Link);
        assert_eq!(post_data(&node, data), Outcome::Unknown);
        between.cut();
        is_away(&node);
        between.mend();
        is_well(&node);
    }
    node.post("/kitchen", "the last one");
    let entries = redis.entries("kitchen");
    assert_eq!(entries.iter().map(Entry::data).collect::<Vec<_>>(), ["soup", "salad", "the last one"]);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
}

#[test]
fn publishers_of_a_node_whose_connections_are_cut_all_the_time_are_told_what_is_true() {
    let Some(redis) = Redis::start(&[]) else { return };
    let between = Between::new(redis.port);
    let (node, other) = (node(between.port, &["--history", "4M"]), redis.node(&["--history", "4M"]));
    let mut readers = [&node, &other].map(|node| Reader::of(node, "kitchen"));
    let posted = scope(|scope| {
        let publish = |n: usize| {
            let (mut posted, mut kept, until) = (Vec::new(), 0, Instant::now() + 3 * SOON);
            for k in 0.. {
                if k >= 50 && kept >= 30 && between.losses() >= 3 {
                    break;
                }
                assert!(Instant::now() < until, "too few events are kept: {posted:?}");
                let data: Vec<String> = (0..1 + k % 3).map(|part| format!("{n} {k} {part}")).collect();
                let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
                let outcome = outcome_of(&post_stream(&node, "kitchen", &body));
                match outcome {
                    Outcome::Kept(_) => kept += 1,
                    _ => std::thread::sleep(Duration::from_millis(50)), // a client must wait after this refusal
                }
                posted.push((data, outcome));
            }
            posted
        };
        let publishers: Vec<_> = (0..4).map(|n| scope.spawn(move || publish(n))).collect();
        let mut random = Random(1);
        while publishers.iter().any(|publisher| !publisher.is_finished()) {
            match random.below(4) {
                0 => between.cut(),
                1 => between.lose("XADD", Lost::Command),
                2 => between.lose("EXEC", Lost::Half),
                _ => between.lose("XADD", Lost::Answer),
            }
            std::thread::sleep(Duration::from_millis(20 + random.below(150)));
            between.mend();
        }
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect::<Vec<_>>()
    });
    between.forgive();
    is_well(&node);
    node.post("/kitchen", "the last one");
    let entries = redis.entries("kitchen");
    settled(&entries, &posted);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
    let of = |is: fn(&Outcome) -> bool| posted.iter().filter(|(_, outcome)| is(outcome)).count();
    let counts =
        [of(|t| matches!(t, Outcome::Kept(_))), of(|t| *t == Outcome::Nothing), of(|t| *t == Outcome::Unknown)];
    eprintln!("{} losses; POSTs kept, not kept, unknown: {counts:?}", between.losses());
    assert!(counts[0] > 100 && between.losses() > 0, "{counts:?}");
}

#[test]
fn a_flushed_redis_goes_on_and_who_missed_something_hears_a_gap() {
    let Some(redis) = Redis::start(&[]) else { return };
    let node = redis.node(&[]);
    let mut reader = Reader::of(&node, "kitchen");
    let ids: Vec<String> = (0..5).map(|n| node.post("/kitchen", format!("soup {n}")).remove(0)).collect();
    (0..5).for_each(|_| drop(reader.next()));
    passed(&ids[4]);
    redis.ask(&["FLUSHALL"]);
    // An event of another client is received, and is not taken for an old one.
    let fresh = redis.add("kitchen", "fresh");
    let received = reader.until("fresh");
    gaps(&received);
    assert_eq!(*received.last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
    node.post("/kitchen", "and more");
    gaps(&reader.until("and more"));
    // A subscriber that has not received all of it yet moves to another node.
    let received = Reader::back(&redis.node(&[]), "kitchen", &ids[2]).until("and more");
    assert!(received[0].starts_with("event: gap\n"), "{received:?}");
    rising(&redis.entries("kitchen"));
}

#[test]
fn a_redis_that_was_flushed_while_a_node_was_away_makes_a_gap() {
    let Some(redis) = Redis::start(&[]) else { return };
    let between = Between::new(redis.port);
    let node = node(between.port, &[]);
    for silent in [false, true] {
        let mut reader = Reader::of(&node, "kitchen");
        (0..3).for_each(|n| drop(node.post("/kitchen", format!("soup {n}"))));
        reader.until("soup 2"); // the gap of the flush before may come after all that
        let last = reader.place.clone();
        between.cut();
        (0..3).for_each(|n| passed(&redis.add("kitchen", &format!("unheard {n}"))));
        redis.ask(&["FLUSHALL"]);
        if !silent {
            redis.add("kitchen", "fresh");
        }
        between.mend();
        is_well(&node);
        let gap = reader.hears_a_gap();
        assert!(gap.contains(&last) || gap.contains("\nid: "), "{gap}");
        if silent {
            node.post("/kitchen", "fresh");
        }
        gaps(&reader.until("fresh"));
        // If no other sign distinguishes it from a trimmed stream, the stream has a gap entry.
        let entries = redis.entries("kitchen");
        assert!(!silent || entries[0].is_gap(), "{entries:?}");
        rising(&entries);
    }
}

#[test]
fn a_redis_that_comes_back_empty_makes_a_gap_on_each_node_and_no_id_goes_back() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let nodes = [(); 3].map(|()| redis.node(&[]));
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    // The clock of this Redis is far ahead. The clock of the next one is not.
    let ahead = format!("{}-7", now() + 86_400_000);
    redis.ask(&["XADD", "tincan:kitchen", &ahead, "data", "from tomorrow"]);
    readers.iter_mut().for_each(|reader| assert_eq!(reader.next(), format!("data: from tomorrow\nid: {ahead}\n\n")));
    redis.kill();
    redis.forget();
    redis.again();
    nodes.iter().for_each(is_well);
    readers.iter_mut().for_each(|reader| drop(reader.hears_a_gap()));
    let fresh = nodes[1].post("/kitchen", "fresh").remove(0);
    assert!(Id::parse(&fresh) > Id::parse(&ahead), "{fresh} after {ahead}");
    let entries = redis.entries("kitchen");
    let count = entries.iter().filter(|entry| entry.is_gap()).count();
    assert!((1..=3).contains(&count) && Id::parse(&entries[0].id) > Id::parse(&ahead), "{entries:?}");
    for reader in &mut readers {
        let received = reader.until("fresh");
        gaps(&received);
        assert_eq!(*received.last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
    }
    // A subscriber of a node that has never seen the lost event.
    let received = Reader::back(&redis.node(&[]), "kitchen", &ahead).until("fresh");
    assert!(gaps(&received) > 0, "{received:?}");
}

#[test]
fn what_redis_has_lost_is_a_gap_for_who_had_heard_it_and_then_there_is_only_what_is_new() {
    let Some(mut redis) = Redis::start(&["--appendonly", "no"]) else { return };
    // Redis has nothing left, or its saved data, which lack only the last event.
    for (channel, saved) in [("nothing", 0), ("something", 2)] {
        let node = redis.node(&[]);
        let ids: Vec<String> = (0..saved).map(|n| node.post(&format!("/{channel}"), n.to_string()).remove(0)).collect();
        redis.ask(&["SAVE"]);
        let lost = node.post(&format!("/{channel}"), "lost").remove(0);
        redis.kill();
        drop(node);
        redis.again();
        let node = redis.node(&[]);
        let gap = format!("event: gap\ndata: {{\"asked\":\"{lost}\",\"from\":null,\"lost\":null}}\n\n");
        let mut readers = ["", "?wait=20", "?wait=0"].map(|query| {
            let (wire, place) = node.listen(&format!("/{channel}{query}"), &format!("Last-Event-ID: {lost}\r\n"));
            let mut reader = Reader { wire, place };
            assert_eq!(reader.place, lost, "{query}: the id does not go back");
            assert_eq!(reader.next(), gap, "{query}");
            reader
        });
        assert_eq!(readers[2].wire.rest(), "", "nothing else comes");
        let mut socket = has("websocket").then(|| Ws::blocks(&node, &format!("/{channel}?since={lost}"), ""));
        if let Some((frames, prelude)) = &mut socket {
            assert!(prelude.ends_with(&format!("\nid: {lost}\n\n")), "{prelude}");
            assert_eq!(frames.message(), gap);
        }
        // A subscriber that has received only saved events has missed nothing.
        let mut other = ids.last().map(|last| Reader::back(&node, channel, last));
        passed(&lost);
        let id = node.post(&format!("/{channel}"), "new").remove(0);
        let new = format!("data: new\nid: {id}\n\n");
        for reader in [Some(&mut readers[0]), other.as_mut()].into_iter().flatten() {
            assert_eq!(reader.next(), new);
        }
        assert!(Id::parse(&id) > Id::parse(&lost));
        if let Some((frames, _)) = &mut socket {
            assert_eq!(frames.message(), new);
        }
        // It comes back once more, with the new id and with the lost one.
        assert_eq!(Reader::back(&node, channel, &id).place, id);
        let received = Reader::back(&node, channel, &lost).until("new");
        assert!(received.len() == 2 && received[0].starts_with("event: gap\n"), "{received:?}");
    }
}

#[test]
fn what_was_trimmed_while_a_node_was_away_is_a_gap_only_where_it_was_not_heard() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (between, ahead) = (Between::new(redis.port), redis.node(&[]));
    let behind = node(between.port, &[]);
    let (mut reader, mut other) = (Reader::of(&behind, "kitchen"), Reader::of(&ahead, "kitchen"));
    let post = |count: usize| {
        (0..count).for_each(|n| drop(ahead.post("/kitchen", format!("soup {n}"))));
        redis.entries("kitchen")
    };
    let entries = post(10);
    reader.hears(&entries);
    other.hears(&entries);

    // Only entries that it has received are trimmed, so nothing is missing.
    between.cut();
    redis.ask(&["XTRIM", "tincan:kitchen", "MAXLEN", "4"]);
    let entries = post(10);
    between.mend();
    reader.hears(&entries[4..]);
    other.hears(&entries[4..]);

    // Everything that it has received is trimmed, and nothing else.
    between.cut();
    redis.ask(&["XTRIM", "tincan:kitchen", "MAXLEN", "0"]);
    let entries = post(3);
    between.mend();
    is_well(&behind);
    for reader in [&mut reader, &mut other] {
        let received = reader.until("soup 2");
        // This looks like a loss, so a gap is allowed.
        assert!(received.len() == 3 || received[0].starts_with("event: gap\n"), "{received:?}");
        assert!(received.concat().ends_with(&blocks(&entries)), "{received:?}");
    }

    // More than that is trimmed.
    let last = reader.place.clone();
    between.cut();
    post(20);
    redis.ask(&["XTRIM", "tincan:kitchen", "MAXLEN", "5"]);
    let entries = redis.entries("kitchen");
    between.mend();
    let gap = format!("event: gap\ndata: {{\"asked\":\"{last}\",\"from\":\"{}\",\"lost\":null}}\n\n", entries[0].id);
    assert_eq!(reader.next(), gap);
    reader.hears(&entries);
    // The node serves only what it can serve without a gap.
    assert_eq!(poll(&behind, "kitchen", &last), gap + &blocks(&entries));

    // Everything is trimmed, so at first nothing follows the gap.
    between.cut();
    post(5);
    redis.ask(&["XTRIM", "tincan:kitchen", "MAXLEN", "0"]);
    between.mend();
    is_well(&behind);
    reader.hears_a_gap();
    let fresh = ahead.post("/kitchen", "fresh").remove(0);
    let received = reader.until("fresh");
    gaps(&received);
    assert_eq!(*received.last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
    // The subscriber of the other node has received everything.
    assert_eq!(*other.until("fresh").last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
}

#[test]
fn where_there_was_nothing_yet_what_came_and_was_dropped_meanwhile_is_a_gap() {
    let Some(redis) = Redis::start(&[]) else { return };
    let between = Between::new(redis.port);
    // The node behind keeps more than it is sent, so its subscriber need not be quick.
    let (behind, ahead) = (node(between.port, &[]), redis.node(&["--history", "8K"]));
    for (channel, emptied) in [("kitchen", false), ("cellar", true)] {
        if emptied {
            ahead.post("/cellar", "soup");
            // An entry that a node has not received before it is removed is a gap as well.
            eventually("the event is received", || {
                ahead.get("/cellar?wait=0&since=all").text().contains("data: soup\n")
            });
            redis.ask(&["XTRIM", "tincan:cellar", "MAXLEN", "0"]);
        }
        is_well(&behind); // the last cut also hit its connection for commands
        let mut reader = Reader::of(&behind, channel);
        between.cut();
        let mut all = Vec::new();
        // The node ahead makes Redis drop the entries that its own copy has dropped. The copy may lag behind.
        eventually("the first entry is dropped", || {
            all.extend(ahead.post(&format!("/{channel}"), "z".repeat(1000 + all.len())));
            redis.entries(channel)[0].id != all[0]
        });
        between.mend();
        let gap = reader.next();
        let kept = redis.entries(channel);
        assert!(gap.contains(&format!("\"from\":\"{}\"", kept[0].id)) && kept.len() < all.len(), "{gap}");
        reader.hears(&kept);
    }
}

/// Returns a replica of a Redis with the same data.
fn replica(redis: &Redis) -> Option<Redis> {
    let replica = Redis::start(&[])?;
    replica.ask(&["REPLICAOF", "127.0.0.1", &redis.port.to_string()]);
    caught_up(redis);
    Some(replica)
}

fn caught_up(redis: &Redis) {
    let mut client = redis.client();
    client.ask(&["SET", "caught", "up"]);
    assert_eq!(client.ask(&["WAIT", "1", "20000"]).number(), 1);
}

#[test]
fn a_failover_that_lacks_the_last_events_is_a_gap_and_one_that_lacks_none_is_not() {
    let Some(first) = Redis::start(&[]) else { return };
    let (Some(second), between) = (replica(&first), Between::new(first.port)) else { return };
    let nodes = [(); 3].map(|()| node(between.port, &[]));
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    (0..10).for_each(|n| drop(nodes[n % 3].post("/kitchen", format!("soup {n}"))));
    let entries = first.entries("kitchen");
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
    caught_up(&first);
    second.ask(&["REPLICAOF", "NO", "ONE"]);
    between.turn_to(&second);
    drop(first);
    nodes.iter().for_each(is_well);
    (0..9).for_each(|n| drop(nodes[n % 3].post("/kitchen", format!("salad {n}"))));
    let entries = second.entries("kitchen");
    assert_eq!(entries.len(), 19);
    readers.iter_mut().for_each(|reader| reader.hears(&entries[10..]));

    // The third Redis never gets the bread.
    let third = replica(&second).unwrap();
    third.ask(&["REPLICAOF", "NO", "ONE"]);
    (0..5).for_each(|n| drop(nodes[n % 3].post("/kitchen", format!("bread {n}"))));
    let lost = second.entries("kitchen").split_off(19);
    readers.iter_mut().for_each(|reader| reader.hears(&lost));
    between.turn_to(&third);
    drop(second);
    nodes.iter().for_each(is_well);
    readers.iter_mut().for_each(|reader| drop(reader.hears_a_gap()));
    let fresh = nodes[0].post("/kitchen", "fresh").remove(0);
    for reader in &mut readers {
        let received = reader.until("fresh");
        gaps(&received);
        assert_eq!(*received.last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
    }
    let now = third.entries("kitchen");
    rising(&now);
    assert_eq!(now[..19], entries[..]);
    let (gap_entries, events): (Vec<_>, Vec<_>) = now[19..].iter().cloned().partition(Entry::is_gap);
    assert!(
        (1..=3).contains(&gap_entries.len()) && Id::parse(&gap_entries[0].id) > Id::parse(&lost[4].id),
        "{gap_entries:?}"
    );
    assert_eq!(events.iter().map(Entry::data).collect::<Vec<_>>(), ["fresh"]);
    // A new node never had these events. One of its subscribers has received all of the bread, the other a part.
    let late = node(between.port, &[]);
    for place in [&lost[4].id, &lost[1].id] {
        assert!(gaps(&Reader::back(&late, "kitchen", place).until("fresh")) > 0);
    }
}

#[test]
fn a_failover_after_which_others_have_written_before_the_nodes_are_back_is_a_gap_too() {
    let Some(first) = Redis::start(&[]) else { return };
    let (Some(second), between) = (replica(&first), Between::new(first.port)) else { return };
    let nodes = [node(between.port, &[]), node(between.port, &[])];
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    let kept = nodes[0].post("/kitchen", "kept").remove(0);
    caught_up(&first);
    second.ask(&["REPLICAOF", "NO", "ONE"]);
    let lost = nodes[1].post("/kitchen", "lost").remove(0);
    readers.iter_mut().for_each(|reader| drop(reader.until("lost")));
    between.cut();
    passed(&lost);
    second.add("kitchen", "of another one");
    between.turn_to(&second);
    drop(first);
    nodes.iter().for_each(is_well);
    nodes[0].post("/kitchen", "fresh");
    for reader in &mut readers {
        let received = reader.until("fresh");
        assert!(received.iter().any(|block| block.starts_with("event: gap\n")), "{received:?}");
        assert_eq!(received.iter().filter(|block| block.contains("of another one")).count(), 1, "{received:?}");
    }
    // A subscriber that has received `kept` but not `lost` comes to a node that had neither. The gap entry in the
    // stream, even a later one, informs it.
    let third = node(between.port, &[]);
    let mut late = Reader::back(&third, "kitchen", &kept);
    while !late.next().starts_with("event: gap\n") {}
    let entries = second.entries("kitchen");
    rising(&entries);
    assert!(entries.iter().any(Entry::is_gap) && entries[0].id == kept, "{entries:?}");
}

#[test]
fn a_redis_without_memory_refuses_what_is_published_until_it_has_some() {
    let Some(redis) = Redis::start(&[]) else { return };
    let node = redis.node(&["--heartbeat", "1"]);
    let mut reader = Reader::of(&node, "kitchen");
    node.post("/kitchen", "before");
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    for body in ["data: in vain\n\n", "data: in\n\ndata: vain\n\n"] {
        assert_eq!(outcome_of(&post_stream(&node, "kitchen", body)), Outcome::Refused);
    }
    eventually("/health reports an error", || node.get("/health").status == 503);
    eventually("the node follows nevertheless", || node.metric("tincan_redis_connected") == Some(1));
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    is_well(&node);
    node.post("/kitchen", "after");
    let entries = redis.entries("kitchen");
    assert_eq!(entries.iter().map(Entry::data).collect::<Vec<_>>(), ["before", "after"]);
    reader.hears(&entries);
}

#[test]
fn a_node_of_a_replica_reads_and_says_that_it_cannot_publish() {
    let Some(redis) = Redis::start(&[]) else { return };
    let Some(replica) = replica(&redis) else { return };
    let (writer, node) = (redis.node(&[]), Tincan::start(&["--redis", &format!("127.0.0.1:{}", replica.port)]));
    writer.post("/kitchen", "before");
    caught_up(&redis);
    eventually("the node has received the event", || {
        node.get("/kitchen?wait=0&since=all").text().contains("data: before\n")
    });
    let mut reader = Reader::of(&node, "kitchen");
    assert_eq!(post_data(&node, "in vain"), Outcome::Refused);
    eventually("/health reports an error", || node.get("/health").status == 503);
    writer.post("/kitchen", "after");
    let entries = redis.entries("kitchen");
    reader.hears(&entries[1..]);
    assert_eq!(entries.len(), 2);
    // The replica becomes the master.
    replica.ask(&["REPLICAOF", "NO", "ONE"]);
    is_well(&node);
    node.post("/kitchen", "own");
    reader.hears(&replica.entries("kitchen")[2..]);
}

#[test]
fn a_key_that_is_no_stream_spoils_its_own_channel_alone() {
    let Some(redis) = Redis::start(&[]) else { return };
    let node = redis.node(&[]);
    let mut reader = Reader::of(&node, "kitchen");
    redis.ask(&["SET", "tincan:bell", "x"]);
    for _ in 0..3 {
        assert_eq!(outcome_of(&node.post_with("/bell", "", "in vain")), Outcome::Refused);
        let stream = node.ask(format!("GET /bell HTTP/1.1\r\nHost: localhost\r\n{STREAM}\r\n"));
        assert_eq!(stream.status, 200);
        let id = node.post("/kitchen", "soup").remove(0);
        assert_eq!(reader.next(), format!("data: soup\nid: {id}\n\n"));
    }
    // The same if the key becomes another type while the channel is followed.
    let mut bell = Reader::of(&node, "other-bell");
    redis.ask(&["SET", "tincan:other-bell", "x"]);
    for _ in 0..3 {
        let id = node.post("/kitchen", "soup").remove(0);
        assert_eq!(reader.next(), format!("data: soup\nid: {id}\n\n"));
    }
    redis.ask(&["DEL", "tincan:bell", "tincan:other-bell"]);
    eventually("the channel works again", || node.post_with("/other-bell", "", "ring").status == 200);
    gaps(&bell.until("ring"));
}
