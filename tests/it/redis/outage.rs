//! What goes wrong between nodes and their Redis: it is killed, hangs, forgets, is replaced, refuses; an answer is lost.

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

const STREAM: &str = "Accept: text/event-stream\r\n"; // as EventSource asks for it
/// How long a node tries to do what a publisher asks for, at least (`node.rs`).
const PATIENCE: Duration = Duration::from_secs(2);

/// What a publisher was told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Kept(Vec<String>),
    /// Nothing was kept, and it stays so: Redis is away.
    Nothing,
    /// Nothing was kept, for Redis refuses it.
    Refused,
    /// It is not known whether it was kept.
    Unknown,
}

/// Reads the answer to a POST, of which there are these.
pub fn told(status: u16, text: &str, retry_after: bool) -> Told {
    let of = |reject: Reject| retry_after && (status, text) == (reject.status, &reject.line());
    match status {
        200 => Told::Kept(text.lines().map(String::from).collect()),
        _ if of(REDIS_AWAY) => Told::Nothing,
        _ if of(REDIS_REFUSES) => Told::Refused,
        _ if of(REDIS_LOST) => Told::Unknown,
        _ => panic!("{status} {text:?}, Retry-After: {retry_after}"),
    }
}

pub fn answer(answer: &Response) -> Told {
    told(answer.status, &answer.text(), answer.field("retry-after").is_some())
}

fn say(node: &Tincan, data: &str) -> Told {
    answer(&node.post_with("/kitchen", "", data))
}

/// The events of one POST, and what its publisher was told.
type Said = (Vec<String>, Told);

/// Asserts that what was said is in the stream as its publishers were told. No two events may have the same data.
fn settled(entries: &[Entry], said: &[Said]) {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    entries.iter().enumerate().for_each(|(n, entry)| places.entry(entry.data()).or_default().push(n));
    for (data, told) in said {
        let found: Vec<usize> =
            data.iter().flat_map(|data| places.get(data.as_str()).into_iter().flatten().copied()).collect();
        let ids: Vec<&str> = found.iter().map(|at| &*entries[*at].id).collect();
        let whole = found.len() == data.len() && found.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let right = match told {
            Told::Kept(told) => whole && *told == ids,
            Told::Nothing | Told::Refused => ids.is_empty(),
            Told::Unknown => whole || ids.is_empty(),
        };
        assert!(right, "{data:?}: {told:?}, and in the stream are {ids:?}");
    }
}

/// Whether the Redis on this port still loads what it had kept.
fn is_loading(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return true }; // it has not begun yet
    stream.write_all(b"PING\r\n").unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).unwrap();
    word == *b"-LOA"
}

/// A node cannot publish, and says so in each place.
fn is_away(node: &Tincan) {
    eventually("the node says that Redis is away", || node.get("/health").status == 503);
    assert_eq!(say(node, "in vain"), Told::Nothing);
    eventually("so do its metrics", || node.metric("tincan_redis_connected") == Some(0));
}

/// The blocks but for the last are gaps; how many they are.
fn gaps(heard: &[String]) -> usize {
    let (_, gaps) = heard.split_last().unwrap();
    assert!(gaps.iter().all(|block| block.starts_with("event: gap\n")), "{heard:?}");
    gaps.len()
}

