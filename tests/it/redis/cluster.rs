//! Nodes that share one Redis, while all goes well: CONTRACT section 9. What goes wrong is in `outage.rs`.

use crate::redis::server::*;
use crate::support::documents::{document, quoted};
use crate::support::harness::*;
use crate::support::manual;
use crate::support::websocket::{Ws, text};
use crate::support::wings::has;
use std::collections::BTreeSet;
use std::process::Command;
use std::thread::scope;
use std::time::{Duration, Instant};
use tincan::flags::parse;
use tincan::wire::id::Id;

const STREAM: &str = "Content-Type: text/event-stream\r\n";

/// What a node serves of a channel behind a place, without waiting; without the prelude.
pub fn poll(node: &Tincan, channel: &str, since: &str) -> String {
    let answer = node.get(&format!("/{channel}?wait=0&since={since}"));
    assert_eq!(answer.status, 200);
    let text = answer.text();
    text.split_once("\n\n").unwrap_or_else(|| panic!("no prelude in {text:.500?}")).1.to_string()
}

/// Publishes several events in one POST; their ids.
pub fn post_stream(node: &Tincan, channel: &str, body: &str) -> Response {
    node.post_with(&format!("/{channel}"), STREAM, body)
}

/// The option that shows all bytes, if this build has it.
fn traced() -> &'static [&'static str] {
    if has("trace") { &["--trace"] } else { &[] }
}

fn ids(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.id.as_str()).collect()
}

#[test]
fn what_is_said_on_one_node_is_heard_on_all_with_the_same_bytes_and_the_ids_of_the_stream() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [(); 3].map(|()| redis.node(&[]));
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    let mut socket = has("websocket").then(|| Ws::blocks(&nodes[0], "/kitchen", "").0);
    let mut speaker = has("websocket").then(|| Ws::open(&nodes[2], "/kitchen?event=socket"));
    let mut said: Vec<String> = Vec::new();
    for n in 0..42 {
        let node = &nodes[n % 3];
        said.extend(match n / 3 % 7 {
            0 => node.post("/kitchen", format!("soup {n}")),
            1 => node.post("/kitchen?event=caf%C3%A9%20one", "two\r\nlines\rand a third\n"),
            2 => node.post("/kitchen", ""),
            3 => node.post("/kitchen", "\0\u{feff} 汤好了\u{2028}\u{85} *3\n$5 \nid: 7\ndata: x"),
            4 => node.post("/kitchen?event=x", "x".repeat(50_000)),
            5 => {
                let answer = post_stream(node, "kitchen", "event: a\nretry: 1500\ndata: 1\ndata: 2\n\ndata:\n\n");
                answer.text().lines().map(String::from).collect()
            }
            _ => {
                let Some(speaker) = &mut speaker else { continue };
                speaker.send(text(format!("by WebSocket {n}")));
                while speaker.message() != format!("by WebSocket {n}") {}
                vec![redis.entries("kitchen").pop().unwrap().id]
            }
        });
    }
    let entries = redis.entries("kitchen");
    assert_eq!(ids(&entries), said);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
    if let Some(socket) = &mut socket {
        entries.iter().for_each(|entry| socket.hears(&entry.block()));
    }
    for node in &nodes {
        assert_eq!(poll(node, "kitchen", "all"), blocks(&entries));
        assert_eq!(poll(node, "kitchen", &said[20]), blocks(&entries[21..]));
        assert_eq!(
            (node.metric("tincan_redis_connected"), node.metric("tincan_redis_reconnections_total")),
            (Some(1), Some(0))
        );
        let lag = node
            .get("/metrics")
            .text()
            .lines()
            .find_map(|line| Some(line.strip_prefix("tincan_redis_lag_seconds ")?.to_string()));
        assert!(lag.unwrap().parse::<f64>().unwrap() < 10.0);
    }
    // What the stream holds is what others may rely on, and each publication has a token of its own.
    let field = |n: usize, name| entries[n].field(name);
    assert_eq!((field(0, "data"), field(0, "event"), field(0, "retry")), (Some("soup 0"), None, None));
    assert_eq!((field(3, "event"), field(6, "data")), (Some("café one"), Some("")));
    let of_a = entries.iter().find(|entry| entry.field("event") == Some("a")).unwrap();
    assert_eq!((of_a.data(), of_a.field("retry")), ("1\n2", Some("1500")));
    let tokens: BTreeSet<_> = entries.iter().map(|entry| entry.field("post").unwrap().to_string()).collect();
    let posts = said.len() - 6; // of two events each
    assert!(tokens.len() >= posts, "{tokens:?}");
}

