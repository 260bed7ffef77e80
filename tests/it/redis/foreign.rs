//! Entries that a foreign program adds to a stream, and large POSTs, do not harm other channels.

use crate::redis::cluster::{poll, post_stream};
use crate::redis::outage::{Outcome, outcome_of};
use crate::redis::server::*;
use crate::support::growth::thread_time;
use crate::support::harness::*;
use crate::support::process::release;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};
use tincan::wire::id::Id;

/// A size within an entry that is larger than allowed (32 MiB, and 64 KiB of `--max-body`).
const LARGE: usize = 40 << 20;

/// Asserts that an event is received at once. Meanwhile Redis and the nodes move megabytes, which takes longer on a
/// machine that has other work. So the time is multiplied by the slowness of this thread.
fn goes_on(node: &Tincan, reader: &mut Reader) {
    let stopwatch = Stopwatch::start();
    let id = node.post("/kitchen", "soup").remove(0);
    while reader.next() != format!("data: soup\nid: {id}\n\n") {} // others may say so as well
    let took = stopwatch.elapsed();
    if took > Duration::from_secs(2) {
        let promised = Duration::from_secs(2).mul_f64(slowness());
        assert!(took < promised, "received after {took:?} instead of {promised:?}");
    }
}

/// Returns how many times as long as usual work takes on this machine at this moment.
fn slowness() -> f64 {
    let began = Instant::now();
    let spent = thread_time(|| while began.elapsed() < Duration::from_millis(500) {});
    began.elapsed().div_duration_f64(spent)
}

/// Adds an entry with these fields; returns its id.
fn add(redis: &Redis, channel: &str, fields: &[&str]) -> String {
    redis.ask(&[&["XADD", &format!("tincan:{channel}"), "*"], fields].concat()).text()
}

#[test]
fn an_entry_that_is_too_large_is_a_gap_in_its_channel_and_nothing_elsewhere() {
    let Some((redis, program)) = Redis::start(&[]).zip(release()) else { return };
    let large = "x".repeat(LARGE);
    let third = "y".repeat(LARGE / 3);
    let value = "z".repeat(1000);
    let many: Vec<&str> = ["field", &value].repeat(LARGE / 1000);
    let kinds: [&[&str]; 4] = [
        &["data", &large],
        &["data", "small", "other", &large, "post", "none"],
        &["a", &third, "b", &third, "c", &third, "data", "behind them"],
        &[&many[..], &["data", "behind them"]].concat(),
    ];
    let nodes = [(); 2].map(|()| fast_node(&redis, &program, &[]));
    let mut kitchens = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "bell"));
    for fields in kinds {
        let before = nodes[0].post("/bell", "before").remove(0);
        let id = add(&redis, "bell", fields);
        let after = nodes[1].post("/bell", "after").remove(0);
        let gap = format!("event: gap\ndata: {{\"asked\":\"{before}\",\"from\":null,\"lost\":null}}\nid: {id}\n\n");
        let received =
            [format!("data: before\nid: {before}\n\n"), gap.clone(), format!("data: after\nid: {after}\n\n")];
        for (reader, (node, kitchen)) in readers.iter_mut().zip(nodes.iter().zip(&mut kitchens)) {
            goes_on(node, kitchen);
            received.iter().for_each(|block| assert_eq!(reader.next(), *block));
        }
        // A new node reads the entry too: as the first of all, in the middle, and as the last.
        let node = fast_node(&redis, &program, &[]);
        assert!(poll(&node, "bell", "all").ends_with(&received.concat()));
        redis.ask(&["DEL", "tincan:alone"]);
        add(&redis, "alone", fields);
        assert_eq!(poll(&node, "alone", "all").matches("event: gap\n").count(), 1);
        let id = node.post("/alone", "after").remove(0);
        assert!(poll(&node, "alone", "all").ends_with(&format!("data: after\nid: {id}\n\n")));
        for node in nodes.iter().chain([&node]) {
            assert!(node.stderr().contains("tincan:bell has entries of more than "), "{}", node.stderr());
            assert!(!node.stderr().contains("away"), "{}", node.stderr());
        }
        redis.ask(&["XDEL", "tincan:bell", &id]);
    }
    for node in &nodes {
        assert_eq!(node.stderr().matches("tincan:bell has entries of more than ").count(), 1, "the message comes once");
    }
}

/// Starts a node of the release build: the debug build takes long for tens of megabytes.
fn fast_node(redis: &Redis, program: &str, args: &[&str]) -> Tincan {
    let mut command = Command::new(program);
    command.args(["--quiet", "--heartbeat", "3600", "--listen", &format!("127.0.0.1:{}", free_port())]);
    let node = {
        command.args(["--redis", &format!("127.0.0.1:{}", redis.port)]).args(args);
        Tincan::run(command)
    };
    is_well(&node);
    node
}

/// Asserts that this event is the next one.
fn hears_all(reader: &mut Reader, data: &str, id: &str) {
    let block = format!("data: {data}\nid: {id}\n\n").into_bytes();
    assert!(reader.wire.bytes(block.len()) == block, "the event is complete");
}