fn rising(entries: &[Entry]) {
    assert!(entries.windows(2).all(|pair| Id::parse(&pair[0].id) < Id::parse(&pair[1].id)));
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Waits until the clock that gives out ids has passed this one: else a Redis that forgot could give it out again.
fn passed(id: &str) {
    let epoch = Id::parse(id).unwrap().epoch;
    eventually("the clock goes on", || now() > epoch + 1);
}

#[test]
fn while_redis_is_away_readers_stay_publishers_are_told_and_then_all_goes_on() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let nodes = [redis.node(&["--heartbeat", "1"]), redis.node(&["--heartbeat", "1"])];
    let quiet = redis.node(&[]); // it pings its WebSockets only every 15 seconds
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
            // Each reader goes on with its pings; all at the same time.
            for reader in &mut readers {
                scope.spawn(|| (0..2).for_each(|_| assert_eq!(reader.wire.block(), ":ping\n\n")));
            }
        });
        for node in &nodes {
            assert_eq!(poll(node, "kitchen", "all"), blocks(&entries), "its own copy is served");
            let mut late = Reader::back(node, "kitchen", &entries[0].id);
            late.hears(&entries[1..]);
            // Of a channel that it does not know it cannot say where it ends. An EventSource comes back.
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
            eventually("it follows again", || node.metric("tincan_redis_connected") == Some(1));
            assert!(node.metric("tincan_redis_reconnections_total") >= Some(round));
        }
        let now = redis.entries("kitchen");
        assert_eq!(now.len(), entries.len() + 2);
        readers.iter_mut().for_each(|reader| reader.hears(&now[entries.len()..]));
        // Who came while Redis was away has nothing to catch up with.
        assert_eq!(poll(&nodes[0], "kitchen", &entries.last().unwrap().id), blocks(&now[entries.len()..]));
    }
    for node in &nodes {
        // Each change is a line, and no line comes twice in a row.
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
    let answer = node.ask(format!("GET /kitchen HTTP/1.1\r\nHost: localhost\r\n{STREAM}\r\n"));
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("text/event-stream")));
    let body = answer.text();
    let (comment, retry) = body.split_once("\nretry: ").unwrap_or_else(|| panic!("no retry in {body:?}"));
    assert!(comment.starts_with(": ") && !comment.contains('\n'), "{body:?}");
    assert!((1000..60_000).contains(&retry.trim_end().parse::<u32>().unwrap()), "{body:?}");
    redis.again();
    is_well(&node);
    assert_eq!(poll(&node, "kitchen", "all"), format!("data: before\nid: {id}\n\n"));
}

/// What Redis says to a connection that it does not take, without being asked, before it ends it.
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
                let _ = stream.set_nonblocking(false).map(|()| stream.read(&mut [0; 1000])); // a reset could overtake it
            }
        });
        let _over = AtEnd(&over);
        let began = Instant::now(); // before its first try, for it may be quicker than this test
        let node = Tincan::start(&["--quiet", "--redis", &format!("127.0.0.1:{port}")]);
        // The pauses are 100, 200, 400, 800 and 1,600 ms, and then 3 s; each is half of that at least.
        let is_patient = || {
            let (tries, took) = (tries.load(SeqCst), began.elapsed());
            let pauses = [50, 100, 200, 400, 800].into_iter().chain(std::iter::repeat(1500)).take(tries - 1);
            assert!(took >= Duration::from_millis(pauses.sum()), "{tries} tries within {took:?}");
        };
        eventually("it has tried four times", || tries.load(SeqCst) >= 4);
        is_patient();
        eventually("it says why", || node.stderr().contains("away: DENIED this Redis is not for you"));
        eventually("it has tried six times", || tries.load(SeqCst) >= 6);
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
    let (loaded, mut said, mut in_vain) = (AtomicBool::new(false), Vec::new(), 0);
    scope(|scope| {
        scope.spawn(|| {
            let _loaded = AtEnd(&loaded);
            redis.again();
        });
        while !loaded.load(SeqCst) {
            let answers = nodes.each_ref().map(|node| {
                let data = format!("meanwhile {}", said.len());
                said.push((vec![data.clone()], say(node, &data)));
                said.last().unwrap().1.clone()
            });
            // Who waited for the end of it may have been served.
            if !loaded.load(SeqCst) && is_loading(port) {
                assert!(answers.iter().all(|told| [Told::Nothing, Told::Refused].contains(told)), "{answers:?}");
                in_vain += 1;
            }
        }
    });
    assert!(in_vain >= 3, "it was loaded too soon to be seen");
    nodes.iter().for_each(is_well);
    let fresh = nodes[0].post("/kitchen", "fresh");
    let entries = redis.entries("kitchen");
    settled(&entries, &said);
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
    let said = scope(|scope| {
        let _over = AtEnd(&over);
        let publish = |node: &Tincan, n: usize| {
            let (mut said, mut k) = (Vec::new(), 0);
            while !over.load(SeqCst) {
                k += 1;
                let data = format!("{n} {k}");
                let told = say(node, &data);
                said.push((vec![data], told));
            }
            said
        };
        let publishers: Vec<_> =
            (0..3).map(|n| (&nodes[n], n)).map(|(node, n)| scope.spawn(move || publish(node, n))).collect();
        for _ in 0..20 {
            redis.kill();
            redis.again();
            for node in &nodes {
                eventually("it follows", || node.metric("tincan_redis_connected") == Some(1));
            }
        }
        over.store(true, SeqCst);
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect::<Vec<_>>()
    });
    nodes[0].post("/kitchen", "the last one");
    let entries = redis.entries("kitchen");
    let told: Vec<_> = entries.windows(3).filter(|part| part[1].is_gap()).collect();
    assert!(told.is_empty(), "{told:#?}\n{}", nodes[0].stderr());
    settled(&entries, &said);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
}