#[test]
fn what_redis_cli_adds_is_heard_on_every_node() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [redis.node(&[]), redis.node(&[])];
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    let add = |words: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &redis.port.to_string(), "XADD", "tincan:kitchen", "*"]).args(words);
        command.env_remove("REDISCLI_AUTH");
        let out = command.output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap().trim_end().to_string()
    };
    let id = add(&["data", "soup is ready"]);
    let mut all = format!("data: soup is ready\nid: {id}\n\n");
    let id = add(&["event", "bell", "data", "two\nlines", "color", "red", "retry", "9"]);
    all += &format!("event: bell\nretry: 9\ndata: two\ndata: lines\nid: {id}\n\n");
    readers.iter_mut().for_each(|reader| assert_eq!(reader.next() + &reader.next(), all));
    assert_eq!(poll(&nodes[1], "kitchen", "all"), all);
}

/// Whoever can write to Redis can write anything; it never becomes more than one event, and nobody stands still.
#[test]
fn no_entry_can_make_a_second_event_an_id_or_a_field_or_stop_those_behind_it() {
    let Some(redis) = Redis::start(&[]) else { return };
    let node = redis.node(&["--history", "64M"]);
    let [mut reader, mut other] = ["kitchen", "bell"].map(|channel| Reader::of(&node, channel));
    let mut client = redis.client();
    let large = "x".repeat(3 << 20);
    for fields in [
        &["data", "x\n\nid: 7-7\nevent: y\r\rdata: z"][..],
        &["event", "x\nid: 7-7\ndata: y\n\n", "data", "a name of many lines"],
        &["event", "x\rid: 7-7", "data", "a name with a CR"],
        &["event", "x\0y", "data", "a name with a NUL"],
        &["retry", "1\nid: 7-7", "data", "a retry of many lines"],
        &["retry", "soon", "data", "a retry that is no number"],
        &["retry", "99999999999999999999999", "data", "a retry that is too large"],
        &["event", "without data"],
        &["color", "red"],
        &["data", "first", "data", "second"],
        &["post", "x\ny", "data", "a token of many lines"],
        &["except", "nobody\n", "data", "an address of nobody"],
        &["event", "gap", "data", "a gap that is none"],
        &["data", &large],
        &["event", &large, "data", "x"],
        &["color", &large, "data", "x"],
    ] {
        let words = [&["XADD", "tincan:kitchen", "*"], fields].concat();
        client.ask(&words);
    }
    // And bytes that are no UTF-8.
    client.write_bytes(&[b"XADD", b"tincan:kitchen", b"*", b"data", b"\xff\xc0\x80", b"event", b"\xed\xa0\x80"]);
    client.read().text();
    let known: Vec<String> = redis.entries("kitchen").into_iter().map(|entry| entry.id).collect();
    let [last, bell] = ["kitchen", "bell"].map(|channel| redis.add(channel, "the last one"));
    assert_eq!(other.next(), format!("data: the last one\nid: {bell}\n\n"));
    let mut place = reader.place.clone();
    for block in reader.until("the last one") {
        let lines = |name: &str| block.lines().filter(|line| line.starts_with(name)).count();
        assert!(lines("id: ") <= 1 && lines("event: ") <= 1 && lines("retry: ") <= 1, "{block:.500?}");
        let fields = ["id: ", "event: ", "retry: ", "data: "].map(lines).iter().sum::<usize>();
        assert_eq!(fields, block.lines().count() - 1, "{block:.500?}");
        if lines("id: ") == 1 {
            let id = id_of(&block);
            assert!(known.contains(&id) || id == last, "{block:.500?}");
            assert!(Id::parse(&place) < Id::parse(&id), "{id} behind {place}");
            place = id;
        }
    }
    assert_eq!(place, last);
}