#[test]
fn large_entries_are_read_a_few_at_a_time() {
    let Some((redis, program)) = Redis::start(&[]).zip(release()) else { return };
    let mut nodes = vec![fast_node(&redis, &program, &[])];
    for n in 0..3 {
        // Two of them are more than a reply may have.
        let data = n.to_string().repeat(18 << 20);
        let mut bells: Vec<Reader> = nodes.iter().map(|node| Reader::of(node, "bell")).collect();
        let mut kitchen = Reader::of(&nodes[0], "kitchen");
        let id = redis.add("bell", &data);
        goes_on(&nodes[0], &mut kitchen);
        bells.iter_mut().for_each(|bell| hears_all(bell, &data, &id));
        nodes.truncate(1);
        nodes.push(fast_node(&redis, &program, &[])); // a new node begins with everything that is there
    }
    for node in &nodes {
        assert!(!node.stderr().contains("away") && !node.stderr().contains("more than"), "{}", node.stderr());
    }
}

#[test]
fn two_large_posts_are_heard_and_what_redis_cannot_keep_is_refused_at_the_start() {
    let Some((redis, program)) = Redis::start(&[]).zip(release()) else { return };
    let nodes = [(); 2].map(|()| fast_node(&redis, &program, &["--max-body", "40M"]));
    let mut kitchen = Reader::of(&nodes[0], "kitchen");
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "bell"));
    for letter in ["a", "b"] {
        let data = letter.repeat(40 << 20);
        let id = nodes[0].post("/bell", &data).remove(0);
        goes_on(&nodes[0], &mut kitchen);
        readers.iter_mut().for_each(|reader| hears_all(reader, &data, &id));
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
    bare(command.args(["--redis", "127.0.0.1:1", "--max-body", "513M"]));
    let refused = command.output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("--max-body") && why.contains("512M") && why.lines().count() == 1, "{why}");
}

#[test]
fn a_key_with_the_name_of_no_channel_harms_nobody() {
    let Some(redis) = Redis::start(&[]) else { return };
    for key in ["tincan:", "tincan::", "tincan", "tincan:no channel", "tincan:lab/x"] {
        redis.ask(&["SET", key, "x"]);
    }
    let node = redis.node(&[]); // the node is healthy before there is a channel
    goes_on(&node, &mut Reader::of(&node, "kitchen"));
}

#[test]
fn a_stream_without_a_further_id_stops_its_channel_alone_and_what_to_do_is_said() {
    let Some(redis) = Redis::start(&[]) else { return };
    let node = redis.node(&[]);
    let mut kitchen = Reader::of(&node, "kitchen");
    let mut bell = Reader::of(&node, "bell");
    let last = Id { epoch: u64::MAX, seq: u64::MAX }.to_string();
    redis.ask(&["XADD", "tincan:bell", &last, "data", "the end"]);
    assert_eq!(bell.next(), format!("data: the end\nid: {last}\n\n"));
    for _ in 0..3 {
        assert_eq!(outcome_of(&node.post_with("/bell", "", "in vain")), Outcome::Refused);
        goes_on(&node, &mut kitchen);
    }
    eventually("the error is reported", || node.stderr().contains("refuses tincan:bell: ERR The stream has exhausted"));
    assert!(node.stderr().contains("delete that key"), "{}", node.stderr());
    // No program uses up the ids again: after the advice is followed, everything works.
    redis.ask(&["DEL", "tincan:bell"]);
    node.post_with("/bell", "", "perhaps");
    let node = redis.node(&[]);
    let mut bell = Reader::back(&node, "bell", &last);
    bell.hears_a_gap();
    let id = node.post("/bell", "again").remove(0);
    while bell.next() != format!("data: again\nid: {id}\n\n") {}
}

#[test]
fn a_stream_that_grows_without_end_keeps_nobody_waiting() {
    let Some(redis) = Redis::start(&[]) else { return };
    let between = Between::new(redis.port);
    let node = node(between.port, &[]);
    let mut kitchen = Reader::of(&node, "kitchen");
    let _bell = Reader::of(&node, "bell");
    let over = AtomicBool::new(false);
    scope(|s| {
        let _over = AtEnd(&over);
        s.spawn(|| {
            let mut client = redis.client();
            let words = ["XADD", "tincan:bell", "*", "data", "ring"];
            while !over.load(SeqCst) {
                (0..1000).for_each(|_| client.write(&words));
                (0..1000).for_each(|_| drop(client.read()));
            }
        });
        eventually("the stream is far ahead", || redis.ask(&["XLEN", "tincan:bell"]).number() > 20_000);
        (0..20).for_each(|_| goes_on(&node, &mut kitchen));
        // The same for a node that comes back and has much to read.
        between.cut();
        sleep(Duration::from_millis(300)); // the stream grows meanwhile
        between.mend();
        is_well(&node);
        (0..20).for_each(|_| goes_on(&node, &mut kitchen));
    });
}

#[test]
fn many_events_in_one_post_keep_nobody_waiting() {
    let Some(redis) = Redis::start(&[]) else { return };
    let node = redis.node(&["--max-body", "1M"]);
    let mut kitchen = Reader::of(&node, "kitchen");
    let mut bell = Reader::of(&node, "bell");
    for count in [10_000, 40_000] {
        let over = AtomicBool::new(false);
        scope(|s| {
            let _over = AtEnd(&over);
            s.spawn(|| {
                let ids = post_stream(&node, "bell", &"data\n\n".repeat(count)).text();
                assert_eq!(ids.lines().count(), count);
                ids.lines().for_each(|id| assert_eq!(bell.next(), format!("data: \nid: {id}\n\n")));
                over.store(true, SeqCst);
            });
            while !over.load(SeqCst) {
                goes_on(&node, &mut kitchen);
            }
        });
    }
}