/// What is asked while Redis loads may be answered with an error, and what is asked next no longer.
#[test]
fn an_error_is_not_taken_for_a_stream_that_is_gone() {
    let Some(redis) = Redis::start(&[]) else { return };
    scope(|scope| {
        scope.spawn(|| an_error_when_it_is_back(&redis));
        scope.spawn(|| an_error_in_passing(&redis));
    });
}

/// Asserts that no gap was told of in this channel, where nothing is missing.
fn has_no_gap(redis: &Redis, channel: &str, reader: &mut Reader) {
    let entries = redis.entries(channel);
    assert!(!entries.iter().any(Entry::is_gap), "{entries:#?}");
    reader.hears(&entries);
}

fn an_error_when_it_is_back(redis: &Redis) {
    let between = Between::new(redis.port);
    let node = node(between.port, &["--heartbeat", "1"]);
    let mut reader = Reader::of(&node, "kitchen");
    let post = |data| eventually("it takes events", || node.post_with("/kitchen", "", data).status == 200);
    post("before");
    for words in [&["XRANGE"][..], &["XRANGE", "XINFO"], &["XINFO"], &["XADD", "XINFO"], &["XREAD"]] {
        between.cut();
        words.iter().for_each(|word| between.lose(word, Lost::Loading));
        between.mend();
        is_well(&node);
        post("after");
        eventually("it follows", || node.metric("tincan_redis_connected") == Some(1));
        between.forgive();
    }
    post("the last one");
    has_no_gap(redis, "kitchen", &mut reader);
}