#[test]
fn events_of_one_post_stand_together_also_where_all_nodes_publish_at_once() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [(); 3].map(|()| redis.node(&["--history", "4M"]));
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    scope(|scope| {
        for (n, node) in nodes.iter().enumerate() {
            for thread in 0..2 {
                scope.spawn(move || {
                    for post in 0..40 {
                        let name = format!("{n}-{thread}-{post}");
                        let body: String = (0..1 + post % 7).map(|k| format!("data: {name} {k}\n\n")).collect();
                        let answer = post_stream(node, "kitchen", &body);
                        assert_eq!((answer.status, answer.text().lines().count()), (200, 1 + post % 7));
                    }
                });
            }
        }
    });
    let entries = redis.entries("kitchen");
    let mut left = &entries[..];
    let mut posts = BTreeSet::new();
    while let Some(first) = left.first() {
        let (name, _) = first.data().split_once(' ').unwrap();
        let count = 1 + name.rsplit('-').next().unwrap().parse::<usize>().unwrap() % 7;
        let (post, rest) = left.split_at(count);
        for (k, entry) in post.iter().enumerate() {
            assert_eq!(entry.data(), format!("{name} {k}"));
        }
        assert!(posts.insert(name), "{name} is there twice");
        left = rest;
    }
    assert_eq!(posts.len(), 3 * 2 * 40);
    readers.iter_mut().for_each(|reader| reader.hears(&entries));
}

#[test]
fn what_was_said_before_a_node_was_started_is_served_by_it() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut client = redis.client();
    for n in 0..5000 {
        client.write(&["XADD", "tincan:kitchen", "*", "data", &format!("soup {n}")]);
    }
    (0..5000).for_each(|_| drop(client.read().text()));
    let entries = redis.entries("kitchen");
    assert_eq!(entries.len(), 5000);
    // Whoever comes first, it is all there: to a poll, to a stream, and behind an id.
    assert_eq!(poll(&redis.node(&[]), "kitchen", "all"), blocks(&entries));
    let node = redis.node(&[]);
    assert_eq!(poll(&node, "kitchen", &entries[2500].id), blocks(&entries[2501..]));
    assert_eq!(poll(&node, "kitchen", "0-0"), blocks(&entries));
    let node = redis.node(&[]);
    let mut reader = Reader::back(&node, "kitchen", &entries[10].id);
    assert_eq!(reader.place, entries[10].id);
    let mut now = Reader::of(&node, "kitchen");
    assert_eq!(now.place, entries[4999].id);
    let said = node.post("/kitchen", "fresh");
    reader.hears(&entries[11..]);
    for reader in [&mut reader, &mut now] {
        assert_eq!(reader.next(), format!("data: fresh\nid: {}\n\n", said[0]));
    }
    // Also to a node whose first request is a POST.
    let node = redis.node(&[]);
    node.post("/kitchen", "first");
    assert_eq!(poll(&node, "kitchen", "all"), blocks(&redis.entries("kitchen")));
}

#[test]
fn who_has_said_something_hears_it_at_once_on_the_same_node() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (node, other) = (redis.node(&["--history", "4M"]), redis.node(&[]));
    scope(|scope| {
        scope.spawn(|| (0..150).for_each(|n| drop(other.post("/kitchen", format!("other {n}")))));
        let mut before = "all".to_string();
        for n in 0..150 {
            let id = node.post("/kitchen", format!("own {n}")).remove(0);
            let heard = poll(&node, "kitchen", &before);
            assert!(heard.contains(&format!("data: own {n}\nid: {id}\n\n")), "{n}: {heard}");
            let behind = poll(&node, "kitchen", &id);
            assert!(!behind.contains("event: gap") && !behind.contains("data: own"), "{n}: {behind}");
            before = id;
        }
    });
}

#[test]
fn a_reader_that_moves_between_nodes_hears_neither_gap_nor_double() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [(); 3].map(|()| redis.node(&[]));
    let mut reader = Reader::of(&nodes[0], "kitchen");
    let mut heard = String::new();
    scope(|scope| {
        for (n, node) in nodes.iter().enumerate() {
            scope.spawn(move || (0..120).for_each(|k| drop(node.post("/kitchen", format!("{n} {k}")))));
        }
        let mut random = Random(7);
        for _ in 0..60 {
            (0..random.below(6)).for_each(|_| heard += &reader.next());
            // The next node may not have heard yet what this one was told.
            reader = Reader::back(&nodes[random.index(3)], "kitchen", &reader.place);
        }
    });
    let last = nodes[0].post("/kitchen", "the last one").remove(0);
    while reader.place != last {
        heard += &reader.next();
    }
    assert_eq!(heard, blocks(&redis.entries("kitchen")));
}

#[test]
fn a_reader_that_moves_to_a_node_that_is_behind_waits_for_it() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (ahead, between) = (redis.node(&[]), Between::new(redis.port));
    let behind = node(between.port, &[]);
    let (mut reader, mut resident) = (Reader::of(&ahead, "kitchen"), Reader::of(&behind, "kitchen"));
    between.hold(true);
    (0..5).for_each(|n| drop(ahead.post("/kitchen", format!("soup {n}"))));
    let entries = redis.entries("kitchen");
    reader.hears(&entries);
    scope(|scope| {
        // Each way to ask; none is told of a gap, and none hears again what it has.
        let back = scope.spawn(|| Reader::back(&behind, "kitchen", &entries[2].id));
        let end = scope.spawn(|| Reader::back(&behind, "kitchen", &entries[4].id));
        let poll = scope.spawn(|| behind.get(&format!("/kitchen?wait=20&since={}", entries[4].id)).text());
        std::thread::sleep(Duration::from_millis(300)); // not a wait for anything: for so long the node is behind
        between.hold(false);
        resident.hears(&entries);
        let [mut back, mut end] = [back, end].map(|reader| reader.join().unwrap());
        let id = ahead.post("/kitchen", "fresh").remove(0);
        let fresh = format!("data: fresh\nid: {id}\n\n");
        back.hears(&entries[3..]);
        for reader in [&mut back, &mut end, &mut reader, &mut resident] {
            assert_eq!(reader.next(), fresh);
        }
        let polled = poll.join().unwrap();
        assert!(polled.ends_with(&format!("id: {}\n\n{fresh}", entries[4].id)), "{polled}");
    });
}

#[test]
fn a_channel_is_heard_at_once_when_it_comes_into_use_and_all_share_two_connections() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [redis.node(&[]), redis.node(&[])];
    let mut client = redis.client();
    let mut connections = || {
        let info = client.ask(&["INFO"]).text();
        let line = |name| info.lines().find_map(|line| line.strip_prefix(name)?.parse::<usize>().ok());
        [line("connected_clients:"), line("total_connections_received:")].map(Option::unwrap)
    };
    let mut started = [0; 2];
    eventually("each has its two connections", || {
        started = connections();
        started[0] == 2 * nodes.len() + 1
    });
    let (mut times, mut known) = (Vec::new(), Vec::new());
    let mut readers = Vec::new();
    for n in 0..60 {
        let channel = format!("kitchen-{n}");
        let mut reader = Reader::of(&nodes[0], &channel);
        // For comparison the same again, once the channel is known.
        for (data, times) in [("x", &mut times), ("again", &mut known)] {
            let began = Instant::now();
            let id = nodes[1].post(&format!("/{channel}"), data).remove(0);
            assert_eq!(reader.next(), format!("data: {data}\nid: {id}\n\n"));
            times.push(began.elapsed());
        }
        readers.push(reader);
    }
    times.sort();
    known.sort();
    let (half, known) = (times[30], known[30]);
    assert!(
        half < Duration::from_millis(100) + 4 * known,
        "half of the new channels were heard only after {half:?}, and known ones after {known:?}"
    );
    for (n, reader) in readers.iter_mut().enumerate() {
        let id = nodes[1].post(&format!("/kitchen-{n}"), "y").remove(0);
        assert_eq!(reader.next(), format!("data: y\nid: {id}\n\n"));
    }
    assert_eq!(connections(), started);
}