/// Where it looks some time after it has done so last.
fn an_error_in_passing(redis: &Redis) {
    let between = Between::new(redis.port);
    let node = node(between.port, &["--heartbeat", "1"]);
    let mut reader = Reader::of(&node, "cellar");
    let post = |data| eventually("it takes events", || node.post_with("/cellar", "", data).status == 200);
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
    // One is over before anybody gives up, the other only when all have.
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
        let (said, hung) = scope(|scope| {
            let posts: Vec<_> = (0..8)
                .map(|n| {
                    let node = &nodes[n % 2];
                    let data: Vec<String> = (0..1 + n / 4 * 2).map(|k| format!("{round} {n} {k}")).collect();
                    scope.spawn(move || {
                        let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
                        let told = answer(&post_stream(node, "kitchen", &body));
                        (data, told)
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
                nodes.iter().for_each(|node| eventually("it says so", || node.get("/health").status == 503));
                eventually("all were answered", || posts.iter().all(|post| post.is_finished()));
            }
            redis.hangs(false);
            let hung = began.elapsed();
            (posts.into_iter().map(|post| post.join().unwrap()).collect::<Vec<Said>>(), hung)
        });
        nodes.iter().for_each(is_well);
        let last = nodes[0].post("/kitchen", format!("end of {round}"));
        let entries = redis.entries("kitchen");
        assert_eq!(entries.last().unwrap().id, last[0]);
        settled(&entries, &said);
        // Nobody gives up before [`REPLY_TIME`]. If this test was held up for so long itself, they may have.
        let in_time = !long && hung + Duration::from_millis(500) < REPLY_TIME;
        for (data, told) in &said {
            assert!(!in_time || matches!(told, Told::Kept(_)), "{data:?}: {told:?}");
            assert!(!long || !matches!(told, Told::Kept(_)), "{data:?}: {told:?}");
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
    let (mut said, mut losses, mut given_up) = (Vec::new(), 0, 0);
    for round in 0..6 {
        for how in [Lost::Answer, Lost::Command, Lost::Half, Lost::Late] {
            let data: Vec<String> = (0..1 + round % 2 * 2).map(|k| format!("{how:?} {round} {k}")).collect();
            let word = if data.len() > 1 { "EXEC" } else { "XADD" };
            // In each third round the second try is lost as well.
            let again = round >= 4 && [Lost::Command, Lost::Half].contains(&how);
            let times = if again { 2 } else { 1 };
            (0..times).for_each(|_| between.lose(word, how));
            losses += times;
            let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
            let began = Instant::now();
            let told = answer(&post_stream(&node, "kitchen", &body));
            let took = began.elapsed();
            assert!(between.losses() == losses || !matches!(told, Told::Kept(_)), "{how:?}");
            losses = between.losses();
            // On a machine that is so busy that the time for it is over, a node may give up, but not at every turn.
            let gave_up = !matches!(told, Told::Kept(_));
            assert!(!gave_up || took >= PATIENCE, "{data:?}: {told:?} after {took:?}");
            given_up += usize::from(gave_up);
            if how == Lost::Late {
                let done = between.deliver();
                assert!(gave_up || !done, "Redis has done what came late on a connection that should be over");
            }
            between.forgive(); // what would have been lost at a second try that was not made
            said.push((data, told));
        }
    }
    let entries = redis.entries("kitchen");
    settled(&entries, &said);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
    let is_there = |(data, told): &&Said| matches!(told, Told::Kept(_)) || entries.iter().any(|e| e.data() == data[0]);
    assert_eq!(entries.len(), said.iter().filter(is_there).map(|(data, _)| data.len()).sum::<usize>());
    assert!(given_up <= said.len() / 8, "{said:?}");
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

/// Loses commands with this word, in each way. It may be in no name and in no data, else another command is lost.
fn is_replaced(redis: &Redis, channel: &str, word: &str) {
    let (between, other) = (Between::new(redis.port), redis.node(&[]));
    let node = node(between.port, &["--heartbeat", "1"]);
    let mut reader = Reader::of(&node, channel);
    let (mut said, mut losses) = (Vec::new(), 0);
    for how in [Lost::Silence, Lost::HalfAnswer, Lost::Answer, Lost::Half] {
        losses += 1;
        between.lose(word, how);
        let until = Instant::now() + SOON;
        for n in 0.. {
            let data: Vec<String> = (0..1 + n % 2).map(|k| format!("{how:?} {n} {k}")).collect();
            let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
            let told = answer(&post_stream(&node, channel, &body));
            said.push((data, told));
            other.post(&format!("/{channel}"), "from elsewhere");
            if between.losses() == losses {
                break;
            }
            assert!(Instant::now() < until, "no {word} comes");
            std::thread::sleep(Duration::from_millis(50)); // the next XREAD may be a second away
        }
        is_well(&node);
    }
    let last = other.post(&format!("/{channel}"), "the last one");
    let entries = redis.entries(channel);
    assert_eq!(entries.last().unwrap().id, last[0]);
    settled(&entries, &said);
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
        assert_eq!(say(&node, data), Told::Unknown);
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
    let said = scope(|scope| {
        let publish = |n: usize| {
            let (mut said, mut kept, until) = (Vec::new(), 0, Instant::now() + 3 * SOON);
            for k in 0.. {
                if k >= 50 && kept >= 30 && between.losses() >= 3 {
                    break;
                }
                assert!(Instant::now() < until, "too little is kept: {said:?}");
                let data: Vec<String> = (0..1 + k % 3).map(|part| format!("{n} {k} {part}")).collect();
                let body: String = data.iter().map(|data| format!("data: {data}\n\n")).collect();
                let told = answer(&post_stream(&node, "kitchen", &body));
                match told {
                    Told::Kept(_) => kept += 1,
                    _ => std::thread::sleep(Duration::from_millis(50)), // as it was asked to
                }
                said.push((data, told));
            }
            said
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
    settled(&entries, &said);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
    let of = |what: fn(&Told) -> bool| said.iter().filter(|(_, told)| what(told)).count();
    let counts = [of(|t| matches!(t, Told::Kept(_))), of(|t| *t == Told::Nothing), of(|t| *t == Told::Unknown)];
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
    // What another one says now is heard, and it is not taken for something old.
    let fresh = redis.add("kitchen", "fresh");
    let heard = reader.until("fresh");
    gaps(&heard);
    assert_eq!(*heard.last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
    node.post("/kitchen", "and more");
    gaps(&reader.until("and more"));
    // A reader that had not heard all of it yet moves to another node.
    let heard = Reader::back(&redis.node(&[]), "kitchen", &ids[2]).until("and more");
    assert!(heard[0].starts_with("event: gap\n"), "{heard:?}");
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
        reader.until("soup 2"); // what was told of the flush before may come behind all that
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
        // Where nobody else can tell it from a stream that was only trimmed, it stands there as well.
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
    // The clock of this Redis is far ahead; of the next one it is not.
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
        let heard = reader.until("fresh");
        gaps(&heard);
        assert_eq!(*heard.last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
    }
    // A reader of a node that has never seen the lost event.
    let heard = Reader::back(&redis.node(&[]), "kitchen", &ahead).until("fresh");
    assert!(gaps(&heard) > 0, "{heard:?}");
}

#[test]
fn what_redis_has_lost_is_a_gap_for_who_had_heard_it_and_then_there_is_only_what_is_new() {
    let Some(mut redis) = Redis::start(&["--appendonly", "no"]) else { return };
    // Nothing is left of it, or what was saved, which has the last event but one.
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
            assert_eq!(reader.place, lost, "{query}: no id goes back");
            assert_eq!(reader.next(), gap, "{query}");
            reader
        });
        assert_eq!(readers[2].wire.rest(), "", "there is nothing else");
        let mut socket = has("websocket").then(|| Ws::blocks(&node, &format!("/{channel}?since={lost}"), ""));
        if let Some((frames, prelude)) = &mut socket {
            assert!(prelude.ends_with(&format!("\nid: {lost}\n\n")), "{prelude}");
            assert_eq!(frames.message(), gap);
        }
        // Who has heard no more than what was saved has missed nothing.
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
        // It comes back once more, before and behind what is new.
        assert_eq!(Reader::back(&node, channel, &id).place, id);
        let heard = Reader::back(&node, channel, &lost).until("new");
        assert!(heard.len() == 2 && heard[0].starts_with("event: gap\n"), "{heard:?}");
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

    // What it has heard is trimmed: nothing is missing.
    between.cut();
    redis.ask(&["XTRIM", "tincan:kitchen", "MAXLEN", "4"]);
    let entries = post(10);
    between.mend();
    reader.hears(&entries[4..]);
    other.hears(&entries[4..]);

    // All that it has heard is trimmed, and nothing else.
    between.cut();
    redis.ask(&["XTRIM", "tincan:kitchen", "MAXLEN", "0"]);
    let entries = post(3);
    between.mend();
    is_well(&behind);
    for reader in [&mut reader, &mut other] {
        let heard = reader.until("soup 2");
        assert!(heard.len() == 3 || heard[0].starts_with("event: gap\n"), "{heard:?}"); // it cannot be told from a loss
        assert!(heard.concat().ends_with(&blocks(&entries)), "{heard:?}");
    }

    // More than that.
    let last = reader.place.clone();
    between.cut();
    post(20);
    redis.ask(&["XTRIM", "tincan:kitchen", "MAXLEN", "5"]);
    let entries = redis.entries("kitchen");
    between.mend();
    let gap = format!("event: gap\ndata: {{\"asked\":\"{last}\",\"from\":\"{}\",\"lost\":null}}\n\n", entries[0].id);
    assert_eq!(reader.next(), gap);
    reader.hears(&entries);
    // The node serves no more than it can without a gap.
    assert_eq!(poll(&behind, "kitchen", &last), gap + &blocks(&entries));

    // All of it: nothing comes behind the gap for now.
    between.cut();
    post(5);
    redis.ask(&["XTRIM", "tincan:kitchen", "MAXLEN", "0"]);
    between.mend();
    is_well(&behind);
    reader.hears_a_gap();
    let fresh = ahead.post("/kitchen", "fresh").remove(0);
    let heard = reader.until("fresh");
    gaps(&heard);
    assert_eq!(*heard.last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
    // Who was there all the time has heard all of it.
    assert_eq!(*other.until("fresh").last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
}

#[test]
fn where_there_was_nothing_yet_what_came_and_was_dropped_meanwhile_is_a_gap() {
    let Some(redis) = Redis::start(&[]) else { return };
    let between = Between::new(redis.port);
    // The one behind keeps more than it is given, so that its reader need not be quick.
    let (behind, ahead) = (node(between.port, &[]), redis.node(&["--history", "8K"]));
    for (channel, emptied) in [("kitchen", false), ("cellar", true)] {
        if emptied {
            ahead.post("/cellar", "soup");
            // What a node has not heard yet when it is removed is a gap as well.
            eventually("it is heard", || ahead.get("/cellar?wait=0&since=all").text().contains("data: soup\n"));
            redis.ask(&["XTRIM", "tincan:cellar", "MAXLEN", "0"]);
        }
        is_well(&behind); // its connection for commands was cut as well, the last time
        let mut reader = Reader::of(&behind, channel);
        between.cut();
        let mut all = Vec::new();
        // The one ahead has Redis drop what its own copy has dropped, which may lag behind.
        eventually("the first is dropped", || {
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

/// A replica of a Redis, which has all that it has.
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

    // The third one never gets the bread.
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
        let heard = reader.until("fresh");
        gaps(&heard);
        assert_eq!(*heard.last().unwrap(), format!("data: fresh\nid: {fresh}\n\n"));
    }
    let now = third.entries("kitchen");
    rising(&now);
    assert_eq!(now[..19], entries[..]);
    let (told, own): (Vec<_>, Vec<_>) = now[19..].iter().cloned().partition(Entry::is_gap);
    assert!((1..=3).contains(&told.len()) && Id::parse(&told[0].id) > Id::parse(&lost[4].id), "{told:?}");
    assert_eq!(own.iter().map(Entry::data).collect::<Vec<_>>(), ["fresh"]);
    // On a node that never had them: who has heard all of the bread, and who has heard some of it.
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
        let heard = reader.until("fresh");
        assert!(heard.iter().any(|block| block.starts_with("event: gap\n")), "{heard:?}");
        assert_eq!(heard.iter().filter(|block| block.contains("of another one")).count(), 1, "{heard:?}");
    }
    // Who heard `kept` and not `lost` comes to a node that had neither: the stream itself has to tell, if it does so later.
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
        assert_eq!(answer(&post_stream(&node, "kitchen", body)), Told::Refused);
    }
    eventually("it is not well", || node.get("/health").status == 503);
    eventually("it follows all the same", || node.metric("tincan_redis_connected") == Some(1));
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
    eventually("it has heard of it", || node.get("/kitchen?wait=0&since=all").text().contains("data: before\n"));
    let mut reader = Reader::of(&node, "kitchen");
    assert_eq!(say(&node, "in vain"), Told::Refused);
    eventually("it is not well", || node.get("/health").status == 503);
    writer.post("/kitchen", "after");
    let entries = redis.entries("kitchen");
    reader.hears(&entries[1..]);
    assert_eq!(entries.len(), 2);
    // It is made the master.
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
        assert_eq!(answer(&node.post_with("/bell", "", "in vain")), Told::Refused);
        let stream = node.ask(format!("GET /bell HTTP/1.1\r\nHost: localhost\r\n{STREAM}\r\n"));
        assert_eq!(stream.status, 200);
        let id = node.post("/kitchen", "soup").remove(0);
        assert_eq!(reader.next(), format!("data: soup\nid: {id}\n\n"));
    }
    // Also where it becomes one while it is followed.
    let mut bell = Reader::of(&node, "other-bell");
    redis.ask(&["SET", "tincan:other-bell", "x"]);
    for _ in 0..3 {
        let id = node.post("/kitchen", "soup").remove(0);
        assert_eq!(reader.next(), format!("data: soup\nid: {id}\n\n"));
    }
    redis.ask(&["DEL", "tincan:bell", "tincan:other-bell"]);
    eventually("it is a channel again", || node.post_with("/other-bell", "", "ring").status == 200);
    gaps(&bell.until("ring"));
}