#[test]
fn a_channel_of_the_lab_stays_in_memory_whatever_becomes_of_redis() {
    if !has("lab") {
        return;
    }
    let Some(mut redis) = Redis::start(&[]) else { return };
    let nodes = [redis.node(&[]), redis.node(&[])];
    let tapped = |key: &str| {
        let (_, channel) = (nodes[0].get(&format!("/assets/chat.js?tap={key}")), format!("lab/{key}"));
        eventually("it is told", || poll(&nodes[0], &channel, "all").starts_with("event: in\n"));
        assert_eq!(poll(&nodes[1], &channel, "all"), "");
    };
    tapped("mine");
    assert_eq!(redis.ask(&["KEYS", "*"]), Value::List(vec![]));
    redis.kill();
    tapped("yours");
}

/// `?except=` names a reader of any node: its address goes along with the event.
#[test]
fn what_is_for_all_but_one_passes_over_that_one_on_whatever_node_it_is() {
    if !has("address") {
        return;
    }
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [redis.node(&[]), redis.node(&[])];
    let mut others = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    let mut wire = nodes[0].connect();
    wire.send("GET /kitchen HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wire.until(b"\r\n\r\n");
    let prelude = wire.block();
    let (address, mut one) = (address_of(&prelude), Reader { wire, place: id_of(&prelude) });
    let mut expected = String::new();
    for n in 0..20 {
        let node = &nodes[n / 2 % 2];
        if n % 2 == 0 {
            node.post(&format!("/kitchen?except={address}"), format!("{n} for the others"));
        } else {
            let id = node.post("/kitchen", format!("{n} for all")).remove(0);
            expected += &format!("data: {n} for all\nid: {id}\n\n");
        }
    }
    let entries = redis.entries("kitchen");
    assert_eq!(entries.iter().filter(|entry| entry.field("except") == Some(&address)).count(), 10);
    others.iter_mut().for_each(|reader| reader.hears(&entries));
    assert_eq!((0..10).map(|_| one.next()).collect::<String>(), expected);
    // Nobody else learns the address.
    assert!(!poll(&nodes[1], "kitchen", "all").contains(&address));
}

#[test]
fn the_history_is_bounded_in_redis_and_on_each_node() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [(); 3].map(|()| redis.node(&["--history", "64K"]));
    let mut readers = nodes.each_ref().map(|node| Reader::of(node, "kitchen"));
    for n in 0..600 {
        nodes[n % 3].post("/kitchen", format!("{n:-<1000}"));
        readers.iter_mut().for_each(|reader| drop(reader.next()));
    }
    let entries = redis.entries("kitchen");
    // Redis drops whole pieces of a stream, of 4,096 bytes or 100 entries (stream-node-max-bytes).
    let kept = blocks(&entries).len();
    assert!((48 << 10..=(64 << 10) + 2 * 4096).contains(&kept), "{kept} bytes in Redis");
    for node in &nodes {
        let served = poll(node, "kitchen", "all");
        assert!((32 << 10..=64 << 10).contains(&served.len()), "{} bytes on a node", served.len());
        assert!(blocks(&entries).ends_with(&served));
    }
    // What a node that is new here can serve is what Redis has, within its own bounds.
    let served = poll(&redis.node(&["--history", "64K"]), "kitchen", "all");
    assert!(served.len() <= 64 << 10 && blocks(&entries).ends_with(&served));
    assert!(served.len() >= 32 << 10, "{} bytes", served.len());
}

#[test]
fn a_reader_whose_place_is_no_longer_kept_or_never_was_hears_the_gap() {
    let Some(redis) = Redis::start(&[]) else { return };
    let nodes = [redis.node(&[]), redis.node(&[])];
    let ids: Vec<String> = (0..10).map(|n| nodes[0].post("/kitchen", n.to_string()).remove(0)).collect();
    redis.ask(&["XTRIM", "tincan:kitchen", "MAXLEN", "4"]);
    let entries = redis.entries("kitchen");
    assert_eq!(entries[0].id, ids[6]);
    let node = redis.node(&[]);
    let gap =
        |asked: &str| format!("event: gap\ndata: {{\"asked\":\"{asked}\",\"from\":\"{}\",\"lost\":null}}\n\n", ids[6]);
    for asked in ["0-0", &ids[2]] {
        assert_eq!(poll(&node, "kitchen", asked), gap(asked) + &blocks(&entries));
    }
    // Beyond the end: no node has given this id to anybody.
    let beyond = Id { epoch: Id::parse(&ids[9]).unwrap().epoch + 1_000_000, seq: 0 }.to_string();
    for node in [&node, &nodes[1]] {
        let served = poll(node, "kitchen", &beyond);
        assert!(served.starts_with("event: gap\n"), "{served}");
        assert!(served.contains(&format!("{{\"asked\":\"{beyond}\",")), "{served}");
    }
}

#[test]
fn a_password_of_any_characters_and_a_database_are_taken_from_the_url_and_never_shown() {
    let (user, password) = ("soup@home", "p@ss:w%rd/?#é");
    let (encoded, user_encoded) = ("p%40ss%3Aw%25rd%2F%3F%23%C3%A9", "soup%40home");
    let Some(redis) = Redis::start(&["--requirepass", password]) else { return };
    let mut client = redis.client();
    client.ask(&["AUTH", password]);
    client.ask(&["ACL", "SETUSER", user, "on", &format!(">{password}"), "~tincan:*", "+@all"]);
    let at = format!("127.0.0.1:{}", redis.port);
    for (n, (login, db)) in [
        (format!(":{encoded}@"), "/3"),
        (format!("{user_encoded}:{encoded}@"), "/7"),
        (format!("default:{encoded}@"), ""),
    ]
    .iter()
    .enumerate()
    {
        let url = format!("redis://{login}{at}{db}");
        let mut nodes = vec![Tincan::start(&[traced(), &["--redis", &url]].concat())];
        let mut command = Command::new(env!("CARGO_BIN_EXE_tincan"));
        command.args(["--listen", "127.0.0.1:0"]).env("TINCAN_REDIS", &url);
        nodes.push(Tincan::run(command));
        nodes.iter().for_each(is_well);
        let channel = format!("kitchen-{n}");
        let mut readers: Vec<Reader> = nodes.iter().map(|node| Reader::of(node, &channel)).collect();
        nodes[0].post(&format!("/{channel}"), "soup is ready");
        client.ask(&["SELECT", db.strip_prefix('/').unwrap_or("0")]);
        let entries = entries(&mut client, &channel);
        assert_eq!(entries.len(), 1, "{url}");
        readers.iter_mut().for_each(|reader| reader.hears(&entries));
        for node in &nodes {
            eventually("it says so", || node.stderr().contains(&format!("tincan: redis: {at}: connected")));
            let shown = node.stderr() + &node.get("/metrics").text();
            for secret in [password, encoded, "ss:w%rd", "w%25rd", "c3M6dyVyZC"] {
                assert!(!shown.contains(secret), "{secret} is in {shown}");
            }
        }
    }
}

/// The manual's list of commands: with them alone all works, and each of them is used.
#[test]
fn a_user_needs_the_commands_of_the_manual_and_no_other() {
    let Some(redis) = Redis::start(&[]) else { return };
    let manual = document(&manual::path("redis")).replace('\n', " ");
    let list =
        manual.split("The user needs the commands ").nth(1).and_then(|rest| rest.split(" on keys").next()).unwrap();
    let list = quoted(list).flat_map(|names| names.split(' '));
    let commands: BTreeSet<String> = list.map(|name| name.to_ascii_lowercase()).collect();
    let allowed: Vec<String> = commands.iter().map(|name| format!("+{name}")).collect();
    let mut words = vec!["ACL", "SETUSER", "tincan", "on", ">p@ss", "~tincan:*"];
    words.extend(allowed.iter().map(String::as_str));
    let mut client = redis.client();
    client.ask(&words);
    client.ask(&["CONFIG", "RESETSTAT"]);
    let between = Between::new(redis.port);
    let node = Tincan::start(&["--redis", &format!("redis://tincan:p%40ss@localhost:{}/2", between.port)]);
    is_well(&node);
    let mut reader = Reader::of(&node, "kitchen");
    let said = node.post("/kitchen", "soup");
    assert_eq!(poll(&node, "kitchen", "all"), format!("data: soup\nid: {}\n\n", said[0]));
    between.lose("EXEC", Lost::Answer);
    let said = post_stream(&node, "kitchen", "data: 1\n\ndata: 2\n\n");
    assert_eq!((said.status, between.losses()), (200, 1), "{}", said.text());
    (0..3).for_each(|_| drop(reader.next()));
    let _bell = Reader::of(&node, "bell");
    client.ask(&["SELECT", "2"]);
    client.ask(&["SET", "tincan:bell", "x"]);
    eventually("it finds out which key is no stream", || node.stderr().contains("tincan:bell"));
    client.ask(&["DEL", "tincan:kitchen"]);
    between.cut();
    between.mend();
    reader.hears_a_gap();
    // A channel interrupts the follower only if it comes while that one waits.
    let mut others = Vec::new();
    eventually("a new channel has interrupted the follower", || {
        others.push(Reader::of(&node, &format!("other-{}", others.len())));
        client.ask(&["INFO", "commandstats"]).text().contains("cmdstat_client|unblock:")
    });
    let denied = client.ask(&["ACL", "LOG"]);
    assert_eq!(denied, Value::List(vec![]));
    let stats = client.ask(&["INFO", "commandstats"]).text();
    let names = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split(':').next());
    let ours = ["auth", "config|resetstat", "set", "del", "acl|log"];
    let used = names.filter(|name| !ours.contains(name)).map(|name| name.replace("xinfo|stream", "xinfo"));
    let used: BTreeSet<String> = used.collect();
    assert_eq!(used, commands);
}

#[test]
fn a_wrong_password_is_said_and_not_shown_and_a_right_one_ends_it() {
    let Some(redis) = Redis::start(&["--requirepass", "right"]) else { return };
    let at = format!("127.0.0.1:{}", redis.port);
    let wrong = Tincan::start(&[traced(), &["--redis", &format!("redis://:hush-hush@{at}")]].concat());
    let none = Tincan::start(&["--redis", &at]);
    for (node, why) in [(&wrong, "WRONGPASS"), (&none, "NOAUTH")] {
        eventually("it says why", || node.stderr().contains(&format!("tincan: redis: {at}: away: ")));
        assert!(node.stderr().contains(why), "{}", node.stderr());
        let answer = node.post_with("/kitchen", "", "x");
        assert_eq!((answer.status, node.get("/health").status), (503, 503), "{}", answer.text());
        assert!(answer.field("retry-after").is_some(), "{}", answer.head);
        assert!(!node.stderr().contains("hush-hush"), "{}", node.stderr());
    }
    let mut client = redis.client();
    client.ask(&["AUTH", "right"]);
    client.ask(&["CONFIG", "SET", "requirepass", "hush-hush"]);
    is_well(&wrong);
    client.ask(&["CONFIG", "SET", "requirepass", ""]);
    is_well(&none);
    wrong.post("/kitchen", "x");
    assert_eq!(poll(&none, "kitchen", "all"), blocks(&redis.entries("kitchen")));
}

#[test]
fn a_redis_that_cannot_be_meant_is_refused_at_start_without_showing_its_password() {
    let refused = |args: &[&str]| {
        let args: Vec<String> = args.iter().map(|arg| arg.to_string()).collect();
        let asked = parse(&args, |_| None);
        asked.map(drop).expect_err(&format!("{args:?} is taken"))
    };
    let said = refused(&["--redis", "redis://127.0.0.1:6379", "--data", "kitchen"]);
    assert!(said.contains("--redis") && said.contains("--data"), "{said}");
    for value in [
        "",
        "redis://",
        "127.0.0.1:65536",
        ":6379",
        "http://me:hush@127.0.0.1:6379",
        "rediss://me:hush@127.0.0.1:6379",
        "redis://me:hush@127.0.0.1:port",
        "redis://me:hush@127.0.0.1:6379/kitchen",
        "redis://me:hush@127.0.0.1:6379/-1",
        "redis://me:hush@127.0.0.1:6379/1/2",
        "redis://me:hu%ssh@127.0.0.1",
        "redis://me:hu%ffsh@127.0.0.1:99999",
        "redis://me:hush@",
        "me:hush@127.0.0.1:6379",
        "redis:/me:hush@127.0.0.1",
    ] {
        let said = refused(&[&format!("--redis={value}")]);
        assert!(said.contains("--redis") && said.lines().count() == 1, "{value}: {said}");
        assert!(!said.contains("hush") && !said.contains("hu%"), "{value}: {said}");
    }
}
